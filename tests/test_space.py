"""What a space draws, counts and refuses."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from catdog_search.errors import Mistakes, StudyFileError
from catdog_search.families import registry
from catdog_search.space import Fixed, Range, Space, params_key
from catdog_search.study.space_file import parse_space

KNOBS = registry.knobs("cnn")


class RandomTrial:
    """Draws at random, as an Optuna trial would."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.asked: list[str] = []

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        self.asked.append(name)
        return self._random.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        self.asked.append(name)
        if step:
            return low + step * self._random.randint(0, round((high - low) / step))
        return self._random.uniform(low, high)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.append(name)
        return self._random.choice(choices)


def space(**table: Any) -> Space:
    mistakes = Mistakes()
    space = parse_space(table, KNOBS, "s.toml [space]", mistakes)
    mistakes.require_none()
    return space


CONDITIONAL: dict[str, Any] = {
    "optimizer": {"choices": ["adam", "sgd"]},
    "momentum": {"low": 0.5, "high": 0.9, "step": 0.1, "when": {"optimizer": "sgd"}},
    "n_blocks": {"low": 1, "high": 3},
    "batch_size": 32,
}


def test_sample_draws_only_points_of_the_space() -> None:
    searched = space(**CONDITIONAL)
    drawn = [searched.sample(RandomTrial(seed)) for seed in range(50)]
    assert all(searched.contains(params) for params in drawn)
    assert len({tuple(params.items()) for params in drawn}) > 10


def test_sample_leaves_out_what_its_condition_excludes() -> None:
    searched = space(**CONDITIONAL)
    for seed in range(20):
        params = searched.sample(RandomTrial(seed))
        assert ("momentum" in params) == (params["optimizer"] == "sgd")


def test_sample_never_asks_for_a_fixed_value() -> None:
    trial = RandomTrial(0)
    params = space(**CONDITIONAL).sample(trial)
    assert params["batch_size"] == 32
    assert "batch_size" not in trial.asked


def test_condition_on_an_inactive_parent_does_not_hold() -> None:
    searched = space(
        normalization={"choices": ["none", "batch"]},
        optimizer={"choices": ["adam", "sgd"], "when": {"normalization": "batch"}},
        momentum={"low": 0.5, "high": 0.9, "when": {"optimizer": "sgd"}},
    )
    for seed in range(20):
        params = searched.sample(RandomTrial(seed))
        if params["normalization"] == "none":
            assert set(params) == {"normalization"}


@pytest.mark.parametrize(
    ("table", "combinations", "continuous"),
    [
        ({"n_blocks": {"low": 1, "high": 4}}, 4, ()),
        ({"filters": {"low": 4, "high": 12, "step": 4}}, 3, ()),
        ({"dropout": {"low": 0.0, "high": 0.5}}, 1, ("dropout",)),
        ({"dropout": {"low": 0.0, "high": 0.5, "step": 0.1}}, 6, ()),
        ({"batch_size": 32}, 1, ()),
        # adam: 1, sgd: 5 momenta, each times 3 blocks.
        (CONDITIONAL, 18, ()),
    ],
)
def test_size_counts_active_combinations(
    table: dict[str, Any], combinations: int, continuous: tuple[str, ...]
) -> None:
    size = space(**table).size()
    assert (size.combinations, size.continuous) == (combinations, continuous)


