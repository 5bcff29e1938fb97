"""Photos that stay in the split that their folder is named after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.labels import Choice
from catdog_search.data.manifest import split_of
from catdog_search.data.sources import FolderSource, SyntheticSource
from catdog_search.errors import DataError

KEEP = Choice(keep_splits=True)
LIMIT = 10**9


@pytest.fixture
def lay_out(tmp_path: Path, drawn: SyntheticSource) -> Callable[..., Path]:
    """Lays the drawn pictures out, in turn, in folders of splits."""

    def lay(*splits: str) -> Path:
        for number, (key, label) in enumerate(drawn.labels.items()):
            folder = tmp_path / "photos" / splits[number % len(splits)] / ("Cat", "Dog")[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.ppm").write_bytes(drawn.read(key))
        return tmp_path / "photos"

    return lay


def loaded(root: Path, choice: Choice = KEEP, cache: str = "cache") -> Dataset:
    return packing.load(FolderSource(root, choice), 8, root.parent / cache, LIMIT)


def folders_by_split(found: Dataset) -> dict[str, set[str]]:
    by_split: dict[str, set[str]] = {}
    for photo in found.manifest.photos:
        by_split.setdefault(str(photo.split), set()).add(photo.key.split("/")[0])
    return by_split


def test_splits_stay_as_they_are(lay_out: Callable[..., Path]) -> None:
    root = lay_out("training", "train2", "valid", "TEST")
    found = loaded(root)
    assert folders_by_split(found) == {
        "train": {"training", "train2"},
        "val": {"valid"},
        "test": {"TEST"},
    }
    assert len(found.manifest.used()) == 100
    note = FolderSource(root, KEEP).notes[-1]
    assert note == "splits: folders TEST 25, train2 25, training 25, valid 25, kept as they are"


def test_splits_are_merged_and_that_is_said(lay_out: Callable[..., Path]) -> None:
    root = lay_out("train", "val")
    source = FolderSource(root)
    assert source.splits == {}
    assert source.notes[-1] == (
        "splits: folders train 50, val 50, merged and split anew by content; "
        "--keep-splits keeps them"
    )


@pytest.mark.parametrize("missing", [("test",), ("val",), ("val", "test")])
def test_split_that_is_missing_is_carved_from_train(
    lay_out: Callable[..., Path], missing: tuple[str, ...]
) -> None:
    there = [split for split in ("train", "val", "test") if split not in missing]
    found = loaded(lay_out(*there))
    for photo in found.manifest.photos:
        folder = photo.key.split("/")[0]
        usual = split_of(photo.sha256)
        carved = folder == "train" and usual in missing
        assert photo.split == (usual if carved else folder)


def test_copies_of_val_and_test_are_left_out_of_train(lay_out: Callable[..., Path]) -> None:
    root = lay_out("train", "val", "test")
    copies = []
    for split in ("val", "test"):
        for photo in sorted((root / split).rglob("*.ppm"))[:3]:
            copy = root / "train" / photo.parent.name / f"copy-{split}-{photo.name}"
            copy.write_bytes(photo.read_bytes())
            copies.append(copy.relative_to(root).as_posix())
    manifest = loaded(root).manifest
    assert sorted(key for key, _ in manifest.left_out) == sorted(copies)
    assert all(reason.startswith("copy: ") for _, reason in manifest.left_out)
    assert len(manifest.used()) == 100
    in_train = {p.sha256 for p in manifest.photos if p.split == "train"}
    elsewhere = {p.sha256 for p in manifest.photos if p.split in ("val", "test")}
    assert not in_train & elsewhere
    assert sum(map(len, manifest.hashes().values())) == 100


def test_copies_within_train_are_carved_together(lay_out: Callable[..., Path]) -> None:
    root = lay_out("train", "val")
    for photo in sorted((root / "train").rglob("*.ppm")):
        (photo.parent / f"again-{photo.name}").write_bytes(photo.read_bytes())
    found: dict[str, set[str]] = {}
    for photo_ in loaded(root).manifest.photos:
        found.setdefault(photo_.sha256, set()).add(str(photo_.split))
    assert all(len(splits) == 1 for splits in found.values())
    assert {"train", "val", "test"} == {next(iter(splits)) for splits in found.values()}


def test_kept_splits_and_those_by_content_never_mix(lay_out: Callable[..., Path]) -> None:
    root = lay_out("train", "val", "test")
    plain, kept = loaded(root, Choice(), "other").digest, loaded(root, KEEP, "third").digest
    assert plain != kept
    assert [loaded(root, c).digest for c in (KEEP, Choice(), KEEP)] == [kept, plain, kept]
    (root / "train" / "Cat" / "new.ppm").write_bytes(SyntheticSource(300).read("cat.000120.ppm"))
    assert folders_by_split(loaded(root))["val"] == {"val"}
    assert len(folders_by_split(loaded(root, Choice()))["val"]) == 3


def test_kept_splits_need_a_train(lay_out: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="--keep-splits: no photo lies in a folder named train"):
        FolderSource(lay_out("val", "test"), KEEP)
