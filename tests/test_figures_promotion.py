"""Figures of a promotion show the numbers they were given."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catdog_search.evaluation.calibration import brier, equal_mass_error
from catdog_search.figures.predictions import RiskCurve
from catdog_search.figures.promotion import (
    FinalistRow,
    GateRow,
    gates,
    neither,
    reliability_before_after,
    risk_coverage,
    seeds,
)
from catdog_search.figures.style import plain_style


def drawn(figure: Figure) -> list[Axes]:
    with plain_style():
        figure.savefig(io.BytesIO())
    return figure.axes


def marks(axes: Axes) -> list[tuple[float, str]]:
    """Where a gate's mark stands, and which it is."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    return [(float(line.get_xdata()[0]), str(line.get_marker())) for line in lines]


def test_gates_tell_passed_failed_and_not_looked_at_without_colours() -> None:
    rows = [
        GateRow("accuracy", 0.93, 0.9, True, True, "0.93, above 0.9"),
        GateRow("file size", 210.0, 200.0, False, False, "210 MB, at most 200 MB"),
        GateRow("against champion", None, -0.01, True, None, "above -0.01"),
        GateRow("photos", None, None, True, True, "no drawn pictures"),
    ]
    figure = gates(rows, "t")
    axes, words = drawn(figure)
    assert figure.get_suptitle() == "t: 2 passed, 1 failed, 1 open"
    assert [label.get_text() for label in words.get_yticklabels()] == [
        "✓ passed: 0.93, above 0.9",
        "✗ FAILED: 210 MB, at most 200 MB",
        "– above -0.01",
        "✓ passed: no drawn pictures",
    ]
    (better, circle), (worse, cross) = marks(axes)
    assert better > 0 > worse
    assert circle != cross


@pytest.mark.parametrize(
    ("number", "limit", "at_least", "expected"),
    [
        (0.5, 0.5, True, 0.0),
        (0.0, 0.0, False, 0.0),
        (1.0, 0.0, False, -0.95),
        (-0.02, -0.01, True, -0.672),
        (0.01, 0.04, False, 0.823),
        (float("nan"), 0.1, False, 0.0),
        (float("inf"), 0.1, False, -0.95),
        (-1.0, 1.0, True, -0.95),
    ],
)
def test_gate_stands_on_the_side_of_its_limit(
    number: float, limit: float, at_least: bool, expected: float
) -> None:
    axes = drawn(gates([GateRow("g", number, limit, at_least, expected >= 0, "")], "t"))[0]
    assert marks(axes)[0][0] == pytest.approx(expected, abs=1e-3)


def test_seeds_tell_mean_noise_choice_and_ties() -> None:
    rows = [
        FinalistRow("trial 1", [0.90, 0.94], 0.02, True, True),
        FinalistRow("trial 2", [0.91], None, False, True),
        FinalistRow("trial 3", [0.80, 0.82], 0.01, False, False),
    ]
    figure = seeds(rows, "val_accuracy", "t")
    axes, words = drawn(figure)
    assert [label.get_text() for label in words.get_yticklabels()] == [
        "0.9200 ± 0.0200, chosen, tie",
        "0.9100, tie",
        "0.8100 ± 0.0100",
    ]
    shown = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert shown[:3] == [[0.90, 0.94], [0.91], [0.80, 0.82]]
    assert axes.get_xlabel() == "val_accuracy"


def test_reliability_tells_both_temperatures_numbers() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.random(200), rng.random(200)
    labels = (rng.random(200) < after).astype(int)
    upper, lower = drawn(reliability_before_after(labels, before, after, "dog", "t"))
    for name, p, line in (("before", before, upper.lines[1]), ("after", after, upper.lines[2])):
        error, score = equal_mass_error(labels, p), brier(labels, p)
        assert line.get_label() == f"{name}: calibration error {error:.4f}, Brier {score:.4f}"
        assert len(line.get_xdata()) == 15
    gaps = [bar.get_height() for bar in lower.patches]
    assert np.mean(np.abs(gaps[15:])) == pytest.approx(equal_mass_error(labels, after), abs=0.01)


CURVE = RiskCurve(np.array([0.25, 0.5, 1.0]), np.array([0.0, 0.0, 0.02]))


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_risk_coverage_marks_the_rate_and_the_band() -> None:
    curves = {"calibration": CURVE, "test": CURVE}
    (axes,) = drawn(risk_coverage(curves, 0.01, (0.5, 0.0098), "t"))
    assert legend(axes) == [
        "calibration",
        "test",
        "asked for: 1.00%",
        "band: 50.0% answered, 95 % bound 0.98%",
    ]
    assert [text.get_text() for text in axes.texts] == ["not sure"]


def test_risk_coverage_says_when_no_band_holds() -> None:
    (axes,) = drawn(risk_coverage({"calibration": CURVE}, 0.01, None, "t"))
    assert legend(axes) == ["calibration", "asked for: 1.00%", "no band holds"]


def test_risk_coverage_of_a_band_that_answers_all_has_no_room_for_not_sure() -> None:
    (axes,) = drawn(risk_coverage({"calibration": CURVE}, 0.05, (1.0, 0.04), "t"))
    assert not axes.texts


def test_neither_counts_what_is_above_the_threshold_by_kind() -> None:
    known, noise = np.linspace(1, 2, 100), np.array([1.5, 300.0, 400.0, 500.0])
    first, second = drawn(neither(known, {"noise": noise}, 1.99, "t"))
    assert [axes.get_ylabel() for axes in (first, second)] == ["calibration photos", "noise"]
    said = [axes.texts[0].get_text() for axes in (first, second)]
    assert said == ["1.0% above\nof 100", "75.0% above\nof 4"]
    assert sum(bar.get_height() for bar in first.patches) == 100
    assert first.get_xscale() == "log"
    assert list(first.lines[0].get_xdata()) == [1.99, 1.99]


@pytest.mark.parametrize("known", [[-3.0, 900.0], [0.0, 5.0], [2.0, 3.0], [7.0, 7.0]])
def test_neither_draws_scores_of_any_sign_without_negatives(known: list[float]) -> None:
    (axes,) = drawn(neither(np.array(known), {}, known[1], "t"))
    assert axes.get_xscale() == "linear"
    assert sum(bar.get_height() for bar in axes.patches) == 2