def test_size_agrees_with_enumeration_by_sampling() -> None:
    searched = space(**CONDITIONAL)
    seen = {tuple(searched.sample(RandomTrial(seed)).items()) for seed in range(2000)}
    assert len(seen) == searched.size().combinations


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"optimizer": "adam", "n_blocks": 2}, None),
        ({"optimizer": "sgd", "momentum": 0.7, "n_blocks": 2, "batch_size": 32}, None),
        ({"optimizer": "adam", "n_blocks": 4}, "n_blocks: 4 is not in the space"),
        ({"optimizer": "adam", "n_blocks": 2.0}, "n_blocks: 2.0 is not in the space"),
        ({"optimizer": "adam"}, "n_blocks: is missing"),
        ({"optimizer": "adam", "n_blocks": 1, "momentum": 0.7}, "momentum: is not active"),
        ({"optimizer": "sgd", "n_blocks": 1, "momentum": 0.75}, "momentum: 0.75 is not"),
        ({"optimizer": "adam", "n_blocks": 1, "batch_size": 64}, "batch_size: 64 is not"),
        ({"optimizer": "adam", "n_blocks": 1, "n_block": 1}, "did you mean 'n_blocks'"),
    ],
)
def test_problems_says_why_params_are_outside(params: dict[str, Any], says: str | None) -> None:
    problems = space(**CONDITIONAL).problems(params)
    if says is None:
        assert problems == []
    else:
        assert says in "\n".join(problems)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"dropuot": 0.1}, "s.toml [space] dropuot: unknown; did you mean 'dropout'?"),
        ({"dropout": {"low": 0, "high": 1.2}}, "dropout.high: 1.2 is not allowed; it must be"),
        ({"dropout": {"low": 0.5, "high": 0.1}}, "dropout: low 0.5 is not below high 0.1"),
        ({"dropout": {"low": 0.1}}, "dropout: high is missing"),
        ({"dropout": {"low": 0.1, "hihg": 0.2}}, "dropout.hihg: unknown; did you mean 'high'?"),
        ({"dropout": {"low": 0, "high": 0.5, "step": 0.2}}, "high 0.5 is never reached"),
        ({"dropout": {"low": 0, "high": 0.5, "step": 0}}, "dropout.step: 0 is not a number above"),
        ({"n_blocks": {"low": 1, "high": 3, "step": 0.5}}, "step: 0.5 is not a whole number"),
        ({"n_blocks": {"low": 1, "high": 3, "step": True}}, "step: True is not a whole number"),
        ({"n_blocks": {"low": 1.0, "high": 3}}, "n_blocks.low: 1.0 is not allowed"),
        ({"n_blocks": True}, "n_blocks: True is not allowed"),
        ({"n_blocks": {"low": 1, "high": 3, "log": 1}}, "log: 1 is neither true nor false"),
        ({"dropout": {"low": 0, "high": 0.5, "log": True}}, "low: 0.0 can't be on a log scale"),
        (
            {"learning_rate": {"low": 0.1, "high": 0.5, "log": True, "step": 0.1}},
            "step: 0.1 can't be combined with log",
        ),
        ({"learning_rate": {"low": 0.1, "high": float("nan")}}, "high: nan is not allowed"),
        ({"activation": {"choices": ["relu", "rulu"]}}, "choices: 'rulu' is not allowed"),
        ({"activation": {"choices": []}}, "choices: [] is not a list with at least one"),
        ({"activation": {"choices": "relu"}}, "choices: 'relu' is not a list"),
        ({"activation": {"choices": ["relu", "relu"]}}, "names a value twice"),
        ({"activation": {"low": 1, "high": 2}}, "activation: has no low and high"),
        ({"activation": ["relu"]}, "activation: ['relu'] is not allowed"),
        (
            {"momentum": {"value": 0.5, "when": {"optimizer": "sgd"}}},
            "'optimizer' must stand above",
        ),
        ({**CONDITIONAL, "dropout": {"value": 0.5, "when": {"optimizer": "lion"}}}, "never is"),
        ({**CONDITIONAL, "dropout": {"value": 0.5, "when": "sgd"}}, "when: 'sgd' is not a table"),
        (
            {
                "dropout": {"low": 0.0, "high": 0.5},
                "optimizer": {"value": "sgd", "when": {"dropout": 0.3}},
            },
            "dropout is continuous",
        ),
    ],
)
def test_parse_space_refuses_in_the_users_words(table: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        space(**table)
    assert says in str(caught.value)
    assert str(caught.value).startswith("s.toml [space] ")


def test_parse_space_takes_a_whole_number_where_a_number_is_meant() -> None:
    assert space(dropout=0).dimensions["dropout"] == Fixed(0.0)
    assert space(dropout={"low": 0, "high": 0.5}).dimensions["dropout"] == Range(0.0, 0.5)


def test_as_dict_differs_when_any_detail_does() -> None:
    tables = [
        {"dropout": {"low": 0.0, "high": 0.5}},
        {"dropout": {"low": 0.0, "high": 0.4}},
        {"dropout": {"low": 0.0, "high": 0.5, "step": 0.1}},
        {"dropout": 0.0},
        {"dropout": {"low": 0.1, "high": 0.5}},
        {"dropout": {"low": 0.1, "high": 0.5, "log": True}},
    ]
    as_dicts = [str(space(**table).as_dict()) for table in tables]
    assert len(set(as_dicts)) == len(tables)


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [
        (0.1, 0.5, 0.1, (0.1, 0.2, 0.3, 0.4, 0.5)),
        (0.0, 0.3, 0.05, (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)),
        (0.7, 1.0, 0.1, (0.7, 0.8, 0.9, 1.0)),
        (1e-4, 4e-4, 1e-4, (0.0001, 0.0002, 0.0003, 0.0004)),
        (-0.3, 0.3, 0.2, (-0.3, -0.1, 0.1, 0.3)),
        (-0.2, 0.2, 0.1, (-0.2, -0.1, 0.0, 0.1, 0.2)),
        (1.1, 3.3, 1.1, (1.1, 2.2, 3.3)),
        (0.0, 3.0, 1, (0.0, 1.0, 2.0, 3.0)),
        (4, 12, 4, (4, 8, 12)),
    ],
)
def test_values_of_steps_are_what_people_reckon(
    low: float, high: float, step: float, values: tuple[float, ...]
) -> None:
    dimension = Range(low, high, step)
    assert dimension.values == values
    assert list(map(str, dimension.values)) == list(map(str, values))  # no -0.0, no 1 for 1.0
    assert dimension.count == len(values)


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0.1, 0.5, 0.1), (0.0, 0.95, 0.05), (1e-5, 1e-2, 1e-5), (-1.7, 2.3, 0.1), (1.0, 1.01, 1e-5)],
)
def test_sums_of_floats_are_snapped_to_their_step(low: float, high: float, step: float) -> None:
    dimension = Range(low, high, step)
    for number, value in enumerate(dimension.values or ()):
        summed = low + number * step
        from_above = high - ((dimension.count or 0) - 1 - number) * step
        rounded = round((summed - low) / step) * step + low  # as Optuna does
        for spelled in (summed, from_above, rounded):
            assert dimension.canonical(spelled) == value
            assert dimension.contains(spelled)


