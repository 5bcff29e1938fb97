"""What a study searches: dimensions, the conditions between them, and how to draw from them."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from catdog_search.errors import StudyFileError

Value = bool | int | float | str
Params = dict[str, Value]

_RANGE_KEYS = ("low", "high", "step", "log", "when")
_CHOICE_KEYS = ("choices", "when")
_FIXED_KEYS = ("value", "when")


class SupportsSuggest(Protocol):
    """The part of an Optuna trial that sampling needs; any stand-in with it will do."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Draw an integer, both ends included."""
        ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """Draw a float, both ends included."""
        ...

    # Any: Optuna overloads this by the type of the choices.
    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Draw one of the choices."""
        ...


@dataclass(frozen=True)
class Knob:
    """One parameter that a family of models understands.

    Attributes:
        kind: `int`, `float`, `bool` or `choice`.
        allowed: The allowed values, for people: `[0, 1)` or `one of relu, gelu`.
        doc: What it does, with its unit.
        default: Value where a study doesn't name it.
        accepts: Whether a value is allowed, its type included.
    """

    kind: Literal["int", "float", "bool", "choice"]
    allowed: str
    doc: str
    default: Value
    accepts: Callable[[object], bool]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def is_int(self) -> bool:
        """Whether the numbers are whole."""
        return isinstance(self.low, int)

    @property
    def values(self) -> tuple[Value, ...] | None:
        """All values in order, None where they can't be counted."""
        if self.is_int:
            return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step is None:
            return None
        return tuple(self.low + i * self.step for i in range(self._n_steps() + 1))

    def _n_steps(self) -> int:
        return round((self.high - self.low) / (self.step or 1))

    def suggest(self, name: str, trial: SupportsSuggest) -> Value:
        """Let `trial` draw a value."""
        if self.is_int:
            step = int(self.step or 1)
            return trial.suggest_int(name, int(self.low), int(self.high), step=step, log=self.log)
        step_ = None if self.step is None else float(self.step)
        low, high = float(self.low), float(self.high)
        return trial.suggest_float(name, low, high, step=step_, log=self.log)

    def contains(self, value: object) -> bool:
        """Whether this dimension could have drawn `value`."""
        if isinstance(value, bool) or not isinstance(value, int if self.is_int else int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def describe(self) -> str:
        """For people: `1e-05 to 0.01, log`."""
        step = f", step {self.step}" if self.step is not None else ""
        return f"{self.low} to {self.high}{step}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of some listed values, without an order."""

    choices: tuple[Value, ...]
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Value, ...]:
        """All values in order."""
        return self.choices

    def suggest(self, name: str, trial: SupportsSuggest) -> Value:
        """Let `trial` draw a value."""
        value: Value = trial.suggest_categorical(name, self.choices)
        return value

    def contains(self, value: object) -> bool:
        """Whether this dimension could have drawn `value`."""
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def describe(self) -> str:
        """For people: `relu | gelu`."""
        return " | ".join(map(str, self.choices))


@dataclass(frozen=True)
class Fixed:
    """The same value in every trial; the sampler never hears of it."""

    value: Value
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Value, ...]:
        """The one value."""
        return (self.value,)

    def suggest(self, name: str, trial: SupportsSuggest) -> Value:
        """Give the value."""
        del name, trial
        return self.value

    def contains(self, value: object) -> bool:
        """Whether this is the value."""
        return type(value) is type(self.value) and value == self.value

    def describe(self) -> str:
        """For people: `adam (fixed)`."""
        return f"{self.value} (fixed)"


Dimension = Range | Choice | Fixed


