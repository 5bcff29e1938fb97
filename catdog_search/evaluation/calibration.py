"""How far a model's probabilities can be trusted, and when it should say that it isn't sure.

All of it is fitted on photos used neither for training nor for selection: the calibration split.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logsumexp

from catdog_search.errors import RequestError
from catdog_search.figures.predictions import MASS_BINS, THRESHOLD, Predictions, RiskCurve
from catdog_search.intervals import clopper_pearson_upper, wilson
from catdog_search.space import did_you_mean
from catdog_search.text import name_key, printable

Floats: TypeAlias = npt.NDArray[np.float64]

# Bounds of a temperature. At the lower end logits of any size mean certainty: the calibration
# photos show no error that would tell how sure to be. At the upper end nothing is known but the
# larger class: they show no more than that.
TEMPERATURES = (0.05, 20.0)
# Temperatures that are tried before the best is refined; 1 is the middle one.
_COARSE = 121
# Sets of labels that are drawn: the mean is then accurate to 1 %.
_CHANCE_DRAWS = 500
# Confidences that differ by no more than this are equal up to rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Calibration:
    """What a temperature does to probabilities, on the photos that it was fitted on.

    Attributes:
        temperature: What logits are divided by; above 1 they were overconfident.
        n: Number of photos.
        error_before: Calibration error over 15 equal-mass bins, at temperature 1.
        error_after: The same at `temperature`, like everything ending in `after`.
        brier_before: Brier score.
        brier_after: Brier score.
        loss_before: Mean log loss.
        loss_after: Mean log loss, never above `loss_before`.
    """

    temperature: float
    n: int
    error_before: float
    error_after: float
    brier_before: float
    brier_after: float
    loss_before: float
    loss_after: float


@dataclass(frozen=True)
class Covered:
    """How many photos were answered, and how many of those answers were wrong.

    Attributes:
        n: Number of photos, at least 1.
        answered: Number of those that were answered.
        wrong: Number of wrong answers.
    """

    n: int
    answered: int
    wrong: int

    @property
    def coverage(self) -> float:
        """Share of photos that were answered."""
        return self.answered / self.n

    @property
    def error(self) -> float:
        """Share of answers that were wrong; 0 where nothing was answered."""
        return self.wrong / self.answered if self.answered else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `error` (Wilson): 0 to 1 where nothing was answered."""
        return wilson(self.wrong, self.answered) if self.answered else (0.0, 1.0)


@dataclass(frozen=True)
class Band(Covered):
    """Probabilities for which the answer is "not sure"; all others are covered.

    Attributes:
        low: Strictly between `low` and `high` is "not sure". Both are the threshold where
            everything may be answered.
        high: See `low`.
        upper: The error's 95 % upper bound (Clopper-Pearson), at most `rate`.
        rate: Largest error that was allowed.
    """

    low: float
    high: float
    upper: float
    rate: float


def mean_probabilities(logits: npt.NDArray[Any], temperature: float) -> Floats:
    """Probabilities of class 1, (n,): the mean over the members at a temperature.

    Args:
        logits: (n,) of one network, or (n, members) of several that answer together.
        temperature: What every logit is divided by, above 0.
    """
    return np.asarray(expit(_by_member(logits) / temperature).mean(axis=1))


def fit_temperature(labels: npt.NDArray[Any], logits: npt.NDArray[Any]) -> float:
    """The temperature at which `mean_probabilities` has the least log loss.

    It is within `TEMPERATURES`, where the ends are explained, and 1 where none is better.

    Source: Guo et al. 2017, arXiv:1706.04599; for several members the mean is fitted, not each one.

    Args:
        labels: (n,), 0 or 1, of at least one photo.
        logits: Finite; (n,) or (n, members).
    """
    signed = _signed(labels, logits)
    # The loss of one network has one minimum; that of a mean may have several.
    low, high = map(math.log, TEMPERATURES)
    coarse = np.linspace(low, high, _COARSE)
    coarse[_COARSE // 2] = 0.0
    # Of equally good ones the one nearest to 1, which changes least.
    coarse = coarse[np.argsort(np.abs(coarse), kind="stable")]
    loss = functools.partial(_loss_at, signed)
    best = min(coarse, key=loss)
    step = (high - low) / (_COARSE - 1)
    around = max(best - step, low), min(best + step, high)
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-6})
    refined = np.exp(found.x if found.fun < loss(best) else best)
    return float(np.clip(refined, *TEMPERATURES))