@pytest.mark.parametrize("value", [0.35, 0.3000001, 0.05, 0.6, "0.3", True, None, float("nan")])
def test_what_is_beside_the_steps_is_not_snapped(value: object) -> None:
    assert Range(0.1, 0.5, 0.1).canonical(value) is None


def test_large_counts_are_counted_without_listing() -> None:
    searched = space(
        dropout={"low": 0, "high": 0.5, "step": 1e-10},
        label_smoothing={"low": 0, "high": 0.5, "step": 1e-10},
        ema={"low": 0.1, "high": 0.9, "step": 0.1, "when": {"dropout": [0.1, 0.2]}},
    )
    each = 5 * 10**9 + 1
    assert searched.size().combinations == (each - 2 + 2 * 9) * each


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": 1}, {"x": 1.0}),
        ({"x": 0.0}, {"x": -0.0}),
        ({"x": 0.3}, {"x": 0.30000000000000004}),
        ({"x": 1e-3, "y": "a"}, {"y": "a", "x": 0.001}),
    ],
)
def test_params_key_is_the_same_however_numbers_are_spelled(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert params_key(one) == params_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), ("1", 1), (0.3, 0.3001), (1e-5, 1.0001e-5), ("a", "b")]
)
def test_params_key_tells_other_values_apart(one: Any, other: Any) -> None:
    assert params_key({"x": one}) != params_key({"x": other})


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"dropout": {"low": 0.1, "high": 0.5, "step": float("inf")}}, "step: inf is not a number"),
        ({"dropout": {"low": 0.1, "high": 0.5, "step": float("nan")}}, "step: nan is not a number"),
        ({"dropout": {"low": 0.1, "high": 0.5, "step": 1e-300}}, "finer than numbers are"),
        ({"dropout": {"low": 0.1, "high": 0.5, "step": 10**400}}, "is never reached"),
        ({"dropout": {"low": 0.0, "high": 0.9, "step": 0.3000000001}}, "is never reached"),
        ({"dropout": {"choices": [0.3, 0.1 + 0.2]}}, "names a value twice"),
        ({"dropout": {"choices": [0, 0.0]}}, "names a value twice"),
        ({"dropout": {"choices": [0.0, -0.0]}}, "names a value twice"),
        ({"dense_units": {"choices": [1, 1.0]}}, "1.0 is not allowed"),
        ({"dense_units": {"choices": [True, 1]}}, "True is not allowed"),
        ({"kernel_size": {"choices": [3, 3.0]}}, "3.0 is not allowed"),
    ],
)
def test_parse_space_refuses_numbers_that_are_no_identity(table: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        space(**table)
    assert says in str(caught.value)


def test_canonical_spells_params_as_the_space_does() -> None:
    searched = space(
        momentum={"low": 0.1, "high": 0.5, "step": 0.1},
        dropout={"choices": [0.0, 0.3]},
        ema=0.9,
        label_smoothing={"low": 0.0, "high": 0.5},
        learning_rate={"low": 1e-5, "high": 1e-2, "log": True},
        weight_decay={"value": 0.1, "when": {"momentum": [0.1 + 0.2]}},
    )
    given = {"momentum": 0.1 + 0.2, "dropout": 0, "ema": 0.9, "label_smoothing": -0.0}
    given["learning_rate"] = math.exp(math.log(1e-5))  # an ulp below low
    own = searched.canonical(given)
    assert str(own) == str(
        {"momentum": 0.3, "dropout": 0.0, "ema": 0.9, "label_smoothing": 0.0, "learning_rate": 1e-5}
    )
    assert searched.problems(given) == []
    assert searched.complete(given)["weight_decay"] == 0.1
    assert searched.canonical({"momentum": 0.35, "no_knob": 1}) == {"momentum": 0.35, "no_knob": 1}


def test_of_dict_is_the_space_that_as_dict_gave() -> None:
    searched = space(**CONDITIONAL, dropout={"low": 0.0, "high": 0.5}, filters={"choices": [4, 8]})
    assert Space.of_dict(json.loads(json.dumps(searched.as_dict()))) == searched
