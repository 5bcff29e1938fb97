"""Split and digest: by content alone."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from catdog_search.data.manifest import Manifest, Photo, split_of


def photos(n: int) -> list[Photo]:
    shas = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]
    return [Photo(f"{i}.jpg", sha, i % 2, split_of(sha)) for i, sha in enumerate(shas)]


def manifest(rows: list[Photo]) -> Manifest:
    return Manifest("folder", "here", ("cat", "dog"), tuple(rows), (("bad.jpg", "broken"),))


@pytest.mark.parametrize(("split", "share"), [("train", 0.70), ("val", 0.15), ("test", 0.15)])
def test_split_of_shares_out_70_15_15(split: str, share: float) -> None:
    rows = photos(20_000)
    got = sum(photo.split == split for photo in rows) / len(rows)
    assert got == pytest.approx(share, abs=0.01)  # 3 standard deviations


def test_split_of_is_not_told_by_the_digests_first_digits() -> None:
    low = [p for p in photos(20_000) if p.sha256 < "4"]
    assert sum(p.split == "train" for p in low) / len(low) == pytest.approx(0.70, abs=0.03)


def test_digest_ignores_names_and_order() -> None:
    rows = photos(50)
    renamed = [dataclasses.replace(p, key=f"other/{p.key}") for p in reversed(rows)]
    assert manifest(renamed).digest == manifest(rows).digest


@pytest.mark.parametrize("change", [{"label": 1}, {"split": "test"}, {"sha256": "0" * 64}])
def test_digest_changes_with_content_label_and_split(change: dict[str, str]) -> None:
    rows = photos(50)
    row = next(i for i, p in enumerate(rows) if p.label == 0 and p.split == "train")
    changed = [*rows]
    changed[row] = dataclasses.replace(rows[row], **change)
    assert manifest(changed).digest != manifest(rows).digest


def test_digest_changes_when_a_photo_is_gone() -> None:
    rows = photos(50)
    assert manifest(rows[1:]).digest != manifest(rows).digest


def test_json_round_trip_keeps_everything() -> None:
    before = manifest(photos(20))
    assert Manifest.from_json(before.to_json()) == before


def test_counts_covers_every_split_and_class() -> None:
    counts = manifest(photos(200)).counts()
    assert sum(n for by_class in counts.values() for n in by_class.values()) == 200
    assert all(set(by_class) == {"cat", "dog"} for by_class in counts.values())


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("cat", "dog"), ["train holds 25.0% dog, the whole 50.0%", "val holds 75.0% dog"]),
        (("cat", "cow", "dog"), ["train holds 50.0% cow, the whole 37.5%", "val holds 25.0% cow"]),
    ],
)
def test_imbalances_are_said_of_every_class_but_the_first(
    names: tuple[str, ...], says: list[str]
) -> None:
    labels = {2: [0, 0, 0, 1, 0, 1, 1, 1], 3: [0, 0, 1, 1, 0, 0, 1, 2]}[len(names)]
    splits = ["train"] * 4 + ["val"] * 4
    rows = [
        dataclasses.replace(photo, label=label, split=split)  # type: ignore[arg-type]
        for photo, label, split in zip(photos(8), labels, splits, strict=True)
    ]
    lines = dataclasses.replace(manifest(rows), class_names=names).imbalances()
    assert all(any(line.startswith(said) for line in lines) for said in says)
    assert len([line for line in lines if line.startswith("train")]) == len(names) - 1
