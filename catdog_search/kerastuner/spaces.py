"""Translate between KerasTuner's spaces and ours.

KerasTuner identifies hyperparameters by name and conditions, we by name alone; its values come from
float arithmetic, ours from decimal arithmetic. So a translation keeps, for each of our dimensions,
its name and the spelling of its values in KerasTuner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from catdog_search.errors import RequestError
from catdog_search.kerastuner.package import keras_tuner
from catdog_search.space import Choice, Dimension, Fixed, Params, Range, Space, Value

# A hyperparameter as KerasTuner's `get_config` returns it, and its conditions: values by parent.
_Config = Mapping[str, Any]
_Conditions = Mapping[str, tuple[Value, ...]]

# What MLflow doesn't accept in a param's name.
_ILLEGAL = re.compile(r"[^\w\-. :/]")


@dataclass(frozen=True)
class Translation:
    """One space in both forms.

    Attributes:
        space: The space in our form.
        theirs: The space as a `keras_tuner.HyperParameters`, without values.
        names: KerasTuner's names of our dimensions, by our names.
        spelled: KerasTuner's spelling of countable values, by our names and our spelling.
        notes: What differs from KerasTuner's, for people.
    """

    space: Space
    theirs: Any
    names: Mapping[str, str]
    spelled: Mapping[str, Mapping[Value, Value]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_theirs(self, params: Mapping[str, Value]) -> Params:
        """The active params of our space as KerasTuner's values, by its names."""
        return {self.names[n]: self.spelled[n].get(v, v) for n, v in params.items()}

    def to_ours(self, values: Mapping[str, Value]) -> Params:
        """KerasTuner's active values as params of our space.

        Raises:
            ValueError: A value is not in the space.
        """
        params: Params = {}
        for name, dimension in self.space.dimensions.items():
            if not self.space.is_active(name, params):
                continue
            given = values[self.names[name]]
            known = {theirs: ours for ours, theirs in self.spelled[name].items()}
            own = known.get(given, dimension.canonical(given))
            if own is None:
                raise ValueError(f"{name}: {given!r} is not in the space ({dimension.describe()})")
            params[name] = own
        return params


def of_ours(space: Space, names: Mapping[str, str] | None = None) -> Translation:
    """The translation of one of our spaces.

    Args:
        space: Our space.
        names: Names for dimensions in KerasTuner, by our names; others keep their own.

    Raises:
        RequestError: A dimension has no counterpart there.
    """
    names = {name: (names or {}).get(name, name) for name in space.dimensions}
    spelled: dict[str, Mapping[Value, Value]] = {}
    configs = []
    for name, dimension in space.dimensions.items():
        config = _config(names[name], dimension)
        spelled[name] = _spellings(dimension, config)
        config["config"]["conditions"] = [
            {
                "class_name": "Parent",
                "config": {
                    "name": names[parent],
                    "values": [spelled[parent].get(value, value) for value in allowed],
                },
            }
            for parent, allowed in dimension.when.items()
        ]
        configs.append(config)
    return Translation(space, _hyperparameters(configs), names, spelled)


def of_theirs(hyperparameters: Any) -> Translation:
    """The translation of a `keras_tuner.HyperParameters`.

    Defaults and values are not part of it. Hyperparameters that can never be active are left out.
    A name that KerasTuner has several times, under mutually exclusive conditions, becomes several
    dimensions; the same declaration under overlapping conditions becomes one. Characters that
    MLflow doesn't accept become `_`.

    Raises:
        RequestError: A hyperparameter has no counterpart here; the message names it.
    """
    reader = _Reader()
    for each in hyperparameters.get_config()["space"]:
        reader.add(each["class_name"], each["config"])
    translation = of_ours(Space(reader.dimensions), reader.names)
    return replace(translation, notes=tuple(reader.notes))


