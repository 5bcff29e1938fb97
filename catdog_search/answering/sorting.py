"""Photos sorted into folders by their answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from catdog_search.answering.answer import Answer
from catdog_search.answering.photos import Given
from catdog_search.errors import RequestError, StateError

# A class may have any printable name, but these can't name a folder.
_NO_NAMES = {"", ".", ".."}


class Sorter:
    """Copies photos, or links to them, into one folder per answer.

    A second call with the same photos leaves what is there; nothing is ever overwritten. A photo
    that is now answered differently leaves the folder that an earlier call put it in.

    Args:
        root: Parent of the folders; created if absent.
        linking: Whether symbolic links are made instead of copies.

    Attributes:
        moved: Number of photos that left the folder of an earlier answer.

    Raises:
        StateError: It can't be created.
    """

    def __init__(self, root: Path, *, linking: bool = False) -> None:
        self._root = root
        self._linking = linking
        self.moved = 0
        try:
            root.mkdir(parents=True, exist_ok=True)
            folders = (each for each in root.iterdir() if each.is_dir() and not each.is_symlink())
            self._earlier = sorted(folders)
        except OSError as error:
            raise StateError(f"--sort-into {root}: {error.strerror}") from None

    def require_apart(self, paths: Sequence[str]) -> None:
        """Refuse photos in or around the folder: it would sort what it has sorted already.

        Raises:
            RequestError: There are some; the message says which.
        """
        root = self._root.resolve()
        for path in map(Path, paths):
            given = path.expanduser().resolve()
            if given.is_dir() and (root.is_relative_to(given) or given.is_relative_to(root)):
                raise RequestError(f"--sort-into {self._root}: lies in {path}, or around it")

    def put(self, file: Given, answer: Answer) -> Path:
        """Put a photo where its answer belongs; returns where it is.

        Raises:
            RequestError: It lies in a zip, and a link is asked for.
            StateError: It can't be written.
        """
        folder = self._root / _folder_name(answer.text)
        target = folder.joinpath(*_parts(file.below))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            put = self._link(file, target) if self._linking else self._copy(file, target)
            self._leave_others(folder, file, put)
        except OSError as error:
            raise StateError(f"--sort-into {target}: {error.strerror}") from None
        return put

    def _leave_others(self, folder: Path, file: Given, put: Path) -> None:
        """Remove what an earlier call made of the photo under another answer."""
        content: bytes | None = None
        for other in self._earlier:
            earlier = other.joinpath(*_parts(file.below))
            while other != folder and os.path.lexists(earlier):
                if self._linking:
                    is_same = earlier.is_symlink() and earlier.resolve() == put.resolve()
                else:
                    content = put.read_bytes() if content is None else content
                    is_same = not earlier.is_symlink() and _holds(earlier, content)
                if is_same:
                    earlier.unlink()
                    self.moved += 1
                    break
                earlier = _next(earlier)

    def _link(self, file: Given, target: Path) -> Path:
        if file.path is None:
            raise RequestError(f"--link: {file.name} is no file of its own; leave --link out")
        source = file.path.resolve()
        while os.path.lexists(target):
            if target.is_symlink() and target.resolve() == source:
                return target
            target = _next(target)
        target.symlink_to(source)
        return target

    def _copy(self, file: Given, target: Path) -> Path:
        content = file.read()
        while os.path.lexists(target):
            if _holds(target, content):
                return target
            target = _next(target)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(content)
        partial.replace(target)
        if file.path is not None:
            shutil.copystat(file.path, target)
        return target


def _holds(path: Path, content: bytes) -> bool:
    is_alike = path.is_file() and path.stat().st_size == len(content)
    return is_alike and path.read_bytes() == content


def _next(path: Path) -> Path:
    """`a-1.jpg` after `a.jpg`, `a-2.jpg` after that."""
    stem, dash, number = path.stem.rpartition("-")
    again = dash and number.isdecimal()
    name = f"{stem}-{int(number) + 1}" if again else f"{path.stem}-1"
    return path.with_name(f"{name}{path.suffix}")


def _folder_name(text: str) -> str:
    name = text.replace("/", "_").strip()
    return "_" if name in _NO_NAMES else name


def _parts(below: str) -> list[str]:
    """The parts of a path that can't lead out of the folder they are put in."""
    parts = [part for part in PurePosixPath(below).parts if part not in _NO_NAMES and part != "/"]
    return parts or ["photo"]
