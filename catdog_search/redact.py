"""Secrets in text: removed from whatever is printed, logged, tagged or stored.

Text that leaves the program goes through `redact`: errors when they are made, lines and JSON of the
command line, traces, tags and params of runs. Addresses are stored without their credentials where
possible (see `web`), so this is the second line of defence, not the only one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_HIDDEN = "***"
# `user:password@` of an address. The last @ before the path counts: a password may hold one.
_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
# Parts of an address's query, or of an ODBC connection string, with names typical of secrets.
_QUERY = re.compile(
    r"((?:^|[?&;\s])(?:[\w.-]*(?:password|passwd|secret|token|signature|credential|api[_-]?key)"
    r"[\w.-]*|(?:[\w.-]*[_.-])?(?:pwd|sig|auth|key)|odbc_connect)=)[^\s&;#\"'<>]+",
    re.IGNORECASE,
)
# Environment variables that hold a secret and nothing else.
_SECRET_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|_PWD|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|API_KEY|CONNECTION_STRING)$"
)
# An address in a variable, and its user and password where a special character makes it unreadable.
_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*://(\S*)@")
# A shorter value, or a plain word like these, occurs in too much text that isn't secret.
_LEAST = 4
_WORDS = frozenset(("true", "false", "none", "null", "auto"))


def redact(text: str) -> str:
    """`text` without secrets.

    Removed are the user and password of every address, the values of query parameters with secret
    names, and the values of the environment's secret variables, as they are and as encoded in an
    address.
    """
    for secret in _secrets(os.environ):
        text = text.replace(secret, _HIDDEN)
    return _QUERY.sub(rf"\1{_HIDDEN}", _USERINFO.sub("", text))


def redact_all(value: Any) -> Any:
    """The same for every text in a structure of dicts, lists and tuples, except keys."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each) for each in value]
    return value


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Secrets, longest first, so that one that contains another is removed as a whole."""
    found: set[str] = set()
    for name, value in environment.items():
        if _SECRET_NAME.search(name):
            found |= {value, quote(value, safe="")}
        elif match := _ADDRESS.match(value):
            found |= set(_of_userinfo(_userinfo(value, match[1])))
    return sorted((s for s in found if _is_telling(s)), key=len, reverse=True)


def _userinfo(address: str, greedy: str) -> str:
    """User and password; a password with a bare slash would parse as a port and a path."""
    try:
        parts = urlsplit(address)
        seems_port = parts.port is not None and "@" in parts.path and "@" not in parts.netloc
    except ValueError:
        return greedy
    return greedy if seems_port else parts.netloc.rpartition("@")[0]


def _of_userinfo(userinfo: str) -> Iterator[str]:
    password = userinfo.partition(":")[2]
    yield from (userinfo, password, unquote(password))


def _is_telling(secret: str) -> bool:
    return len(secret) >= _LEAST and secret.lower() not in _WORDS
