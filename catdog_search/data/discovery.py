"""What a folder or zip contains: photos, and everything else with the reason it is not a photo.

A file with a photo's suffix is taken for one until decoding says otherwise; any other is judged by
its first bytes. Nothing but hidden files is passed over silently.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from catdog_search.data.decode import IMAGE_SUFFIXES
from catdog_search.data.layout import is_hidden, is_tools_folder
from catdog_search.data.own import is_own_picture, may_be_own, of_studies
from catdog_search.data.signatures import HEAD, kind_of
from catdog_search.places import cache_folder
from catdog_search.text import printable

# The suffix is unknown, and the first bytes tell nothing.
NO_IMAGE = "not an image: by its name and its content"


@dataclass
class Found:
    """What a source holds.

    Attributes:
        photos: Keys of what seems to be photos, sorted.
        left_out: (key, reason) of everything else; a reason starts with its kind.
        passed_over: Folders of tools, and hidden files and folders, by name.
    """

    photos: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def judge(
    found: Found,
    files: Iterable[str],
    head: Callable[[str], bytes],
    errors: tuple[type[Exception], ...] = (OSError,),
) -> Found:
    """Sort files into photos and others.

    Args:
        found: Where they are added.
        files: Their keys.
        head: Reads the first bytes of one; raises one of `errors` where it can't be read.
        errors: Exception types that reading raises.
    """
    keys = _others(found, files)
    suspects = may_be_own(keys)
    for key in keys:
        if key in suspects and _is_drawn(key, head, errors):
            found.passed_over["pictures drawn by catdog-search"] += 1
            continue
        if os.path.splitext(key)[1].lower() in IMAGE_SUFFIXES:
            found.photos.append(key)
            continue
        try:
            start = head(key)
        except errors as error:
            said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            found.left_out.append((key, f"unreadable: {printable(said)}"))
            continue
        kind = kind_of(start)
        if kind is not None and kind.is_photo:
            found.photos.append(key)
        else:
            told = kind is not None and kind.advice
            found.left_out.append((key, kind.reason() if kind and told else NO_IMAGE))
    found.photos.sort()
    found.left_out.sort()
    return found


def _others(found: Found, files: Iterable[str]) -> list[str]:
    """The files that are not part of stored studies."""
    keys = list(files)
    if not (own := of_studies(keys)):
        return keys
    others = [key for key in keys if not key.startswith(own)]
    found.passed_over["files of studies"] += len(keys) - len(others)
    return others


def _is_drawn(key: str, head: Callable[[str], bytes], errors: tuple[type[Exception], ...]) -> bool:
    try:
        return is_own_picture(head(key))
    except errors:  # reading it as a photo will report why
        return False


def in_folder(root: str) -> Found:
    """What lies below a folder, following links to other folders.

    Every folder is read once, however it is reached: first those that really lie here, then those
    that links lead to. So a link can neither loop nor show a photo twice.

    Raises:
        OSError: The folder itself can't be read.
    """
    walk = _Walk(root)
    walk.run()
    return judge(walk.found, walk.files, lambda key: _head(f"{root}/{key}"))


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD)


class _Walk:
    """One walk through a folder."""

    def __init__(self, root: str) -> None:
        self.found = Found()
        self.files: list[str] = []
        self._root = root
        # Device and inode of every folder that was read, and the key it was read under.
        self._read: dict[tuple[int, int], str] = {}
        self._links: list[str] = []
        self._cache: tuple[int, int] | None = None

    def run(self) -> None:
        for around in Path(os.path.realpath(self._root)).parents:
            self._read[_identity(str(around))] = ".."
        with contextlib.suppress(OSError):  # it may not exist yet
            self._cache = _identity(str(cache_folder()))
        with os.scandir(self._root):  # raises where the folder itself can't be read
            self._enter("")
        while self._links:
            links, self._links = sorted(self._links), []
            for key in links:
                self._enter(key)

    def _enter(self, key: str) -> None:
        """Read a folder and those below it, without following links."""
        waiting = [key]
        while waiting:
            folder = waiting.pop()
            try:
                if _identity(f"{self._root}/{folder}") == self._cache:
                    self.found.passed_over["catdog-search's cache"] += 1
                elif self._is_new(folder):
                    with os.scandir(f"{self._root}/{folder}") as entries:
                        waiting += self._look_at(entries, f"{folder}/" if folder else "")
            except OSError as error:
                told = f"unreadable folder: {error.strerror or error}; its photos are missing"
                self.found.left_out.append((folder, told))

    def _is_new(self, folder: str) -> bool:
        earlier = self._read.setdefault(_identity(f"{self._root}/{folder}"), folder)
        if earlier == folder:
            return True
        where = "around this one" if earlier == ".." else f"read as {printable(earlier or '.')}"
        self.found.left_out.append((folder, f"link: it leads to a folder that is {where}"))
        return False

    def _look_at(self, entries: Iterable[os.DirEntry[str]], prefix: str) -> list[str]:
        """Take files and links; return the folders."""
        folders: list[str] = []
        for entry in entries:
            key = f"{prefix}{entry.name}"
            if is_hidden(entry.name):
                self.found.passed_over["hidden"] += 1
                continue
            match _sort_of(entry):
                case "folder" if is_tools_folder(entry.name):
                    self.found.passed_over[printable(entry.name)] += 1
                case "folder":
                    (self._links if entry.is_symlink() else folders).append(key)
                case "file":
                    self.files.append(key)
                case reason:
                    self.found.left_out.append((key, reason))
        return folders


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _sort_of(entry: os.DirEntry[str]) -> str:
    """`folder`, `file`, or why it is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()  # of a link's target
    except OSError as error:
        kind = "broken link" if entry.is_symlink() else "unreadable"
        return f"{kind}: {error.strerror or error}"
    return "no file: a device, a pipe or a socket"
