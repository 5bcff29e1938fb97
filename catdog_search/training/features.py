"""Features of a frozen backbone, computed once and kept on disk in half precision."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catdog_search.places import file_lock

Features = npt.NDArray[np.float16]
# Called with (done, total) photos; False stops.
OnPhotos = Callable[[int, int], bool]

# Photos that go through the frozen part at once; it needs no gradients.
CHUNK = 64
_LARGEST = float(np.finfo(np.float16).max)


class StoppedError(Exception):
    """`on_photos` said stop; what is done is kept."""


class FeatureCache:
    """Arrays on disk by what they were made of: whole or gone on with, bounded, oldest out first.

    Two processes that want the same array wait for each other; what one that was killed has done
    is gone on from. A process that has an evicted array mapped keeps it.

    Args:
        folder: Where they lie.
        limit: Bytes that all of them may take together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def fits(self, n_bytes: int) -> bool:
        """Whether so many bytes may be kept at once."""
        return n_bytes <= self._limit

    def has(self, facts: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
        """Whether an array is there."""
        return self._path(facts, shape).exists()

    def get(
        self,
        facts: Mapping[str, Any],
        shape: tuple[int, ...],
        compute: Callable[[slice], npt.NDArray[Any]],
        on_photos: OnPhotos,
    ) -> Features:
        """The array that `facts` name, computed where it is absent.

        Args:
            facts: All that it depends on.
            shape: Of it; the first axis is photos.
            compute: Some rows of it, `CHUNK` of them but for the last ones.
            on_photos: Asked between chunks.

        Raises:
            StoppedError: `on_photos` said stop.
            OSError: The disk is full.
        """
        path = self._path(facts, shape)
        with file_lock(path.with_suffix(".lock")):
            if not path.exists():
                self._evict(n_bytes(shape))
                self._compute(path, shape, compute, on_photos)
            os.utime(path)
            return np.memmap(path, np.float16, "r", shape=shape)

    def _path(self, facts: Mapping[str, Any], shape: tuple[int, ...]) -> Path:
        text = json.dumps([facts, shape], sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.f16"

    def _compute(
        self,
        path: Path,
        shape: tuple[int, ...],
        compute: Callable[[slice], npt.NDArray[Any]],
        on_photos: OnPhotos,
    ) -> None:
        partial = path.with_suffix(".partial")
        chunk_bytes = n_bytes((CHUNK, *shape[1:]))
        with partial.open("ab") as file:
            # A kill may have left part of a chunk.
            done = file.tell() // chunk_bytes * CHUNK
            file.truncate(n_bytes((done, *shape[1:])))
            while done < shape[0]:
                rows = slice(done, min(done + CHUNK, shape[0]))
                within = np.clip(compute(rows), -_LARGEST, _LARGEST)
                file.write(np.ascontiguousarray(within, np.float16).tobytes())
                file.flush()
                done = rows.stop
                if not on_photos(done, shape[0]):
                    raise StoppedError
            os.fsync(file.fileno())
        partial.replace(path)

    def _evict(self, coming: int) -> None:
        found = []
        for path in _arrays(self._folder):
            with contextlib.suppress(FileNotFoundError):  # another process may be faster
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in found) + coming
        for _, size, path in sorted(found):
            if total <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size


def _arrays(folder: Path) -> list[Path]:
    """All of them, unfinished ones too."""
    return [*folder.glob("*.f16"), *folder.glob("*.partial")]


def size_bytes(folder: Path) -> int:
    """What the features in a folder take."""
    return sum(path.stat().st_size for path in _arrays(folder))


def clear(folder: Path) -> int:
    """Remove all features in a folder; returns how many arrays there were."""
    found = _arrays(folder)
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def n_bytes(shape: tuple[int, ...]) -> int:
    """What an array takes in half precision."""
    return 2 * math.prod(shape)
