"""What a study searches: dimensions, the conditions between them, and how to draw from them."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, Protocol

from catdog_search.errors import Mistakes, StudyFileError

Value = bool | int | float | str
Params = dict[str, Value]

# Two numbers that differ by less, for their size or their step, are one that was spelled or summed
# in two ways.
_ROUNDING = 1e-9
# What one sum or one logarithm may be off, in units of the last place.
_LAST_PLACES = 8
# A step of fewer units of the last place is none.
_FINEST = 1024

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
        doc: Meaning of the knob, with its unit.
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
    """Numbers from `low` to `high`, both included.

    With `log` a step is a factor, as KerasTuner has it. With `reverse` too, the range is mirrored:
    values lie close to each other at `high`. No study file says either; spaces of others do.
    Optuna has no such distributions: it samples the mirrored value, or which step it is.
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
        """How many values there are, None where they can't be counted."""
        if not self.is_int and self.step is None:
            return None
        if self._has_factor:
            return int(math.log(self.high / self.low, self._factor) + _ROUNDING) + 1
        steps = (_exact(self.high) - _exact(self.low)) / self._exact_step
        return int(steps + _exact(_ROUNDING)) + 1

    @property
    def values(self) -> tuple[Value, ...] | None:
        """All values in order, None where they can't be counted."""
        return None if self.count is None else tuple(map(self._value_at, range(self.count)))

    @property
    def _exact_step(self) -> Fraction:
        return _exact(self.step or 1)

    @property
    def _has_factor(self) -> bool:
        return self.log and self.step is not None

    @property
    def _factor(self) -> float:
        assert self.step is not None
        return float(self.step)

    def _value_at(self, step: int) -> Value:
        """The value so many steps above `low`, as people reckon: 0.1 and twice 0.1 is 0.3.

        Floats summed up would give 0.30000000000000004, another number than a recipe's 0.3.
        """
        if self._has_factor:
            exact = self._mirrored(_exact(self.low) * self._exact_step**step)
        else:
            exact = _exact(self.low) + step * self._exact_step
        return int(exact) if self.is_int else float(exact)

    def _mirrored(self, exact: Fraction) -> Fraction:
        return _exact(self.low) + _exact(self.high) - exact if self.reverse else exact

    def for_sampler(self, value: Value) -> Value:
        """What the sampler knows a value of this range by."""
        if self._has_factor:
            return self._steps_to(float(value))
        if not self.reverse:
            return value
        assert isinstance(value, int | float), "this range's own"
        inner = self._mirrored(_exact(value))
        return int(inner) if self.is_int else float(inner)

    def of_sampler(self, value: Value) -> Value:
        """The value that the sampler means: `for_sampler`, the other way."""
        if self._has_factor:
            return self._value_at(int(value))
        return self.for_sampler(value)  # a mirror is its own inverse

    def _steps_to(self, value: float) -> int:
        """How many steps a value is away from the first."""
        if not self._has_factor:
            return round((_exact(value) - _exact(self.low)) / self._exact_step)
        ratio = float(self._mirrored(_exact(value))) / self.low
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
    """One of some listed values, without an order."""

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
        """`value` as the choices spell it; None where it is none of them."""
        return next((choice for choice in self.choices if _is_same(choice, value)), None)

    def contains(self, value: object) -> bool:
        """Whether this dimension could have sampled `value`."""
        return self.canonical(value) is not None

    def describe(self) -> str:
        """For people: `relu | gelu`."""
        return " | ".join(map(str, self.choices))


