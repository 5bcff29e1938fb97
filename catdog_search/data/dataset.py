"""A dataset ready to train on: every photo decoded once, packed, memory-mapped afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from catdog_search.data import cache
from catdog_search.data.decode import Pixels
from catdog_search.data.decoders import Found, Task, examine_all
from catdog_search.data.groups import find_groups
from catdog_search.data.manifest import Manifest, Photo, Split, assign_splits
from catdog_search.data.sources import Source
from catdog_search.errors import DataError
from catdog_search.places import file_lock

Progress = Callable[[int, int], None]

# Photos between two calls of a progress.
_PROGRESS_EVERY = 256


@dataclass(frozen=True)
class Dataset:
    """Packed pixels beside their manifest; cheap to pickle, it opens its files when asked.

    Attributes:
        folder: The cache entry.
        digest: Names the photos, labels and split.
        image_size: Side in pixels.
        subset: Photos of train to use, a nested and stratified choice; None for all.
    """

    folder: Path
    digest: str
    image_size: int
    subset: int | None = None

    @property
    def manifest(self) -> Manifest:
        """Read the manifest."""
        return _read_manifest(self.folder)

    def rows(self, split: Split) -> list[int]:
        """Rows of a split in the manifest, those of `subset` alone for train."""
        manifest = self.manifest
        if split == "train":
            return manifest.train_rows(self.subset)
        return [i for i, photo in enumerate(manifest.photos) if photo.split == split]

    def pixels(self) -> Pixels:
        """All photos in the manifest's order, memory-mapped: uint8 RGB (n, side, side, 3)."""
        shape = (len(self.manifest.photos), self.image_size, self.image_size, 3)
        return np.memmap(_pack(self.folder, self.image_size), np.uint8, "r", shape=shape)

    def split(self, split: Split) -> tuple[Pixels, npt.NDArray[np.float32]]:
        """Copy one split into memory.

        Returns:
            uint8 RGB (n, image_size, image_size, 3) and labels float32 (n, 1).
        """
        photos, rows = self.manifest.photos, self.rows(split)
        labels = np.array([[photos[i].label] for i in rows], np.float32)
        return self.pixels()[rows], labels


def load(
    source: Source,
    image_size: int,
    folder: Path,
    limit: int,
    progress: Progress | None = None,
    *,
    subset: int | None = None,
) -> Dataset:
    """The dataset of `source` at `image_size`, decoded now or taken from the cache.

    Safe against other processes and against a kill at any moment: an entry's files appear whole
    or not at all, and a second process waits for the first. Where files were added to a source
    that was packed before, known photos keep their split and their pixels.

    Args:
        source: Where the photos are.
        image_size: Side in pixels.
        folder: The cache folder.
        limit: Bytes that the cache may hold.
        progress: Called with (done, total) photos.
        subset: Photos of train to use; None for all.

    Raises:
        DataError: A split would lack a class, train has fewer photos than `subset`, the disk is
            full, or a process that decodes died.
    """
    entry = cache.entry(folder, source.fingerprint())
    try:
        with file_lock(entry.with_suffix(".lock")):
            manifest = _prepare(
                source, image_size, entry, cache.earlier(folder, source.location), progress
            )
            cache.remember(folder, source.location, entry)
    except OSError as error:
        raise DataError(f"cache {folder}: {error.strerror or error}") from None
    cache.evict(folder, limit, keep=entry)
    _check_counts(manifest, subset)
    return Dataset(entry, manifest.digest, image_size, subset)


@dataclasses.dataclass(frozen=True)
class Pile:
    """Labelled photos that are no dataset: there are no splits.

    Attributes:
        pixels: uint8 RGB (n, side, side, 3).
        photos: What each is; its split is that of its content alone.
        left_out: (key, reason) of every file that could not be used.
    """

    pixels: Pixels
    photos: tuple[Photo, ...]
    left_out: tuple[tuple[str, str], ...]


def decode(source: Source, image_size: int, progress: Progress | None = None) -> Pile:
    """Decode all photos of a source into memory, past the cache.

    Raises:
        DataError: None can be used, or a process that decodes died.
    """
    out = io.BytesIO()
    manifest = _decode_all(source, out, _Known.of(None, image_size), progress)
    if not manifest.photos:
        raise DataError(f"{source.location}: no photo can be used ({len(manifest.left_out)} tried)")
    shape = (len(manifest.photos), image_size, image_size, 3)
    pixels = np.frombuffer(out.getvalue(), np.uint8).reshape(shape)
    return Pile(pixels, manifest.photos, manifest.left_out)


def find(folder: Path, digest: str, image_size: int) -> Dataset | None:
    """A packed dataset by its digest; None where the cache doesn't hold it."""
    for entry in cache.entries(folder):
        if not _pack(entry.path, image_size).exists():
            continue
        manifest = _manifest_if_whole(entry.path)
        if manifest is not None and manifest.digest == digest:
            return Dataset(entry.path, digest, image_size)
    return None


def packed_sizes(folder: Path, digest: str) -> list[int]:
    """The sizes at which the cache holds a dataset, the smallest first."""
    for entry in cache.entries(folder):
        manifest = _manifest_if_whole(entry.path)
        if manifest is not None and manifest.digest == digest:
            return cache.sizes(entry)
    return []


