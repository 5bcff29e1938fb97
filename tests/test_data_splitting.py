"""Splits: shares of small classes, sets that all look alike, and what a study remembers."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from catdog_search import cli
from catdog_search.data import cache, dataset, packing
from catdog_search.data.dataset import Dataset, as_it_was
from catdog_search.data.decode import examine
from catdog_search.data.groups import find_groups, group_photos
from catdog_search.data.manifest import Manifest, Split, assign_splits, split_of
from catdog_search.data.phash import fine_hashes, perceptual_hashes
from catdog_search.data.sources import FolderSource
from catdog_search.data.splitting import as_before_ranks
from catdog_search.data.synthetic import draw

LIMIT = 10**9


def shas(n: int, salt: str = "") -> list[str]:
    return [hashlib.sha256(f"{salt}{i}".encode()).hexdigest() for i in range(n)]


def counted(splits: list[Split], labels: list[int], label: int) -> Counter[Split]:
    return Counter(split for split, it in zip(splits, labels, strict=True) if it == label)


@pytest.mark.parametrize("salt", ["a", "b", "c", "d"])
@pytest.mark.parametrize("few", [5, 6, 24, 60, 100])
def test_small_class_has_its_share_of_every_split(few: int, salt: str) -> None:
    names, labels = shas(400 + few, salt), [0] * 400 + [1] * few
    splits = assign_splits(names, [], {}, labels)
    found = counted(splits, labels, 1)
    for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert abs(found[split] - share * few) <= 1  # type: ignore[index]
        assert found[split] > 0  # type: ignore[index]
    # The other one is large enough to be left to its own contents.
    assert splits[:400] == [split_of(name) for name in names[:400]]


def test_large_classes_are_split_by_content_alone() -> None:
    names = shas(20_000)
    labels = [i % 2 for i in range(20_000)]
    assert assign_splits(names, [], {}, labels) == [split_of(name) for name in names]


def test_small_class_is_shared_out_whatever_its_order() -> None:
    names, labels = shas(330), [0] * 300 + [1] * 30
    groups = [[301, 302, 303], [310, 320]]
    splits = assign_splits(names, groups, {}, labels)
    turned = assign_splits(
        names[::-1], [[329 - i for i in rows] for rows in groups], {}, labels[::-1]
    )
    assert splits == turned[::-1]
    assert all(len({splits[i] for i in rows}) == 1 for rows in groups)
    assert set(splits[300:]) == {"train", "val", "test"}


def test_photos_added_to_a_small_class_move_nobody_and_fill_what_lacks() -> None:
    names = shas(460)
    before = assign_splits(names[:424], [], {}, [0] * 400 + [1] * 24)
    known = dict(zip(names[:424], before, strict=True))
    labels = [0] * 400 + [1] * 60
    after = assign_splits(names, [], known, labels)
    assert after[:424] == before
    assert counted(after, labels, 1) == {"train": 42, "val": 9, "test": 9}


def test_copies_are_never_parted_though_nobody_asks_for_duplicates() -> None:
    names = [name for name in shas(20) for _ in "ab"]
    splits = assign_splits(names, [], {}, [1] * 40)
    assert splits[::2] == splits[1::2]


def test_duplicate_under_the_other_label_ties_a_photo_down() -> None:
    names, labels = shas(60), [0] * 30 + [1] * 30
    splits = assign_splits(names, [[0, 30]], {}, labels)
    assert splits[0] == splits[30] == split_of(min(names[0], names[30]))


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PPM")
    return buffer.getvalue()


def before_one_background(n: int, side: int) -> list[bytes]:
    """One scene, with a small picture of something else in it each time."""
    rng = random.Random(0)
    background = draw(0, 0).resize((160, 120))
    out = []
    for i in range(n):
        scene = background.copy()
        thing = draw(i % 2, i).resize((side, side))
        scene.paste(thing, (rng.randrange(160 - side), rng.randrange(120 - side)))
        out.append(encoded(scene))
    return out


def looks(photos: list[bytes]) -> list[tuple[str, str]]:
    grey = np.stack([examine(photo, "a.ppm", 8).grey for photo in photos])
    return list(zip(perceptual_hashes(grey), fine_hashes(grey), strict=True))


def names_of(photos: list[bytes]) -> list[str]:
    return [hashlib.sha256(photo).hexdigest() for photo in photos]


@pytest.mark.parametrize("side", [6, 10, 20])
def test_photos_before_one_background_are_not_one_group(side: int) -> None:
    photos = before_one_background(120, side)
    names, hashes = names_of(photos), looks(photos)
    assert max(map(len, find_groups(names, [phash for phash, _ in hashes]))) > 40
    found = group_photos(names, hashes, "near")
    assert max(map(len, found.groups), default=0) <= 18
    assert "look alike from afar" in found.notes[0]


def test_copy_before_one_background_is_still_found() -> None:
    photos = before_one_background(100, 20)
    other = Image.open(io.BytesIO(photos[7])).resize((320, 240))
    photos += [photos[3], encoded(other)]
    found = group_photos(names_of(photos), looks(photos), "near")
    group_of = {row: i for i, rows in enumerate(found.groups) for row in rows}
    assert group_of[3] == group_of[100]
    assert group_of[7] == group_of[101]


def test_chain_of_photos_is_cut() -> None:
    rng = random.Random(4)
    fine = rng.getrandbits(256)
    coarse = rng.getrandbits(64)
    chain = []
    for _ in range(300):
        coarse ^= 1 << rng.randrange(64)
        for _ in range(4):
            fine ^= 1 << rng.randrange(256)
        chain.append((f"{coarse:016x}", f"{fine:064x}"))
    assert max(map(len, find_groups(shas(300), [coarse for coarse, _ in chain]))) == 300
    found = group_photos(shas(300), chain, "near")
    assert max(map(len, found.groups)) <= 10


def test_photos_that_look_the_same_to_every_measure_are_left_to_exact_copies() -> None:
    same = [("0123456789abcdef", "01" * 32)] * 60
    names = [*shas(59), shas(1)[0]]
    found = group_photos(names, same, "near")
    assert found.groups == [[0, 59]]
    assert "only exact copies among them stay together" in found.notes[1]


def test_group_of_a_few_is_as_it_always_was() -> None:
    rng = random.Random(5)
    same = [(f"{i:016x}", f"{rng.getrandbits(256):064x}") for i in (1, 2, 3)]
    far = [(f"{rng.getrandbits(64):016x}", "00" * 32) for i in range(60)]
    assert group_photos(shas(63), [*same, *far], "near").groups == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("choice", "groups"), [("near", [[0, 2], [1, 3]]), ("exact", [[0, 2]]), ("off", [])]
)
def test_choice_says_what_stays_together(choice: str, groups: list[list[int]]) -> None:
    hashes = [("0" * 15 + d, d * 64) for d in "0f0f"]
    hashes = [hashes[0], ("ff" * 8, "ff" * 32), hashes[0], ("ff" * 8, "ff" * 32)]
    names = [*shas(2), shas(1)[0], shas(4)[3]]
    assert group_photos(names, hashes, choice).groups == groups  # type: ignore[arg-type]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    root = tmp_path / "scenes"
    for i, photo in enumerate(before_one_background(160, 14)):
        folder = root / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.ppm").write_bytes(photo)
    return root


def test_set_that_looks_alike_can_be_split_and_says_so(scenes: Path, tmp_path: Path) -> None:
    manifest = packing.load(FolderSource(scenes), 8, tmp_path / "cache", LIMIT).manifest
    assert all(n >= 8 for by_class in manifest.counts().values() for n in by_class.values())
    assert manifest.notes


def test_split_that_would_lack_a_class_falls_back_to_exact_copies(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for i in range(40):
        (root / "cat").mkdir(parents=True, exist_ok=True)
        (root / "cat" / f"{i}.ppm").write_bytes(encoded(draw(0, i)))
    dog = draw(1, 0)
    for i in range(7):  # too few to be a suspicion
        (root / "dog").mkdir(parents=True, exist_ok=True)
        (root / "dog" / f"{i}.ppm").write_bytes(encoded(dog.resize((100 + i, 100 + i))))
    manifest = packing.load(FolderSource(root), 8, tmp_path / "cache", LIMIT).manifest
    assert all(by_class["dog"] for by_class in manifest.counts().values())
    assert "another would lack a class" in manifest.notes[-1]


def test_choice_is_part_of_the_digest_unless_it_is_the_default(
    photo_folder: Path, tmp_path: Path
) -> None:
    source = FolderSource(photo_folder)
    loaded = {
        choice: packing.load(source, 8, tmp_path / "cache", LIMIT, duplicates=choice)
        for choice in ("near", "exact", "off")
    }
    assert len({each.digest for each in loaded.values()}) == 3
    rows = sorted((p.sha256, p.label, p.split) for p in loaded["near"].manifest.photos)
    assert loaded["near"].digest == hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    for each in loaded.values():
        assert dataset.find(tmp_path / "cache", each.digest, 8) == dataclasses.replace(
            each, location=None
        )


@pytest.mark.parametrize("command", [["prepare", "--image-size", "8"], ["audit"]])
def test_commands_take_the_choice(
    command: list[str], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["data", *command, str(scenes)])
    assert "note: duplicates: " in done.output
    done = CliRunner().invoke(cli.main, ["data", *command, str(scenes), "--duplicates", "exact"])
    assert done.exit_code == 0, done.output
    assert "note: duplicates: " not in done.output


@pytest.fixture
def few_dogs(photo_folder: Path) -> Path:
    for path in sorted((photo_folder / "Dog").glob("*.ppm"))[12:]:
        path.unlink()
    return photo_folder


@pytest.fixture
def loads(few_dogs: Path, tmp_path: Path) -> Callable[[], Dataset]:
    return lambda: packing.load(FolderSource(few_dogs), 8, tmp_path / "cache", LIMIT)


def test_cached_splits_stay_when_photos_are_added(
    loads: Callable[[], Dataset], few_dogs: Path
) -> None:
    before = {p.sha256: p.split for p in loads().manifest.photos}
    for i in range(90, 99):
        (few_dogs / "Dog" / f"{i}.ppm").write_bytes(encoded(draw(1, i)))
    after = {p.sha256: p.split for p in loads().manifest.photos}
    assert before.items() <= after.items()


def test_study_finds_its_splits_again_where_the_cache_was_emptied(
    loads: Callable[[], Dataset], few_dogs: Path, tmp_path: Path
) -> None:
    loads()
    for i in range(60, 99):
        (few_dogs / "Dog" / f"{i}.ppm").write_bytes(encoded(draw(1, i)))
    began = loads()
    digest, moved = began.digest, json.loads(json.dumps(began.manifest.moved()))
    pixels, labels = began.split("val")
    del began
    assert cache.evict(tmp_path / "cache", 0)
    anew = loads()
    assert anew.digest != digest  # the ranks of all are not those of one after the other
    again = as_it_was(anew, digest, moved)
    assert again is not None
    assert again.digest == again.manifest.digest == digest
    assert np.array_equal(again.split("val")[0], pixels)
    assert np.array_equal(again.split("val")[1], labels)
    del anew
    assert again.is_there()
    assert as_it_was(again, "0" * 64, moved) is None


def test_study_of_an_earlier_version_finds_its_splits_again(
    loads: Callable[[], Dataset],
) -> None:
    now = loads()
    then = as_splits(now.manifest, as_before_ranks(now.manifest))
    assert then.digest != now.digest
    again = as_it_was(now, then.digest, {})
    assert again is not None
    assert again.manifest.photos == then.photos


def as_splits(manifest: Manifest, splits: list[Split]) -> Manifest:
    photos = zip(manifest.photos, splits, strict=True)
    settled = tuple(dataclasses.replace(photo, split=split) for photo, split in photos)
    return dataclasses.replace(manifest, photos=settled)
