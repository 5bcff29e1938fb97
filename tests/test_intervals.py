"""Intervals and tests of shares, against SciPy's own, hand-made numbers and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from catdog_search.intervals import (
    clopper_pearson_upper,
    mcnemar,
    needed_for,
    needed_to_tie,
    paired_difference,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 100, 0.7222, 0.8749), (100, 100, 0.9630, 1.0), (0, 10, 0.0, 0.2775)],
)
def test_interval_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    # Values of statsmodels' proportion_confint(method="wilson").
    assert wilson(right, n) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.parametrize(("wrong", "n"), [(0, 299), (0, 1), (3, 500), (17, 40), (39, 40)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_upper_bound_is_clopper_and_pearsons(wrong: int, n: int, level: float) -> None:
    exact = stats.binomtest(wrong, n, alternative="less").proportion_ci(level, "exact").high
    assert clopper_pearson_upper(wrong, n, level) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("share", "margin"), [(0.0, 0.01), (0.02, 0.01), (0.1, 0.03)])
def test_needed_to_tie_is_the_fewest(share: float, margin: float) -> None:
    needed = needed_to_tie(share, margin)
    assert needed is not None
    for n, enough in ((needed, True), (needed - 1, False)):
        half = round(share * n / 2)
        assert (paired_difference(half, half, n)[0] > -margin) is enough
    assert needed_to_tie(share, 0.0) is None


def test_upper_bound_of_none_wrong_is_the_root_of_the_level() -> None:
    assert clopper_pearson_upper(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299))
    assert clopper_pearson_upper(0, 299) < 0.01 < clopper_pearson_upper(0, 298)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_upper_bound_is_one_where_all_are_wrong_or_none_was_asked(n: int) -> None:
    assert clopper_pearson_upper(n, n) == 1.0


def test_paired_difference_is_the_adjusted_wald_interval() -> None:
    # 12 and 5 of 100 disagree: 13 and 6 of 102, 7 / 102 -+ 1.96 sqrt((19/102 - (7/102)^2) / 102).
    assert paired_difference(12, 5, 100) == pytest.approx((-0.014066, 0.151321), abs=1e-6)


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 1), (9, 0, 9), (4, 5, 9), (0, 0, 10**6)])
def test_paired_difference_holds_what_was_found_and_is_never_a_point(
    gained: int, lost: int, n: int
) -> None:
    low, high = paired_difference(gained, lost, n)
    assert -1 <= low < high <= 1
    mirrored = paired_difference(lost, gained, n)
    assert mirrored == pytest.approx((-high, -low))


@pytest.mark.parametrize(("up", "down"), [(0.02, 0.02), (0.01, 0.03), (0.2, 0.1)])
def test_paired_difference_holds_the_truth_nineteen_times_in_twenty(up: float, down: float) -> None:
    counts = np.random.default_rng(5).multinomial(400, (up, down, 1 - up - down), 4000)
    bounds = [paired_difference(int(gained), int(lost), 400) for gained, lost, _ in counts]
    held = np.mean([low <= up - down <= high for low, high in bounds])
    assert held == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 3), (2, 9), (30, 12), (0, 40)])
def test_mcnemar_is_the_two_sided_sign_test(gained: int, lost: int) -> None:
    exact = stats.binomtest(gained, gained + lost).pvalue
    assert mcnemar(gained, lost) == pytest.approx(exact)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_mcnemar_of_no_disagreement_is_one() -> None:
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("bound", [-0.5, 0.0, 0.5, 0.9, 0.95, 0.999])
def test_needed_is_the_first_number_whose_lower_bound_exceeds(bound: float) -> None:
    needed = needed_for(bound)
    assert needed is not None
    assert wilson(needed, needed)[0] > bound
    assert needed == 1 or wilson(needed - 1, needed - 1)[0] <= bound


def test_no_number_exceeds_all_right() -> None:
    assert needed_for(1.0) is None
