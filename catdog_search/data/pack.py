"""Packed pixels on disk: one file per image size, with a checksum for every megabyte."""

from __future__ import annotations

import errno
import functools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from catdog_search.data.decode import Pixels
from catdog_search.errors import CacheLostError
from catdog_search.machine import cores

# Photos that share a checksum take about this many bytes.
_CHUNK_BYTES = 2**20
# Checksums are computed at about a gigabyte per second, outside the GIL.
_MOST_THREADS = 4
# File-system errors for a file that is no longer there or no longer readable.
_LOSSES = (errno.ENOENT, errno.EIO, errno.ESTALE)


def pack_path(folder: Path, image_size: int) -> Path:
    """The pixels of one image size in a cache entry."""
    return folder / f"pixels-{image_size:04d}.u8"


def sums_path(pack: Path) -> Path:
    """The checksums of a pack."""
    return pack.with_suffix(".sums")


class PackWriter:
    """Writes a pack photo by photo; it is complete and on disk once the context exits normally.

    Args:
        path: Path of the pixels; the checksums are written beside it.
        image_size: Side in pixels.
    """

    def __init__(self, path: Path, image_size: int) -> None:
        self._path = path
        self._rows = _rows_a_chunk(image_size)
        self._sums: list[int] = []
        self._written = 0
        self._file = path.open("wb")

    def __enter__(self) -> PackWriter:
        return self

    def write(self, pixels: bytes) -> None:
        """Append one photo."""
        if self._written % self._rows == 0:
            self._sums.append(0)
        self._sums[-1] = zlib.crc32(pixels, self._sums[-1])
        self._written += 1
        self._file.write(pixels)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                sums_path(self._path).write_text(json.dumps(self._sums), encoding="utf-8")


def is_whole(pack: Path, n: int, image_size: int) -> bool:
    """Whether a pack holds, bit for bit, what was written.

    Args:
        pack: Path of the pixels.
        n: Photos that it should hold.
        image_size: Side in pixels.
    """
    try:
        _check(pack, n, image_size, range(_n_chunks(n, image_size)), lambda chunk, content: None)
    except CacheLostError:
        return False
    return True


def has_size(pack: Path, n: int, image_size: int) -> bool:
    """Whether a pack exists and has the right length: all that can be told at no cost."""
    try:
        return pack.stat().st_size == n * image_size**2 * 3
    except OSError:
        return False


def read(pack: Path, n: int, image_size: int, rows: Sequence[int]) -> Pixels:
    """Some photos of a pack, checked.

    Args:
        pack: Path of the pixels.
        n: Photos that it should hold.
        image_size: Side in pixels.
        rows: Row numbers of the photos, from 0, rising.

    Raises:
        CacheLostError: The pack is gone or damaged.
    """
    found = np.empty((len(rows), image_size, image_size, 3), np.uint8)
    wanted = np.asarray(rows, int)
    each = _rows_a_chunk(image_size)

    def take(chunk: int, content: bytes) -> None:
        photos = np.frombuffer(content, np.uint8).reshape(-1, image_size, image_size, 3)
        first, last = np.searchsorted(wanted, (chunk * each, (chunk + 1) * each))
        found[first:last] = photos[wanted[first:last] - chunk * each]

    _check(pack, n, image_size, np.unique(wanted // each).tolist(), take)
    return found


def _rows_a_chunk(image_size: int) -> int:
    return max(_CHUNK_BYTES // (image_size**2 * 3), 1)


def _n_chunks(n: int, image_size: int) -> int:
    return -(-n // _rows_a_chunk(image_size))


def _check(
    pack: Path, n: int, image_size: int, wanted: Iterable[int], use: Callable[[int, bytes], None]
) -> None:
    """Check chunks of a pack, by their number, and hand over the intact ones.

    Raises:
        CacheLostError: One is damaged, or the disk can't read it.
        OSError: The pack can't be read for an unrelated reason.
    """
    length = _rows_a_chunk(image_size) * image_size**2 * 3
    sums = _sums(pack)
    if len(sums) != _n_chunks(n, image_size) or not has_size(pack, n, image_size):
        raise _lost(pack, image_size)

    def check(descriptor: int, chunk: int) -> None:
        content = os.pread(descriptor, length, chunk * length)
        if zlib.crc32(content) != sums[chunk]:
            raise _lost(pack, image_size)
        use(chunk, content)

    threads = min(cores.count(), _MOST_THREADS)
    try:
        with pack.open("rb") as file, ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(functools.partial(check, file.fileno()), wanted):
                pass
    except OSError as error:
        if error.errno in _LOSSES:
            raise _lost(pack, image_size) from None
        raise


def _lost(pack: Path, image_size: int) -> CacheLostError:
    return CacheLostError(f"cache {pack.parent}: its pixels at {image_size} px are gone or damaged")


def _sums(pack: Path) -> list[int]:
    """The checksums of a pack; none where they are gone or damaged."""
    try:
        found = json.loads(sums_path(pack).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return found if isinstance(found, list) else []
