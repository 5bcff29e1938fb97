"""Web addresses, parsed by the standard library and opened properly.

Credentials in an address are split off where it is read: what is kept, compared and printed has
none. An address of this machine is accessed directly, whatever proxy the environment names.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

# Hosts accessed without a proxy, as curl and requests read them from the environment.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Address:
    """An http or https address.

    Attributes:
        url: Address without credentials.
        host: Host name without brackets.
        path: Percent-encoded; without query.
        user: None where none was given; never printed.
        password: Password; None where none was given; never printed.
    """

    url: str
    host: str
    path: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(self.host)


def is_http(url: str) -> bool:
    """Whether it begins like an http or https address."""
    return url.lower().startswith(("http://", "https://"))


def read_address(url: str) -> Address:
    """Read an http or https address.

    Raises:
        ValueError: It can't be parsed; the one-line message repeats nothing of it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(
            "can't be read as an address; what is special in a user or password (/ ? # @ : [ ]) "
            "must be percent-encoded"
        ) from None
    if not is_http(url) or not host or port == 0:
        raise ValueError("is no address like http://HOST:PORT")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("holds characters that must be percent-encoded")
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    userinfo, _, place = parts.netloc.rpartition("@")
    plain = parts._replace(netloc=place).geturl() if userinfo else url
    return Address(plain, host, parts.path, user, password)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or number."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def base_url(host: str, port: int) -> str:
    """`http://host:port`, with the brackets that an IPv6 address needs."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return urlunsplit(("http", place, "", "", ""))


def below(url: str, path: str, fragment: str = "") -> str:
    """The address of something below another address, which may itself have a path."""
    parts = urlsplit(url)
    whole = f"{parts.path.rstrip('/')}/{path}"
    return parts._replace(path=whole, query="", fragment=fragment).geturl()


def basic_auth(user: str, password: str) -> str:
    """Value of the `Authorization` header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def open_url(
    url: str,
    timeout: float,
    headers: dict[str, str] | None = None,
    *,
    authorization: str = "",
    direct: bool = False,
) -> Any:
    """Open an http or https address; the caller closes the response.

    Args:
        url: Address without credentials.
        timeout: Seconds without a byte after which it gives up.
        headers: Headers of the request, by name.
        authorization: Value of that header; not sent on to a redirect's target.
        direct: Whether to bypass the proxy, as is always done for this machine.

    Raises:
        OSError: No answer; HTTPError, which is one, for a status of 400 and above.
        http.client.HTTPException: The other side doesn't speak HTTP.
    """
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310  see is_http
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    direct = direct or is_loopback(urlsplit(url).hostname or "")
    without_proxy = [urllib.request.ProxyHandler({})] if direct else []
    return urllib.request.build_opener(*without_proxy).open(request, timeout=timeout)


def ask_loopback_directly(host: str) -> None:
    """Exempt a host of this machine from the environment's proxies, for libraries that read it."""
    if not is_loopback(host):
        return
    # The lower-case name wins where both are set.
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name for name in known.split(",") if name]
    missing = [name for name in dict.fromkeys((*_LOOPBACK, host)) if name not in names]
    if missing and "*" not in names:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*names, *missing])
