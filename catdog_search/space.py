"""What a study searches: dimensions, conditions between them, and how to sample them."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Protocol

from catdog_search.text import shown

Value = bool | int | float | str
Params = dict[str, Value]

# Two numbers that differ by less, relative to their size or step, are the same number, spelled or
# summed in two ways.
_ROUNDING = 1e-9
# Possible error of one sum or one logarithm, in units of the last place.
_LAST_PLACES = 8


class SupportsSuggest(Protocol):
    """The part of an Optuna trial that sampling needs, so that stand-ins can be used."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Draw an integer, both ends included."""
        ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """Draw a float, both ends included."""
        ...

    # Any: Optuna overloads this by type of choices.
    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Draw one of the choices."""
        ...


@dataclass(frozen=True)
class Knob:
    """One parameter that a family of models understands.

    Attributes:
        kind: `int`, `float`, `bool` or `choice`.
        allowed: The allowed values, for people: `[0, 1)` or `one of relu, gelu`.
        doc: Meaning of the knob, with its unit.
        default: Value where a study doesn't name the knob.
        accepts: Function that says whether a value, type included, is allowed.
    """

    kind: Literal["int", "float", "bool", "choice"]
    allowed: str
    doc: str
    default: Value
    accepts: Callable[[object], bool]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    With `log`, a step is a factor, as in KerasTuner. With `reverse` too, the range is mirrored:
    values are densest at `high`. Study files can't express either; KerasTuner's spaces can. Optuna
    has no such distributions: it samples the mirrored value, or the index of the step.
    """

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    reverse: bool = False

    @property
    def is_int(self) -> bool:
        """Whether the numbers are whole."""
        return isinstance(self.low, int)

    @property
    def count(self) -> int | None:
        """How many values there are; None where they can't be counted."""
        if not self.is_int and self.step is None:
            return None
        if self._has_factor:
            return int(math.log(self.high / self.low, self._factor) + _ROUNDING) + 1
        steps = (as_fraction(self.high) - as_fraction(self.low)) / self._exact_step
        return int(steps + as_fraction(_ROUNDING)) + 1

    @property
    def values(self) -> tuple[Value, ...] | None:
        """All values in order; None where they can't be counted."""
        return None if self.count is None else tuple(map(self._value_at, range(self.count)))

    @property
    def _exact_step(self) -> Fraction:
        return as_fraction(self.step or 1)

    @property
    def _has_factor(self) -> bool:
        return self.log and self.step is not None

    @property
    def _factor(self) -> float:
        assert self.step is not None
        return float(self.step)

    def _value_at(self, step: int) -> Value:
        """The value this many steps above `low`, in decimal arithmetic: 0.1 plus twice 0.1 is 0.3.

        Summing floats would give 0.30000000000000004, which is not a recipe's 0.3.
        """
        if self._has_factor:
            exact = self._mirrored(as_fraction(self.low) * self._exact_step**step)
        else:
            exact = as_fraction(self.low) + step * self._exact_step
        return int(exact) if self.is_int else float(exact)

    def _mirrored(self, exact: Fraction) -> Fraction:
        return as_fraction(self.low) + as_fraction(self.high) - exact if self.reverse else exact

    def for_sampler(self, value: Value) -> Value:
        """The sampler's representation of a value of this range."""
        if self._has_factor:
            return self._steps_to(float(value))
        if not self.reverse:
            return value
        assert isinstance(value, int | float), "this range's own"
        inner = self._mirrored(as_fraction(value))
        return int(inner) if self.is_int else float(inner)

    def of_sampler(self, value: Value) -> Value:
        """The value that the sampler means: the inverse of `for_sampler`."""
        if self._has_factor:
            return self._value_at(int(value))
        return self.for_sampler(value)  # a mirror is its own inverse

    def _steps_to(self, value: float) -> int:
        """How many steps a value is from the first."""
        if not self._has_factor:
            return round((as_fraction(value) - as_fraction(self.low)) / self._exact_step)
        ratio = float(self._mirrored(as_fraction(value))) / self.low
        return round(math.log(ratio, self._factor)) if ratio > 0 else -1

    def suggest(self, name: str, trial: SupportsSuggest) -> Value:
        """Let `trial` draw a value."""
        if self._has_factor:
            last = (self.count or 1) - 1
            return self._value_at(trial.suggest_int(name, 0, last, step=1, log=False))
        sampled = self.of_sampler(self._suggest(name, trial))
        own = self.canonical(sampled)
        return sampled if own is None else own

    def _suggest(self, name: str, trial: SupportsSuggest) -> int | float:
        if self.is_int:
            step = int(self.step or 1)
            return trial.suggest_int(name, int(self.low), int(self.high), step=step, log=self.log)
        step_ = None if self.step is None else float(self.step)
        low, high = float(self.low), float(self.high)
        return trial.suggest_float(name, low, high, step=step_, log=self.log)

    def canonical(self, value: object) -> Value | None:
        """`value` as this dimension spells it; None where it could not have sampled it."""
        if isinstance(value, bool) or not isinstance(value, int if self.is_int else int | float):
            return None
        last_places = _LAST_PLACES * math.ulp(max(abs(self.low), abs(self.high)))
        if not self.low - last_places <= value <= self.high + last_places:
            return None
        if self.count is None:
            return min(max(float(value), self.low), self.high) + 0.0  # -0.0 is 0.0
        step = self._steps_to(value)
        if not 0 <= step < self.count:
            return None
        own = self._value_at(step)
        near = _ROUNDING * (abs(float(own)) if self._has_factor else float(self._exact_step))
        return own if abs(value - float(own)) <= near + last_places else None

    def contains(self, value: object) -> bool:
        """Whether this dimension could have sampled `value`."""
        return self.canonical(value) is not None

    def describe(self) -> str:
        """For people: `1e-05 to 0.01, log`."""
        step = f", {'factor' if self.log else 'step'} {self.step}" if self.step is not None else ""
        scale = ", reverse log" if self.reverse else ", log" if self.log else ""
        return f"{self.low} to {self.high}{step}{scale}"


