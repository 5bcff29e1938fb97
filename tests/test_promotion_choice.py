"""Which finalist goes on, and as what: gain set against the seeds' noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from catdog_search.objective import Direction
from catdog_search.outcomes import Ending
from catdog_search.promotion.choice import (
    Form,
    choose,
    median_seed,
    pooled_deviation,
    put_together,
)
from catdog_search.promotion.finalists import Finalist
from catdog_search.search.study.views import TrialRow


def row(number: int, value: float | None = 0.5) -> TrialRow:
    return TrialRow(
        number=number,
        state="COMPLETE",
        value=value,
        epochs=3,
        seconds=1.0,
        params={},
        used={},
        varied={},
        outside={},
        recipe=None,
        replicate=0,
        run_id="r",
        kept=True,
        model_id="m",
        ending=Ending.FINISHED,
        error=None,
        scores={},
        train_scores={},
        best_epoch=3,
        in_training=value,
        last=value,
        n_weights=None,
    )


def finalist(name: str, values: Sequence[float], operations: int = 10, trial: int = 0) -> Finalist:
    seeds = tuple(row(number, value) for number, value in enumerate(values))
    return Finalist(name, row(trial), seeds, operations, begins_alike=False)


@pytest.mark.parametrize(
    ("direction", "values", "chosen", "ties"),
    [
        # Noise 0.01 on three seeds each: means tie within 0.01 * sqrt(2 / 3) = 0.0082.
        ("maximize", {"dear": (0.90, 0.91, 0.92), "cheap": (0.895, 0.905, 0.915)}, "cheap", 2),
        ("maximize", {"dear": (0.90, 0.91, 0.92), "cheap": (0.89, 0.90, 0.91)}, "dear", 1),
        ("minimize", {"dear": (0.30, 0.31, 0.32), "cheap": (0.305, 0.315, 0.325)}, "cheap", 2),
        ("minimize", {"dear": (0.30, 0.31, 0.32), "cheap": (0.31, 0.32, 0.33)}, "dear", 1),
        # The noise of all counts: the quiet finalist's own would tell these apart.
        ("maximize", {"dear": (0.91, 0.91, 0.91), "cheap": (0.87, 0.905, 0.94)}, "cheap", 2),
        ("maximize", {"dear": (0.91, 0.91, 0.91), "cheap": (0.90, 0.90, 0.90)}, "dear", 1),
        # Of one seed nobody knows the noise, so that equal means alone tie.
        ("maximize", {"dear": (0.91,), "cheap": (0.909,)}, "dear", 1),
        ("maximize", {"dear": (0.91,), "cheap": (0.91,)}, "cheap", 2),
        # Two seeds of one of them are enough to know it.
        ("maximize", {"dear": (0.91,), "cheap": (0.88, 0.92)}, "cheap", 2),
        ("maximize", {"cheap": (0.91, 0.92)}, "cheap", 1),
    ],
)
def test_what_noise_explains_goes_to_the_cheaper(
    direction: Direction, values: dict[str, tuple[float, ...]], chosen: str, ties: int
) -> None:
    costs = {"dear": 100, "cheap": 1}
    found = choose([finalist(name, each, costs[name]) for name, each in values.items()], direction)
    assert found.finalist.name == chosen
    assert len(found.ties) == ties
    assert found.ranked[0].name == next(iter(values))


def test_order_of_finalists_and_their_costs_decide_nothing_else() -> None:
    alike = [finalist("late", (0.9, 0.92), trial=7), finalist("early", (0.9, 0.92), trial=3)]
    for order in (alike, alike[::-1]):
        found = choose(order, "maximize")
        assert (found.finalist.name, found.ties) == ("early", ("early", "late"))
    better = finalist("better", (0.905, 0.925), trial=9)
    assert choose([*alike, better], "maximize").finalist.name == "better"


def test_tie_is_with_the_best_one_alone() -> None:
    means = {"best": 0.920, "near": 0.914, "far": 0.908}
    rows = [finalist(n, (m - 0.01, m, m + 0.01), i) for i, (n, m) in enumerate(means.items())]
    found = choose(rows, "maximize")
    assert found.ties == ("best", "near")
    assert found.noise == pytest.approx(0.01)
    assert found.standard_error(rows[0]) == pytest.approx(0.01 / math.sqrt(3))


def test_standard_error_of_one_seed_is_not_known() -> None:
    alone = finalist("alone", (0.9,))
    found = choose([alone], "maximize")
    assert (found.noise, found.standard_error(alone)) == (None, None)


@pytest.mark.parametrize(
    ("groups", "noise"),
    [
        ([(1.0, 3.0)], math.sqrt(2)),
        ([(1.0, 3.0), (5.0,)], math.sqrt(2)),
        # 2 and 0 squared deviations over 1 + 2 degrees of freedom, whatever the means are.
        ([(1.0, 3.0), (7.0, 7.0, 7.0)], math.sqrt(2 / 3)),
        ([(1.0,), (2.0,)], None),
        ([], None),
    ],
)
def test_noise_is_pooled_within_finalists(
    groups: list[tuple[float, ...]], noise: float | None
) -> None:
    assert pooled_deviation(groups) == (None if noise is None else pytest.approx(noise))


@pytest.mark.parametrize(
    ("values", "direction", "number"),
    [
        ((0.9, 0.7, 0.8), "maximize", 2),
        ((0.9, 0.7, 0.8), "minimize", 2),
        ((0.9, 0.7), "maximize", 1),
        ((0.9, 0.7), "minimize", 0),
        ((0.9, 0.6, 0.7, 0.8), "maximize", 2),
        ((0.9, 0.6, 0.7, 0.8), "minimize", 3),
        ((0.8,), "maximize", 0),
        ((0.8, 0.8, 0.8), "maximize", 1),
    ],
)
def test_median_seed_of_an_even_number_is_the_worse_one(
    values: tuple[float, ...], direction: Direction, number: int
) -> None:
    assert median_seed(finalist("f", values), direction).number == number


@pytest.mark.parametrize(
    ("noise", "probabilities", "weights", "form"),
    [
        (0.01, None, None, "median seed"),
        (0.01, 0.905, None, "median seed"),
        (0.01, 0.92, None, "mean of probabilities"),
        (0.01, None, 0.905, "median seed"),
        (0.01, None, 0.92, "mean of weights"),
        (0.01, 0.92, 0.905, "mean of probabilities"),
        # One network costs less than three, which have to gain more than noise over it too.
        (0.01, 0.925, 0.92, "mean of weights"),
        (0.01, 0.94, 0.92, "mean of probabilities"),
        (0.01, 0.88, 0.87, "median seed"),
        (0.0, 0.901, None, "mean of probabilities"),
        (0.0, 0.9, 0.9, "median seed"),
        # What isn't known gains nothing.
        (None, 0.99, 0.99, "median seed"),
        (0.01, math.nan, math.nan, "median seed"),
    ],
)
def test_seeds_go_together_where_they_gain_more_than_noise(
    noise: float | None, probabilities: float | None, weights: float | None, form: Form
) -> None:
    found = put_together("maximize", noise, 0.9, probabilities, weights)
    assert found.form == form
    assert found.single == 0.9
    assert found.probabilities is probabilities
    assert found.weights is weights
    turned = [None if value is None else 1 - value for value in (probabilities, weights)]
    assert put_together("minimize", noise, 1 - 0.9, *turned).form == form
