"""What a dataset is: its photos by content, their labels, and the split each belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Split = Literal["train", "val", "test", "calibration"]
# The splits that every dataset has.
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# The split of the photos taken from train that finalists aren't trained on, see `data.calibration`.
CALIBRATION: Split = "calibration"

# 70/15/15. Hash values below the first bound train, below the second val, the others test.
TRAIN_BELOW = 0.70
_VAL_BELOW = 0.85
# Percentages of a class, where it is allocated exactly.
_PER_CENT: dict[Split, int] = {"train": 70, "val": 15, "test": 15}
# With fewer photos of a class in val or test, a score would be mostly noise.
FEWEST_BY_CHANCE = 20
# Precedes the location in a manifest's text; inside a JSON string its quotes would be escaped.
_LOCATION = ', "location": '
# Tolerance of a class's share in a split against its share in the whole.
_BALANCED_WITHIN = 0.01


def short_hash(sha256: str) -> str:
    """The prefix that `Manifest.hashes` keeps: enough to tell millions of photos apart."""
    return sha256[:16]


def split_of(sha256: str) -> Split:
    """The split of a photo that has no duplicates, from its content alone.

    Args:
        sha256: Hex digest of the file's bytes.
    """
    share = share_of(f"split:{sha256}")
    return "train" if share < TRAIN_BELOW else "val" if share < _VAL_BELOW else "test"


def share_of(text: str) -> float:
    """A number in [0, 1) from a salted digest.

    Salted because a set chosen by the photos' own first digits would all be in one split.
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def assign_splits(
    sha256s: Sequence[str],
    groups: Sequence[Sequence[int]],
    known: Mapping[str, Split],
    labels: Sequence[int] = (),
) -> list[Split]:
    """A split for every photo.

    A photo that is known stays where it is. A group of duplicates goes to one split: that of its
    first known member, else that of its smallest digest, so that names and order don't matter.
    Where that leaves a class too few photos in val or test, the class is allocated exactly.

    Args:
        sha256s: SHA-256 digests of the photos' files, hex.
        groups: Rows of duplicates.
        known: Splits of photos from an earlier manifest, by sha256.
        labels: Class indices of the photos; without them classes are ignored.
    """
    splits = [known.get(sha256) or split_of(sha256) for sha256 in sha256s]
    for rows in groups:
        settled = [known[sha256s[row]] for row in rows if sha256s[row] in known]
        together = settled[0] if settled else split_of(min(sha256s[row] for row in rows))
        for row in rows:
            splits[row] = known.get(sha256s[row], together)
    for label in sorted(set(labels)):
        members = [row for row, it in enumerate(labels) if it == label]
        counted = Counter(splits[row] for row in members)
        if min(counted["val"], counted["test"]) < FEWEST_BY_CHANCE:
            movable = _movable(members, sha256s, groups, known)
            splits = _shared_out(members, movable, sha256s, splits)
    return splits


def _movable(
    members: Sequence[int],
    sha256s: Sequence[str],
    groups: Sequence[Sequence[int]],
    known: Mapping[str, Split],
) -> list[list[int]]:
    """The photos of a class that neither an earlier manifest nor another class ties to a split.

    Returns:
        Rows that stay together, whether as duplicates or as copies.
    """
    own = set(members)
    bound = {row for row in members if sha256s[row] in known}
    units: dict[str, list[int]] = {}
    for rows in groups:
        if own.isdisjoint(rows):
            continue
        if own.issuperset(rows) and bound.isdisjoint(rows):
            units[min(sha256s[row] for row in rows)] = list(rows)
        bound.update(rows)
    for row in members:
        if row not in bound:
            units.setdefault(sha256s[row], []).append(row)
    return [units[sha256] for sha256 in sorted(units)]


