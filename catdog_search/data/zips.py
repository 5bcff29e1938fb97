"""Zips as people really have them: any program's names, entries that can't be used, odd ones."""

from __future__ import annotations

import io
import lzma
import stat
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

from catdog_search.data.discovery import Found, judge
from catdog_search.data.layout import is_hidden, is_tools_folder
from catdog_search.data.readings import parts_of
from catdog_search.data.signatures import HEAD
from catdog_search.text import printable

# What reading one entry of a damaged zip raises; zipfile wraps none of its decoders.
READ_ERRORS = (
    *(OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(NotImplementedError, RuntimeError, ValueError),
)
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES"}

# The end of a zip, and an entry of its directory: their lengths, and where things stand in them.
_END, _END_SIZE, _END_LENGTH, _MOST_COMMENT = b"PK\5\6", 22, 12, 65_535
_ENTRY_SIZE, _ENTRY_VERSION, _ENTRY_LENGTHS = 46, 6, 28
_OLD_VERSION = 20


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip; one whose directory has an odd entry is opened all the same.

    Raises:
        zipfile.BadZipFile: It is no zip, or damaged.
    """
    try:
        return zipfile.ZipFile(path)
    # A name that is not the UTF-8 that it says, an entry that wants a newer program: `zipfile`
    # then opens none of the others.
    except (UnicodeDecodeError, NotImplementedError):
        return zipfile.ZipFile(_Mended(path))


class _Mended(io.FileIO):
    """A zip, read with a directory whose entries all say that they are ordinary ones."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._start, self._directory = self._ordinary_directory()
        self.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        """As `FileIO`, but for the directory."""
        at = self.tell()
        content = bytearray(self.readall() if size is None or size < 0 else super().read(size))
        first = max(at, self._start)
        last = min(at + len(content), self._start + len(self._directory))
        if first < last:
            mended = self._directory[first - self._start : last - self._start]
            content[first - at : last - at] = mended
        return bytes(content)

    def _ordinary_directory(self) -> tuple[int, bytes]:
        size = self.seek(0, io.SEEK_END)
        tail_size = min(size, _MOST_COMMENT + _END_SIZE)
        self.seek(size - tail_size)
        tail = super().read(tail_size)
        at = tail.rfind(_END)
        length = struct.unpack_from("<L", tail, at + _END_LENGTH)[0] if at >= 0 else size
        start = size - tail_size + at - length
        if start < 0:
            raise zipfile.BadZipFile("its directory is odd, and not where it should be")
        self.seek(start)
        directory = bytearray(super().read(length))
        at = 0
        while at + _ENTRY_SIZE <= length:
            _, flags = struct.unpack_from("<2H", directory, at + _ENTRY_VERSION)
            struct.pack_into(
                "<2H", directory, at + _ENTRY_VERSION, _OLD_VERSION, flags & ~_UTF8_NAME
            )
            at += _ENTRY_SIZE + sum(struct.unpack_from("<3H", directory, at + _ENTRY_LENGTHS))
        return start, bytes(directory)

    def __del__(self) -> None:
        self.close()


def in_zip(zipped: zipfile.ZipFile) -> tuple[Found, dict[str, zipfile.ZipInfo]]:
    """What a zip holds; keys are paths with `/`, whatever parted them.

    Returns:
        What was found, and the entries that can be read, by key.
    """
    found = Found()
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in zipped.infolist():
        key = name_of(info).replace("\\", "/")
        *folders, name = parts_of(f"{key}/") or [""]
        if info.is_dir() or key.endswith("/") or not name:
            continue
        tools = next((part for part in folders if is_tools_folder(part)), None)
        if tools is not None:
            found.passed_over[printable(tools)] += 1
        elif any(map(is_hidden, (*folders, name))):
            found.passed_over["hidden"] += 1
        elif reason := _unusable(info):
            found.left_out.append((key, reason))
        else:
            if key in entries:
                found.left_out.append((key, "replaced: a later entry of the zip has the same name"))
            entries[key] = info

    def head(key: str) -> bytes:
        with zipped.open(entries[key]) as file:
            return file.read(HEAD)

    judge(found, entries, head, READ_ERRORS)
    return found, entries


def name_of(info: zipfile.ZipInfo) -> str:
    """An entry's name, in the encoding that it is most likely written in.

    One that doesn't say UTF-8 was written in cp437, says the standard; programs write UTF-8 or
    Windows' cp1252 all the same, which is seen by what letters it gives.
    """
    name = info.filename
    if info.flag_bits & _UTF8_NAME or name.isascii():
        return name
    try:
        raw = name.encode("cp437")
    except UnicodeEncodeError:  # a name beside the plain one says what it is
        return name
    for encoding in ("utf-8", "cp1252"):
        try:
            other = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" or _is_latin(other) > _is_latin(name):
            return other
    return name


def _is_latin(text: str) -> bool:
    """Whether all its letters are Latin ones, and whatever else there is is ASCII."""
    return all(char.isascii() or unicodedata.name(char, "").startswith("LATIN") for char in text)


def _unusable(info: zipfile.ZipInfo) -> str:
    """Why an entry can't be read; empty where it can."""
    if stat.S_ISLNK(info.external_attr >> 16):
        return "link: the zip holds no photo here; zip the photos themselves (zip without -y)"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted: unpack the zip with its password, and give the folder"
    if info.compress_type not in _READABLE:
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"unreadable compression: {method}; unpack the zip, and give the folder"
    return ""
