"""The photos that are set aside to calibrate a champion: which, how many, what stays as it was."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from catdog_search.data import packing
from catdog_search.data.calibration import set_aside
from catdog_search.data.dataset import Dataset, as_it_was, beside
from catdog_search.data.entry import read_manifest
from catdog_search.data.manifest import CALIBRATION, Manifest, Photo
from catdog_search.data.pack import pack_path
from catdog_search.data.sources import FolderSource
from catdog_search.errors import DataError

LIMIT = 10**9


def aside(packed: Dataset, share: float = 0.01, fewest: int = 10) -> Dataset:
    return set_aside({packed.image_size: packed}, share, fewest)[packed.image_size]


def chosen(packed: Dataset) -> set[str]:
    return {p.sha256 for p in packed.manifest.photos if p.split == CALIBRATION}


def with_photos(packed: Dataset, *photos: Photo, **changes: object) -> Dataset:
    """The same pixels under another manifest."""
    return beside(packed, dataclasses.replace(packed.manifest, photos=photos, **changes))  # type: ignore[arg-type]


def n_train(packed: Dataset) -> int:
    return sum(packed.manifest.counts()["train"].values())


@pytest.mark.parametrize(
    ("share", "fewest", "wanted"),
    [(0.01, 10, 10), (0.2, 2, None), (0.2, 30, 30), (0.5, 2, None), (0.001, 4, 4)],
)
def test_set_aside_is_a_share_of_train_or_the_fewest(
    pictures: Dataset, share: float, fewest: int, wanted: int | None
) -> None:
    n = n_train(pictures)
    found = aside(pictures, share, fewest)
    # An odd train can't give half of it, rounded up.
    assert len(chosen(found)) == (wanted or math.ceil(share * n))
    assert n_train(found) == n - len(chosen(found))


def test_all_else_stays_as_it_was(pictures: Dataset) -> None:
    found = aside(pictures, 0.3)
    for before, after in zip(pictures.manifest.photos, found.manifest.photos, strict=True):
        if after.split == CALIBRATION:
            assert before.split == "train"
            after = dataclasses.replace(after, split="train")  # noqa: PLW2901  but for its split
        assert after == before
    for split in ("val", "test"):
        assert found.rows(split) == pictures.rows(split)  # type: ignore[arg-type]
    assert found.manifest.class_names == pictures.manifest.class_names
    assert found.digest == found.manifest.digest != pictures.digest
    assert aside(pictures, 0.3).digest == found.digest
    assert aside(pictures, 0.31).digest != found.digest
    assert Manifest.from_json(found.manifest.to_json()) == found.manifest


def test_it_is_known_who_was_set_aside(pictures: Dataset) -> None:
    found = aside(pictures)
    hashes = found.manifest.hashes()
    assert set(hashes[CALIBRATION]) == {sha256[:16] for sha256 in chosen(found)}
    assert len(hashes["train"]) == n_train(found)
    assert CALIBRATION not in pictures.manifest.hashes()
    assert set(found.manifest.moved()[CALIBRATION]) == set(hashes[CALIBRATION])


def test_more_takes_the_same_photos_and_others(pictures: Dataset) -> None:
    sets = [chosen(aside(pictures, 0.001, fewest)) for fewest in (4, 5, 11, 20, 30)]
    for small, large in itertools.pairwise(sets):
        assert small < large


def test_same_photos_whatever_their_order_and_size(pictures: Dataset, photo_folder: Path) -> None:
    photos = list(pictures.manifest.photos)
    random.Random(3).shuffle(photos)
    assert chosen(aside(with_photos(pictures, *photos))) == chosen(aside(pictures))
    # The same files under other names, in another place, at other sizes.
    source = FolderSource(photo_folder)
    cache_folder = photo_folder.with_name("cache")
    sizes = {
        side: packing.load(source, side, cache_folder, LIMIT, duplicates="exact")
        for side in (8, 16)
    }
    both = set_aside(sizes, 0.01, 10)
    assert chosen(both[8]) == chosen(both[16]) == chosen(aside(pictures))
    assert {side: each.image_size for side, each in both.items()} == {8: 8, 16: 16}
    for side, each in both.items():
        x, y = each.split(CALIBRATION)
        assert x.shape == (10, side, side, 3)
        assert y.shape == (10, 1)


def test_pixels_are_shared(pictures: Dataset) -> None:
    found = aside(pictures)
    mine, theirs = (pack_path(each.folder, each.image_size) for each in (found, pictures))
    assert mine != theirs
    assert mine.samefile(theirs)
    rows = [i for i, p in enumerate(found.manifest.photos) if p.split == CALIBRATION]
    assert np.array_equal(found.split(CALIBRATION)[0], pictures.read(rows))


@pytest.mark.parametrize("copies", [False, True], ids=["alike", "copies"])
def test_duplicates_are_set_aside_together_or_not_at_all(pictures: Dataset, copies: bool) -> None:
    photos = list(pictures.manifest.photos)
    train = [row for row, photo in enumerate(photos) if photo.split == "train"]
    groups = [train[start : start + 4] for start in range(0, 40, 4)]
    for number, rows in enumerate(groups):
        for row in rows:
            same = {"sha256": photos[rows[0]].sha256} if copies else {"group": number}
            photos[row] = dataclasses.replace(photos[row], **same)
    found = aside(with_photos(pictures, *photos), fewest=15).manifest.photos
    for rows in groups:
        assert len({found[row].split for row in rows}) == 1
    assert len(chosen(aside(with_photos(pictures, *photos), fewest=15))) >= 15


def test_copy_of_a_photo_of_test_moves_none_of_test(pictures: Dataset) -> None:
    """Where nobody asks for duplicates, one photo may lie in two splits."""
    photos = list(pictures.manifest.photos)
    first = aside(pictures)
    row = next(i for i, p in enumerate(first.manifest.photos) if p.split == CALIBRATION)
    test = pictures.rows("test")[0]
    photos[test] = dataclasses.replace(photos[test], sha256=photos[row].sha256)
    found = aside(with_photos(pictures, *photos)).manifest.photos
    assert (found[row].split, found[test].split) == (CALIBRATION, "test")


@pytest.mark.parametrize(("share", "fewest"), [(0.01, 300), (0.5, 60), (0.001, 40)])
def test_too_few_photos_are_told_in_a_line(pictures: Dataset, share: float, fewest: int) -> None:
    before = n_train(pictures)
    with pytest.raises(DataError) as caught:
        aside(pictures, share, fewest)
    said = str(caught.value)
    assert f"{fewest} photos for calibration are more than half of train's {before}" in said
    assert "[promotion] calibration_photos and calibration_share say how many" in said
    assert "\n" not in said


def test_part_that_would_lack_a_class_is_refused(pictures: Dataset) -> None:
    """As where all dogs look alike: they stay together, in the one part or in the other."""
    photos = [
        dataclasses.replace(photo, group=1) if photo.split == "train" and photo.label else photo
        for photo in pictures.manifest.photos
    ]
    alike = with_photos(pictures, *photos)
    said = set()
    for fewest in (2, 30):
        with pytest.raises(DataError) as caught:
            aside(alike, 0.001, fewest)
        said.add(str(caught.value).split(": ", 1)[1])
    more = "; [promotion] calibration_photos says how many it takes"
    part = "with a part of train set aside, {} has no 'dog'" + more
    assert said == {part.format("calibration"), part.format("train")}


@pytest.mark.parametrize(
    ("subset", "left"),
    [
        (None, None),
        (20, 20),  # of 70, 60 are left: as many as before
        ("all", None),
        ("one more than is left", None),
        ("as many as are left", None),
        ("one less than is left", "one less than is left"),
    ],
)
def test_part_of_train_stays_as_large_while_there_is_more(
    pictures: Dataset, subset: int | str | None, left: int | str | None
) -> None:
    n = n_train(pictures)
    sizes = {
        "all": n,
        "one more than is left": n - 9,
        "as many as are left": n - 10,
        "one less than is left": n - 11,
    }
    of = sizes.get(str(subset), subset)
    found = aside(dataclasses.replace(pictures, subset=of))  # type: ignore[arg-type]
    assert found.subset == sizes.get(str(left), left)
    rows = found.rows("train")
    assert len(rows) == (found.subset or n - 10)
    assert not {found.manifest.photos[row].sha256 for row in rows} & chosen(found)


def test_photos_in_splits_of_their_own_give_of_train_alone(pictures: Dataset) -> None:
    own = with_photos(pictures, *pictures.manifest.photos, own_splits=True)
    found = aside(own)
    assert chosen(found) == chosen(aside(pictures))
    assert found.manifest.own_splits
    # Photos that belong to no split stay out.
    photos = [
        dataclasses.replace(p, split=None) if p.sha256 in chosen(found) else p
        for p in own.manifest.photos
    ]
    again = aside(with_photos(own, *photos))
    assert not chosen(again) & chosen(found)


def test_source_that_was_moved_has_them_in_train_again(photo_folder: Path, tmp_path: Path) -> None:
    cache_folder = tmp_path / "cache"
    first = packing.load(FolderSource(photo_folder), 8, cache_folder, LIMIT, duplicates="exact")
    found = aside(first)
    moved = photo_folder.with_name("moved")
    shutil.move(photo_folder, moved)
    # Let the entry of what was set aside be the only one that knows these photos.
    shutil.rmtree(first.folder)
    again = packing.load(FolderSource(moved), 8, cache_folder, LIMIT, duplicates="exact")
    assert again.digest == first.digest
    assert read_manifest(found.folder, None).digest == found.digest
    assert chosen(aside(again)) == chosen(found)


def test_study_finds_its_splits_again_beside_what_was_set_aside(pictures: Dataset) -> None:
    found = aside(pictures)
    again = as_it_was(found, pictures.digest, pictures.manifest.moved())
    assert again is not None
    assert again.digest == pictures.digest
    assert CALIBRATION not in again.manifest.hashes()
