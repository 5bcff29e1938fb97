"""What a study optimizes; the one place that knows what a direction means."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

Metric = Literal["val_accuracy", "val_balanced_accuracy", "val_auc", "val_loss"]
Direction = Literal["maximize", "minimize"]

DIRECTION_OF: dict[Metric, Direction] = {
    "val_accuracy": "maximize",
    "val_balanced_accuracy": "maximize",
    "val_auc": "maximize",
    "val_loss": "minimize",
}


def badness(direction: Direction, value: float) -> float:
    """A number that is lower the better `value` is, to sort by."""
    return -value if direction == "maximize" else value


def is_better(direction: Direction, value: float, other: float) -> bool:
    """Whether `value` beats `other`."""
    return badness(direction, value) < badness(direction, other)


def best_so_far(direction: Direction, values: Iterable[float]) -> list[float]:
    """The best value up to and including each."""

    def better(one: float, other: float) -> float:
        return other if is_better(direction, other, one) else one

    return list(itertools.accumulate(values, better))


def keras_mode(direction: Direction) -> Literal["max", "min"]:
    """Keras's callbacks' name for a direction."""
    return "max" if direction == "maximize" else "min"
