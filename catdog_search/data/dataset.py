"""A dataset ready to train on: every photo decoded once, packed, memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from catdog_search.data import cache
from catdog_search.data.decode import Pixels, UndecodableError, decode
from catdog_search.data.manifest import Manifest, Photo, Split, split_of
from catdog_search.data.sources import READ_ERRORS, Source
from catdog_search.errors import DataError
from catdog_search.places import file_lock

Progress = Callable[[int, int], None]

# Bounds how many decoded photos wait for the writer.
_CHUNK = 256


@dataclass(frozen=True)
class Dataset:
    """Packed pixels beside their manifest; cheap to pickle, it opens its file when asked.

    Attributes:
        folder: The cache entry.
        digest: Names the photos, labels and split.
        image_size: Side in pixels.
    """

    folder: Path
    digest: str
    image_size: int

    @property
    def manifest(self) -> Manifest:
        """Read the manifest."""
        return Manifest.from_json((self.folder / "manifest.json").read_text(encoding="utf-8"))

    def split(self, split: Split) -> tuple[Pixels, npt.NDArray[np.float32]]:
        """Copy one split into memory.

        Returns:
            uint8 RGB (n, image_size, image_size, 3) and labels float32 (n, 1).
        """
        photos = self.manifest.photos
        rows = [i for i, photo in enumerate(photos) if photo.split == split]
        shape = (len(photos), self.image_size, self.image_size, 3)
        packed = np.memmap(_pack(self.folder, self.image_size), np.uint8, "r", shape=shape)
        labels = np.array([[photos[i].label] for i in rows], np.float32)
        return packed[rows], labels


def load(
    source: Source, image_size: int, folder: Path, limit: int, progress: Progress | None = None
) -> Dataset:
    """The dataset of `source` at `image_size`, decoded now or taken from the cache.

    Safe against other processes and against a kill at any moment: an entry's files appear whole
    or not at all, and a second process waits for the first.

    Args:
        source: Where the photos are.
        image_size: Side in pixels.
        folder: The cache folder.
        limit: Bytes that the cache may hold.
        progress: Called with (done, total) photos.

    Raises:
        DataError: A split would lack a class, or the disk is full.
    """
    entry = cache.entry(folder, source.fingerprint())
    try:
        with file_lock(entry.with_suffix(".lock")):
            manifest = _prepare(source, image_size, entry, progress)
            cache.touch(entry)
    except OSError as error:
        raise DataError(f"cache {folder}: {error.strerror or error}") from None
    cache.evict(folder, limit, keep=entry)
    check_counts(manifest)
    return Dataset(entry, manifest.digest, image_size)


def check_counts(manifest: Manifest) -> None:
    """Refuse a dataset in which a split lacks a class."""
    for split, by_class in manifest.counts().items():
        for name, n in by_class.items():
            if n == 0:
                raise DataError(
                    f"{manifest.location}: {len(manifest.photos)} usable photos are too few: "
                    f"split {split!r} has no {name!r}; give at least some dozen of each class"
                )


def _prepare(source: Source, image_size: int, entry: Path, progress: Progress | None) -> Manifest:
    entry.mkdir(parents=True, exist_ok=True)
    listed = entry / "manifest.json"
    pack = _pack(entry, image_size)
    if listed.exists():
        manifest = Manifest.from_json(listed.read_text(encoding="utf-8"))
        expected = len(manifest.photos) * image_size**2 * 3
        if pack.exists() and pack.stat().st_size == expected:
            return manifest
    partial = pack.with_suffix(".partial")
    try:
        with partial.open("wb") as out:
            manifest = _decode_all(source, image_size, out, progress)
            out.flush()
            os.fsync(out.fileno())
        listed.with_suffix(".partial").write_text(manifest.to_json(), encoding="utf-8")
        # The manifest first: pixels without one would be unreadable, the reverse is decoded again.
        listed.with_suffix(".partial").replace(listed)
        partial.replace(pack)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def _pack(entry: Path, image_size: int) -> Path:
    return entry / f"pixels-{image_size:04d}.u8"


def _decode_all(
    source: Source, image_size: int, out: BinaryIO, progress: Progress | None
) -> Manifest:
    photos: list[Photo] = []
    left_out: list[tuple[str, str]] = []
    total = len(source.labels)
    for done, (key, sha256, pixels) in enumerate(_decoded(source, image_size), start=1):
        if isinstance(pixels, str):
            left_out.append((key, pixels))
        else:
            out.write(pixels.tobytes())
            photos.append(Photo(key, sha256, source.labels[key], split_of(sha256)))
        if progress and (done % _CHUNK == 0 or done == total):
            progress(done, total)
    return Manifest(
        source.kind, source.location, source.class_names, tuple(photos), tuple(left_out)
    )


def _decoded(source: Source, image_size: int) -> Iterator[tuple[str, str, Pixels | str]]:
    """(key, sha256, pixels or the reason why there are none), in key order."""

    def one(key: str) -> tuple[str, str, Pixels | str]:
        try:
            content = source.read(key)
        except READ_ERRORS as error:
            return key, "", f"can't be read: {type(error).__name__}: {error}"
        try:
            pixels: Pixels | str = decode(content, image_size)
        except UndecodableError as error:
            pixels = str(error)
        return key, hashlib.sha256(content).hexdigest(), pixels

    # Threads suffice: Pillow decodes and resizes outside the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        keys = list(source.labels)
        for start in range(0, len(keys), _CHUNK):
            yield from pool.map(one, keys[start : start + _CHUNK])
