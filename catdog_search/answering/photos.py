"""Photos given to be answered: files, folders of any depth, zips, standard input."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from catdog_search.data import files
from catdog_search.data.budget import Reserve, unlimited
from catdog_search.data.decode import (
    MAX_CODED_PIXELS,
    Pixels,
    UndecodableError,
    decode,
    size_of,
)
from catdog_search.data.discovery import NO_IMAGE, Found, in_folder
from catdog_search.data.signatures import HEAD, kind_of
from catdog_search.data.zips import in_zip
from catdog_search.text import printable

_T = TypeVar("_T")

STDIN = "-"
# Kinds of `UndecodableError` that are about limits here, not about a broken file.
_TOO_LARGE = ("too large", "too little memory")
_ZIP = b"PK\x03\x04"


class PhotoError(ValueError):
    """A file can't be answered; the text says why, in one line.

    Attributes:
        is_too_large: Whether the file is not at fault, but exceeds a limit.
    """

    def __init__(self, text: str, *, is_too_large: bool = False) -> None:
        super().__init__(printable(text))
        self.is_too_large = is_too_large


@dataclass(frozen=True)
class Given:
    """A file that is to be answered.

    Attributes:
        name: Path as it was given, or below what was given.
        below: Path below the folder or zip that was given; the file's name where it was given
            itself.
        read: Function that reads its content; raises `PhotoError`.
        path: Path on disk; None in a zip and for standard input.
        size: Declared size in bytes.
    """

    name: str
    below: str
    read: Callable[[], bytes]
    path: Path | None
    size: int


@dataclass(frozen=True)
class Unusable:
    """A file, folder or zip that can't even be tried.

    Attributes:
        name: Path as it was given, or below what was given.
        reason: Why, for display.
    """

    name: str
    reason: str


def packed(
    content: bytes,
    image_size: int,
    reserve: Reserve = unlimited,
    max_pixels: int = MAX_CODED_PIXELS,
) -> Pixels:
    """A photo as training saw it: the one way from bytes to a model's input.

    Args:
        content: Bytes of a file.
        image_size: Side of the model's photos.
        reserve: Reserves bytes of memory while they are needed.
        max_pixels: Pixels of the largest photo that is decoded.

    Returns:
        uint8 RGB (image_size, image_size, 3).

    Raises:
        PhotoError: It is not a usable photo.
    """
    kind = kind_of(content[:HEAD])
    if kind is not None and not kind.is_photo:
        # The kind's own advice is for giving a dataset.
        is_archive = kind.name == "archive"
        raise PhotoError("archive: not a photo; unpack it" if is_archive else kind.reason())
    try:
        width, height = size_of(content)
        if width * height > max_pixels:
            most = f"{max_pixels / 1e6:g} million"
            raise UndecodableError("too large", f"{width}x{height} pixels, at most {most}")
        return decode(content, image_size, reserve)
    except UndecodableError as error:
        raise PhotoError(str(error), is_too_large=error.kind in _TOO_LARGE) from None
    except MemoryError as error:
        raise PhotoError(f"too little memory: {error}", is_too_large=True) from None


def given(paths: Sequence[str], stdin: BinaryIO | None = None) -> Iterator[Given | Unusable]:
    """The files that paths name, in order; for a folder or zip, its photos by name.

    Anything in a folder or zip that is not an image at all is passed over.

    Args:
        paths: Paths of files, folders or zips; `-` is standard input, which is one photo, or
            paths, one per line or each ended by a NUL.
        stdin: Standard input; None for this process's.
    """
    for path in paths:
        if path == STDIN:
            yield from _of_stdin((stdin or sys.stdin.buffer).read(files.MAX_FILE_BYTES + 1))
        else:
            yield from _of_path(path)


def _of_stdin(content: bytes) -> Iterator[Given | Unusable]:
    paths = _paths_in(content)
    for path in paths:
        yield from _of_path(path)
    if not paths:
        yield Given("standard input", "standard input", lambda: content, None, len(content))


def _paths_in(content: bytes) -> list[str]:
    """The paths that a text lists; none where it is something else, such as a photo."""
    kind = kind_of(content[:HEAD].replace(b"\0", b"\n"))
    if kind is None or kind.name != "text":
        return []
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]


def _of_path(name: str) -> Iterator[Given | Unusable]:
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            yield from _in_folder(name, path)
            return
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(_ZIP))
    except (OSError, ValueError) as error:  # a NUL in a name, among others
        yield Unusable(name, _why(error))
        return
    if head == _ZIP:
        yield from _in_zip(name, path)
    else:
        yield Given(name, path.name, partial(_read, files.read_file, path), path, size)


def _in_folder(name: str, root: Path) -> Iterator[Given | Unusable]:
    try:
        found = in_folder(str(root))
    except OSError as error:
        yield Unusable(name, _why(error))
        return
    for key in found.photos:
        path = root / key
        read = partial(_read, files.read_file, path)
        yield Given(os.path.join(name, key), key, read, path, _size(path))
    yield from _left_out(name, found)


def _in_zip(name: str, path: Path) -> Iterator[Given | Unusable]:
    try:
        zipped = files.open_zip(path)
    except (OSError, zipfile.BadZipFile) as error:
        yield Unusable(name, f"not a usable zip: {_why(error)}")
        return
    # It stays open as long as one of its photos is still to be read.
    found, entries = in_zip(zipped)
    # One handle, several threads: seek and read belong together.
    lock = threading.Lock()

    def content(entry: str) -> bytes:
        with lock:
            return files.read_entry(zipped, entry)

    for key in found.photos:
        read = partial(_read, content, entries[key].filename)
        yield Given(f"{name}/{key}", key, read, None, entries[key].file_size)
    yield from _left_out(name, found)


def _left_out(name: str, found: Found) -> Iterator[Unusable]:
    for key, reason in found.left_out:
        if reason != NO_IMAGE:
            yield Unusable(f"{name.rstrip('/')}/{key}", reason)


def _read(read: Callable[[_T], bytes], of: _T) -> bytes:
    try:
        return read(of)
    except (*files.READ_ERRORS, files.FileTooLargeError, MemoryError) as error:
        raise PhotoError(_why(error)) from None


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _why(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"unreadable: {printable(str(said))}"