@dataclass(frozen=True)
class Size:
    """How large a space is.

    Attributes:
        combinations: Distinct active settings of all countable dimensions.
        continuous: Names of the dimensions that can't be counted.
    """

    combinations: int
    continuous: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """Dimensions by name, in the order in which they are drawn."""

    dimensions: Mapping[str, Dimension]

    def is_active(self, name: str, params: Mapping[str, Value]) -> bool:
        """Whether `name` plays a part, given the params drawn before it."""
        when = self.dimensions[name].when
        return all(params.get(parent) in allowed for parent, allowed in when.items())

    def sample(self, trial: SupportsSuggest) -> Params:
        """Draw every active dimension from `trial`; fixed values are included."""
        params: Params = {}
        for name, dimension in self.dimensions.items():
            if self.is_active(name, params):
                params[name] = dimension.suggest(name, trial)
        return params

    def problems(self, params: Mapping[str, Value]) -> list[str]:
        """Why `params` is not a point of this space, a line each; empty where it is one."""
        lines = [
            f"{name}: {_unknown(name, self.dimensions)}"
            for name in params
            if name not in self.dimensions
        ]
        for name, dimension in self.dimensions.items():
            if not self.is_active(name, {**self._fixed(), **params}):
                if name in params:
                    lines.append(f"{name}: is not active here; it needs {_condition(dimension)}")
            elif name not in params:
                if not isinstance(dimension, Fixed):
                    lines.append(f"{name}: is missing; the space says {dimension.describe()}")
            elif not dimension.contains(params[name]):
                came = repr(params[name])
                lines.append(f"{name}: {came} is not in the space ({dimension.describe()})")
        return lines

    def contains(self, params: Mapping[str, Value]) -> bool:
        """Whether `sample` could have returned `params`; fixed values may be left out."""
        return not self.problems(params)

    def complete(self, params: Mapping[str, Value]) -> Params:
        """`params` with the fixed values that are active beside them, as `sample` returns them."""
        whole: Params = {}
        for name, dimension in self.dimensions.items():
            if self.is_active(name, whole):
                whole[name] = _given(params, name, dimension)
        return whole

    def _fixed(self) -> Params:
        return {n: d.value for n, d in self.dimensions.items() if isinstance(d, Fixed)}

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the dimensions that vary."""
        return tuple(n for n, d in self.dimensions.items() if not isinstance(d, Fixed))

    def size(self) -> Size:
        """Count the space: combinations of what can be counted, names of what can't."""
        dims = self.dimensions
        continuous = tuple(n for n, d in dims.items() if d.values is None)
        parents = [n for n in dims if any(n in d.when for d in dims.values())]
        total = 0
        seen: set[tuple[tuple[str, Value], ...]] = set()
        for drawn in itertools.product(*(dims[n].values or () for n in parents)):
            params: Params = {}
            for name, value in zip(parents, drawn, strict=True):
                if self.is_active(name, params):
                    params[name] = value
            if (key := tuple(params.items())) in seen:
                continue
            seen.add(key)
            total += math.prod(
                len(values)
                for name, d in dims.items()
                if name not in parents and (values := d.values) and self.is_active(name, params)
            )
        return Size(total, continuous)

    def points(self) -> Iterator[Params]:
        """Every point of a space without continuous dimensions."""
        return self._points(tuple(self.dimensions.items()), {})

    def _points(
        self, dimensions: tuple[tuple[str, Dimension], ...], above: Params
    ) -> Iterator[Params]:
        if not dimensions:
            yield above
            return
        (name, dimension), *rest = dimensions
        if not self.is_active(name, above):
            yield from self._points(tuple(rest), above)
            return
        for value in dimension.values or ():
            yield from self._points(tuple(rest), {**above, name: value})

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows (name, values, condition) for a table."""
        return [(n, d.describe(), _condition(d)) for n, d in self.dimensions.items()]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to store and to compare."""
        out: dict[str, Any] = {}
        for name, dimension in self.dimensions.items():
            row = {k: v for k, v in vars(dimension).items() if k != "when" and v is not None}
            if "choices" in row:
                row["choices"] = list(row["choices"])
            if dimension.when:
                row["when"] = {k: list(v) for k, v in dimension.when.items()}
            out[name] = row
        return out


def params_key(params: Mapping[str, Value]) -> str:
    """The same for the same params."""
    return json.dumps(dict(params), sort_keys=True)


def _given(params: Mapping[str, Value], name: str, dimension: Dimension) -> Value:
    return dimension.value if isinstance(dimension, Fixed) else params[name]


def parse_space(table: Mapping[str, object], knobs: Mapping[str, Knob], where: str) -> Space:
    """Read the `[space]` table of a study file.

    Args:
        table: The table as TOML gave it.
        knobs: What the family of models understands.
        where: Prefix of messages: `studies/cnn.toml [space]`.

    Raises:
        StudyFileError: An unknown knob or key, a value that is not allowed, or a condition that
            can't hold.
    """
    dimensions: dict[str, Dimension] = {}
    for name, spec in table.items():
        if name not in knobs:
            raise StudyFileError(f"{where} {name}: {_unknown(name, knobs)}")
        at = f"{where} {name}"
        dimension = _parse_dimension(spec, knobs[name], at)
        _check_conditions(dimension, dimensions, at)
        dimensions[name] = dimension
    return Space(dimensions)


def _parse_dimension(spec: object, knob: Knob, at: str) -> Dimension:
    if not isinstance(spec, dict):
        return Fixed(_allowed(spec, knob, at))
    when = _parse_when(spec.get("when", {}), f"{at}.when")
    if "choices" in spec:
        _known_keys(spec, _CHOICE_KEYS, at)
        return Choice(_parse_choices(spec["choices"], knob, f"{at}.choices"), when)
    if "value" in spec:
        _known_keys(spec, _FIXED_KEYS, at)
        return Fixed(_allowed(spec["value"], knob, f"{at}.value"), when)
    _known_keys(spec, _RANGE_KEYS, at)
    return _parse_range(spec, knob, at, when)


