"""Read and check `[space]` of a study file, and report what is wrong with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Set
from dataclasses import replace

from catdog_search.errors import Mistakes, StudyFileError
from catdog_search.space import (
    Choice,
    Dimension,
    Fixed,
    Knob,
    Range,
    Space,
    Value,
    as_fraction,
    is_same,
    unknown_key,
)
from catdog_search.text import shown

# A step of fewer units in the last place is too fine.
_FINEST = 1024

_RANGE_KEYS = ("low", "high", "step", "log", "when")
_CHOICE_KEYS = ("choices", "when")
_FIXED_KEYS = ("value", "when")


def parse_space(
    table: Mapping[str, object], knobs: Mapping[str, Knob], where: str, mistakes: Mistakes
) -> Space:
    """Read the `[space]` table of a study file.

    Args:
        table: The table as TOML gave it.
        knobs: Knobs that the family of models understands.
        where: Prefix of messages: `studies/cnn.toml [space]`.
        mistakes: Collects unknown knobs and keys, values that are not allowed, and conditions that
            can't hold.

    Returns:
        The dimensions that are specified correctly; the whole space if there was no mistake.
    """
    dimensions: dict[str, Dimension] = {}
    unread: set[str] = set()
    for name, spec in table.items():
        at = f"{where} {name}"
        unread.add(name)
        with mistakes.collecting():
            if name not in knobs:
                raise StudyFileError(f"{at}: {unknown_key(name, knobs)}")
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
    if len(set(values)) < len(values) or any(is_same(one, other) for one, other in pairs):
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
    """Refuse ends, step and scale that are allowed separately, but not together."""
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
    # In decimals, like Optuna: in floats, 0.3 is not three times 0.1.
    if (as_fraction(high) - as_fraction(low)) % as_fraction(step):
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
    """The conditions of a dimension, with values as the parents sample them.

    Conditions on a parent that is `unread`, because it is specified wrongly, stay as they are.
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
                hint = unknown_key(parent, standing) if standing else "nothing stands above it"
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
        raise StudyFileError(f"{at}: {shown(value)} is not allowed; it must be {knob.allowed}")
    if knob.kind == "float":
        return float(value) + 0.0  # type: ignore[arg-type]  # -0.0 is 0.0
    return value  # type: ignore[return-value]


def _known_keys(spec: Mapping[str, object], known: tuple[str, ...], at: str) -> None:
    if unknown := [key for key in spec if key not in known]:
        raise StudyFileError(*(f"{at}.{key}: {unknown_key(key, known)}" for key in unknown))
