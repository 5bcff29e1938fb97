"""KerasTuner's spaces and ours, there and back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catdog_search.errors import RequestError
from catdog_search.kerastuner.spaces import legal_name, of_ours, of_theirs
from catdog_search.search.proposal.uniform import UniformDraw
from catdog_search.space import Choice, Fixed, Range, Space

keras_tuner = pytest.importorskip("keras_tuner")

# Strings with what names are made of; the scopes add slashes.
NAMES = st.text("abxy_.1 ", min_size=1, max_size=4).map(lambda text: f"p{text}q")
INTS = st.tuples(st.integers(-20, 60), st.integers(0, 60))
FLOATS = st.tuples(st.integers(-50, 50), st.integers(0, 200), st.sampled_from([1.0, 0.1, 0.01]))
SAMPLINGS = ("linear", "log", "reverse_log")


def numbers(draw: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    sampling = draw(st.sampled_from(SAMPLINGS))
    linear = sampling == "linear"
    if draw(st.booleans()):
        low, width = draw(INTS)
        step = draw(st.none() | st.integers(1 if linear else 2, 9))
        low = low if linear else abs(low) + 1
        return "Int", {"min_value": low, "max_value": low + width, "step": step} | {
            "sampling": sampling
        }
    low, width, unit = draw(FLOATS)
    low = low if linear else abs(low) + 1
    step = draw(st.none() | st.integers(1, 30))
    if step is not None:
        step = step * unit if linear else step + 1.5
    ends = {"min_value": low * unit, "max_value": (low + width) * unit}
    return "Float", {**ends, "step": step, "sampling": sampling}


def plain_values(draw: Callable[..., Any]) -> list[Any]:
    kind = draw(st.sampled_from([st.integers(-9, 99), st.floats(-9, 9), NAMES]))
    return list(draw(st.lists(kind, min_size=1, max_size=4, unique=True)))


@st.composite
def spaces(draw: Callable[..., Any]) -> Any:
    """A HyperParameters as `build(hp)` fills it: scopes of names and conditions, nested."""
    hp = keras_tuner.HyperParameters()
    add(draw, hp, depth=0)
    return hp


def add(draw: Callable[..., Any], hp: Any, depth: int) -> None:
    for _ in range(draw(st.integers(1, 4 - depth))):
        name = draw(NAMES)
        if hp._get_name(name) not in hp._hps:
            few = declare(draw, hp, name)
            if depth < 3 and draw(st.booleans()):
                with hp.conditional_scope(name, few):
                    add_named(draw, hp, depth + 1)


def add_named(draw: Callable[..., Any], hp: Any, depth: int) -> None:
    if draw(st.booleans()):
        with hp.name_scope(draw(NAMES)):
            add(draw, hp, depth)
    else:
        add(draw, hp, depth)


def declare(draw: Callable[..., Any], hp: Any, name: str) -> list[Any]:
    """Declare one; returns a few values that it can take."""
    kind = draw(st.sampled_from(["Choice", "Boolean", "Fixed", "number", "number"]))
    more: dict[str, Any] = {}
    if kind == "number":
        kind, more = numbers(draw)
    elif kind == "Choice":
        more = {"values": plain_values(draw)}
    elif kind == "Fixed":
        more = {"value": draw(st.booleans() | st.sampled_from(plain_values(draw)))}
    getattr(hp, kind)(name, **more)
    made = hp.space[-1]
    continuous = kind in ("Int", "Float") and made.step is None
    takeable = [made.default] if continuous else list(made.values)
    takeable = [int(value) for value in takeable] if kind == "Int" else takeable
    few = st.lists(st.sampled_from(takeable[:9]), min_size=1, max_size=3, unique=True)
    return list(draw(few))


def distribution(hp: Any) -> tuple[Any, ...]:
    """What may come of one of theirs, and how often: all its values, or its ends and its scale."""
    kind = type(hp).__name__
    whole = int if kind == "Int" else lambda value: value
    if kind in ("Int", "Float"):
        if hp.step is None and hp.min_value < hp.max_value:
            return (kind, hp.min_value, hp.max_value, hp.sampling)
        if hp.step is None:
            return ("one value", hp.min_value)
    values = [whole(value) for value in hp.values]
    if len(values) == 1:
        return ("one value", values[0])
    scale = (kind, hp.sampling) if kind in ("Int", "Float") else (kind,)
    return (*scale, *values)


def conditions(hp: Any) -> dict[str, list[Any]]:
    merged: dict[str, list[Any]] = {}
    for condition in hp.conditions:
        values = merged.setdefault(condition.name, condition.values)
        merged[condition.name] = [value for value in values if value in condition.values]
    return merged


def same(one: Any, other: Any) -> None:
    assert [hp.name for hp in one.space] == [hp.name for hp in other.space]
    for a, b in zip(one.space, other.space, strict=True):
        assert distribution(a) == distribution(b)
        assert conditions(a) == conditions(b)


@settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(spaces(), st.integers(0, 2**20))
def test_five_hundred_spaces_come_back_as_they_were(theirs: Any, seed: int) -> None:
    there = of_theirs(theirs)
    same(theirs, there.theirs)
    back = of_theirs(there.theirs)
    assert back.space == there.space
    assert Space.of_dict(there.space.as_dict()) == there.space
    # A point of ours is one of theirs, active in the same places, and comes back as it went.
    params = there.space.sample(UniformDraw(random.Random(seed)))
    values = there.to_theirs(params)
    drawn = there.theirs.copy()
    drawn.values = dict(values)
    drawn.ensure_active_values()
    assert drawn.values == values
    assert there.to_ours(values) == params
    assert there.space.contains(params)


def overlapping(hp: Any, most: int) -> None:
    """The same name under conditions that overlap, whose second declaration may differ."""
    hp.Int("u", 4, 8)
    with hp.conditional_scope("u", [4, 5]):
        hp.Int("v", 1, 8)
    with hp.conditional_scope("u", [5, 6]):
        hp.Int("v", 1, most)


def test_same_declaration_under_overlapping_conditions_is_one() -> None:
    hp = keras_tuner.HyperParameters()
    overlapping(hp, 8)
    there = of_theirs(hp)
    assert there.space.dimensions["v"] == Range(1, 8, when={"u": (4, 5, 6)})
    assert there.to_theirs({"u": 6, "v": 3}) == {"u": 6, "v": 3}
    hp.Int("w", 1, 8)
    with hp.conditional_scope("u", [4]):
        hp.Int("w", 1, 8)
    assert of_theirs(hp).space.dimensions["w"] == Range(1, 8)


def test_choice_that_names_a_value_twice_has_it_once() -> None:
    hp = keras_tuner.HyperParameters()
    hp.Choice("c", [4, 8, 8])
    there = of_theirs(hp)
    assert there.space.dimensions["c"] == Choice((4, 8))
    assert there.notes == ("hyperparameter c names a value twice, which counts once",)
    assert there.to_ours({"c": 8}) == {"c": 8}


def refusal(make: Callable[[Any], object]) -> str:
    hp = keras_tuner.HyperParameters()
    make(hp)
    with pytest.raises(RequestError) as refused:
        of_theirs(hp)
    return str(refused.value)


def twice(hp: Any) -> None:
    hp.Choice("kind", ["a", "b"])
    hp.Int("units", 1, 4)
    hp.Int("units", 1, 9, parent_name="kind", parent_values=["a"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (twice, "hyperparameter units: is declared twice, and both may be active at once"),
        (lambda hp: overlapping(hp, 9), "hyperparameter v: is declared twice, and both may be"),
        (lambda hp: hp.Float("f", 0.0, float("inf")), "hyperparameter f: inf is not a number"),
        (lambda hp: hp.Int("i", 0, 4, step=-1), "hyperparameter i: its step -1 is not above 0"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_its_name(
    make: Callable[[Any], object], said: str
) -> None:
    assert refusal(make).startswith(said)


def test_name_under_conditions_that_exclude_each_other_is_a_dimension_each() -> None:
    hp = keras_tuner.HyperParameters()
    hp.Choice("kind", ["cnn", "mlp"])
    hp.Int("units", 8, 64, step=8, parent_name="kind", parent_values=["mlp"])
    hp.Float("units", 0.0, 1.0, parent_name="kind", parent_values=["cnn"])
    with hp.conditional_scope("kind", ["mlp"]):
        hp.Boolean("deep", parent_name="units", parent_values=[16])
    there = of_theirs(hp)
    assert list(there.space.dimensions) == ["kind", "units", "units/kind:cnn", "deep"]
    assert there.space.dimensions["deep"].when == {"kind": ("mlp",), "units": (16,)}
    assert there.to_theirs({"kind": "cnn", "units/kind:cnn": 0.5}) == {"kind": "cnn", "units": 0.5}
    same(hp, there.theirs)


def test_what_can_never_be_active_is_left_out() -> None:
    hp = keras_tuner.HyperParameters()
    hp.Choice("kind", ["a", "b"])
    with hp.conditional_scope("kind", ["c"]):
        hp.Int("x", 1, 3)
        hp.Int("y", 1, 3, parent_name="x", parent_values=[1])
    assert list(of_theirs(hp).space.dimensions) == ["kind"]


def test_step_that_their_floats_fall_short_of_is_not_lost() -> None:
    space = Space({"x": Range(0.0, 0.3, 0.1), "y": Fixed(1, {"x": (0.3,)})})
    there = of_ours(space)
    assert len(list(there.theirs.space[0].values)) == 4
    params = {"x": 0.3, "y": 1}
    assert there.to_ours(there.to_theirs(params)) == params
    assert there.to_theirs(params)["x"] == 3 * 0.1 != 0.3
    assert there.theirs.space[1].conditions[0].is_active(there.to_theirs(params))


def test_choices_of_mixed_numbers_stay_what_they_are() -> None:
    space = Space({"x": Choice((1, 0.5)), "flag": Choice((True, False)), "on": Choice((True,))})
    there = of_ours(space)
    params = {"x": 1, "flag": True, "on": True}
    assert there.to_ours(there.to_theirs(params)) == params
    assert [type(hp).__name__ for hp in there.theirs.space] == ["Choice", "Boolean", "Fixed"]
    assert list(there.theirs.space[0].values) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("name", "legal"),
    [("lr (%)", "lr ___"), ("a//b", "a/_/b"), ("../x", "__/x"), ("block_1/units", "block_1/units")],
)
def test_names_are_what_mlflow_takes(name: str, legal: str) -> None:
    assert legal_name(name) == legal
