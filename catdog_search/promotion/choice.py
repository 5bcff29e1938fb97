"""Which finalist goes on, and as what: by the mean over its seeds, noise set against gain."""

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

# What goes on: the network of the median seed, the mean of all seeds' probabilities, or one network
# with the mean of their weights; or the best trial, where nothing was trained again.
Form = Literal["as it is", "median seed", "mean of probabilities", "mean of weights"]

# Metric of val by the probabilities of class 1.
Score = Callable[[npt.NDArray[np.float32]], float]


@dataclass(frozen=True)
class Choice:
    """The finalist that goes on.

    Attributes:
        finalist: Chosen finalist.
        ranked: All finalists, best mean first.
        noise: Standard deviation of one seed's value, pooled over the finalists; None where no
            finalist has two seeds.
        ties: Names of the finalists whose mean is told apart from the best one's by less than its
            standard error, the best one's among them.
    """

    finalist: Finalist
    ranked: tuple[Finalist, ...]
    noise: float | None
    ties: tuple[str, ...]

    def standard_error(self, finalist: Finalist) -> float | None:
        """Standard error of a finalist's mean; None where the noise isn't known."""
        return None if self.noise is None else self.noise / math.sqrt(len(finalist.values))


def choose(finalists: Sequence[Finalist], direction: Direction) -> Choice:
    """Choose by the mean over seeds; what is within one standard error goes to the cheaper one.

    The rule of one standard error: Breiman et al. 1984, Classification and Regression Trees.

    Args:
        finalists: Finalists with one seed or more each; at least one.
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
    # By what a photo takes; of equals the better one.
    chosen = min(ties, key=lambda finalist: (finalist.operations, rank(finalist)))
    return Choice(chosen, ranked, noise, tuple(finalist.name for finalist in ties))


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation within groups, those of one value left out; None where none has two."""
    squares = [statistics.variance(g) * (len(g) - 1) for g in groups if len(g) > 1]
    freedom = sum(len(g) - 1 for g in groups if len(g) > 1)
    return math.sqrt(sum(squares) / freedom) if freedom else None


def median_seed(finalist: Finalist, direction: Direction) -> TrialRow:
    """The trial of the median seed; of an even number the worse of the middle two."""
    ordered = sorted(
        finalist.seeds, key=lambda row: (badness(direction, row.value or 0.0), row.number)
    )
    return ordered[len(ordered) // 2]


@dataclass(frozen=True)
class Gain:
    """What putting all seeds together gains on val.

    Attributes:
        form: Form that goes on.
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
    """Decide what goes on: several together only where they gain more than one seed's noise.

    Of two that do, the mean of weights costs no more than one network; the mean of probabilities
    has to gain more than the noise over it too.

    Args:
        direction: Direction of the objective.
        noise: Standard deviation of one seed's value; None where it isn't known, which gains
            nothing.
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
