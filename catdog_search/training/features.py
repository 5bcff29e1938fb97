"""Features of a frozen backbone, computed once and kept on disk in half precision."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import weakref
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catdog_search.places import Hold, file_lock, nobody_holds

Features = npt.NDArray[np.float16]
# Some rows of an array.
Compute = Callable[[slice], npt.NDArray[Any]]
# Called with (done, total) photos; False stops.
OnPhotos = Callable[[int, int], bool]

# Batch size for the frozen part, which needs no gradients.
CHUNK = 64
_LARGEST = float(np.finfo(np.float16).max)


class StoppedError(Exception):
    """`on_photos` said stop; finished chunks are kept."""


class FeatureCache:
    """Arrays on disk, keyed by what they were made of: checked, resumable, bounded, oldest out.

    Two processes that want the same array wait for each other. The work of a killed process is
    resumed, and a damaged array is repaired: a checksum of every chunk tells which are intact. An
    array is never removed while a process has it mapped or is computing it.

    Args:
        folder: Folder of the arrays.
        limit: Bytes that all of them may take together.
        say: Callback given what a user should know, a line each.
    """

    def __init__(
        self, folder: Path, limit: int, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._say = say

    def fits(self, n_bytes: int) -> bool:
        """Whether this many bytes may be kept at once."""
        return n_bytes <= self._limit

    def has(self, facts: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
        """Whether an array exists."""
        return self._path(facts, shape).exists()

    def get(
        self,
        facts: Mapping[str, Any],
        shape: tuple[int, ...],
        compute: Compute,
        on_photos: OnPhotos,
    ) -> Features:
        """The array that `facts` name; parts that are missing or damaged are computed.

        Args:
            facts: Everything that it depends on.
            shape: Shape of the array; the first axis is photos.
            compute: Computes some rows of it, `CHUNK` at a time except for the last ones.
            on_photos: Asked between chunks.

        Raises:
            StoppedError: `on_photos` said stop.
            OSError: The disk is full.
        """
        path = self._path(facts, shape)
        try:
            return self._whole(path, shape, compute, on_photos)
        except FileNotFoundError:  # the cache was emptied in the meantime
            return self._whole(path, shape, compute, on_photos)

    def _path(self, facts: Mapping[str, Any], shape: tuple[int, ...]) -> Path:
        text = json.dumps([facts, shape], sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.f16"

    def _whole(
        self, path: Path, shape: tuple[int, ...], compute: Compute, on_photos: OnPhotos
    ) -> Features:
        with file_lock(path.with_suffix(".lock")):
            if not path.exists():
                self._evict(n_bytes(shape))
                partial = path.with_suffix(".partial")
                partial.touch()
                with Hold(partial):
                    _complete(partial, shape, compute, on_photos)
                partial.replace(path)
            in_use = Hold(path)
            if mended := _complete(path, shape, compute, on_photos):
                self._say(f"features in the cache were damaged: computed again for {mended} photos")
            os.utime(path)
            _checked[path] = _mark(path)
            array = np.memmap(path, np.float16, "r", shape=shape)
            weakref.finalize(array, in_use.close)
            return array

    def _evict(self, coming: int) -> None:
        found = []
        for path in _arrays(self._folder):
            with contextlib.suppress(FileNotFoundError):  # another process may be faster
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in found) + coming
        for _, size, path in sorted(found):
            if total <= self._limit:
                return
            if _remove(path):
                total -= size


# State of each array file when this process last checked it, by path.
_checked: dict[Path, tuple[int, ...]] = {}


def _mark(path: Path) -> tuple[int, ...]:
    """A mark that changes when a file is written to."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _complete(path: Path, shape: tuple[int, ...], compute: Compute, on_photos: OnPhotos) -> int:
    """Compute the chunks of an array that are missing or damaged.

    Intact chunks are never touched and the file never shrinks, so others may have it mapped.

    Returns:
        Photos that had to be computed.
    """
    final = path.with_suffix(".f16")
    if _checked.get(final) == _mark(path):
        return 0
    computed = 0
    with path.open("r+b") as file, _Sums(path) as sums:
        for number, start in enumerate(range(0, shape[0], CHUNK)):
            rows = slice(start, min(start + CHUNK, shape[0]))
            length = n_bytes((rows.stop - rows.start, *shape[1:]))
            if sums.are_right(number, file.read(length), length):
                continue
            within = np.clip(compute(rows), -_LARGEST, _LARGEST)
            content = np.ascontiguousarray(within, np.float16).tobytes()
            file.seek(n_bytes((start, *shape[1:])))
            file.write(content)
            file.flush()
            sums.note(number, content)
            computed += rows.stop - rows.start
            if not on_photos(rows.stop, shape[0]):
                raise StoppedError
        file.truncate(n_bytes(shape))
        os.fsync(file.fileno())
    _checked[final] = _mark(path)
    return computed


class _Sums:
    """The checksums of an array's chunks, in a file beside it, four bytes each.

    An array without that file predates checksums and is taken to be intact.

    Args:
        path: Path of the array, finished or not.
    """

    def __init__(self, path: Path) -> None:
        beside = path.with_suffix(".crc")
        self._believe = not beside.exists()
        beside.touch()
        self._file = beside.open("r+b")
        self._known = self._file.read()

    def __enter__(self) -> _Sums:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def are_right(self, number: int, content: bytes, length: int) -> bool:
        """Whether a chunk is whole and as it was written."""
        if len(content) < length:
            return False
        if self._believe:
            self.note(number, content)
            return True
        return self._known[4 * number : 4 * number + 4] == _sum(content)

    def note(self, number: int, content: bytes) -> None:
        """Keep the checksum of a chunk."""
        self._file.seek(4 * number)
        self._file.write(_sum(content))
        self._file.flush()


def _sum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def _arrays(folder: Path) -> list[Path]:
    """All arrays in a folder, unfinished ones included."""
    return [*folder.glob("*.f16"), *folder.glob("*.partial")]


def _remove(path: Path) -> bool:
    """Remove an array unless a process uses it; returns whether it is gone."""
    with nobody_holds([path]) as free:
        if free:
            path.unlink(missing_ok=True)
            path.with_suffix(".crc").unlink(missing_ok=True)
    return not path.exists()


def size_bytes(folder: Path) -> int:
    """Total size of the features in a folder, in bytes."""
    total = 0
    for path in _arrays(folder):
        with contextlib.suppress(FileNotFoundError):  # another process may remove it
            total += path.stat().st_size
    return total


def n_arrays(folder: Path) -> int:
    """How many arrays a folder holds."""
    return len(_arrays(folder))


def clear(folder: Path) -> int:
    """Remove all features in a folder except those in use; returns how many arrays were removed."""
    return sum(_remove(path) for path in _arrays(folder))


def n_bytes(shape: tuple[int, ...]) -> int:
    """Bytes that an array takes in half precision."""
    return 2 * math.prod(shape)