@dataclass(frozen=True)
class Fixed:
    """The same value in every trial; the sampler never hears of it."""

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
        """Give the value."""
        del name, trial
        return self.value

    def canonical(self, value: object) -> Value | None:
        """The one value where `value` is it, else None."""
        return self.value if _is_same(self.value, value) else None

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
        combinations: Distinct active settings of all countable dimensions.
        continuous: Names of the dimensions that can't be counted.
    """

    combinations: int
    continuous: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """Dimensions by name, in the order in which they are sampled."""

    dimensions: Mapping[str, Dimension]

    def is_active(self, name: str, params: Mapping[str, Value]) -> bool:
        """Whether `name` plays a part, given the params sampled before it."""
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
            unread: Dimensions that a study file names but spells wrongly: nothing that depends on
                them is a problem yet.
        """
        lines = [
            f"{name}: {_unknown(name, {*unread, *self.dimensions})}"
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
                came = repr(params[name])
                lines.append(f"{name}: {came} is not in the space ({dimension.describe()})")
        return lines

    def contains(self, params: Mapping[str, Value]) -> bool:
        """Whether `sample` could have returned `params`; fixed values may be left out."""
        return not self.problems(params)

    def canonical(self, params: Mapping[str, Value]) -> Params:
        """`params` as this space spells them; what is not in it stays as it is.

        Whatever arrives from elsewhere goes through here: recipes, and trials that were stored by
        a version that spelled a step as the sum of floats.
        """
        return {name: self._canonical(name, value) for name, value in params.items()}

    def _canonical(self, name: str, value: Value) -> Value:
        own = self.dimensions[name].canonical(value) if name in self.dimensions else None
        return value if own is None else own

    def for_sampler(self, name: str, value: Value) -> Value:
        """What the sampler knows a param's value by; see `Range`."""
        dimension = self.dimensions[name]
        return dimension.for_sampler(value) if isinstance(dimension, Range) else value

    def of_sampler(self, params: Mapping[str, Value]) -> Params:
        """The params that the sampler means, as this space spells them."""
        ranges = {n: d for n, d in self.dimensions.items() if isinstance(d, Range)}
        meant = {n: ranges[n].of_sampler(v) if n in ranges else v for n, v in params.items()}
        return self.canonical(meant)

    def complete(self, params: Mapping[str, Value]) -> Params:
        """`params` with the fixed values that are active beside them, as `sample` returns them."""
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
        """Of these dimensions, given the params above them that conditions name."""
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
        """The values of a dimension that conditions name; the others count alike."""
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
                row.pop("reverse", None)  # most have none, and older studies never heard of it
            if "choices" in row:
                row["choices"] = list(row["choices"])
            if dimension.when:
                row["when"] = {k: list(v) for k, v in dimension.when.items()}
            out[name] = row
        return out

    @classmethod
    def of_dict(cls, plain: Mapping[str, Mapping[str, Any]]) -> Space:
        """The space that `as_dict` gave, of a study that nobody may have the file of any more."""
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
    """The same for the same params, however their numbers are spelled: 1 and 1.0, 0.0 and -0.0."""
    return json.dumps({name: _spelled(value) for name, value in params.items()}, sort_keys=True)


def _spelled(value: Value) -> Value:
    return value if isinstance(value, bool | str) else float(f"{value:.12g}") + 0.0


def _exact(number: int | float) -> Fraction:
    """The number that its decimals say: 0.1 is a tenth, which no float is."""
    return Fraction(str(number))


def _is_same(own: Value, value: object) -> bool:
    """Whether `value` is `own`; 0 is 0.0 where a float is meant, and True is never 1."""
    if isinstance(own, float) and isinstance(value, float):
        return math.isclose(own, value, rel_tol=_ROUNDING)
    if isinstance(own, float) and type(value) is int:
        return own == value
    return type(value) is type(own) and value == own


def parse_space(
    table: Mapping[str, object], knobs: Mapping[str, Knob], where: str, mistakes: Mistakes
) -> Space:
    """Read the `[space]` table of a study file.

    Args:
        table: The table as TOML gave it.
        knobs: Knobs that the family of models understands.
        where: Prefix of messages: `studies/cnn.toml [space]`.
        mistakes: Takes unknown knobs and keys, values that are not allowed, and conditions that
            can't hold.

    Returns:
        The dimensions that are spelled rightly; the whole space where no mistake was found.
    """
    dimensions: dict[str, Dimension] = {}
    unread: set[str] = set()
    for name, spec in table.items():
        at = f"{where} {name}"
        unread.add(name)
        with mistakes.collecting():
            if name not in knobs:
                raise StudyFileError(f"{at}: {_unknown(name, knobs)}")
            dimension = _parse_dimension(spec, knobs[name], at)
            when = _conditions(dimension, dimensions, unread - {name}, at)
            dimensions[name] = replace(dimension, when=when)
            unread.remove(name)
    return Space(dimensions)


def _parse_dimension(spec: object, knob: Knob, at: str) -> Dimension:
    if not isinstance(spec, dict):
        return Fixed(_allowed(spec, knob, at))
    mistakes = Mistakes()
    known = _CHOICE_KEYS if "choices" in spec else _FIXED_KEYS if "value" in spec else _RANGE_KEYS
    with mistakes.collecting():
        _known_keys(spec, known, at)
    when: dict[str, tuple[Value, ...]] = {}
    with mistakes.collecting():
        when = _parse_when(spec.get("when", {}), f"{at}.when")
    dimension: Dimension | None = None
    with mistakes.collecting():
        if known is _CHOICE_KEYS:
            dimension = Choice(_parse_choices(spec["choices"], knob, f"{at}.choices"), when)
        elif known is _FIXED_KEYS:
            dimension = Fixed(_allowed(spec["value"], knob, f"{at}.value"), when)
        else:
            dimension = _parse_range(spec, knob, at, when)
    mistakes.require_none()
    assert dimension is not None, "it is no mistake"
    return dimension


def _parse_choices(choices: object, knob: Knob, at: str) -> tuple[Value, ...]:
    if not isinstance(choices, list) or not choices:
        raise StudyFileError(f"{at}: {choices!r} is not a list with at least one value")
    mistakes, values = Mistakes(), list[Value]()
    for value in choices:
        with mistakes.collecting():
            values.append(_allowed(value, knob, at))
    mistakes.require_none()
    pairs = itertools.combinations(values, 2)
    if len(set(values)) < len(values) or any(_is_same(one, other) for one, other in pairs):
        raise StudyFileError(f"{at}: {choices!r} names a value twice")
    return tuple(values)


def _parse_range(
    spec: Mapping[str, object], knob: Knob, at: str, when: Mapping[str, tuple[Value, ...]]
) -> Range:
    if knob.kind not in ("int", "float"):
        raise StudyFileError(f"{at}: has no low and high; give choices, {knob.allowed}")
    mistakes, ends = Mistakes(), dict[str, int | float]()
    for key in ("low", "high"):
        with mistakes.collecting():
            ends[key] = _parse_end(spec, key, knob, at)
    log = spec.get("log", False)
    if not isinstance(log, bool):
        mistakes.found.append(f"{at}.log: {log!r} is neither true nor false")
    step: int | float | None = None
    with mistakes.collecting():
        step = _parse_step(spec.get("step"), knob, at)
    mistakes.require_none()
    made = Range(ends["low"], ends["high"], step, bool(log), when)
    _require_sense(made, at)
    return made


def _parse_end(spec: Mapping[str, object], key: str, knob: Knob, at: str) -> int | float:
    if key not in spec:
        raise StudyFileError(
            f"{at}: {key} is missing; give low and high, or choices, or a plain value"
        )
    return _number(spec[key], knob, f"{at}.{key}")


def _parse_step(step: object, knob: Knob, at: str) -> int | float | None:
    if step is None:
        return None
    whole = isinstance(step, int) and not isinstance(step, bool)
    is_number = whole or (knob.kind == "float" and isinstance(step, float) and math.isfinite(step))
    if not is_number or step <= 0:  # type: ignore[operator]
        kind = "a whole number" if knob.kind == "int" else "a number"
        raise StudyFileError(f"{at}.step: {step!r} is not {kind} above 0")
    assert isinstance(step, int | float)
    return step


def _require_sense(made: Range, at: str) -> None:
    """Refuse ends, step and scale that are each allowed, but not together."""
    low, high, step = made.low, made.high, made.step
    if low >= high:
        raise StudyFileError(
            f"{at}: low {low} is not below high {high}; for one value write it plainly"
        )
    if made.log and low <= 0:
        raise StudyFileError(f"{at}.low: {low} can't be on a log scale; it must be above 0")
    if step is None:
        return
    if made.log:
        raise StudyFileError(f"{at}.step: {step} can't be combined with log = true")
    # As decimals, as Optuna does: floats would say that 0.3 is not three times 0.1.
    if (_exact(high) - _exact(low)) % _exact(step):
        raise StudyFileError(
            f"{at}.step: from low {low} in steps of {step} high {high} is never reached"
        )
    if not made.is_int and step < _FINEST * math.ulp(high):
        raise StudyFileError(f"{at}.step: {step} is finer than numbers are; leave it out")


def _parse_when(when: object, at: str) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, dict):
        raise StudyFileError(f'{at}: {when!r} is not a table like {{ optimizer = "sgd" }}')
    return {k: tuple(v) if isinstance(v, list) else (v,) for k, v in when.items()}