class _Reader:
    """Takes KerasTuner's hyperparameters one by one.

    Attributes:
        dimensions: Our dimensions so far.
        names: KerasTuner's names for them, by our names.
        notes: What differs, for people.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.dimensions: dict[str, Dimension] = {}
        self.names: dict[str, str] = {}
        self._values: dict[str, Mapping[Value, Value]] = {}

    def add(self, kind: str, config: _Config) -> None:
        """Take one, unless it can never be active.

        Raises:
            RequestError: It has no counterpart.
        """
        theirs = str(config["name"])
        when = self._when(theirs, config["conditions"])
        if when is None:
            return
        if kind == "Choice" and len(once := list(dict.fromkeys(config["values"]))) < len(
            config["values"]
        ):
            self.notes.append(f"hyperparameter {theirs} names a value twice, which counts once")
            config = {**config, "values": once}
        dimension = _dimension(theirs, kind, config, when)
        if self._joins(theirs, dimension):
            return
        name = self._new_name(theirs, when)
        self.dimensions[name] = dimension
        self.names[name] = theirs
        spelled = _spellings(dimension, {"class_name": kind, "config": dict(config)})
        self._values[name] = {v: k for k, v in spelled.items()}

    def _when(self, theirs: str, conditions: Iterable[_Config]) -> _Conditions | None:
        """Conditions by our names; None where they can't hold."""
        asked: dict[str, list[Value]] = {}
        for condition in conditions:
            if condition["class_name"] != "Parent":
                raise _refused(theirs, f"condition {condition['class_name']} has no counterpart")
            parent, values = condition["config"]["name"], list(condition["config"]["values"])
            before = asked.setdefault(parent, values)
            asked[parent] = [value for value in before if value in values]
        when: dict[str, tuple[Value, ...]] = {}
        for parent, values in asked.items():
            name = self._parent(theirs, parent, asked)
            allowed = self._takeable(name, values) if name else ()
            if not name or not allowed:
                return None
            when[name] = allowed
        return when

    def _parent(self, theirs: str, parent: str, asked: Mapping[str, Sequence[Value]]) -> str | None:
        """The dimension of that name that is meant: the one that can be active at the same time."""
        named = [own for own, name in self.names.items() if name == parent]
        beside = [own for own in named if not self._excludes(self.dimensions[own].when, asked)]
        if len(beside) > 1:
            raise _refused(theirs, f"its parent {parent} may be any of {len(beside)}")
        return beside[0] if beside else None

    def _excludes(self, when: _Conditions, asked: Mapping[str, Sequence[Value]]) -> bool:
        return any(
            not set(allowed) & set(self._takeable(own, asked[self.names[own]]))
            for own, allowed in when.items()
            if self.names[own] in asked
        )

    def _takeable(self, name: str, values: Sequence[Value]) -> tuple[Value, ...]:
        """Those of KerasTuner's values that the dimension can take, in our spelling."""
        known, dimension = self._values[name], self.dimensions[name]
        if known:
            return tuple(known[value] for value in values if value in known)
        own = map(dimension.canonical, values)
        return tuple(value for value in own if value is not None)

    def _joins(self, theirs: str, dimension: Dimension) -> bool:
        """Join the conditions of a declaration with those of an equal one that overlap.

        Returns:
            Whether there is such a one, and the joined conditions are those of either.
        """
        for own, name in self.names.items():
            before = self.dimensions[own]
            if (
                name == theirs
                and replace(before, when={}) == replace(dimension, when={})
                and not _exclude(before.when, dimension.when)
                and (joined := _either(before.when, dimension.when)) is not None
            ):
                self.dimensions[own] = replace(before, when=joined)
                return True
        return False

    def _new_name(self, theirs: str, when: _Conditions) -> str:
        """An unused name of ours: KerasTuner's, with its conditions if that is taken."""
        for own, name in self.names.items():
            if name == theirs and not _exclude(self.dimensions[own].when, when):
                raise _refused(theirs, "is declared twice, and both may be active at once")
        name = legal_name(theirs)
        if name in self.dimensions:
            said = "/".join(f"{p}:{'+'.join(map(str, values))}" for p, values in when.items())
            name = legal_name(f"{name}/{said}")
        if name in self.dimensions:
            raise _refused(theirs, f"has the same name as another one, {name}")
        return name


def legal_name(name: str) -> str:
    """A readable name that MLflow accepts: characters that it doesn't accept become `_`."""
    parts = _ILLEGAL.sub("_", name).split("/")
    return "/".join(part if part.strip(".") else "_" * max(len(part), 1) for part in parts)


def _exclude(one: _Conditions, other: _Conditions) -> bool:
    """Whether two sets of conditions can't hold at once, because of a parent that both have."""
    return any(not set(one[parent]) & set(other[parent]) for parent in one.keys() & other.keys())


def _either(one: _Conditions, other: _Conditions) -> _Conditions | None:
    """Conditions that hold where either of two holds; None where no conditions say that."""
    if all(parent in other and set(one[parent]) >= set(other[parent]) for parent in one):
        return one
    if all(parent in one and set(other[parent]) >= set(one[parent]) for parent in other):
        return other
    differing = [parent for parent in one if set(one[parent]) != set(other.get(parent, ()))]
    if one.keys() != other.keys() or len(differing) != 1:
        return None
    [parent] = differing
    return {**one, parent: tuple(dict.fromkeys((*one[parent], *other[parent])))}


