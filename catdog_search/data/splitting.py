"""Which photos stay together, and which split each belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog_search.data.groups import Grouping, find_groups, group_photos
from catdog_search.data.manifest import (
    SPLITS,
    Manifest,
    Photo,
    Split,
    assign_splits,
    keep_splits,
    short_hash,
    split_of,
)

if TYPE_CHECKING:  # what checks study files is not needed where photos are decoded
    from catdog_search.data.sources import Source
    from catdog_search.study.config import Duplicates


@dataclass(frozen=True)
class Settled:
    """Photos in their groups and splits.

    Attributes:
        photos: All of them; one that is left out has no split.
        notes: Lines for the user on how duplicates were found.
        left_out: (key, reason) of the photos that have no split.
    """

    photos: tuple[Photo, ...]
    notes: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def settle(
    photos: Sequence[Photo], source: Source, known: Mapping[str, Split], duplicates: Duplicates
) -> Settled:
    """Give every photo its group and its split.

    Args:
        photos: Photos of a source.
        source: Source of the photos; it may name their splits.
        known: Splits of photos that stay where they are, by sha256.
        duplicates: Rule for which photos stay in one split.
    """
    # Drawn pictures are made of the same few shapes: alike to a hash, but never duplicates.
    synthetic = source.kind == "synthetic" and duplicates == "near"
    wanted: Duplicates = "exact" if synthetic else duplicates
    splits: Sequence[Split | None]
    if source.splits:
        found = _grouped(photos, wanted)
        splits = keep_splits(photos, found.groups, source.splits)
    else:
        found, splits = _with_all_classes(photos, known, wanted)
    numbers = {row: number for number, rows in enumerate(found.groups) for row in rows}
    settled = tuple(
        dataclasses.replace(photo, split=splits[row], group=numbers.get(row))
        for row, photo in enumerate(photos)
    )
    copies = tuple(
        (photo.key, "copy: photos in val or test are the same; left out of train")
        for photo in settled
        if photo.split is None
    )
    return Settled(settled, found.notes, copies)


def _with_all_classes(
    photos: Sequence[Photo], known: Mapping[str, Split], duplicates: Duplicates
) -> tuple[Grouping, list[Split]]:
    """Groups and splits; where grouping look-alikes would empty a split, only exact copies."""
    found, splits = _split(photos, known, duplicates)
    if duplicates == "near" and _lacks_a_class(photos, splits):
        exact, otherwise = _split(photos, known, "exact")
        if not _lacks_a_class(photos, otherwise):
            note = (
                "duplicates: with all that look alike in one split, another would lack a class, so "
                "only exact copies stay together, and what is nearly one may lie in two splits"
            )
            return Grouping(exact.groups, (*found.notes, note)), otherwise
    return found, splits


def _grouped(photos: Sequence[Photo], duplicates: Duplicates) -> Grouping:
    shas = [photo.sha256 for photo in photos]
    return group_photos(shas, [(photo.phash, photo.fine) for photo in photos], duplicates)


def _split(
    photos: Sequence[Photo], known: Mapping[str, Split], duplicates: Duplicates
) -> tuple[Grouping, list[Split]]:
    found = _grouped(photos, duplicates)
    shas = [photo.sha256 for photo in photos]
    labels = [photo.label for photo in photos]
    return found, assign_splits(shas, found.groups, known, labels)


def _lacks_a_class(photos: Sequence[Photo], splits: Sequence[Split]) -> bool:
    labels = {photo.label for photo in photos}
    there = {(split, photo.label) for split, photo in zip(splits, photos, strict=True)}
    return len(there) < len(SPLITS) * len(labels)


def as_remembered(manifest: Manifest, moved: Mapping[str, Sequence[str]]) -> list[Split]:
    """The splits that a study remembers.

    Args:
        manifest: Manifest of the photos.
        moved: Hashes by split, as `Manifest.moved` gives them.
    """
    by_hash = {short: split for split in SPLITS for short in moved.get(split, ())}
    shas = [photo.sha256 for photo in manifest.photos]
    return [by_hash.get(short_hash(sha256)) or split_of(sha256) for sha256 in shas]


def as_before_ranks(manifest: Manifest) -> list[Split]:
    """The splits of earlier versions, which handled neither small classes nor chains."""
    shas = [photo.sha256 for photo in manifest.photos]
    synthetic = manifest.kind == "synthetic"
    phashes = ["" if synthetic else photo.phash for photo in manifest.photos]
    return assign_splits(shas, find_groups(shas, phashes), {})