def _conditions(
    dimension: Dimension, above: Mapping[str, Dimension], unread: Set[str], at: str
) -> dict[str, tuple[Value, ...]]:
    """The conditions of a dimension, in the values that their parents draw.

    Those on a parent that is `unread`, as it is spelled wrongly, stay as they are.
    """
    mistakes = Mistakes()
    when: dict[str, tuple[Value, ...]] = {}
    for parent, wanted in dimension.when.items():
        with mistakes.collecting():
            if parent in unread:
                when[parent] = wanted
                continue
            if parent not in above:
                standing = {*unread, *above}
                hint = _unknown(parent, standing) if standing else "nothing stands above it"
                raise StudyFileError(
                    f"{at}.when: {parent!r} must stand above it in [space]; {hint}"
                )
            when[parent] = _met(parent, wanted, above[parent], at)
    mistakes.require_none()
    return when


def _met(
    parent: str, wanted: tuple[Value, ...], dimension: Dimension, at: str
) -> tuple[Value, ...]:
    """Values of a condition as the parent's dimension spells them."""
    if dimension.count is None:
        raise StudyFileError(
            f"{at}.when: {parent} is continuous; a condition needs a value that can be met"
        )
    own = [(value, dimension.canonical(value)) for value in wanted]
    if never := [value for value, canonical in own if canonical is None]:
        said = dimension.describe()
        raise StudyFileError(
            *(f"{at}.when: {parent} never is {value!r}; it is {said}" for value in never)
        )
    return tuple(dict.fromkeys(value for _, value in own if value is not None))


