"""What a study file may contain, param by param and key by key, as `check` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from catdog_search.cli.common import say_entries, say_wrapped
from catdog_search.families import registry

# What is known of params that only a user's code knows.
FOUND = "those that its code asks of hp; `catdog-search check FILE` runs it and lists them"

if TYPE_CHECKING:
    from catdog_search.space import Knob, Space
    from catdog_search.study.keys import Key


def say_params_of(space: Space, family: str, knobs: Mapping[str, Knob]) -> None:
    """Print what a study does with each param of its family, and what it could do."""
    say_wrapped("params (none is required: one that [space] leaves out has its default):")
    found = {
        name: f"{values}, if {when}" if when else values for name, values, when in space.describe()
    }
    for name in knobs:
        found.setdefault(name, f"{_default(family, name, knobs[name])} (default)")
    say_entries((name, _entry(family, name, knobs[name], now)) for name, now in found.items())


def say_all(family: str) -> None:
    """Print everything that a study file of a family may contain."""
    from catdog_search.study.keys import keys

    if registry.is_found(family):
        say_wrapped(f"params of the family {family}: {FOUND}")
    else:
        say_wrapped(f"params of the family {family}, for [space] and recipes (none is required):")
    knobs = registry.knobs(family)
    say_entries((name, _entry(family, name, knob)) for name, knob in knobs.items())
    say_wrapped("keys of a study file, beside [space], which is required, and [recipes.NAME]:")
    say_entries((key.name, _key(key)) for key in keys())


def as_json(family: str, knobs: Mapping[str, Knob]) -> list[dict[str, Any]]:
    """Every param of a family, as plain values."""
    return [
        {
            "name": name,
            "allowed": knob.allowed,
            "default": knob.default,
            "defaults": registry.having(family, name),
            "required": False,
            "meaning": knob.doc,
        }
        for name, knob in knobs.items()
    ]


def keys_as_json() -> list[dict[str, Any]]:
    """Every key of a study file, as plain values."""
    from catdog_search.study.keys import keys

    return [
        {
            "name": key.name,
            "allowed": key.allowed,
            "default": key.default,
            "required": key.required,
            "meaning": key.doc,
        }
        for key in keys()
    ]


def _entry(family: str, name: str, knob: Knob, now: str | None = None) -> str:
    return "; ".join(_parts(family, name, knob, now))


def _parts(family: str, name: str, knob: Knob, now: str | None) -> Iterator[str]:
    default = _default(family, name, knob)
    if now is not None:
        yield now
    yield f"allowed: {knob.allowed}" if now is not None else knob.allowed
    if now != f"{default} (default)":
        yield f"default {default}"
    having = registry.having(family, name)
    if having and len(having) < len(registry.having(family, "dropout")):
        yield f"of {' and '.join(having)} alone"
    if not knob.allowed.endswith(knob.doc):
        yield knob.doc


def _default(family: str, name: str, knob: Knob) -> str:
    by_family = registry.having(family, name)
    if len(set(by_family.values())) > 1:
        return ", ".join(f"{value} in {row}" for row, value in by_family.items())
    return str(knob.default)


def _key(key: Key) -> str:
    given = "required" if key.required else f"default {_said(key.default)}"
    doc = "" if key.allowed.endswith(key.doc) else f"; {key.doc}"
    return f"{key.allowed}; {given}{doc}"


def _said(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default is None or default == {} else str(default)
