"""What a dataset is: its photos by content, their labels, and the split each belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# 70/15/15. Hash values below the first bound train, below the second val, the others test.
_TRAIN_BELOW = 0.70
_VAL_BELOW = 0.85


def split_of(sha256: str) -> Split:
    """The split of a photo, from its content alone.

    So it is the same under any name and in any company, and equal files share a split.

    Args:
        sha256: Hex digest of the file's bytes.
    """
    # Not the digest's own first digits: a set chosen by them would be all of one split.
    salted = hashlib.sha256(f"split:{sha256}".encode()).digest()
    share = int.from_bytes(salted[:8], "big") / 2**64
    return "train" if share < _TRAIN_BELOW else "val" if share < _VAL_BELOW else "test"


@dataclass(frozen=True)
class Photo:
    """One usable photo.

    Attributes:
        key: Path in its source.
        sha256: Of the file's bytes, hex.
        label: Class index, 0 or 1.
        split: Where it belongs for ever.
    """

    key: str
    sha256: str
    label: int
    split: Split


@dataclass(frozen=True)
class Manifest:
    """All photos of a source, in the order of the packed pixels.

    Attributes:
        kind: Kind of source: `folder`, `zip` or `synthetic`.
        location: Where it was read from, for people.
        class_names: Sorted; index 1 is positive.
        photos: The usable ones.
        left_out: (key, reason) of every file that could not be used.
    """

    kind: str
    location: str
    class_names: tuple[str, str]
    photos: tuple[Photo, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @cached_property
    def digest(self) -> str:
        """Names the dataset everywhere: sha256 over sorted (photo sha256, label, split)."""
        rows = sorted((p.sha256, p.label, p.split) for p in self.photos)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def counts(self) -> dict[Split, dict[str, int]]:
        """Photos per split and class name."""
        counted = Counter((p.split, p.label) for p in self.photos)
        return {
            split: {name: counted[split, label] for label, name in enumerate(self.class_names)}
            for split in SPLITS
        }

    def to_json(self) -> str:
        """As text that `from_json` reads back."""
        plain = dataclasses.asdict(self)
        plain["photos"] = [[p.key, p.sha256, p.label, p.split] for p in self.photos]
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote."""
        plain: Mapping[str, Any] = json.loads(text)
        return cls(
            kind=plain["kind"],
            location=plain["location"],
            class_names=tuple(plain["class_names"]),
            photos=tuple(Photo(*row) for row in plain["photos"]),
            left_out=tuple((key, reason) for key, reason in plain["left_out"]),
        )