def calibrate(labels: npt.NDArray[Any], logits: npt.NDArray[Any]) -> Calibration:
    """Fit the temperature, and report what it changes on the same photos.

    Args:
        labels: See `fit_temperature`.
        logits: See `fit_temperature`.
    """
    temperature = fit_temperature(labels, logits)
    signed = _signed(labels, logits)
    before, after = (mean_probabilities(logits, each) for each in (1.0, temperature))
    return Calibration(
        temperature=temperature,
        n=len(labels),
        error_before=equal_mass_error(labels, before),
        error_after=equal_mass_error(labels, after),
        brier_before=brier(labels, before),
        brier_after=brier(labels, after),
        loss_before=_loss_at(signed, 0.0),
        loss_after=_loss_at(signed, math.log(temperature)),
    )


def equal_mass_error(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], bins: int = MASS_BINS
) -> float:
    """The expected calibration error over equal-mass bins: 0 to 1.

    Bins of equal width, as in `training.metrics`, are nearly empty where a model is sure.
    Source: Nguyen & O'Connor 2015, arXiv:1508.05154. It is above 0 by chance alone, and the more so
    the fewer photos a bin has.

    Args:
        labels: (n,), 0 or 1, of at least one photo.
        probabilities: (n,) of class 1.
        bins: Number of bins; see `Predictions.equal_mass_bins` for ties and for fewer photos.
    """
    return Predictions(labels, probabilities).equal_mass_bins(bins).error


def error_by_chance(
    probabilities: npt.NDArray[Any], bins: int = MASS_BINS, draws: int = _CHANCE_DRAWS
) -> float:
    """The equal-mass error that perfect calibration would show on as many photos, on average.

    Labels are drawn from the probabilities themselves: Bröcker & Smith 2007, Weather Forecast. 22.

    Args:
        probabilities: (n,) of class 1, of at least one photo.
        bins: Number of bins.
        draws: Number of sets of labels.
    """
    p = np.asarray(probabilities, np.float64)
    rng = np.random.default_rng(0)
    drawn = (equal_mass_error(rng.random(len(p)) < p, p, bins) for _ in range(draws))
    return float(np.mean(list(drawn)))


def brier(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> float:
    """Mean squared difference of probabilities and labels: 0 to 1."""
    return Predictions(labels, probabilities).brier


def threshold_for(costs: Mapping[str, float], class_names: Sequence[str]) -> float:
    """The probability of class 1 above which calling it class 1 costs least on average.

    Args:
        costs: Cost of mistaking a photo for the other class, by its true class; 1 for a class that
            isn't named.
        class_names: Both classes' names, by index.

    Returns:
        0.5 for equal costs, nearer 1 the worse it is to mistake a photo of class 0.

    Raises:
        RequestError: A cost is for no class or not above 0, one class has two, or one class's is so
            much larger that the other would never be answered.
    """
    keys = [name_key(printable(name)) for name in class_names]
    given: dict[int, float] = {}
    for name, cost in costs.items():
        key = name_key(printable(name))
        if key not in keys:
            known = map(printable, class_names)
            raise RequestError(f"costs: {name}: unknown; {did_you_mean(name, known, 'classes')}")
        if keys.index(key) in given:
            raise RequestError(f"costs: {name} is named twice")
        if not 0 < cost < math.inf:
            raise RequestError(f"costs: {name} = {cost}; a cost is a number above 0")
        given[keys.index(key)] = cost
    first, second = (given.get(index, 1.0) for index in range(len(keys)))
    threshold = 1 / (1 + second / first)
    if not 0 < threshold < 1:
        raise RequestError(
            f"costs: {first:g} and {second:g}; so far apart, one class would never be answered"
        )
    return threshold


@functools.cache
def least_answered(rate: float, wrong: int = 0) -> int:
    """How many photos must be answered for their error's 95 % upper bound to be within a rate.

    Args:
        rate: Largest error, above 0 and below 1.
        wrong: Number of wrong ones among them.

    Returns:
        With none wrong, 299 at 1 %, 59 at 5 %.
    """
    # More than a Poisson count would need, whose bound is never below the binomial one.
    enough = math.ceil(2 * (wrong + 5) / rate)
    return bisect_left(
        range(enough), True, key=lambda n: clopper_pearson_upper(min(wrong, n), n) <= rate
    )


def find_band(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], threshold: float, rate: float
) -> Band | None:
    """The narrowest "not sure" band outside which the error is within `rate`, with 95 % confidence.

    Learn then Test, with a fixed sequence (Angelopoulos et al. 2021, arXiv:2110.01052): numbers of
    photos to answer, surest first, are tried in an order that depends on no label,
    `least_answered` for 0, 1, 2, … wrong ones and finally all photos, until one fails. The last
    that passed holds, whatever was tried before it: of 100 sets of calibration photos at most 5,
    on average, lead to a band whose answers are wrong more often than `rate` in the long run, on
    photos from the same source. It says nothing about photos from elsewhere.

    A photo is the surer the further its probability is on its way from the threshold to 0 or 1.
    Equally sure photos are answered and counted together. A temperature fitted on the same photos
    doesn't change the order of one network's answers at threshold 0.5.

    Args:
        labels: (n,), 0 or 1.
        probabilities: (n,) of class 1, calibrated.
        threshold: A probability above it is answered with class 1; above 0 and below 1.
        rate: Largest error among answered photos, above 0 and below 1.

    Returns:
        The band, empty (`low` and `high` are the threshold) where all may be answered; None where
        the photos prove none: fewer than `least_answered(rate)`, or too many of the surest wrong.
    """
    labels, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    ranked = -np.sort(-_confidences(p, threshold))
    band = None
    for answered in _sequence(len(labels), rate):
        low, high = _edges(ranked[answered - 1], threshold)
        found = _covered(low, high, threshold, labels, p)
        upper = clopper_pearson_upper(found.wrong, found.answered)
        if upper > rate:
            break
        if found.answered == len(labels):
            low = high = threshold
        band = Band(
            n=found.n,
            answered=found.answered,
            wrong=found.wrong,
            low=low,
            high=high,
            upper=upper,
            rate=rate,
        )
    return band