@dataclass(frozen=True)
class Choice:
    """One of several listed values, without an order."""

    choices: tuple[Value, ...]
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self.choices)

    @property
    def values(self) -> tuple[Value, ...]:
        """All values in order."""
        return self.choices

    def suggest(self, name: str, trial: SupportsSuggest) -> Value:
        """Let `trial` draw a value."""
        value: Value = trial.suggest_categorical(name, self.choices)
        return value

    def canonical(self, value: object) -> Value | None:
        """`value` as the choices spell it; None if it isn't one of them."""
        return next((choice for choice in self.choices if is_same(choice, value)), None)

    def contains(self, value: object) -> bool:
        """Whether this dimension could have sampled `value`."""
        return self.canonical(value) is not None

    def describe(self) -> str:
        """For people: `relu | gelu`."""
        return " | ".join(map(str, self.choices))


@dataclass(frozen=True)
class Fixed:
    """The same value in every trial; the sampler never sees it."""

    value: Value
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """One."""
        return 1

    @property
    def values(self) -> tuple[Value, ...]:
        """The one value."""
        return (self.value,)

    def suggest(self, name: str, trial: SupportsSuggest) -> Value:
        """Return the value."""
        del name, trial
        return self.value

    def canonical(self, value: object) -> Value | None:
        """The one value if `value` is it, else None."""
        return self.value if is_same(self.value, value) else None

    def contains(self, value: object) -> bool:
        """Whether this is the value."""
        return self.canonical(value) is not None

    def describe(self) -> str:
        """For people: `adam (fixed)`."""
        return f"{self.value} (fixed)"


Dimension = Range | Choice | Fixed