def _parse_choices(choices: object, knob: Knob, at: str) -> tuple[Value, ...]:
    if not isinstance(choices, list) or not choices:
        raise StudyFileError(f"{at}: {choices!r} is not a list with at least one value")
    values = tuple(_allowed(value, knob, at) for value in choices)
    if len(set(values)) < len(values):
        raise StudyFileError(f"{at}: {choices!r} names a value twice")
    return values


def _parse_range(
    spec: Mapping[str, object], knob: Knob, at: str, when: Mapping[str, tuple[Value, ...]]
) -> Range:
    if knob.kind not in ("int", "float"):
        raise StudyFileError(f"{at}: has no low and high; give choices, {knob.allowed}")
    for key in ("low", "high"):
        if key not in spec:
            raise StudyFileError(
                f"{at}: {key} is missing; give low and high, or choices, or a plain value"
            )
    low, high = (_number(spec[key], knob, f"{at}.{key}") for key in ("low", "high"))
    if low >= high:
        raise StudyFileError(
            f"{at}: low {low} is not below high {high}; for one value write it plainly"
        )
    log = spec.get("log", False)
    if not isinstance(log, bool):
        raise StudyFileError(f"{at}.log: {log!r} is neither true nor false")
    if log and low <= 0:
        raise StudyFileError(f"{at}.low: {low} can't be on a log scale; it must be above 0")
    return Range(low, high, _parse_step(spec.get("step"), low, high, log, knob, at), log, when)


def _parse_step(
    step: object, low: float, high: float, log: bool, knob: Knob, at: str
) -> int | float | None:
    if step is None:
        return None
    whole = isinstance(step, int) and not isinstance(step, bool)
    if not (whole or (knob.kind == "float" and isinstance(step, float))) or step <= 0:  # type: ignore[operator]
        kind = "a whole number" if knob.kind == "int" else "a number"
        raise StudyFileError(f"{at}.step: {step!r} is not {kind} above 0")
    assert isinstance(step, int | float)
    if log:
        raise StudyFileError(f"{at}.step: {step} can't be combined with log = true")
    ratio = (high - low) / step
    if not math.isclose(ratio, round(ratio), abs_tol=1e-9):
        raise StudyFileError(
            f"{at}.step: from low {low} in steps of {step} high {high} is never reached"
        )
    return step


def _parse_when(when: object, at: str) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, dict):
        raise StudyFileError(f'{at}: {when!r} is not a table like {{ optimizer = "sgd" }}')
    return {k: tuple(v) if isinstance(v, list) else (v,) for k, v in when.items()}


def _check_conditions(dimension: Dimension, above: Mapping[str, Dimension], at: str) -> None:
    for parent, wanted in dimension.when.items():
        if parent not in above:
            hint = _unknown(parent, above) if above else "nothing stands above it"
            raise StudyFileError(f"{at}.when: {parent!r} must stand above it in [space]; {hint}")
        values = above[parent].values
        if values is None:
            raise StudyFileError(
                f"{at}.when: {parent} is continuous; a condition needs a value that can be met"
            )
        for value in wanted:
            if not above[parent].contains(value):
                raise StudyFileError(
                    f"{at}.when: {parent} never is {value!r}; it is {above[parent].describe()}"
                )


def _number(value: object, knob: Knob, at: str) -> int | float:
    allowed = _allowed(value, knob, at)
    assert isinstance(allowed, int | float)
    return float(allowed) if knob.kind == "float" else allowed


def _allowed(value: object, knob: Knob, at: str) -> Value:
    if not knob.accepts(value):
        raise StudyFileError(f"{at}: {value!r} is not allowed; it must be {knob.allowed}")
    if knob.kind == "float":
        return float(value)  # type: ignore[arg-type]
    return value  # type: ignore[return-value]


def _known_keys(spec: Mapping[str, object], known: tuple[str, ...], at: str) -> None:
    for key in spec:
        if key not in known:
            raise StudyFileError(f"{at}.{key}: {_unknown(key, known)}")


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"unknown; {did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str], are: str = "allowed") -> str:
    """`did you mean 'dropout'? (allowed: …)`, without the question where nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known)
    return f"did you mean {near[0]!r}? ({are}: {listed})" if near else f"{are}: {listed}"


def _condition(dimension: Dimension) -> str:
    return " and ".join(f"{k} = {' | '.join(map(str, v))}" for k, v in dimension.when.items())
