"""Gates: each passes, fails, is off or open, with its number and its limit."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from catdog_search.errors import StateError
from catdog_search.evaluation.floors import Floor
from catdog_search.intervals import mcnemar, needed_for, paired_difference, wilson
from catdog_search.promotion import gates
from catdog_search.promotion.gates import FEWEST_COMMON, ROUND_TRIP, Gate, Rival, Verdict
from catdog_search.study.config import PromotionConfig

FLOORS = (Floor("majority class", 0.5, 1000, "always cat"), Floor("linear probe", 0.6, 1000))


def asked(**options: Any) -> PromotionConfig:
    return PromotionConfig.model_validate(options)


def answers(
    n: int, wrong_cats: int, wrong_dogs: int, sure: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Half cats, half dogs, so many of each taken for the other."""
    labels = np.repeat([0, 1], n // 2)
    p = np.where(labels, sure, 1 - sure)
    p[:wrong_cats] = sure
    p[n - wrong_dogs :] = 1 - sure
    return labels, p


def on_test(
    config: PromotionConfig,
    labels: np.ndarray,
    p: np.ndarray,
    floors: Sequence[Floor] = FLOORS,
    threshold: float = 0.5,
    names: Sequence[str] = ("cat", "dog"),
) -> dict[str, Gate]:
    found = gates.on_test(config, floors, labels, p, threshold, names)
    return {gate.name: gate for gate in found}


@pytest.mark.parametrize(
    ("options", "wrong", "floors", "verdict", "limit"),
    [
        # 1000 photos, so the lower bound lies some 2 points below.
        ({}, 50, FLOORS, "passed", 0.6),
        ({}, 395, FLOORS, "failed", 0.6),
        ({}, 370, FLOORS, "failed", 0.6),  # 0.63 itself is above it, its lower bound isn't
        ({}, 360, FLOORS, "passed", 0.6),
        ({"min_accuracy": 0.93}, 50, FLOORS, "passed", 0.93),
        ({"min_accuracy": 0.94}, 50, FLOORS, "failed", 0.94),
        # It never lets a model below the floors in.
        ({"min_accuracy": 0.1}, 395, FLOORS, "failed", 0.6),
        ({}, 600, (), "passed", 0.0),
        ({"min_accuracy": 0.9}, 150, (), "failed", 0.9),
    ],
)
def test_lower_bound_of_the_accuracy_is_above_the_better_floor_and_what_is_asked(
    options: dict[str, Any],
    wrong: int,
    floors: Sequence[Floor],
    verdict: Verdict,
    limit: float,
) -> None:
    found = on_test(asked(**options), *answers(1000, wrong // 2, wrong - wrong // 2), floors)
    gate = found["accuracy"]
    low, high = wilson(1000 - wrong, 1000)
    assert (gate.verdict, gate.limit, gate.asks) == (verdict, limit, "above")
    assert gate.number == pytest.approx(low)
    best = "linear probe 0.6000" if floors else "no floor is known"
    assert gate.text == (
        f"{1 - wrong / 1000:.4f} on 1000 photos, 95 %: {low:.4f} to {high:.4f}; lower bound above "
        f"{limit:.4f} ({best})"
    )


@pytest.mark.parametrize(
    ("wrong_cats", "wrong_dogs", "share", "verdict"),
    [
        (20, 20, 0.7, "passed"),
        (0, 175, 0.7, "passed"),  # 0.65 of the dogs, 0.825 of all: 0.79
        (0, 250, 0.7, "failed"),  # half of the dogs, 0.75 of all: 0.67
        (250, 0, 0.7, "failed"),
        (0, 250, 0.6, "passed"),
        (0, 500, 0.0, "passed"),
        (10, 20, 1.0, "failed"),
        (10, 10, 1.0, "passed"),
    ],
)
def test_recall_of_each_class_is_a_share_of_the_accuracy(
    wrong_cats: int, wrong_dogs: int, share: float, verdict: Verdict
) -> None:
    config = asked(min_recall_share=share)
    gate = on_test(config, *answers(1000, wrong_cats, wrong_dogs))["recall"]
    worst = 1 - max(wrong_cats, wrong_dogs) / 500
    limit = share * (1 - (wrong_cats + wrong_dogs) / 1000)
    assert (gate.verdict, gate.asks) == (verdict, "at least")
    assert gate.number == pytest.approx(worst)
    assert gate.limit == pytest.approx(limit)
    assert f"cat {1 - wrong_cats / 500:.4f}, dog {1 - wrong_dogs / 500:.4f}" in gate.text


def test_names_of_classes_are_told_in_one_line() -> None:
    gate = on_test(asked(), *answers(100, 1, 1), names=("a\ncat", "\x1b[31mdog"))["recall"]
    assert gate.text.startswith(r"a\x0acat 0.9800, \x1b[31mdog 0.9800; ")


@pytest.mark.parametrize(
    ("sure", "most", "verdict"),
    [(0.95, 0.05, "passed"), (0.85, 0.05, "failed"), (0.85, 0.2, "passed")],
)
def test_calibration_error_is_at_most_what_is_asked(
    sure: float, most: float, verdict: Verdict
) -> None:
    # 950 of 1000 are right, evenly spread, as the bins of equally many photos would have it.
    labels = np.arange(1000) % 2
    p = np.where(labels, sure, 1 - sure)
    for first in (0, 11):  # a cat and a dog
        p[first::40] = 1 - p[first::40]
    gate = on_test(asked(max_calibration_error=most), labels, p)["calibration"]
    assert (gate.verdict, gate.limit, gate.asks) == (verdict, most, "at most")
    assert gate.number == pytest.approx(abs(sure - 0.95), abs=0.03)


def test_threshold_decides_what_is_answered() -> None:
    labels, p = answers(1000, 0, 0, sure=0.7)
    assert on_test(asked(), labels, p, threshold=0.8)["recall"].number == 0.0
    assert on_test(asked(), labels, p, threshold=0.69)["recall"].verdict == "passed"


def rival(
    gained: int, lost: int, n: int = 1000, version: int = 1, dropped: int = 0, right: int = 900
) -> Rival:
    """One that answers so many right, of which the challenger loses some, and gains others."""
    theirs = np.arange(n) < right
    ours = theirs.copy()
    ours[:lost] = False
    ours[n - gained :] = True
    return Rival(version, theirs, ours, dropped)


@pytest.mark.parametrize(
    ("gained", "lost", "margin", "verdict"),
    [
        (0, 0, 0.01, "passed"),
        (40, 0, 0.01, "passed"),
        (0, 30, 0.01, "failed"),
        (20, 20, 0.01, "failed"),  # as good, but on 1000 photos it may be a point worse
        (20, 20, 0.02, "passed"),
        (0, 0, 0.0, "failed"),  # without a margin it has to be better
        (40, 10, 0.0, "passed"),
    ],
)
def test_challenger_is_not_worse_than_the_champion_by_more_than_the_margin(
    gained: int, lost: int, margin: float, verdict: Verdict
) -> None:
    gate = gates.against(asked(margin=margin), [rival(gained, lost)])
    low, high = paired_difference(gained, lost, 1000)
    assert (gate.verdict, gate.limit, gate.asks) == (verdict, -margin, "above")
    assert gate.number == pytest.approx(low)
    assert gate.text.startswith(
        f"{(gained - lost) / 1000:+.4f} against version 1 on 1000 photos, 95 %: {low:+.4f} to "
        f"{high:+.4f}; lower bound above {-margin:+.4f} (McNemar's exact p "
        f"{mcnemar(gained, lost):.3f}; {gained} photos gained, {lost} lost)"
    )


@pytest.mark.parametrize(
    ("gained", "lost", "n", "margin", "says"),
    [
        (2, 2, 298, 0.01, "; 298 photos are too few for a margin of 0.01: as often as these two"),
        (2, 2, 298, 0.01, "exactly as good passes from 618 photos on"),
        (20, 20, 1000, 0.0, "; without a [promotion] margin only a model that is shown to be"),
        (0, 30, 1000, 0.01, None),  # it is worse
        (4, 10, 1000, 0.01, None),  # others, as good, would pass
        (2, 2, 298, 0.05, None),
    ],
)
def test_test_that_is_too_small_for_the_margin_is_said_to_be(
    gained: int, lost: int, n: int, margin: float, says: str | None
) -> None:
    text = gates.against(asked(margin=margin), [rival(gained, lost, n=n, right=n - 60)]).text
    assert says in text if says else text.endswith(" lost)")


def test_first_champion_has_no_rival() -> None:
    gate = gates.against(asked(), [])
    assert (gate.verdict, gate.number, gate.text) == (
        "passed",
        None,
        "there is no other champion to compare with",
    )


def test_comparison_on_few_photos_is_refused() -> None:
    few = rival(3, 0, n=FEWEST_COMMON - 1, version=4, dropped=801)
    gate = gates.against(asked(), [few])
    assert (gate.verdict, gate.number) == ("failed", None)
    assert gate.text == (
        "refused: of test's photos 199 are new to champion version 4 too, and it takes 200; "
        "more photos, or a model of another name (--model NAME)"
    )
    enough = rival(3, 0, n=FEWEST_COMMON, version=4, dropped=800, right=190)
    gate = gates.against(asked(), [enough])
    assert gate.verdict == "passed"
    assert "on 200 photos, 800 that it was trained on left out, 95 %" in gate.text


def test_best_of_several_champions_is_the_one_to_match() -> None:
    best, later = rival(0, 80, version=1, right=950), rival(60, 0, version=2, right=850)
    for rivals in ([best, later], [later, best]):
        gate = gates.against(asked(), rivals)
        assert gate.verdict == "failed"
        assert "against version 1 on" in gate.text
    assert gates.against(asked(), [later]).verdict == "passed"
    # One that can't be compared is none to match, as long as another can.
    few = rival(0, 5, n=10, version=3, right=10)
    assert "against version 2 on" in gates.against(asked(), [later, few]).text


@pytest.mark.parametrize(
    ("gate", "verdict", "number", "limit", "says"),
    [
        (gates.of_file(asked(), 200_000_000), "passed", 200.0, 200.0, "200.0 MB, at most 200"),
        (gates.of_file(asked(), 200_000_001), "failed", 200.000001, 200.0, "at most 200"),
        (gates.of_file(asked(max_size_mb=0.5), 600_000), "failed", 0.6, 0.5, "0.6 MB, at most 0.5"),
        (gates.of_latency(asked(), 12.3, 11, 20), "off", 12.3, None, "12.3 ms (11.0 to 20.0) here"),
        (gates.of_latency(asked(max_latency_ms=20), 12.3, 11, 20), "passed", 12.3, 20.0, "most 20"),
        (gates.of_latency(asked(max_latency_ms=12), 12.3, 11, 20), "failed", 12.3, 12.0, "most 12"),
        (gates.of_round_trip(9e-5, 100), "passed", 9e-5, ROUND_TRIP, "100 raw photos within 9.0"),
        (gates.of_round_trip(2e-4, 100), "failed", 2e-4, ROUND_TRIP, "2.0e-04, at most 0.0001"),
        (gates.of_round_trip(math.nan, 9), "failed", math.inf, ROUND_TRIP, "9 raw photos"),
        (gates.of_resize(2, 100), "passed", 2, 2, "2 of 100 photos get another answer"),
        (gates.of_resize(3, 100), "failed", 3, 2, "at most 2"),
        (gates.of_resize(3, 1500), "passed", 3, 3, "at most 3"),
        (gates.of_resize(4, 1999), "failed", 4, 3, "at most 3"),
        (gates.of_leaks(asked(), 0, 50), "passed", 0, 0, "0 of test's 50 photos have a copy"),
        (gates.of_leaks(asked(), 1, 50), "failed", 1, 0, "1 of test's 50"),
        (gates.of_leaks(asked(max_leaked=1), 1, 50), "passed", 1, 1, "at most 1"),
        (gates.of_kind(asked(), "folder", None), "passed", None, None, "trained on photos"),
        (gates.of_kind(asked(), "synthetic", None), "passed", None, None, "on drawn pictures"),
        (gates.of_kind(asked(), "zip", "folder"), "passed", None, None, "photos, as the champion"),
        (gates.of_kind(asked(), "synthetic", "synthetic"), "passed", None, None, "as the champion"),
        (gates.of_kind(asked(), "folder", "synthetic"), "passed", None, None, "on drawn pictures"),
        (
            gates.of_kind(asked(), "synthetic", "zip"),
            "failed",
            None,
            None,
            "the champion on photos; [promotion] drawn_over_photos lets it follow",
        ),
        (
            gates.of_kind(asked(drawn_over_photos=True), "synthetic", "zip"),
            "passed",
            None,
            None,
            "trained on drawn pictures, the champion on photos",
        ),
    ],
)
def test_gate_says_its_number_and_its_limit(
    gate: Gate, verdict: Verdict, number: float | None, limit: float | None, says: str
) -> None:
    assert gate.verdict == verdict
    assert gate.number == (None if number is None else pytest.approx(number, rel=1e-9))
    assert gate.limit == limit
    assert says in gate.text
    assert gate.failed == (verdict == "failed")


def test_gates_on_test_are_open_until_it_is_looked_at() -> None:
    config = asked(min_accuracy=0.8, margin=0.02)
    found = gates.not_looked_at(config, FLOORS)
    assert {gate.name: gate.limit for gate in found} == {
        "accuracy": 0.8,
        "recall": 0.7,
        "calibration": 0.05,
        "champion": -0.02,
    }
    for gate in found:
        assert (gate.verdict, gate.number, gate.failed) == ("open", None, False)
        assert gate.text == "test is not looked at"


@pytest.mark.parametrize("least", [0.6, 0.9, 0.99])
def test_test_that_is_too_small_is_refused_with_the_number_that_it_takes(least: float) -> None:
    takes = needed_for(least)
    assert takes is not None
    config = asked(min_accuracy=least)
    gates.require_enough(config, FLOORS, takes, "here")
    with pytest.raises(StateError) as caught:
        gates.require_enough(config, FLOORS, takes - 1, "here")
    assert str(caught.value) == (
        f"here: test has {takes - 1} photos, so even without an error the lower 95 % bound of the "
        f"accuracy would be {wilson(takes - 1, takes - 1)[0]:.4f}, and more than {least:.4f} is "
        f"asked; it takes {takes} photos"
    )


def test_floor_that_is_never_wrong_can_be_beaten_by_no_number_of_photos() -> None:
    floors = [Floor("linear probe", 1.0, 500)]
    with pytest.raises(
        StateError, match="floor linear probe has all 500 photos of test right"
    ) as caught:
        gates.require_enough(asked(), floors, 500, "here")
    assert "None" not in str(caught.value)


def test_numbers_that_json_has_no_word_for_are_left_out_of_records() -> None:
    failed = gates.of_round_trip(math.nan, 100)
    unknown = gates.of_latency(asked(max_latency_ms=5), math.nan, math.nan, math.nan)
    assert unknown.failed  # what can't be told isn't passed
    facts = gates.as_facts([failed, unknown, gates.of_leaks(asked(), 0, 5)])
    assert [each["number"] for each in facts] == [None, None, 0]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert set(facts[0]) == {"name", "verdict", "number", "limit", "asks", "text"}
