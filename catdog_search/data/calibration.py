"""A part of train set aside: not trained on, so that a model's confidence can be calibrated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from catdog_search.data.dataset import Dataset, beside
from catdog_search.data.manifest import CALIBRATION, Manifest, Photo, share_of
from catdog_search.errors import DataError


def set_aside(sizes: Mapping[int, Dataset], share: float, fewest: int) -> dict[int, Dataset]:
    """Datasets of the same photos, with a part of train in the split `calibration`.

    Chosen by content, duplicates together: the same photos on every machine, and a larger share
    takes the same ones and more.

    Args:
        sizes: Datasets by image size in pixels; all of the same photos.
        share: Share of train, above 0, up to 0.5.
        fewest: Least number of photos of train to set aside.

    Raises:
        DataError: Train has too few photos for that, or a part would lack a class.
    """
    first = next(iter(sizes.values()))
    manifest = _with_calibration(first.manifest, share, fewest)
    left = len(manifest.train_rows(None))
    return {side: _at(dataset, manifest, left) for side, dataset in sizes.items()}


def _at(dataset: Dataset, manifest: Manifest, left: int) -> Dataset:
    made = beside(dataset, manifest)
    # Where trials use a subset of train, setting photos aside costs them nothing if enough remain.
    subset = None if dataset.subset is None or dataset.subset >= left else dataset.subset
    return dataclasses.replace(made, subset=subset)


def _with_calibration(manifest: Manifest, share: float, fewest: int) -> Manifest:
    n_train = sum(manifest.counts()["train"].values())
    wanted = max(fewest, math.ceil(share * n_train))
    if 2 * wanted > n_train:
        raise DataError(
            f"{manifest.location}: {wanted} photos for calibration are more than half of train's "
            f"{n_train}; [promotion] calibration_photos and calibration_share say how many, and "
            "finalists = 1 with seeds = 1 takes none"
        )
    chosen: set[str] = set()
    for unit in _units(manifest):
        if len(chosen) >= wanted:
            break
        chosen.update(photo.sha256 for photo in unit)
    photos = tuple(
        dataclasses.replace(p, split=CALIBRATION) if _is_train(p) and p.sha256 in chosen else p
        for p in manifest.photos
    )
    made = dataclasses.replace(manifest, photos=photos)
    _require_classes(made)
    return made


def _units(manifest: Manifest) -> Iterator[list[Photo]]:
    """Photos of train that stay together, in an order that depends on their content alone."""
    units: dict[str, list[Photo]] = {}
    for photo in filter(_is_train, manifest.photos):
        units.setdefault(photo.sha256 if photo.group is None else f"{photo.group}", []).append(
            photo
        )
    firsts = {min(photo.sha256 for photo in photos): photos for photos in units.values()}
    for sha256 in sorted(firsts, key=lambda sha256: (share_of(f"calibration:{sha256}"), sha256)):
        yield firsts[sha256]


def _is_train(photo: Photo) -> bool:
    return photo.split == "train"


def _require_classes(manifest: Manifest) -> None:
    for split in ("train", CALIBRATION):
        there = {photo.label for photo in manifest.photos if photo.split == split}
        for label, name in enumerate(manifest.class_names):
            if label not in there:
                raise DataError(
                    f"{manifest.location}: with a part of train set aside, {split} has no "
                    f"{name!r}; [promotion] calibration_photos says how many it takes"
                )
