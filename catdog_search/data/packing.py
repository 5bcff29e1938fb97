"""From a source to a dataset: every photo is decoded once, and packed beside the manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import heapq
import io
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from catdog_search.data import cache
from catdog_search.data.cache import Note
from catdog_search.data.causes import causes, shrinkage
from catdog_search.data.dataset import Dataset
from catdog_search.data.decode import Pixels
from catdog_search.data.decoders import Found, Task, content_key, examine_all
from catdog_search.data.entry import install, manifest_if_whole, unusable
from catdog_search.data.files import READ_ERRORS, FileTooLargeError
from catdog_search.data.manifest import CALIBRATION, Manifest, Photo, Split
from catdog_search.data.pack import PackWriter, is_whole, pack_path
from catdog_search.data.sources import Source
from catdog_search.data.splitting import settle
from catdog_search.errors import DataError
from catdog_search.places import Hold, file_lock

if TYPE_CHECKING:  # what checks study files is not needed where photos are decoded
    from catdog_search.study.config import Duplicates

Progress = Callable[[int, int], None]

Say = Callable[[str], None]

# Photos between two progress calls.
_PROGRESS_EVERY = 256

# How many files of a source in a new place are read to see whether an entry knows them.
_SAMPLE = 16

# Tries where the cache is removed while it is being filled.
_MOST_TRIES = 3

# Packages that decide, besides a file's content, whether it can be decoded.
_DECODERS = ("pillow", "pillow-heif")


def load(  # noqa: PLR0913  what a dataset is made of
    source: Source,
    image_size: int,
    folder: Path,
    limit: int,
    progress: Progress | None = None,
    *,
    subset: int | None = None,
    duplicates: Duplicates = "near",
    say: Say = lambda text: None,
) -> Dataset:
    """The dataset of `source` at `image_size`, decoded now or taken from the cache.

    Safe against other processes and against a kill at any moment: an entry's files appear
    atomically, and a second process waits for the first. Where the source's files cannot have
    changed, none is read. Where one may have, all are; pixels, and the splits of photos that were
    there before, are then found again by content.

    Args:
        source: Source of the photos.
        image_size: Side in pixels.
        folder: The cache folder.
        limit: Bytes that the cache may hold.
        progress: Called with (done, total) photos.
        subset: Photos of train to use; None for all.
        duplicates: Rule for which photos stay in one split.
        say: Callback given what a user should know, a line each.

    Raises:
        DataError: A split would lack a class, train has fewer photos than `subset`, the disk is
            full, or a process that decodes died.
    """
    loading = _Loading(source, image_size, folder, duplicates, progress, say)
    try:
        dataset = _made_by(loading)
        cache.evict(folder, limit, keep=dataset.folder)
    except OSError as error:
        raise unusable(folder, error) from None
    _check_counts(dataset.manifest, subset)
    return dataclasses.replace(dataset, subset=subset)


@dataclasses.dataclass(frozen=True)
class DecodedPhotos:
    """Labelled photos that are not a dataset: they have no splits.

    Attributes:
        pixels: uint8 RGB (n, side, side, 3).
        photos: Photos, row by row; the split of each depends on its content alone.
        left_out: (key, reason) of every file that could not be used.
    """

    pixels: Pixels
    photos: tuple[Photo, ...]
    left_out: tuple[tuple[str, str], ...]


def decode(source: Source, image_size: int, progress: Progress | None = None) -> DecodedPhotos:
    """Decode all photos of a source into memory, bypassing the cache.

    Raises:
        DataError: None can be used, or a process that decodes died.
    """
    out = io.BytesIO()
    decoded = _decode_all(source, out, _Known.of(None, image_size), "near", progress)
    manifest = decoded.manifest
    if not manifest.photos:
        raise DataError(f"{source.location}: no photo can be used: {causes(manifest.left_out)}")
    shape = (len(manifest.photos), image_size, image_size, 3)
    pixels = np.frombuffer(out.getvalue(), np.uint8).reshape(shape)
    return DecodedPhotos(pixels, manifest.photos, manifest.left_out)


def _check_counts(manifest: Manifest, subset: int | None) -> None:
    for split, by_class in manifest.counts().items():
        for name, n in by_class.items():
            if n == 0:
                few = (
                    f"{len(manifest.used())} usable photos are too few: split {split!r} has no "
                    f"{name!r}; give at least some dozen of each class"
                )
                raise DataError(f"{manifest.location}: {'; '.join((*shrinkage(manifest, 0), few))}")
    n_train = sum(manifest.counts()["train"].values())
    if subset is not None and subset > n_train:
        raise DataError(
            f"{manifest.location}: subset {subset} is more than train's {n_train} photos"
        )


def _made_by(loading: _Loading) -> Dataset:
    for _ in range(_MOST_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):  # the cache was emptied in the meantime
            return loading.run()
    return loading.run()


class _Loading:
    """One pass from a source to its dataset.

    Args:
        source: Source of the photos.
        image_size: Side in pixels.
        folder: The cache folder.
        duplicates: Rule for which photos stay in one split.
        progress: Called with (done, total) photos.
        say: Callback given what a user should know, a line each.
    """

    def __init__(
        self,
        source: Source,
        image_size: int,
        folder: Path,
        duplicates: Duplicates,
        progress: Progress | None,
        say: Say,
    ) -> None:
        self._source = source
        self._image_size = image_size
        self._folder = folder
        self._duplicates: Duplicates = duplicates
        self._progress = progress
        self._say = say
        choices = f"{duplicates}, own splits" if source.splits else duplicates
        self._note_path = cache.note_path(folder, source.location, choices)

    def run(self) -> Dataset:
        """Take the dataset from the cache, or make it.

        Raises:
            FileNotFoundError: The cache was emptied in the meantime.
            OSError: It can't be written.
            DataError: A process that decodes died.
        """
        with file_lock(self._note_path.with_suffix(".lock")):
            seen = _seen(self._source)
            note = cache.read_note(self._note_path)
            if note is None:
                return self._pack(seen, self._known_elsewhere())
            path = cache.entry(self._folder, note.entry)
            if note.seen == seen and (dataset := self._packed(path, note.unread)):
                cache.touch(path)
                return dataset
            return self._pack(seen, _Known.of(path, self._image_size))

    def _packed(self, path: Path, unread: Sequence[str]) -> Dataset | None:
        """The source's dataset from an entry; None where it must be made."""
        hold = cache.hold(path)
        if hold is None:
            return None
        manifest = manifest_if_whole(path)
        if manifest is None:
            self._say(f"cache: the manifest of {self._source.location} was damaged; made again")
            return None
        pack = pack_path(path, self._image_size)
        if not pack.exists():
            return None
        if not is_whole(pack, len(manifest.photos), self._image_size):
            what = f"{self._source.location} at {self._image_size} px"
            self._say(f"cache: pixels of {what} were damaged; made again")
            return None
        if not self._still_unread(unread, manifest):
            return None
        return self._dataset(path, manifest, hold)

    def _still_unread(self, keys: Sequence[str], manifest: Manifest) -> bool:
        """Whether files that couldn't be used for a passing reason still can't."""
        reasons = dict(manifest.left_out)
        found = Task(self._source, self._image_size, frozenset()).examine(keys)
        return all(each.reason == reasons.get(each.key) for each in found)

    def _dataset(self, path: Path, manifest: Manifest, hold: Hold | None) -> Dataset:
        location = self._source.location
        return Dataset(path, manifest.digest, self._image_size, location=location, hold=hold)

    def _known_elsewhere(self) -> _Known:
        """What the cache knows of a source that was moved or copied to where it is now."""
        path = None
        if self._source.kind != "synthetic":  # drawn sources all share the same pictures
            path = _resembling(self._source, self._folder, self._duplicates)
        return _Known.of(path, self._image_size, elsewhere=True)

    def _pack(self, seen: str, known: _Known) -> Dataset:
        with cache.packing_folder(self._folder) as folder:
            partial = pack_path(folder, self._image_size).with_suffix(".partial")
            with PackWriter(partial, self._image_size) as out, Hold(partial):
                decoded = _decode_all(self._source, out, known, self._duplicates, self._progress)
                text = decoded.manifest.to_json()
                cache.manifest_path(folder).write_text(text, encoding="utf-8")
                in_work = Hold(cache.manifest_path(folder))
            partial.replace(pack_path(folder, self._image_size))
            name = Manifest.name_of(text)
            path = cache.entry(self._folder, name)
            with in_work:  # the hold also applies where the folder is moved to
                hold = install(folder, path, self._image_size)
        cache.touch(path)
        cache.write_note(self._note_path, Note(seen, name, self._source.location, decoded.unread))
        return self._dataset(path, decoded.manifest, hold)


