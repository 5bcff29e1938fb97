"""Who is acting, for records that others read."""

from __future__ import annotations

import getpass
import os
import platform

from catdog_search.text import printable


def user_at_host() -> str:
    """`user@host`, in one line; a user without a name is given by number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may not be in /etc/passwd
        user = f"uid {os.getuid()}"
    return printable(f"{user}@{platform.node() or 'localhost'}")
