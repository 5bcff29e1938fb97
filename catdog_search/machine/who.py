"""Who does something, for records that others read."""

from __future__ import annotations

import getpass
import os
import platform

from catdog_search.text import printable


def user_at_host() -> str:
    """`user@host`, in a line; a user without a name is told by number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not be in /etc/passwd
        user = f"uid {os.getuid()}"
    return printable(f"{user}@{platform.node() or 'localhost'}")