def _seen(source: Source) -> str:
    """A fingerprint that changes whenever re-reading a source's files may give another result."""
    versions = []
    for name in _DECODERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append((name, metadata.version(name)))
    facts = [source.fingerprint(), source.class_names, list(source.labels.items())]
    facts += [source.left_out, list(source.splits.items())]
    return hashlib.sha256(json.dumps([*facts, versions]).encode()).hexdigest()


def _resembling(source: Source, folder: Path, duplicates: Duplicates) -> Path | None:
    """The entry that knows most of a source's photos, where the source was moved.

    A few files are read to tell: if it was moved or copied, an entry knows more than half of them.
    """
    # Not every n-th one: names have periodic patterns.
    chosen = heapq.nsmallest(_SAMPLE, source.labels, lambda key: zlib.crc32(os.fsencode(key)))
    sample = set()
    for key in chosen:
        with contextlib.suppress(*READ_ERRORS, MemoryError, FileTooLargeError):
            sample.add(hashlib.sha256(source.read(key)).hexdigest())
    best, most = None, len(sample) / 2
    for entry in reversed(cache.entries(folder)):
        manifest = manifest_if_whole(entry.path)
        if manifest is not None and manifest.duplicates == duplicates:
            known = len(sample & {photo.sha256 for photo in manifest.photos})
            if known > most:
                best, most = entry.path, known
    return best