def _check_counts(manifest: Manifest, subset: int | None) -> None:
    for split, by_class in manifest.counts().items():
        for name, n in by_class.items():
            if n == 0:
                raise DataError(
                    f"{manifest.location}: {len(manifest.photos)} usable photos are too few: "
                    f"split {split!r} has no {name!r}; give at least some dozen of each class"
                )
    n_train = sum(manifest.counts()["train"].values())
    if subset is not None and subset > n_train:
        raise DataError(
            f"{manifest.location}: subset {subset} is more than train's {n_train} photos"
        )


def _prepare(
    source: Source, image_size: int, entry: Path, earlier: Path | None, progress: Progress | None
) -> Manifest:
    entry.mkdir(parents=True, exist_ok=True)
    for leftover in entry.glob("*.partial"):  # of a process that was killed; we hold the lock
        leftover.unlink()
    pack, listed = _pack(entry, image_size), entry / "manifest.json"
    if manifest := _manifest_if_whole(entry):
        if pack.exists() and pack.stat().st_size == len(manifest.photos) * image_size**2 * 3:
            return manifest
        earlier = entry
    partial = pack.with_suffix(".partial")
    try:
        with partial.open("wb") as out:
            manifest = _decode_all(source, out, _Known.of(earlier, image_size), progress)
            out.flush()
            os.fsync(out.fileno())
        _write_whole(listed, manifest.to_json())
        # The manifest first: pixels without one would be unreadable, the reverse is decoded again.
        partial.replace(pack)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def _manifest_if_whole(entry: Path) -> Manifest | None:
    """None where there is none, or somebody's disk damaged it: it can be made again."""
    try:
        return _read_manifest(entry)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _read_manifest(entry: Path) -> Manifest:
    path = entry / "manifest.json"
    return _parsed(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, changed: int) -> Manifest:
    """Tens of milliseconds for 20,000 photos, and asked for often."""
    del changed  # part of the key alone
    return Manifest.from_json(path.read_text(encoding="utf-8"))


def _pack(entry: Path, image_size: int) -> Path:
    return entry / f"pixels-{image_size:04d}.u8"


@dataclass(frozen=True)
class _Known:
    """What an earlier packing knows, by sha256: photos, and their pixels where they are at hand."""

    image_size: int
    photos: Mapping[str, Photo]
    rows: Mapping[str, int]
    pixels: Pixels | None

    @classmethod
    def of(cls, entry: Path | None, image_size: int) -> _Known:
        manifest = None if entry is None else _manifest_if_whole(entry)
        if entry is None or manifest is None:
            return cls(image_size, {}, {}, None)
        pack = _pack(entry, image_size)
        shape = (len(manifest.photos), image_size, image_size, 3)
        whole = pack.exists() and pack.stat().st_size == int(np.prod(shape))
        return cls(
            image_size,
            {photo.sha256: photo for photo in manifest.photos},
            {photo.sha256: row for row, photo in enumerate(manifest.photos)},
            np.memmap(pack, np.uint8, "r", shape=shape) if whole else None,
        )

    def at_hand(self) -> frozenset[str]:
        """The sha256s of photos that need no decoding."""
        return frozenset() if self.pixels is None else frozenset(self.photos)

    def taken_over(self, sha256: str) -> tuple[Photo, bytes]:
        """What decoding a photo at hand again would give."""
        assert self.pixels is not None
        return self.photos[sha256], self.pixels[self.rows[sha256]].tobytes()


def _decode_all(
    source: Source, out: BinaryIO, known: _Known, progress: Progress | None
) -> Manifest:
    photos: list[Photo] = []
    left_out = [(key, "not an image: by its name") for key in source.others]
    total = len(source.labels)
    task = Task(source, known.image_size, known.at_hand())
    # Closed at once where the disk is full or somebody interrupts: processes hang on it.
    with contextlib.closing(examine_all(task)) as examined:
        for done, found in enumerate(examined, start=1):
            if found.reason:
                left_out.append((found.key, found.reason))
            else:
                photo, pixels = _photo(found, source.labels[found.key], known)
                out.write(pixels)
                photos.append(photo)
            if progress and (done % _PROGRESS_EVERY == 0 or done == total):
                progress(done, total)
    return Manifest(
        source.kind,
        source.location,
        source.class_names,
        _grouped_and_split(photos, source.kind, known),
        tuple(left_out),
    )


def _photo(found: Found, label: int, known: _Known) -> tuple[Photo, bytes]:
    if found.pixels is not None:
        photo = Photo(found.key, found.sha256, label, "train", found.phash, found.flags)
        return photo, found.pixels
    was, pixels = known.taken_over(found.sha256)
    return Photo(found.key, found.sha256, label, "train", was.phash, was.flags), pixels


def _grouped_and_split(photos: list[Photo], kind: str, known: _Known) -> tuple[Photo, ...]:
    shas = [photo.sha256 for photo in photos]
    # Drawn pictures are made of the same few shapes: alike to a hash, but never duplicates.
    phashes = [photo.phash if kind != "synthetic" else "" for photo in photos]
    groups = find_groups(shas, phashes)
    splits = assign_splits(shas, groups, {s: photo.split for s, photo in known.photos.items()})
    numbers = {row: number for number, rows in enumerate(groups) for row in rows}
    return tuple(
        dataclasses.replace(photo, split=splits[row], group=numbers.get(row))
        for row, photo in enumerate(photos)
    )
