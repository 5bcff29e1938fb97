"""Temperatures, thresholds and "not sure": numbers by hand, and what is promised, by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit

from catdog_search.errors import RequestError
from catdog_search.evaluation.calibration import (
    TEMPERATURES,
    Covered,
    brier,
    calibrate,
    covered,
    equal_mass_error,
    error_by_chance,
    find_band,
    fit_temperature,
    least_answered,
    mean_probabilities,
    risk_curve,
    threshold_for,
)
from catdog_search.figures.predictions import Predictions
from catdog_search.intervals import clopper_pearson_upper, wilson

NAMES = ("cat", "dog")
Floats = npt.NDArray[np.float64]


def labelled(logits: Floats, seed: int = 0) -> npt.NDArray[np.int64]:
    """Labels for which the logits, as they are, are calibrated."""
    return (np.random.default_rng(seed).random(len(logits)) < expit(logits)).astype(int)


def log_loss(labels: npt.NDArray[np.int64], p: Floats) -> float:
    return float(-np.log(np.where(labels == 1, p, 1 - p)).mean())


def test_probabilities_of_members_are_averaged_after_the_temperature() -> None:
    logits = np.array([[2.0, -4.0], [0.0, 6.0]])
    expected = [(expit(1) + expit(-2)) / 2, (0.5 + expit(3)) / 2]
    assert mean_probabilities(logits, 2.0) == pytest.approx(expected)
    assert mean_probabilities(logits[:, 0], 2.0) == pytest.approx([expit(1), 0.5])


def test_probabilities_of_huge_logits_are_certain_without_a_warning() -> None:
    logits = np.array([1e30, -1e30], np.float32)
    assert list(mean_probabilities(logits, 0.05)) == [1.0, 0.0]


@pytest.mark.parametrize("known", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("members", [1, 3])
def test_temperature_is_found_again(known: float, members: int) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2.5, (20_000, 1)) + rng.normal(0, 0.7, (20_000, members))
    labels = (rng.random(20_000) < mean_probabilities(logits, 1.0)).astype(int)
    assert fit_temperature(labels, logits * known) == pytest.approx(known, rel=0.05)


@pytest.mark.parametrize("members", [1, 4])
def test_temperature_has_the_least_loss(members: int) -> None:
    rng = np.random.default_rng(4)
    logits = 3 * rng.normal(0, 2.0, (300, members))
    labels = labelled(logits.mean(axis=1) / 3)
    found = fit_temperature(labels, logits)
    least = log_loss(labels, mean_probabilities(logits, found))
    others = [mean_probabilities(logits, t) for t in np.geomspace(*TEMPERATURES, 2000)]
    assert least <= min(log_loss(labels, np.clip(p, 1e-15, 1 - 1e-15)) for p in others) + 1e-9


@pytest.mark.parametrize(
    ("labels", "logits", "expected"),
    [
        ([0, 1], [-1.0, 2.0], TEMPERATURES[0]),  # all right
        ([0, 1], [1.0, -2.0], TEMPERATURES[1]),  # all wrong
        ([1], [0.5], TEMPERATURES[0]),
        ([1, 1, 1], [1.0, 2.0, 3.0], TEMPERATURES[0]),  # one class alone
        ([0, 1], [0.0, 0.0], 1.0),  # no temperature changes anything
        ([0, 1], [-1e9, 1e9], 1.0),  # as good as can be already
        ([0, 1, 1], [-1e9, 1e9, -1e9], TEMPERATURES[1]),
    ],
)
def test_temperature_of_extreme_photos_is_within_its_bounds(
    labels: list[int], logits: list[float], expected: float
) -> None:
    assert fit_temperature(np.array(labels), np.array(logits)) == pytest.approx(expected)


def test_calibration_says_what_the_temperature_changes() -> None:
    logits = np.random.default_rng(6).normal(0, 2, 4000)
    labels = labelled(logits)
    found = calibrate(labels, 4 * logits)
    before, after = expit(4 * logits), expit(4 * logits / found.temperature)
    assert found.n == 4000
    assert found.temperature == pytest.approx(4, rel=0.1)
    assert found.error_before == pytest.approx(equal_mass_error(labels, before))
    assert found.error_after == pytest.approx(equal_mass_error(labels, after))
    assert found.error_after < 0.03 < found.error_before
    assert found.brier_before == pytest.approx(brier(labels, before))
    assert found.brier_after == pytest.approx(brier(labels, after))
    assert found.loss_before == pytest.approx(log_loss(labels, before))
    assert found.loss_after == pytest.approx(log_loss(labels, after))


def test_brier_score_by_hand() -> None:
    assert brier(np.array([1, 0]), np.array([0.8, 0.4])) == pytest.approx((0.04 + 0.16) / 2)


def test_equal_mass_error_by_hand() -> None:
    labels, p = np.array([0, 1, 0, 1]), np.array([0.1, 0.3, 0.6, 0.8])
    # Two bins: mean 0.2 where half are class 1, mean 0.7 where half are.
    assert equal_mass_error(labels, p, bins=2) == pytest.approx((0.3 + 0.2) / 2)


@pytest.mark.parametrize("n", [1, 7, 15, 16, 100, 1001])
def test_bins_have_equally_many_photos(n: int) -> None:
    bins = Predictions(np.zeros(n), np.random.default_rng(n).random(n)).equal_mass_bins()
    assert len(bins.photos) == min(n, 15)
    assert bins.photos.sum() == n
    assert bins.photos.max() - bins.photos.min() <= 1


def test_photos_of_one_probability_share_a_bin_whatever_their_order() -> None:
    rng = np.random.default_rng(7)
    p = np.r_[np.zeros(40), np.ones(40), rng.random(20).round(1)]
    labels = (rng.random(100) < 0.5).astype(int)
    expected = equal_mass_error(labels, p)
    for _ in range(5):
        order = rng.permutation(100)
        assert equal_mass_error(labels[order], p[order]) == pytest.approx(expected)
    assert Predictions(labels, p).equal_mass_bins().photos.max() >= 40


def test_error_of_one_probability_is_its_distance_from_the_share() -> None:
    assert equal_mass_error(np.array([0, 0, 0, 1]), np.full(4, 0.5)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({}, 0.5),
        ({"cat": 3.0}, 0.75),
        ({"dog": 3.0}, 0.25),
        ({"cat": 2, "dog": 2}, 0.5),
        ({"DOG": 9.0, "cat": 1.0}, 0.1),
    ],
)
def test_threshold_is_bayes(costs: dict[str, float], expected: float) -> None:
    assert threshold_for(costs, NAMES) == pytest.approx(expected)


def test_threshold_costs_least() -> None:
    p = np.random.default_rng(8).random(200_000)
    labels = (np.random.default_rng(9).random(200_000) < p).astype(int)

    def cost(threshold: float) -> float:
        taken = p > threshold
        return float(np.mean(np.where(labels == 0, taken * 5.0, ~taken * 2.0)))

    best = threshold_for({"cat": 5.0, "dog": 2.0}, NAMES)
    assert cost(best) < min(cost(best - 0.05), cost(best + 0.05))


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ({"dgo": 2.0}, "costs: dgo: unknown; did you mean 'dog'? (classes: cat, dog)"),
        ({"dog": 0.0}, "costs: dog = 0.0; a cost is a number above 0"),
        ({"dog": -1.0}, "costs: dog = -1.0; a cost is a number above 0"),
        ({"dog": float("nan")}, "costs: dog = nan; a cost is a number above 0"),
        ({"dog": float("inf")}, "costs: dog = inf; a cost is a number above 0"),
        ({"dog": 2.0, "Dog": 3.0}, "costs: Dog is named twice"),
        ({"dog": 1e-300, "cat": 1e300}, "so far apart, one class would never be answered"),
        ({"dog": 1e300, "cat": 1e-300}, "so far apart, one class would never be answered"),
        ({"\x1b[2J\n": 2.0}, "costs: \\x1b[2J\\x0a: unknown; classes: cat, dog"),
    ],
)
def test_costs_that_say_nothing_are_refused_in_one_line(costs: dict[str, float], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        threshold_for(costs, NAMES)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["\u732b", "caf\u00e9", "b\udce9"])
def test_costs_name_classes_as_they_are_printed(name: str) -> None:
    shown = name.encode("utf-8", "backslashreplace").decode().replace("\\udce9", "\\xe9")
    assert threshold_for({shown: 3.0}, (name, "dog")) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("rate", "wrong", "expected"),
    [(0.01, 0, 299), (0.01, 1, 473), (0.05, 0, 59), (0.001, 0, 2995), (0.5, 0, 5), (0.99, 0, 1)],
)
def test_least_answered_are_as_many_as_the_bound_takes(
    rate: float, wrong: int, expected: int
) -> None:
    assert least_answered(rate, wrong) == expected
    assert clopper_pearson_upper(wrong, expected) <= rate
    assert expected == 1 or clopper_pearson_upper(wrong, expected - 1) > rate


def surest_first(n: int, wrong: tuple[int, ...] = ()) -> tuple[npt.NDArray[np.int64], Floats]:
    """Photos of both classes, the surest first; those at the places named are wrong."""
    away = np.linspace(0.5, 0.001, n)
    dog = np.arange(n) % 2 == 1
    p = np.where(dog, 0.5 + away, 0.5 - away)
    labels = dog.astype(int)
    labels[list(wrong)] ^= 1
    return labels, p


def test_band_is_empty_where_everything_may_be_answered() -> None:
    band = find_band(*surest_first(299), 0.5, 0.01)
    assert band is not None
    assert (band.low, band.high, band.answered, band.wrong) == (0.5, 0.5, 299, 0)
    assert band.coverage == 1.0
    assert band.error == 0.0


@pytest.mark.parametrize(("n", "wrong"), [(298, ()), (400, (0,)), (400, (298,)), (1, ())])
def test_no_band_where_too_few_are_right(n: int, wrong: tuple[int, ...]) -> None:
    assert find_band(*surest_first(n, wrong), 0.5, 0.01) is None


def test_band_ends_where_the_sequence_first_fails() -> None:
    # 299 with none and 473 with one wrong pass; the third wrong one is among the 628.
    labels, p = surest_first(1000, (320, 480, 600))
    band = find_band(labels, p, 0.5, 0.01)
    assert band is not None
    assert (band.answered, band.wrong, band.n) == (473, 1, 1000)
    assert band.upper == pytest.approx(clopper_pearson_upper(1, 473))
    assert band.rate == 0.01
    answered = (p <= band.low) | (p >= band.high)
    assert list(np.flatnonzero(answered)) == list(range(473))
    assert band.low + band.high == pytest.approx(1.0)


def test_band_does_not_skip_what_failed() -> None:
    # All photos would pass, but the surest 299 don't: the order was fixed before.
    labels, p = surest_first(5000, (7,))
    assert clopper_pearson_upper(1, 5000) < 0.01
    assert find_band(labels, p, 0.5, 0.01) is None


def test_band_answers_all_photos_that_are_equally_sure() -> None:
    labels, p = surest_first(400)
    p[250:350] = np.where(labels[250:350] == 1, 0.65, 0.35)
    p[350:] = np.where(labels[350:] == 1, 0.55, 0.45)
    labels[350] ^= 1
    band = find_band(labels, p, 0.5, 0.01)
    assert band is not None
    assert (band.answered, band.wrong) == (350, 0)
    assert (band.low, band.high) == pytest.approx((0.35, 0.65))


def test_wrong_photo_among_the_equally_sure_counts() -> None:
    labels, p = surest_first(400)
    p[250:350] = np.where(labels[250:350] == 1, 0.65, 0.35)
    labels[349] ^= 1  # beyond the 299th, but as sure
    assert find_band(labels, p, 0.5, 0.01) is None


def test_photos_are_equally_sure_but_for_rounding() -> None:
    labels = np.r_[np.ones(299), np.zeros(101)]
    p = np.where(labels == 1, 0.8, 0.2)
    assert 0.8 - 0.5 > 0.5 - 0.2
    band = find_band(labels, p, 0.5, 0.01)
    assert band is not None
    assert band.answered == 400
    labels[-1] = 1
    assert find_band(labels, p, 0.5, 0.01) is None


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.75])
def test_band_lies_around_its_threshold(threshold: float) -> None:
    sure = np.linspace(1, 0.001, 400)
    dog = np.arange(400) % 2 == 1
    p = np.where(dog, threshold + sure * (1 - threshold), threshold * (1 - sure))
    labels = dog.astype(int)
    labels[300:] ^= 1
    band = find_band(labels, p, threshold, 0.01)
    assert band is not None
    assert band.answered == 299
    assert (threshold - band.low) / threshold == pytest.approx(sure[298])
    assert (band.high - threshold) / (1 - threshold) == pytest.approx(sure[298])


def test_probability_at_the_threshold_is_class_0() -> None:
    p = np.full(299, 0.5)
    assert find_band(np.zeros(299), p, 0.5, 0.01) is not None
    assert find_band(np.ones(299), p, 0.5, 0.01) is None


def test_covered_is_told_as_found_on_other_photos() -> None:
    band = find_band(*surest_first(1000, (320, 480, 600)), 0.5, 0.01)
    assert band is not None
    p = np.array([band.low, band.high, 0.5, band.low + 1e-6, 0.99, 0.02])
    found = covered(band, 0.5, np.array([0, 1, 1, 1, 0, 0]), p)
    assert found == Covered(n=6, answered=4, wrong=1)
    assert (found.coverage, found.error) == pytest.approx((4 / 6, 0.25))
    assert found.interval == wilson(1, 4)


def test_covered_without_a_band_answers_everything() -> None:
    found = covered(None, 0.25, np.array([0, 1, 1]), np.array([0.25, 0.26, 0.2]))
    assert found == Covered(n=3, answered=3, wrong=1)


def test_nothing_answered_says_that_nothing_is_known() -> None:
    found = Covered(n=5, answered=0, wrong=0)
    assert (found.coverage, found.error, found.interval) == (0.0, 0.0, (0.0, 1.0))


def test_risk_curve_answers_equally_sure_photos_together() -> None:
    labels, p = np.array([1, 1, 0, 1]), np.array([0.9, 0.2, 0.8, 0.55])
    curve = risk_curve(labels, p, 0.5)
    assert list(curve.coverage) == pytest.approx([0.25, 0.75, 1.0])
    assert list(curve.error) == pytest.approx([0.0, 2 / 3, 2 / 4])


RATE = 0.01
ERRORS: dict[str, Callable[[Floats], Floats]] = {
    # By how sure the model is: it is wrong half of the time where it isn't, and never where it is.
    "steep": lambda sure: 0.5 * np.exp(-12 * sure),
    # As often wrong wherever one looks, and a little too often.
    "flat": lambda sure: np.full_like(sure, 1.02 * RATE),
    # What is labelled wrongly is wrong however sure the model is.
    "wrong labels": lambda sure: 0.008 + 0.4 * np.exp(-8 * sure),
    # Surest where it is wrong.
    "overconfident": lambda sure: np.where(sure > 0.6, 1.02 * RATE, 0.0),
}


@pytest.mark.parametrize("threshold", [0.5, 0.2])
@pytest.mark.parametrize("shape", ERRORS)
def test_band_keeps_its_promise_nineteen_times_in_twenty(shape: str, threshold: float) -> None:
    error, rng, sets = ERRORS[shape], np.random.default_rng(11), 2000
    grid = (np.arange(20_000) + 0.5) / 20_000
    # The true error of all that are at least as sure, by how sure: no sample, the integral.
    beyond = np.cumsum(error(grid)[::-1])[::-1] / np.arange(20_000, 0, -1)
    broken = 0
    for _ in range(sets):
        sure, dog = rng.random(700), rng.random(700) < 0.5
        p = np.where(dog, threshold + sure * (1 - threshold), threshold * (1 - sure))
        labels = dog ^ (rng.random(700) < error(sure))
        band = find_band(labels, p, threshold, RATE)
        if band is not None:
            least = (band.high - threshold) / (1 - threshold)
            broken += beyond[min(int(least * 20_000), 19_999)] > RATE
    # Three standard deviations of what chance adds.
    assert broken / sets <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / sets)


@pytest.mark.parametrize(("n", "low", "high"), [(298, 0.03, 0.08), (3000, 0.008, 0.02)])
def test_error_by_chance_is_what_perfect_calibration_shows(n: int, low: float, high: float) -> None:
    rng = np.random.default_rng(4)
    p = 1 / (1 + np.exp(-rng.normal(0, 2.5, n)))
    chance = error_by_chance(p)
    assert low < chance < high
    assert chance == error_by_chance(p)
    # Labels of such a model show as much, those of one that is too sure show more.
    seen = [equal_mass_error(rng.random(n) < p, p) for _ in range(200)]
    assert np.mean(seen) == pytest.approx(chance, rel=0.1)
    sure = 1 / (1 + np.exp(-3 * np.log(p / (1 - p))))
    assert equal_mass_error(rng.random(n) < p, sure) > chance + 0.05
