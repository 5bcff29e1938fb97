"""What a real-world zip holds: names written by any program, entries that can't be used."""

from __future__ import annotations

import stat
import unicodedata
import zipfile

from catdog_search.data.discovery import Found, judge
from catdog_search.data.files import READ_ERRORS, FileTooLargeError, read_entry
from catdog_search.data.layout import is_hidden, is_tools_folder
from catdog_search.data.readings import parts_of
from catdog_search.data.signatures import HEAD
from catdog_search.text import printable

_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
# Methods whose first bytes can be read without expanding the whole entry.
_EXPANDED_AS_READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_READABLE = (*_EXPANDED_AS_READ, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES"}


def in_zip(zipped: zipfile.ZipFile) -> tuple[Found, dict[str, zipfile.ZipInfo]]:
    """What a zip holds; keys are paths with `/`, whatever the original separator.

    Returns:
        What was found, and the entries that can be read, by key.
    """
    found = Found()
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in zipped.infolist():
        key = name_of(info).replace("\\", "/")
        if info.is_dir() or key.endswith("/") or _is_passed_over(key, found):
            continue
        if reason := _unusable(info):
            found.left_out.append((key, reason))
            continue
        if key in entries:
            found.left_out.append((key, "replaced: a later entry of the zip has the same name"))
        entries[key] = info

    def head(key: str) -> bytes:
        if entries[key].compress_type not in _EXPANDED_AS_READ:
            return read_entry(zipped, entries[key].filename)[:HEAD]
        with zipped.open(entries[key]) as file:
            return file.read(HEAD)

    judge(found, entries, head, (*READ_ERRORS, MemoryError, FileTooLargeError))
    return found, entries


def _is_passed_over(key: str, found: Found) -> bool:
    parts = parts_of(f"{key}/")
    tools = next(filter(is_tools_folder, parts[:-1]), None)
    hidden = "hidden" if any(map(is_hidden, parts)) else None
    if why := tools or hidden:
        found.passed_over[printable(why)] += 1
    return why is not None


def name_of(info: zipfile.ZipInfo) -> str:
    """An entry's name, in the encoding that it is most likely written in.

    By the standard, a name not flagged as UTF-8 is in cp437; programs write UTF-8 or Windows'
    cp1252 all the same, which shows in the letters that it gives.
    """
    name = info.filename
    if info.flag_bits & _UTF8_NAME or name.isascii():
        return name
    try:
        raw = name.encode("cp437")
    except UnicodeEncodeError:  # an extra field already gave the name in Unicode
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
    """Whether all its letters are Latin and all other characters ASCII."""
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