@dataclass(frozen=True)
class Size:
    """How large a space is.

    Attributes:
        combinations: Number of distinct active settings of all countable dimensions.
        continuous: Names of the dimensions that can't be counted.
    """

    combinations: int
    continuous: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """Dimensions by name, in the order in which they are sampled."""

    dimensions: Mapping[str, Dimension]

    def is_active(self, name: str, params: Mapping[str, Value]) -> bool:
        """Whether `name` is active, given the params sampled before it."""
        when = self.dimensions[name].when
        return all(params.get(parent) in allowed for parent, allowed in when.items())

    def sample(self, trial: SupportsSuggest) -> Params:
        """Draw every active dimension from `trial`; fixed values are included."""
        params: Params = {}
        for name, dimension in self.dimensions.items():
            if self.is_active(name, params):
                params[name] = dimension.suggest(name, trial)
        return params

    def problems(self, params: Mapping[str, Value], unread: Set[str] = frozenset()) -> list[str]:
        """Why `params` is not a point of this space, a line each; empty where it is one.

        Args:
            params: Params of a recipe.
            unread: Dimensions that a study file names but specifies wrongly; nothing that depends
                on them counts as a problem yet.
        """
        lines = [
            f"{name}: {unknown_key(name, {*unread, *self.dimensions})}"
            for name in params
            if name not in self.dimensions and name not in unread
        ]
        given = {**self._fixed(), **self.canonical(params)}
        for name, dimension in self.dimensions.items():
            is_known = unread.isdisjoint(dimension.when)
            if is_known and not self.is_active(name, given):
                if name in params:
                    lines.append(f"{name}: is not active here; it needs {_condition(dimension)}")
            elif name not in params:
                if is_known and not isinstance(dimension, Fixed):
                    lines.append(f"{name}: is missing; the space says {dimension.describe()}")
            elif not dimension.contains(params[name]):
                came = shown(params[name])
                lines.append(
                    f"{name}: {came} is not in the space ({dimension.describe()}); widen that, or "
                    "leave the recipe out, whose trials stay"
                )
        return lines

    def contains(self, params: Mapping[str, Value]) -> bool:
        """Whether `sample` could have returned `params`; fixed values may be left out."""
        return not self.problems(params)

    def canonical(self, params: Mapping[str, Value]) -> Params:
        """`params` as this space spells them; what is not in it stays as it is.

        All params from elsewhere pass through here: recipes, and trials stored by a version that
        computed steps as sums of floats.
        """
        return {name: self._canonical(name, value) for name, value in params.items()}

    def _canonical(self, name: str, value: Value) -> Value:
        own = self.dimensions[name].canonical(value) if name in self.dimensions else None
        return value if own is None else own

    def for_sampler(self, name: str, value: Value) -> Value:
        """The sampler's representation of a param's value; see `Range`."""
        dimension = self.dimensions[name]
        return dimension.for_sampler(value) if isinstance(dimension, Range) else value

    def of_sampler(self, params: Mapping[str, Value]) -> Params:
        """The params that the sampler means, as this space spells them."""
        ranges = {n: d for n, d in self.dimensions.items() if isinstance(d, Range)}
        meant = {n: ranges[n].of_sampler(v) if n in ranges else v for n, v in params.items()}
        return self.canonical(meant)

    def complete(self, params: Mapping[str, Value]) -> Params:
        """`params` plus the fixed values that are active with them, as `sample` returns them."""
        whole: Params = {}
        for name, dimension in self.dimensions.items():
            if self.is_active(name, whole):
                given = dimension.value if isinstance(dimension, Fixed) else params[name]
                whole[name] = self._canonical(name, given)
        return whole

    def _fixed(self) -> Params:
        return {n: d.value for n, d in self.dimensions.items() if isinstance(d, Fixed)}

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the dimensions that vary."""
        return tuple(n for n, d in self.dimensions.items() if not isinstance(d, Fixed))

    def size(self) -> Size:
        """Count the space: combinations of what can be counted, names of what can't."""
        continuous = tuple(n for n, d in self.dimensions.items() if d.count is None)
        return Size(self._combinations(tuple(self.dimensions), {}), continuous)

    def _combinations(self, names: tuple[str, ...], above: Params) -> int:
        """Combinations of these dimensions, given the params before them that conditions name."""
        if not names:
            return 1
        name, rest = names[0], names[1:]
        if not self.is_active(name, above):
            return self._combinations(rest, above)
        told_apart = self._told_apart(name)
        others = (self.dimensions[name].count or 1) - len(told_apart)
        total = others * self._combinations(rest, above) if others else 0
        return total + sum(self._combinations(rest, {**above, name: v}) for v in told_apart)

    def _told_apart(self, name: str) -> set[Value]:
        """The values of a dimension that conditions name; all others count the same."""
        return {value for d in self.dimensions.values() for value in d.when.get(name, ())}

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
            if not row.get("reverse"):
                row.pop("reverse", None)  # most don't, and older studies don't know it
            if "choices" in row:
                row["choices"] = list(row["choices"])
            if dimension.when:
                row["when"] = {k: list(v) for k, v in dimension.when.items()}
            out[name] = row
        return out

    @classmethod
    def of_dict(cls, plain: Mapping[str, Mapping[str, Any]]) -> Space:
        """The inverse of `as_dict`, for studies whose file may no longer exist."""
        return cls({name: _of_dict(row) for name, row in plain.items()})


def _of_dict(row: Mapping[str, Any]) -> Dimension:
    when = {name: tuple(values) for name, values in row.get("when", {}).items()}
    if "choices" in row:
        return Choice(tuple(row["choices"]), when)
    if "value" in row:
        return Fixed(row["value"], when)
    reverse = row.get("reverse", False)
    return Range(row["low"], row["high"], row.get("step"), row["log"], when, reverse)


def params_key(params: Mapping[str, Value]) -> str:
    """Key that is the same for equal params, however numbers are spelled: 1 or 1.0, 0.0 or -0.0."""
    return json.dumps({name: _spelled(value) for name, value in params.items()}, sort_keys=True)


def _spelled(value: Value) -> Value:
    return value if isinstance(value, bool | str) else float(f"{value:.12g}") + 0.0


def as_fraction(number: int | float) -> Fraction:
    """The exact number that its decimals state: 0.1 is a tenth, which no float is."""
    return Fraction(str(number))


def is_same(own: Value, value: object) -> bool:
    """Whether `value` equals `own`; 0 is 0.0 where a float is meant, and True is never 1."""
    if isinstance(own, float) and isinstance(value, float):
        return math.isclose(own, value, rel_tol=_ROUNDING)
    if isinstance(own, float) and type(value) is int:
        return own == value
    return type(value) is type(own) and value == own


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Message about an unknown key."""
    return f"unknown; {did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str], are: str = "allowed") -> str:
    """`did you mean 'dropout'? (allowed: …)`, without the question if nothing is similar."""
    names = sorted(known)
    near, listed = nearest(name, names), ", ".join(names)
    return f"{are}: {listed}" if near is None else f"did you mean {near!r}? ({are}: {listed})"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; None if nothing is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def _condition(dimension: Dimension) -> str:
    return " and ".join(f"{k} = {' | '.join(map(str, v))}" for k, v in dimension.when.items())
