"""Floors: scores that hardly any effort reaches on the photos of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from catdog_search import places
from catdog_search.data import dataset
from catdog_search.data.dataset import Dataset
from catdog_search.evaluation.floor import always

# Side of the photos that a probe sees, in pixels.
PROBE_SIDE = 16


@dataclass(frozen=True)
class Floor:
    """Score that hardly any effort reaches on val.

    Attributes:
        name: Floor's name, for people.
        val_accuracy: Accuracy on val, 0 to 1.
        n: Number of photos in val.
        answer: Answer to every photo, for people; empty where it looks at them.
    """

    name: str
    val_accuracy: float
    n: int
    answer: str = ""


def majority(packed: Dataset) -> Floor:
    """The floor of always answering the more frequent class of train."""
    (floor,) = majority_of(packed.manifest.counts())
    return floor


def majority_of(counts: Mapping[Any, Mapping[str, int]]) -> list[Floor]:
    """The same from the photos by split and class; none where nobody counted them."""
    if not counts:
        return []
    found = always("val_accuracy", counts["val"], counts["train"])
    n = sum(counts["val"].values())
    return [] if found is None else [Floor("majority class", found.value, n, found.answer)]


def probe(packed: Dataset) -> Floor:
    """A logistic regression on photos of 16 x 16 pixels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    side = PROBE_SIDE
    data = {split: packed.split(split) for split in ("train", "val")}
    inputs = {split: _pooled(pixels, side) for split, (pixels, _) in data.items()}
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
    linear.fit(inputs["train"], data["train"][1].ravel())
    right = float(linear.score(inputs["val"], data["val"][1].ravel()))
    return Floor(f"linear probe on {side} x {side} pixels", right, len(data["val"][1]))


def _pooled(pixels: np.ndarray, side: int) -> np.ndarray:
    """Means of equal squares, as many as fit; flat (n, side * side * 3)."""
    square = pixels.shape[1] // side
    cut = pixels[:, : side * square, : side * square]
    squares = cut.reshape(len(pixels), side, square, side, square, 3)
    means: np.ndarray = squares.mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(len(pixels), -1)


def any_packed(digest: str | None) -> Dataset | None:
    """The smallest pack of a dataset that a probe can look at, else the largest."""
    sizes = dataset.packed_sizes(places.cache_folder(), digest or "")
    chosen = [side for side in sizes if side >= PROBE_SIDE][:1] or sizes[-1:]
    return dataset.find(places.cache_folder(), digest or "", chosen[0]) if chosen else None
