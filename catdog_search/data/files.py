"""Files of folders and zips: their sizes are checked before their bytes are read."""

from __future__ import annotations

import bz2
import copy
import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# What reading a file from a damaged disk or zip raises; zipfile doesn't wrap its decoders' errors.
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,  # a name in another encoding than declared, among others
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)
# The most pixels that are decoded, 100 million, take 300 MB uncompressed, and there are profiles
# and previews beside them; photos from the largest phones have 50 MB.
MAX_FILE_BYTES = 400_000_000

_ENTRY = b"PK\x01\x02"
_ENTRY_BYTES = 46
# Offsets in an entry: the version it needs, its flags, the lengths of name, extra and comment.
_VERSION, _FLAGS, _LENGTHS = 6, 8, 28
_OLDEST_VERSION, _UTF_8_NAME = 20, 0x08
_END = struct.Struct("<4s4H2LH")
_PIECE_BYTES = 2**20
# Flag of an LZMA entry with an end marker; and the memory that its dictionary may take.
_LZMA_HAS_END, _LZMA_MEMORY = 0x02, 2**27


class FileTooLargeError(Exception):
    """A file is larger than any photo that is decoded."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size / 1e9:.1f} GB, at most {MAX_FILE_BYTES / 1e9:.1f} are read")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """A file's content.

    Raises:
        FileTooLargeError: It has more than `MAX_FILE_BYTES`.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        _check(size)
        return file.read(size)


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip to read from; one bad entry in its directory doesn't hide the others.

    Raises:
        zipfile.BadZipFile: It isn't a zip, or is broken as a whole.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        # Closed with the ZipFile, as if that had opened it.
        file = _LenientFile(path)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        file.close()
        raise zipfile.BadZipFile(str(error)) from None
    file.is_directory_read = True
    return archive


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a zip's entry.

    Raises:
        FileTooLargeError: It has more than `MAX_FILE_BYTES`, or claims to.
    """
    info = archive.getinfo(name)
    _check(info.file_size)
    if info.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        return _read_slowly(archive, info)
    with archive.open(info) as file:
        return _bounded(file)


def _check(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise FileTooLargeError(size)


def _bounded(file: IO[bytes]) -> bytes:
    """All of an entry, bounded whatever size it claims; `read` alone would hold it twice."""
    content = io.BytesIO()
    while piece := file.read(_PIECE_BYTES):
        content.write(piece)
        _check(content.tell())
    return content.getvalue()


def _read_slowly(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """An entry of a kind that zipfile expands without a bound, to gigabytes in a zip bomb."""
    packed = copy.copy(info)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed.CRC  # which is of the expanded content
    with archive.open(packed) as file:
        coded = _bounded(file)
    decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor
    if info.compress_type == zipfile.ZIP_BZIP2:
        decompressor = bz2.BZ2Decompressor()
    else:
        # The same as in a .lzma file, except for the header.
        size = b"\xff" * 8 if info.flag_bits & _LZMA_HAS_END else struct.pack("<Q", info.file_size)
        coded = coded[4:9] + size + coded[9:]
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY)
    content = io.BytesIO()
    while not decompressor.eof and content.tell() <= info.file_size:
        piece = decompressor.decompress(coded, _PIECE_BYTES)
        content.write(piece)
        coded = b""
        if not piece and decompressor.needs_input:
            raise EOFError("compressed file ended before its end was reached")
    if zlib.crc32(content.getbuffer()) != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
    return content.getvalue()


class _LenientFile(io.BufferedReader):
    """A zip whose directory reads as if every entry that zipfile can't parse were harmless."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.is_directory_read = False

    def __del__(self) -> None:
        # As for a file that ZipFile has opened itself.
        self.close()

    def read(self, size: int | None = -1, /) -> bytes:
        """As a file does; the directory is read in one piece."""
        found = super().read(size)
        if self.is_directory_read or not found.startswith(_ENTRY):
            return found
        return b"".join(map(_harmless, _entries(found)))


def _entries(directory: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(directory):
        lengths = directory[at + _LENGTHS : at + _LENGTHS + 6]
        size = _ENTRY_BYTES + sum(struct.unpack("<3H", lengths.ljust(6, b"\0")))
        yield directory[at : at + size]
        at += size


def _harmless(entry: bytes) -> bytes:
    """An entry as it is, or one of the same name and length that zipfile can list.

    Zipfile stumbles over an entry's version, the encoding of its name and its extra fields.
    """
    end = _END.pack(b"PK\x05\x06", 0, 0, 1, 1, len(entry), 0, 0)
    try:
        zipfile.ZipFile(io.BytesIO(entry + end)).close()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        plain = bytearray(entry)
        struct.pack_into("<H", plain, _VERSION, _OLDEST_VERSION)
        plain[_FLAGS + 1] &= ~_UTF_8_NAME
        name, extra, _ = struct.unpack_from("<3H", plain, _LENGTHS)
        start = _ENTRY_BYTES + name
        plain[start : start + extra] = bytes(extra)
        return bytes(plain)
    return entry
