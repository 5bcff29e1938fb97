"""A dataset ready to train on: every photo decoded once, packed, and checked on every read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catdog_search.data import cache
from catdog_search.data.decode import Pixels
from catdog_search.data.entry import install, link, manifest_if_whole, read_manifest, unusable
from catdog_search.data.manifest import Manifest, Split, short_hash
from catdog_search.data.pack import has_size, pack_path, read, sums_path
from catdog_search.data.splitting import as_before_ranks, as_remembered
from catdog_search.errors import CacheLostError
from catdog_search.places import Hold


@dataclass(frozen=True)
class Dataset:
    """Packed pixels beside their manifest; cheap to pickle, opens its files on demand.

    Its cache entry is in use as long as it lives, here or in a process that it was sent to.

    Attributes:
        folder: The cache entry.
        digest: Names the photos, labels and split.
        image_size: Side in pixels.
        subset: Photos of train to use, a nested, stratified choice; None for all.
        location: Location of the source; None where it is the one that the entry was made from.
        hold: Keeps the entry from being removed; None where it is gone.
    """

    folder: Path
    digest: str
    image_size: int
    subset: int | None = None
    location: str | None = None
    hold: Hold | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.hold is None:
            object.__setattr__(self, "hold", cache.hold(self.folder))

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (self.folder, self.digest, self.image_size, self.subset, self.location)
        return Dataset, facts

    @property
    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            CacheLostError: It is gone or damaged.
        """
        return read_manifest(self.folder, self.location)

    def is_there(self) -> bool:
        """Whether the entry is still where it was, as far as can be told at no cost."""
        if self.hold is None or not self.hold.is_valid():
            object.__setattr__(self, "hold", cache.hold(self.folder))
        n = len(self.manifest.photos)
        return self.hold is not None and has_size(self._pack, n, self.image_size)

    def rows(self, split: Split) -> list[int]:
        """Rows of a split in the manifest; for train, only those of `subset`."""
        manifest = self.manifest
        if split == "train":
            return manifest.train_rows(self.subset)
        return [i for i, photo in enumerate(manifest.photos) if photo.split == split]

    def hashes(self) -> dict[Split, list[str]]:
        """As `Manifest.hashes`, but for train only the photos of `subset`."""
        manifest = self.manifest
        used = [short_hash(manifest.photos[row].sha256) for row in manifest.train_rows(self.subset)]
        return {**manifest.hashes(), "train": used}

    def pixels(self) -> Pixels:
        """All photos in the manifest's order, memory-mapped: uint8 RGB (n, side, side, 3).

        They are not checked; `read` does that.

        Raises:
            CacheLostError: They are gone.
        """
        n = len(self.manifest.photos)
        if not has_size(self._pack, n, self.image_size):
            raise CacheLostError(f"cache {self.folder}: its pixels are gone; run again")
        shape = (n, self.image_size, self.image_size, 3)
        return np.memmap(self._pack, np.uint8, "r", shape=shape)

    def read(self, rows: Sequence[int]) -> Pixels:
        """Copy some photos into memory, checked: uint8 RGB (n, image_size, image_size, 3).

        Args:
            rows: Row numbers in the manifest, from 0, rising.

        Raises:
            CacheLostError: They are gone or damaged.
        """
        return read(self._pack, len(self.manifest.photos), self.image_size, rows)

    def split(self, split: Split) -> tuple[Pixels, npt.NDArray[np.float32]]:
        """Copy one split into memory, checked.

        Returns:
            uint8 RGB (n, image_size, image_size, 3) and labels float32 (n, 1).

        Raises:
            CacheLostError: They are gone or damaged.
        """
        photos, rows = self.manifest.photos, self.rows(split)
        labels = np.array([[photos[i].label] for i in rows], np.float32)
        return self.read(rows), labels

    @property
    def _pack(self) -> Path:
        return pack_path(self.folder, self.image_size)


def find(folder: Path, digest: str, image_size: int) -> Dataset | None:
    """A packed dataset by its digest; None where the cache doesn't hold it."""
    for entry in cache.entries(folder):
        if not pack_path(entry.path, image_size).exists():
            continue
        manifest = manifest_if_whole(entry.path)
        if manifest is not None and manifest.digest == digest:
            return Dataset(entry.path, digest, image_size)
    return None


def packed_sizes(folder: Path, digest: str) -> list[int]:
    """The sizes at which the cache holds a dataset, the smallest first."""
    for entry in cache.entries(folder):
        manifest = manifest_if_whole(entry.path)
        if manifest is not None and manifest.digest == digest:
            return cache.sizes(entry)
    return []


def as_it_was(dataset: Dataset, digest: str, moved: Mapping[str, Sequence[str]]) -> Dataset | None:
    """The same photos, split as a study remembers them; None where the photos are not the same.

    An emptied cache forgets the order in which photos came, and other versions of this program
    split small classes and large groups differently.

    Args:
        dataset: Dataset as it is split here and now.
        digest: Digest of the dataset that the study has.
        moved: What `Manifest.moved` said of it; empty where that isn't known.

    Raises:
        DataError: The cache can't be written.
    """
    manifest = dataset.manifest
    if manifest.digest == digest:
        return dataset
    if manifest.own_splits:  # the folders say them; there is nothing to remember
        return None
    for splits in (as_remembered(manifest, moved), as_before_ranks(manifest)):
        photos = zip(manifest.photos, splits, strict=True)
        settled = tuple(dataclasses.replace(photo, split=split) for photo, split in photos)
        candidate = dataclasses.replace(manifest, photos=settled)
        if candidate.digest == digest:
            return beside(dataset, candidate)
    return None


def beside(dataset: Dataset, manifest: Manifest) -> Dataset:
    """Another entry of the same pixels.

    Args:
        dataset: Dataset whose pixels they are.
        manifest: Manifest of the same photos, in the same order, in other splits.

    Raises:
        DataError: The cache can't be written.
    """
    text = manifest.to_json()
    root = dataset.folder.parents[1]
    path = cache.entry(root, Manifest.name_of(text))
    pack = pack_path(dataset.folder, dataset.image_size)
    try:
        with cache.packing_folder(root) as folder:
            cache.manifest_path(folder).write_text(text, encoding="utf-8")
            with Hold(cache.manifest_path(folder)):
                for file in (pack, sums_path(pack)):
                    link(file, folder / file.name)
                hold = install(folder, path, dataset.image_size)
    except OSError as error:
        raise unusable(root, error) from None
    cache.touch(path)
    return dataclasses.replace(dataset, folder=path, digest=manifest.digest, hold=hold)
