"""The keys of a study file, for display to users."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from catdog_search.fields import Table, allowed_values
from catdog_search.study.config import NOT_IN_A_FILE, StudyConfig


@dataclass(frozen=True)
class Key:
    """One key of a study file, for display to users.

    Attributes:
        name: Key, with its table: `[training] epochs`.
        allowed: The allowed values, for people.
        default: Value where a file doesn't state it; None for no value.
        required: Whether every file must state it.
        doc: Meaning of the key, with its unit.
    """

    name: str
    allowed: str
    default: Any
    required: bool
    doc: str


def keys() -> Iterator[Key]:
    """All keys that a study file may have, outside its space and recipes."""
    yield from _keys_of(StudyConfig, "", without=("space", "recipes", *NOT_IN_A_FILE))


def _keys_of(table: type[Table], prefix: str, without: Sequence[str] = ()) -> Iterator[Key]:
    fields = {name: info for name, info in table.model_fields.items() if name not in without}
    below = {name: _table_of(info) for name, info in fields.items()}
    for name, info in fields.items():
        if below[name] is None:
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            allowed = allowed_values(info)
            doc = info.description or ""
            yield Key(f"{prefix}{name}", allowed, default, info.is_required(), doc)
    for name, nested in below.items():
        if nested is not None:
            each = ".RECIPE" if typing.get_origin(fields[name].annotation) is Mapping else ""
            yield from _keys_of(nested, f"[{name}{each}] ")


def _table_of(info: FieldInfo) -> type[Table] | None:
    """The table type of a field, which holds one such table or one for each recipe."""
    arms = typing.get_args(info.annotation) or (info.annotation,)
    last = arms[-1]
    return last if isinstance(last, type) and issubclass(last, Table) else None