@dataclass(frozen=True)
class _Known:
    """What an entry knows, by content: photos, and their pixels where available.

    Attributes:
        image_size: Side of the pixels.
        photos: Photos by `content_key`.
        rows: Row numbers in `pixels` by `content_key`, from 0.
        pixels: Checked; None where they aren't available.
        splits: Splits of the photos by sha256.
        elsewhere: Whether the entry belongs to a source in another place.
    """

    image_size: int
    photos: Mapping[str, Photo]
    rows: Mapping[str, int]
    pixels: Pixels | None
    splits: Mapping[str, Split]
    elsewhere: bool

    @classmethod
    def of(cls, entry: Path | None, image_size: int, *, elsewhere: bool = False) -> _Known:
        manifest = None if entry is None else manifest_if_whole(entry)
        if entry is None or manifest is None:
            return cls(image_size, {}, {}, None, {}, elsewhere)
        pack, n = pack_path(entry, image_size), len(manifest.photos)
        shape = (n, image_size, image_size, 3)
        whole = n > 0 and is_whole(pack, n, image_size)
        keys = [content_key(photo.sha256, photo.key) for photo in manifest.photos]
        return cls(
            image_size,
            dict(zip(keys, manifest.photos, strict=True)),
            {key: row for row, key in enumerate(keys)},
            np.memmap(pack, np.uint8, "r", shape=shape) if whole else None,
            {} if manifest.own_splits else _splits(manifest),
            elsewhere,
        )

    def at_hand(self) -> frozenset[str]:
        """Keys of the photos that need no decoding."""
        return frozenset() if self.pixels is None else frozenset(self.photos)

    def taken_over(self, key: str) -> tuple[Photo, bytes]:
        """What decoding an available photo again would give.

        Args:
            key: Its `content_key`.
        """
        assert self.pixels is not None
        return self.photos[key], self.pixels[self.rows[key]].tobytes()

    def settled(self, sha256s: Sequence[str]) -> Mapping[str, Split]:
        """The splits that some photos had, by sha256.

        An entry from elsewhere counts only where it knows no other photos: then it is this source
        that was moved or copied, not another one that shares photos with it.
        """
        if self.elsewhere and not self.splits.keys() <= set(sha256s):
            return {}
        return self.splits


def _splits(manifest: Manifest) -> dict[str, Split]:
    """Splits by sha256, as before a part of train was set aside."""
    return {
        photo.sha256: "train" if photo.split == CALIBRATION else photo.split
        for photo in manifest.photos
        if photo.split
    }


class _Out(Protocol):
    def write(self, pixels: bytes, /) -> object:
        """Take the pixels of one photo."""


@dataclass(frozen=True)
class _Decoded:
    """What decoding a source gave.

    Attributes:
        manifest: Manifest of the photos.
        unread: Keys of the files that were left out for a passing reason.
    """

    manifest: Manifest
    unread: tuple[str, ...]


def _decode_all(
    source: Source, out: _Out, known: _Known, duplicates: Duplicates, progress: Progress | None
) -> _Decoded:
    photos: list[Photo] = []
    left_out = list(source.left_out)
    unread: list[str] = []
    total = len(source.labels)
    task = Task(source, known.image_size, known.at_hand())
    # Closed at once if the disk is full or the user interrupts: its processes depend on it.
    with contextlib.closing(examine_all(task)) as examined:
        for done, found in enumerate(examined, start=1):
            if found.reason:
                left_out.append((found.key, found.reason))
                unread += [found.key] if found.passing else []
            else:
                photo, pixels = _photo(found, source.labels[found.key], known)
                out.write(pixels)
                photos.append(photo)
            if progress and (done % _PROGRESS_EVERY == 0 or done == total):
                progress(done, total)
    was = known.settled([photo.sha256 for photo in photos])
    settled = settle(photos, source, was, duplicates)
    manifest = Manifest(
        source.kind,
        source.location,
        source.class_names,
        settled.photos,
        (*left_out, *settled.left_out),
        duplicates,
        settled.notes,
        own_splits=bool(source.splits),
    )
    return _Decoded(manifest, tuple(unread))


def _photo(found: Found, label: int, known: _Known) -> tuple[Photo, bytes]:
    seen, pixels = found, found.pixels
    if pixels is None:
        was, pixels = known.taken_over(content_key(found.sha256, found.key))
        seen = dataclasses.replace(found, phash=was.phash, flags=was.flags, fine=was.fine)
    photo = Photo(seen.key, seen.sha256, label, "train", seen.phash, seen.flags, fine=seen.fine)
    return photo, pixels
