"""The space of a user's code, fixed or narrowed by a study file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from catdog_search.errors import Mistakes, StudyFileError
from catdog_search.families.hypermodel import Hypermodel
from catdog_search.space import (
    Choice,
    Dimension,
    Fixed,
    Knob,
    Params,
    Range,
    Space,
    Value,
)
from catdog_search.study.space_file import parse_space


def knobs_of(code: Hypermodel) -> dict[str, Knob]:
    """Knobs that a study file may set of the code's space, by name."""
    return {name: _knob(code, name) for name in code.space.dimensions}


def _knob(code: Hypermodel, name: str) -> Knob:
    dimension = code.space.dimensions[name]
    kind: Literal["int", "float", "choice"] = "choice"
    if isinstance(dimension, Range):
        kind = "int" if dimension.is_int else "float"
    theirs = code.names[name]
    doc = f"of {code.name}" + ("" if theirs == name else f", which calls it {theirs}")
    # A file names a value of a step as people reckon; a bool or a text is not counted.
    return Knob(kind, dimension.describe(), doc, code.defaults[name], dimension.contains)


def narrowed(code: Hypermodel, table: Mapping[str, object], where: str) -> Space:
    """The space of the code as `[space]` of a study file fixes and narrows it.

    Its conditions stay; dimensions that can no longer be active are left out.

    Args:
        code: Code's space and defaults, as found.
        table: The table as TOML gave it.
        where: Prefix of messages: `studies/own.toml [space]`.

    Raises:
        StudyFileError: The table asks for what the code can't do, or sets a condition of its own.
    """
    mistakes = Mistakes()
    said = parse_space(table, knobs_of(code), where, mistakes).dimensions
    mistakes.require_none()
    found: dict[str, Dimension] = {}
    for name, dimension in code.space.dimensions.items():
        when = _left_of(dimension.when, found)
        if when is None:
            if name in said:
                raise StudyFileError(f"{where} {name}: is never active with what is said above")
            continue
        own = _narrow(dimension, said[name], f"{where} {name}") if name in said else dimension
        found[name] = replace(own, when=when)
    return Space(found)


def _left_of(
    when: Mapping[str, tuple[Value, ...]], above: Mapping[str, Dimension]
) -> dict[str, tuple[Value, ...]] | None:
    """The part of a condition that its parents can still meet; None if there is none."""
    left: dict[str, tuple[Value, ...]] = {}
    for parent, allowed in when.items():
        if parent in above:
            left[parent] = tuple(value for value in allowed if above[parent].contains(value))
        if not left.get(parent):
            return None
    return left


def _narrow(dimension: Dimension, said: Dimension, at: str) -> Dimension:
    """A dimension restricted to the stated values, all of which are its own."""
    if said.when:
        raise StudyFileError(f"{at}.when: its conditions are those of the code; leave it out")
    match said:
        case Fixed():
            return Fixed(_own(dimension, said.value))
        case Choice():
            return Choice(tuple(_own(dimension, value) for value in said.choices))
    assert isinstance(dimension, Range), "nothing else has a low and a high"
    if said.log or said.step is not None:
        raise StudyFileError(
            f"{at}: its scale and step are those of the code ({dimension.describe()}); give low "
            "and high, or choices"
        )
    if dimension.reverse and dimension.step is not None:
        raise StudyFileError(f"{at}: its steps count from high; give choices")
    low, high = _own(dimension, said.low), _own(dimension, said.high)
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    return replace(dimension, low=low, high=high)


def _own(dimension: Dimension, value: Value) -> Value:
    own = dimension.canonical(value)
    assert own is not None, "the knob took it"
    return own


def preferred(code: Hypermodel, space: Space, params: Params) -> Params:
    """A recipe's params with the code's defaults for those that it doesn't name."""
    whole = dict(params)
    for name, dimension in space.dimensions.items():
        is_free = name not in whole and not isinstance(dimension, Fixed)
        given = {
            **whole,
            **{n: d.value for n, d in space.dimensions.items() if isinstance(d, Fixed)},
        }
        if is_free and space.is_active(name, given) and dimension.contains(code.defaults[name]):
            whole[name] = code.defaults[name]
    return whole
