"""Floors: scores that take hardly any effort to reach on a split of a study's photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from catdog_search import places
from catdog_search.data import dataset
from catdog_search.data.dataset import Dataset
from catdog_search.data.manifest import Split
from catdog_search.evaluation.floor import always

# Side of the photos that a probe sees, in pixels.
PROBE_SIDE = 16


@dataclass(frozen=True)
class Floor:
    """Score that takes hardly any effort to reach on a split; `compare` uses val.

    Attributes:
        name: Floor's name, for display.
        accuracy: Accuracy on the split, 0 to 1.
        n: Number of photos in the split.
        answer: Answer to every photo, for display; empty where it looks at them.
    """

    name: str
    accuracy: float
    n: int
    answer: str = ""


def floors_of(packed: Dataset, split: Split = "val") -> list[Floor]:
    """The floors of a split, as far as the photos' size allows: one answer, and a linear probe.

    Args:
        packed: Dataset; they learn from its train.
        split: Split that they are scored on.
    """
    found = majority(packed.manifest.counts(), split)
    return [*found, probe(packed, split)] if packed.image_size >= PROBE_SIDE else found


def majority(counts: Mapping[Any, Mapping[str, int]], split: Split = "val") -> list[Floor]:
    """The floor of always answering the more frequent class.

    Empty where the photos weren't counted.

    Args:
        counts: Number of photos by split and class name.
        split: Split that it is scored on.
    """
    if not counts:
        return []
    found = always("val_accuracy", counts[split])
    n = sum(counts[split].values())
    return [] if found is None else [Floor("majority class", found.value, n, found.answer)]


def probe(packed: Dataset, split: Split = "val") -> Floor:
    """A logistic regression on photos of 16 x 16 pixels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    side = PROBE_SIDE
    wanted: tuple[Split, Split] = ("train", split)
    (x, y), (x_other, y_other) = (
        (_pooled(pixels, side), labels.ravel()) for pixels, labels in map(packed.split, wanted)
    )
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
    linear.fit(x, y)
    right = float(linear.score(x_other, y_other))
    return Floor(f"linear probe on {side} x {side} pixels", right, len(y_other))


def _pooled(pixels: np.ndarray, side: int) -> np.ndarray:
    """Means over equal squares, as many as fit; flat (n, side * side * 3)."""
    square = pixels.shape[1] // side
    cut = pixels[:, : side * square, : side * square]
    squares = cut.reshape(len(pixels), side, square, side, square, 3)
    means: np.ndarray = squares.mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(len(pixels), -1)


def any_packed(digest: str | None) -> Dataset | None:
    """The smallest pack of a dataset that is large enough for a probe, else the largest."""
    sizes = dataset.packed_sizes(places.cache_folder(), digest or "")
    chosen = [side for side in sizes if side >= PROBE_SIDE][:1] or sizes[-1:]
    return dataset.find(places.cache_folder(), digest or "", chosen[0]) if chosen else None