def _dimension(name: str, kind: str, config: _Config, when: _Conditions) -> Dimension:
    match kind:
        case "Boolean":
            return Choice((False, True), when)
        case "Fixed":
            return Fixed(_plain(name, config["value"]), when)
        case "Choice":
            return Choice(tuple(_plain(name, value) for value in config["values"]), when)
        case "Int" | "Float":
            return _range(name, kind, config, when)
    raise _refused(name, f"{kind} has no counterpart")


def _range(name: str, kind: str, config: _Config, when: _Conditions) -> Dimension:
    low, high, step = (config[key] for key in ("min_value", "max_value", "step"))
    for number in (low, high, step):
        _plain(name, 0 if number is None else number)
    if step is not None and step <= 0:
        raise _refused(name, f"its step {step} is not above 0")
    linear = config["sampling"] == "linear"
    if step is not None:
        # KerasTuner's own count, which leaves out the last step if a float falls short of it.
        count = len(_listed(kind, config))
        if linear:
            top = Fraction(str(low)) + (count - 1) * Fraction(str(step))
            high = int(top) if kind == "Int" else float(top)
        if count == 1:
            low = high = _listed(kind, config)[0]
    if low == high:
        return Fixed(int(low) if kind == "Int" else float(low), when)
    if kind == "Int" and linear and step == 1:
        step = None
    return Range(low, high, step, not linear, when, reverse=config["sampling"] == "reverse_log")


def _plain(name: str, value: object) -> Value:
    if not isinstance(value, Value):
        raise _refused(name, f"{value!r} is neither text, number, true nor false")
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused(name, f"{value} is not a number")
    return value


def _config(name: str, dimension: Dimension) -> dict[str, Any]:
    """A dimension as KerasTuner's `get_config` would return it, without its conditions."""
    match dimension:
        case Fixed():
            return _of_kind("Fixed", name, value=dimension.value)
        case Choice():
            return _choice(name, dimension)
    scale = "reverse_log" if dimension.reverse else "log" if dimension.log else "linear"
    kind = "Int" if dimension.is_int else "Float"
    low, high, step = dimension.low, dimension.high, dimension.step
    config = _of_kind(kind, name, min_value=low, max_value=high, step=step, sampling=scale)
    count = dimension.count
    # Where floats fall short of the last step, half a step more reaches just that one.
    if scale == "linear" and step and count and len(_listed(kind, config["config"])) < count:
        config["config"]["max_value"] = float(high) + float(step) / 2
    return config


def _choice(name: str, dimension: Choice) -> dict[str, Any]:
    values = list(dimension.choices)
    kinds = {str if isinstance(v, str) else bool if isinstance(v, bool) else float for v in values}
    if len(kinds) > 1:
        raise _refused(name, f"{values} mixes kinds, and KerasTuner's Choice has one")
    if kinds == {bool}:
        # KerasTuner's Choice would turn them into numbers.
        return (
            _of_kind("Boolean", name)
            if len(values) > 1
            else _of_kind("Fixed", name, value=values[0])
        )
    if any(isinstance(value, float) for value in values):
        values = [float(value) for value in values]
    return _of_kind("Choice", name, values=values)


def _of_kind(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "conditions": [], **config}}


def _spellings(dimension: Dimension, config: Mapping[str, Any]) -> dict[Value, Value]:
    """KerasTuner's spelling of countable values, by ours; empty where it needs no translation."""
    if isinstance(dimension, Fixed):
        return {dimension.value: dimension.value}
    if isinstance(dimension, Choice):
        listed = config["config"].get("values", dimension.choices)
        return dict(zip(dimension.choices, listed, strict=True))
    if dimension.step is None:
        return {}
    theirs = _listed(config["class_name"], config["config"])
    return dict(zip(dimension.values or (), theirs, strict=False))


def _listed(kind: str, config: _Config) -> list[Value]:
    """All values of a stepped hyperparameter, as KerasTuner's own arithmetic spells them."""
    [hp] = _hyperparameters([{"class_name": kind, "config": {**config, "conditions": []}}]).space
    return [_whole(value) if kind == "Int" else value for value in hp.values]


def _hyperparameters(configs: Sequence[Mapping[str, Any]]) -> Any:
    return keras_tuner().HyperParameters.from_config({"space": list(configs), "values": {}})


def _whole(value: Value) -> Value:
    """A whole number as int: KerasTuner multiplies them as floats."""
    return int(value)


def _refused(name: str, why: str) -> RequestError:
    return RequestError(f"hyperparameter {name}: {why}")