def _shared_out(
    members: Sequence[int],
    movable: Sequence[Sequence[int]],
    sha256s: Sequence[str],
    splits: Sequence[Split],
) -> list[Split]:
    """Splits that hold their exact shares of a class, by rank of `share_of`, not its value."""
    result = list(splits)
    moving = sum(map(len, movable))
    settled = Counter(splits[row] for row in members)
    settled.subtract(splits[row] for rows in movable for row in rows)
    # In hundredths of a photo: integers are the same on every machine.
    room = [max(share * len(members) - 100 * settled[s], 0) for s, share in _PER_CENT.items()]
    bounds = list(zip(SPLITS, itertools.accumulate(room), strict=True))
    done = 0
    for rows in sorted(
        movable, key=lambda rows: share_of(f"split:{min(sha256s[r] for r in rows)}")
    ):
        middle = (2 * done + len(rows)) * sum(room)
        split = next(s for s, bound in bounds if middle < 2 * bound * moving)
        for row in rows:
            result[row] = split
        done += len(rows)
    return result


def keep_splits(
    photos: Sequence[Photo], groups: Sequence[Sequence[int]], own: Mapping[str, Split]
) -> list[Split | None]:
    """A split for every photo, by the folder that it came in.

    Val and test stay what they are; a photo whose folder says nothing belongs to train. Where val
    or test is missing, train gives up the share it would have had, groups of duplicates together.

    Args:
        photos: All of them.
        groups: Rows of duplicates.
        own: Splits that folders say, by key.

    Returns:
        None for a photo of train that copies one of val or test, and is to be left out.
    """
    missing = {"val", "test"} - set(own.values())
    splits: list[Split | None] = []
    for photo in photos:
        said = own.get(photo.key, "train")
        carved = split_of(photo.sha256)
        splits.append(carved if said == "train" and carved in missing else said)
    for rows in groups:
        said_train = [row for row in rows if own.get(photos[row].key, "train") == "train"]
        carved = split_of(min(photos[row].sha256 for row in rows))
        together: Split | None = carved if carved in missing else "train"
        for row in said_train:
            splits[row] = together if len(said_train) == len(rows) else None
    return splits


@dataclass(frozen=True)
class Photo:
    """One usable photo.

    Attributes:
        key: Path in its source.
        sha256: SHA-256 digest of the file's bytes, 64 hex digits.
        label: Class index, 0 or 1.
        split: Split that it stays in; None where it is left out as a copy of others.
        phash: Perceptual hash, 16 hex digits; empty where there is none.
        flags: Names of what was noticed while it was decoded.
        group: Number of its group of duplicates; None where it has no duplicates.
        fine: A finer hash, 64 hex digits; empty where there is none.
    """

    key: str
    sha256: str
    label: int
    split: Split | None
    phash: str = ""
    flags: tuple[str, ...] = ()
    group: int | None = None
    fine: str = ""


