"""Baseline of a score: one answer to every photo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from catdog_search.text import printable


@dataclass(frozen=True)
class Always:
    """One answer to every photo.

    Attributes:
        answer: Answer to every photo, for display.
        value: Score of that answer.
    """

    answer: str
    value: float

    def __str__(self) -> str:
        return f"{self.answer} scores {self.value:.4f}"


def always(metric: str | None, counts: Mapping[str, int]) -> Always | None:
    """The best score that one answer to every photo reaches; None where it isn't known.

    The answer is chosen by the scored photos themselves: where classes are balanced in train and
    not in val, another answer would make a model that learned nothing look better than it.

    Args:
        metric: Metric to score by, as a study names it.
        counts: Number of scored photos, by class name.
    """
    n = sum(counts.values())
    if not n or metric is None:
        return None
    frequent = max(counts, key=lambda name: counts[name])
    said = f"always {printable(frequent)!r}"
    match metric:
        case "val_accuracy":
            return Always(said, counts[frequent] / n)
        case "val_balanced_accuracy":
            return Always(said, 1 / len(counts))
        case "val_auc":
            return Always(said, 0.5)
        case "val_loss":
            shares = {name: each / n for name, each in counts.items()}
            loss = -sum(each * math.log(shares[name]) for name, each in counts.items() if each)
            return Always(f"always {shares[frequent]:.1%} {printable(frequent)!r}", loss / n)
    return None