def _number(value: object, knob: Knob, at: str) -> int | float:
    allowed = _allowed(value, knob, at)
    assert isinstance(allowed, int | float)
    return float(allowed) if knob.kind == "float" else allowed


def _allowed(value: object, knob: Knob, at: str) -> Value:
    if not knob.accepts(value):
        raise StudyFileError(f"{at}: {value!r} is not allowed; it must be {knob.allowed}")
    if knob.kind == "float":
        return float(value) + 0.0  # type: ignore[arg-type]  # -0.0 is 0.0
    return value  # type: ignore[return-value]


def _known_keys(spec: Mapping[str, object], known: tuple[str, ...], at: str) -> None:
    if unknown := [key for key in spec if key not in known]:
        raise StudyFileError(*(f"{at}.{key}: {_unknown(key, known)}" for key in unknown))


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"unknown; {did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str], are: str = "allowed") -> str:
    """`did you mean 'dropout'? (allowed: …)`, without the question where nothing is near."""
    names = sorted(known)
    near, listed = nearest(name, names), ", ".join(names)
    return f"{are}: {listed}" if near is None else f"did you mean {near!r}? ({are}: {listed})"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that somebody probably meant; None where nothing is near."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def _condition(dimension: Dimension) -> str:
    return " and ".join(f"{k} = {' | '.join(map(str, v))}" for k, v in dimension.when.items())
