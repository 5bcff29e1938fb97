"""Tables of settings: each field is typed, bounded and described where it is declared."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Literal

import annotated_types
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from catdog_search.space import Knob


class Table(BaseModel):
    """Settings of which none is unknown, of another type, or changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def knobs_of(table: type[Table]) -> dict[str, Knob]:
    """The fields of a table as what a study may search, by name."""
    return {name: _knob(info) for name, info in table.model_fields.items()}


def _knob(info: FieldInfo) -> Knob:
    annotation: Any = info.annotation
    if info.metadata:
        annotation = Annotated[annotation, *info.metadata]
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=strict)

    def accepts(value: object) -> bool:
        try:
            taken = adapter.validate_python(value)
        except ValidationError:
            return False
        # Where 3 is one of a few values, 3.0 would pass but be a different value.
        return type(taken) is type(value) or isinstance(taken, float)

    kind = {int: "int", float: "float", bool: "bool"}.get(info.annotation, "choice")  # type: ignore[arg-type]
    return Knob(kind, allowed_values(info), info.description or "", info.default, accepts)  # type: ignore[arg-type]


def allowed_values(info: FieldInfo) -> str:
    """The allowed values of a field, for display: `a whole number in [1, 7]`."""
    annotation = _stated(info.annotation)
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(annotation)))
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    kind = kinds.get(annotation, "a table")
    bounds = _bounds(info)
    return f"{kind} in {bounds}" if bounds else f"{kind}" if kind != "a text" else _text(info)


def _stated(annotation: Any) -> Any:
    """The type of a value that a file states; None stands for one that it leaves out."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation,) = (arm for arm in typing.get_args(annotation) if arm is not type(None))
    return annotation


def _text(info: FieldInfo) -> str:
    return f"a text: {info.description}"


def _bounds(info: FieldInfo) -> str:
    left, right = "(-∞", "∞)"
    for limit in info.metadata:
        match limit:
            case annotated_types.Ge(ge=x):
                left = f"[{x:g}"
            case annotated_types.Gt(gt=x):
                left = f"({x:g}"
            case annotated_types.Le(le=x):
                right = f"{x}]"
            case annotated_types.Lt(lt=x):
                right = f"{x})"
    return "" if (left, right) == ("(-∞", "∞)") else f"{left}, {right}"
