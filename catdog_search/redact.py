"""Secrets in text: taken out of whatever is printed, logged, tagged or stored.

Where text leaves the program it goes through `redact`: errors as they are made, lines and JSON of
the command line, traces, tags and params of runs. Addresses that hold credentials are kept without
them where that can be (see `web`), so that this is the second guard and not the only one.
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
# Parts of an address's query, or of an ODBC connection string, named as secrets are.
_QUERY = re.compile(
    r"((?:^|[?&;\s])(?:[\w.-]*(?:password|passwd|secret|token|signature|credential|api[_-]?key)"
    r"[\w.-]*|(?:[\w.-]*[_.-])?(?:pwd|sig|auth|key)|odbc_connect)=)[^\s&;#\"'<>]+",
    re.IGNORECASE,
)
# Variables of the environment that hold a secret and nothing else.
_SECRET_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|_PWD|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|API_KEY|CONNECTION_STRING)$"
)
# An address in a variable, and its user and password where a special character makes it unreadable.
_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*://(\S*)@")
# A shorter value, or a plain word like these, stands in too much that is no secret.
_LEAST = 4
_WORDS = frozenset(("true", "false", "none", "null", "auto"))


def redact(text: str) -> str:
    """`text` without secrets.

    Taken out are the user and password of every address, the values of query parameters whose names
    say that they are secret, and the values of the environment's secret variables, as they are and
    as an address spells them.
    """
    for secret in _secrets(os.environ):
        text = text.replace(secret, _HIDDEN)
    return _QUERY.sub(rf"\1{_HIDDEN}", _USERINFO.sub("", text))


def redact_all(value: Any) -> Any:
    """The same for every text in a structure of dicts, lists and tuples, keys excepted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each) for each in value]
    return value


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Longest first, so that one that holds another goes as a whole."""
    found: set[str] = set()
    for name, value in environment.items():
        if _SECRET_NAME.search(name):
            found |= {value, quote(value, safe="")}
        elif match := _ADDRESS.match(value):
            found |= set(_of_userinfo(_userinfo(value, match[1])))
    return sorted((s for s in found if _is_telling(s)), key=len, reverse=True)


def _userinfo(address: str, greedy: str) -> str:
    """User and password; where a password holds a bare slash, it seems to be a port and a path."""
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