def covered(
    band: Band | None,
    threshold: float,
    labels: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
) -> Covered:
    """What a band does on photos, as observed; without one every photo is answered.

    Args:
        band: From `find_band`, with the same threshold.
        threshold: A probability above it is answered with class 1.
        labels: (n,), 0 or 1, of at least one photo.
        probabilities: (n,) of class 1, calibrated.
    """
    low, high = (band.low, band.high) if band else (threshold, threshold)
    p = np.asarray(probabilities, np.float64)
    return _covered(low, high, threshold, np.asarray(labels), p)


def risk_curve(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], threshold: float = THRESHOLD
) -> RiskCurve:
    """The error of the surest photos, by how many of them are answered.

    Args:
        labels: (n,), 0 or 1, of at least one photo.
        probabilities: (n,) of class 1.
        threshold: See `find_band`, which also defines what is surer.
    """
    p = np.asarray(probabilities, np.float64)
    confidences = _confidences(p, threshold)
    order = np.argsort(-confidences, kind="stable")
    wrong = np.cumsum(((p > threshold) != np.asarray(labels))[order])
    # Equally sure photos are answered all or none.
    less_sure = np.diff(confidences[order]) < -_ROUNDING
    last = np.append(np.flatnonzero(less_sure), len(p) - 1)
    return RiskCurve((last + 1) / len(p), wrong[last] / (last + 1))


def _sequence(n: int, rate: float) -> Iterator[int]:
    """Numbers of photos to answer, from few to all; none where even all are too few."""
    wrong = 0
    while (fewest := least_answered(rate, wrong)) < n:
        yield fewest
        wrong += 1
    if wrong or fewest == n:
        yield n


def _confidences(p: Floats, threshold: float) -> Floats:
    """Each probability's distance from the threshold, as a share of the largest possible."""
    return np.where(p > threshold, (p - threshold) / (1 - threshold), (threshold - p) / threshold)


def _edges(confidence: float, threshold: float) -> tuple[float, float]:
    """The equally sure probabilities on both sides, with slack so that rounding drops none."""
    sure = max(float(confidence) - _ROUNDING, 0.0)
    return threshold * (1 - sure), threshold + sure * (1 - threshold)


def _covered(
    low: float, high: float, threshold: float, labels: npt.NDArray[Any], p: Floats
) -> Covered:
    answered = (p <= low) | (p >= high)
    wrong = answered & ((p > threshold) != labels)
    return Covered(len(labels), int(answered.sum()), int(wrong.sum()))


def _by_member(logits: npt.NDArray[Any]) -> Floats:
    wide = np.asarray(logits, np.float64)
    return wide if wide.ndim > 1 else wide[:, np.newaxis]


def _signed(labels: npt.NDArray[Any], logits: npt.NDArray[Any]) -> Floats:
    """Logits of each photo's true class, (n, members)."""
    signs = np.where(np.asarray(labels) == 1, 1.0, -1.0)
    return _by_member(logits) * signs[:, np.newaxis]


def _loss_at(signed: Floats, log_temperature: float) -> float:
    """Mean log loss, avoiding the rounding of a sure probability to 0 or 1."""
    members = log_expit(signed / np.exp(log_temperature))
    return float(np.log(signed.shape[1]) - logsumexp(members, axis=1).mean())