@dataclass(frozen=True)
class Manifest:
    """All photos of a source, in the order of the packed pixels.

    Attributes:
        kind: Kind of source: `folder`, `zip` or `synthetic`.
        location: Location that it was read from, for display.
        class_names: Sorted; index 1 is positive.
        photos: The usable ones, including those without a split, which `left_out` lists too.
        left_out: (key, reason) of every file that could not be used; a reason starts with its
            kind: `truncated: …`.
        duplicates: Which photos were to stay in one split: `near`, `exact` or `off`.
        notes: Lines for the user on how they were found.
        own_splits: Whether the splits are those of the photos' folders.
    """

    kind: str
    location: str
    class_names: tuple[str, ...]
    photos: tuple[Photo, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    duplicates: str = "near"
    notes: tuple[str, ...] = ()
    own_splits: bool = False

    @staticmethod
    def name_of(text: str) -> str:
        """Names what the text of a manifest says, whatever the photos' location.

        Args:
            text: JSON as `to_json` gives it.
        """
        return hashlib.sha256(text.rpartition(_LOCATION)[0].encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """Names the dataset everywhere: sha256 over sorted (photo sha256, label, split).

        It includes how duplicates were treated where that isn't the default.
        """
        rows: list[Any] = sorted((p.sha256, p.label, p.split or "") for p in self.photos)
        if self.duplicates != "near":
            rows.append(["duplicates", self.duplicates])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def used(self) -> list[Photo]:
        """Photos that are in a split."""
        return [photo for photo in self.photos if photo.split is not None]

    def counts(self) -> dict[Split, dict[str, int]]:
        """Photos per split and class name."""
        counted = Counter((p.split, p.label) for p in self.photos)
        return {
            split: {name: counted[split, label] for label, name in enumerate(self.class_names)}
            for split in SPLITS
        }

    def hashes(self) -> dict[Split, list[str]]:
        """The first 16 hex digits of every photo's sha256, by split: which photo was where."""
        found: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for photo in self.photos:
            if photo.split is not None:
                found.setdefault(photo.split, []).append(short_hash(photo.sha256))
        return found

    def moved(self) -> dict[Split, list[str]]:
        """Short hashes, by split, of the photos whose split isn't the one their content gives."""
        found: dict[Split, list[str]] = {}
        for photo in self.photos:
            if photo.split not in (None, split_of(photo.sha256)):
                found.setdefault(photo.split, []).append(short_hash(photo.sha256))
        return {split: sorted(set(hashes)) for split, hashes in found.items()}

    def imbalances(self) -> list[str]:
        """A line for each split whose class shares differ from the whole's by more than 1 point."""
        used = self.used()
        counted = Counter(self.class_names[photo.label] for photo in used)
        lines = []
        for split, by_class in self.counts().items():
            for name in self.class_names[1:]:  # the first one's share follows from the others
                whole = counted[name] / max(len(used), 1)
                share = by_class[name] / max(sum(by_class.values()), 1)
                if abs(share - whole) > _BALANCED_WITHIN:
                    lines.append(f"{split} holds {share:.1%} {name}, the whole {whole:.1%}")
        return lines

    def groups(self) -> dict[int, list[Photo]]:
        """Duplicates by the number of their group."""
        found: dict[int, list[Photo]] = {}
        for photo in self.photos:
            if photo.group is not None:
                found.setdefault(photo.group, []).append(photo)
        return found

    def train_rows(self, subset: int | None) -> list[int]:
        """Rows of train, or of a stated part of it.

        The part is stratified, chosen by content, and nested: the same first N for a larger N.

        Args:
            subset: Photos to take; None for all.
        """
        rows = [i for i, photo in enumerate(self.photos) if photo.split == "train"]
        if subset is None:
            return rows
        ranked: list[tuple[float, int]] = []
        for label in range(len(self.class_names)):
            members = [i for i in rows if self.photos[i].label == label]
            members.sort(key=lambda i: (share_of(f"subset:{self.photos[i].sha256}"), i))
            # Evenly spread over [0, 1), so that every prefix holds the classes' shares.
            ranked += [((n + 0.5) / len(members), i) for n, i in enumerate(members)]
        return sorted(i for _, i in sorted(ranked)[:subset])

    def to_json(self) -> str:
        """As text that `from_json` reads back; the location comes last."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["photos"] = [list(vars(photo).values()) for photo in self.photos]
        del plain["location"]
        return f"{json.dumps(plain)[:-1]}{_LOCATION}{json.dumps(self.location)}}}"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote."""
        plain: Mapping[str, Any] = json.loads(text)
        return cls(
            kind=plain["kind"],
            location=plain["location"],
            class_names=tuple(plain["class_names"]),
            photos=tuple(
                Photo(key, sha256, label, split, phash, tuple(flags), group, fine)
                for key, sha256, label, split, phash, flags, group, fine in plain["photos"]
            ),
            left_out=tuple((key, reason) for key, reason in plain["left_out"]),
            duplicates=plain["duplicates"],
            notes=tuple(plain["notes"]),
            own_splits=plain["own_splits"],
        )
