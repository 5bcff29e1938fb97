"""Choose a finalist by its mean over seeds, and its form by weighing gain against noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from catdog_search.objective import Direction, badness
from catdog_search.promotion.finalists import Finalist
from catdog_search.search.study.views import TrialRow

# Which model is used: the network of the median seed, the mean of all seeds' probabilities, one
# network with the mean of their weights, or the best trial, where nothing was trained again.
Form = Literal["as it is", "median seed", "mean of probabilities", "mean of weights"]

# Metric of val, given the probabilities of class 1.
Score = Callable[[npt.NDArray[np.float32]], float]


@dataclass(frozen=True)
class Choice:
    """The finalist chosen for promotion.

    Attributes:
        finalist: Chosen finalist.
        ranked: All finalists, best mean first.
        noise: Standard deviation of one seed's value, pooled over the finalists; None where no
            finalist has two seeds.
        ties: Names of the finalists whose mean is within one standard error of the best one's, the
            best one included.
    """

    finalist: Finalist
    ranked: tuple[Finalist, ...]
    noise: float | None
    ties: tuple[str, ...]

    def standard_error(self, finalist: Finalist) -> float | None:
        """Standard error of a finalist's mean; None where the noise isn't known."""
        return None if self.noise is None else self.noise / math.sqrt(len(finalist.values))


def choose(finalists: Sequence[Finalist], direction: Direction) -> Choice:
    """Choose by the mean over seeds; within one standard error of the best, take the cheapest.

    The one-standard-error rule: Breiman et al. 1984, Classification and Regression Trees.

    Args:
        finalists: Finalists, at least one, each with at least one seed.
        direction: Direction of the objective.
    """

    def rank(finalist: Finalist) -> tuple[float, int]:
        return badness(direction, statistics.fmean(finalist.values)), finalist.trial.number

    ranked = tuple(sorted(finalists, key=rank))
    noise = pooled_deviation([finalist.values for finalist in finalists])
    best, ties = ranked[0], [ranked[0]]
    for other in ranked[1:]:
        error = (noise or 0) * math.sqrt(1 / len(best.values) + 1 / len(other.values))
        ties += [other] if rank(other)[0] - rank(best)[0] <= error else []
    # By the cost of one photo; between equals, the better one.
    chosen = min(ties, key=lambda finalist: (finalist.operations, rank(finalist)))
    return Choice(chosen, ranked, noise, tuple(finalist.name for finalist in ties))


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Pooled standard deviation within groups of at least two values; None without such a group."""
    squares = [statistics.variance(g) * (len(g) - 1) for g in groups if len(g) > 1]
    freedom = sum(len(g) - 1 for g in groups if len(g) > 1)
    return math.sqrt(sum(squares) / freedom) if freedom else None


def median_seed(finalist: Finalist, direction: Direction) -> TrialRow:
    """The trial of the median seed; for an even number, the worse of the middle two."""
    ordered = sorted(
        finalist.seeds, key=lambda row: (badness(direction, row.value or 0.0), row.number)
    )
    return ordered[len(ordered) // 2]


@dataclass(frozen=True)
class Gain:
    """What combining all seeds gains on val.

    Attributes:
        form: Chosen form.
        single: Value of the median seed.
        probabilities: Value of the mean of the seeds' probabilities; None for one seed.
        weights: Value of one network with the mean of their weights; None where their weights can't
            be averaged.
    """

    form: Form
    single: float
    probabilities: float | None
    weights: float | None


def put_together(
    direction: Direction,
    noise: float | None,
    single: float,
    probabilities: float | None,
    weights: float | None,
) -> Gain:
    """Choose the form: combine seeds only where that gains more than one seed's noise.

    The mean of weights costs no more than one network, so the mean of probabilities has to gain
    more than the noise over it too.

    Args:
        direction: Direction of the objective.
        noise: Standard deviation of one seed's value; None where it isn't known, and then nothing
            is combined.
        single: Value of the median seed on val.
        probabilities: Value of the mean of probabilities; None where there is none.
        weights: Value of the mean of weights; None where there is none.
    """
    form: Form = "median seed"
    reached = single
    for name, value in (("mean of weights", weights), ("mean of probabilities", probabilities)):
        if value is None or noise is None:
            continue
        if badness(direction, reached) - badness(direction, value) > noise:
            form, reached = name, value  # type: ignore[assignment]  # both are forms
    return Gain(form, single, probabilities, weights)
