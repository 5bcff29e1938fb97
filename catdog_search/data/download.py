"""Fetch Microsoft's zip of 25,000 cats and dogs: resumable, checked, atomic."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from catdog_search.errors import DataError
from catdog_search.places import file_lock
from catdog_search.web import Address, basic_auth, is_http, open_url, read_address

URL = (
    "https://download.microsoft.com/download/3/E/1/"
    "3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
)
SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

_BLOCK = 1 << 20
_TIMEOUT_S = 60
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int, int | None], None]


def download(url: str, sha256: str, target: Path, progress: Progress | None = None) -> Path:
    """Fetch a file to `target`, resuming where an earlier call stopped.

    Args:
        url: http or https; it may contain user and password.
        sha256: SHA-256 digest that the file must have, hex.
        target: Path that it goes to; `<target>.partial` while it is being fetched.
        progress: Called with (bytes so far, bytes in all or None).

    Returns:
        The target.

    Raises:
        DataError: The server doesn't answer or ends early (call again to resume), or the checksum
            doesn't match (the file is removed).
    """
    address, sha256 = _address(url), _digest(sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two at once would write to the same file; the second finds what the first fetched.
    lock = target.with_name(f"{target.name}.lock")
    with file_lock(lock):
        try:
            return _download(address, sha256, target, progress)
        finally:
            lock.unlink(missing_ok=True)  # those waiting for it create a new one


def _digest(text: str) -> str:
    digest = text.strip().lower()
    if not _SHA256.fullmatch(digest):
        raise DataError(f"--sha256: {text!r} is not a SHA-256 digest, which has 64 hex digits")
    return digest


def _download(address: Address, sha256: str, target: Path, progress: Progress | None) -> Path:
    if target.exists():
        _check(target, sha256, "is there already, but is another file")
        return target
    partial = target.with_name(f"{target.name}.partial")
    try:
        was_whole = _fetch(address, partial, progress)
        if was_whole and _digest_of(partial) != sha256:
            partial.unlink()  # left by an earlier call, of another or a longer file
            _fetch(address, partial, progress)
    except urllib.error.URLError as error:
        raise DataError(f"{address.url}: {error.reason}; run it again to go on") from None
    except OSError as error:
        raise DataError(
            f"{address.url}: {error.strerror or error}; run it again to go on"
        ) from None
    except http.client.HTTPException as error:
        raise DataError(f"{address.url}: answers with what is no HTTP ({error})") from None
    try:
        _check(partial, sha256, f"came from {address.url}, but is another file; it is removed")
    except DataError:
        partial.unlink()
        raise
    partial.replace(target)
    return target


def file_name(url: str) -> str:
    """The name of the file at an address.

    Raises:
        DataError: The address can't be parsed, or names a folder.
    """
    address = _address(url)
    name = PurePosixPath(unquote(address.path)).name
    if name in ("", ".."):
        raise DataError(f"{address.url}: names no file")
    return name


def _address(url: str) -> Address:
    if not is_http(url):
        raise DataError(f"{url}: is neither an http nor an https address")
    try:
        return read_address(url)
    except ValueError as error:
        raise DataError(f"--url: {error}") from None


def _fetch(address: Address, partial: Path, progress: Progress | None) -> bool:
    """Fetch what is missing of a file; returns whether the server says that nothing is."""
    url = address.url
    done = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    named = address.user is not None
    authorization = basic_auth(address.user or "", address.password or "") if named else ""
    try:
        answer = open_url(url, _TIMEOUT_S, headers, authorization=authorization)
    except urllib.error.HTTPError as error:
        with error:
            # Nothing is left to fetch: an earlier call was stopped before its check.
            if done and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return True
            raise DataError(f"{url}: {error.code} {error.reason}") from None
    with answer:
        resumed = answer.status == HTTPStatus.PARTIAL_CONTENT
        done = done if resumed else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with partial.open("ab" if resumed else "wb") as out:
            while block := answer.read(_BLOCK):
                out.write(block)
                done += len(block)
                if progress:
                    progress(done, total)
    if total is not None and done != total:
        raise DataError(f"{url}: ended after {done} of {total} bytes; run it again to go on")
    return False


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, sha256: str, otherwise: str) -> None:
    found = _digest_of(path)
    if found != sha256:
        raise DataError(f"{path}: {otherwise} (sha256 {found}, not {sha256})")
