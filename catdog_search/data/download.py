"""Fetch Microsoft's zip of 25,000 cats and dogs: resumable, checked, whole or not at all."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from catdog_search.errors import DataError

URL = (
    "https://download.microsoft.com/download/3/E/1/"
    "3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
)
SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

_BLOCK = 1 << 20
_TIMEOUT_S = 60

Progress = Callable[[int, int | None], None]


def download(url: str, sha256: str, target: Path, progress: Progress | None = None) -> Path:
    """Fetch a file to `target`, going on where an earlier call stopped.

    Args:
        url: http or https.
        sha256: What the file must have, hex.
        target: Where it goes; while it is fetched it is `<target>.partial`.
        progress: Called with (bytes so far, bytes in all or None).

    Returns:
        The target.

    Raises:
        DataError: The server doesn't answer or ends early (call again to go on), or what came has
            another checksum (it is removed).
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: is neither an http nor an https address")
    if target.exists():
        _check(target, sha256, "is there already, but is another file")
        return target
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, partial, progress)
    except urllib.error.URLError as error:
        raise DataError(f"{url}: {error.reason}; run it again to go on") from None
    except OSError as error:
        raise DataError(f"{url}: {error.strerror or error}; run it again to go on") from None
    try:
        _check(partial, sha256, f"came from {url}, but is another file; it is removed")
    except DataError:
        partial.unlink()
        raise
    partial.replace(target)
    return target


def _fetch(url: str, partial: Path, progress: Progress | None) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  http(s) alone, see above
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            # Nothing is left to fetch: an earlier call was stopped before its check.
            if done and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return
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


def _check(path: Path, sha256: str, otherwise: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(f"{path}: {otherwise} (sha256 {found}, not {sha256})")
