"""Check a study file's tables as a whole, and report everything that is wrong, a line each."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from catdog_search.errors import Mistakes
from catdog_search.families.base import LARGEST_IMAGE
from catdog_search.fields import allowed_values
from catdog_search.objective import DIRECTION_OF
from catdog_search.space import did_you_mean, nearest
from catdog_search.study.config import NOT_IN_A_FILE, StudyConfig
from catdog_search.text import shown

# Stand-ins for required keys that are missing or wrong, so that the rest can be checked.
_STAND_INS = {
    "name": "study",
    "purpose": "a study",
    "image_size": LARGEST_IMAGE,
    "metric": "val_accuracy",
    "direction": "maximize",
    "trials": 1,
}


def check_study(
    table: Mapping[str, Any], file: str, mistakes: Mistakes
) -> tuple[StudyConfig, frozenset[str]]:
    """Validate a whole study file; its space and recipes have already been read.

    Args:
        table: The file's tables.
        file: File that messages name.
        mistakes: Collects all that is wrong: file, table, key, what came, what is allowed.

    Returns:
        The study, and the keys, such as `sampler.name`, whose wrong values were replaced in it;
        none if there is no mistake.
    """
    try:
        config, errors = StudyConfig.model_validate(table), []
    except ValidationError as error:
        errors = _telling(error.errors())
        mistakes.found += [_one_line(each, file) for each in errors]
        config = StudyConfig.model_validate(_sound(table, error.errors()))
    wrong = frozenset(".".join(map(str, each["loc"])) for each in errors)
    right = DIRECTION_OF[config.metric]
    if config.direction != right and wrong.isdisjoint(("metric", "direction")):
        mistakes.found.append(
            f"{file} direction: {config.direction!r} with metric {config.metric!r} looks for the "
            f"worst model; it must be {right!r}"
        )
    return config, wrong


def _telling(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The errors to report, unknown keys first; a misspelt key isn't reported as missing too."""
    unknown = [each for each in errors if each["type"] == "extra_forbidden"]
    meant = {(*each["loc"][:-1], nearest(str(each["loc"][-1]), _keys(each))) for each in unknown}
    others = [each for each in errors if each not in unknown]
    return unknown + [e for e in others if e["type"] != "missing" or e["loc"] not in meant]


def _keys(error: Mapping[str, Any]) -> Iterable[str]:
    """The keys of the table that an error is in."""
    owner: Any = StudyConfig
    for table in error["loc"][:-1]:
        owner = _field(owner, str(table)).annotation
    return tuple(name for name in owner.model_fields if name not in NOT_IN_A_FILE)


def _sound(table: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A table without its wrong values, and with stand-ins for required keys."""
    wrong = {tuple(map(str, each["loc"])) for each in errors}
    return {**_STAND_INS, **_without(table, wrong)}


def _without(table: Mapping[str, Any], wrong: Set[tuple[str, ...]]) -> dict[str, Any]:
    kept = {}
    for key, value in table.items():
        below = {rest for first, *rest_ in wrong if first == key and (rest := tuple(rest_))}
        if (key,) not in wrong:
            kept[key] = _without(value, below) if below else value
    return kept


def _one_line(error: Mapping[str, Any], file: str) -> str:
    *tables, key = (str(part) for part in error["loc"])
    owner: Any = StudyConfig
    if key in NOT_IN_A_FILE:
        error = {**error, "type": "extra_forbidden"}
    for table in tables:
        owner = _field(owner, table).annotation
    where = f"{file} [{'.'.join(tables)}]" if tables else file
    if error["type"] == "extra_forbidden":
        return f"{where} {key}: unknown; {did_you_mean(key, _keys(error))}"
    allowed = allowed_values(_field(owner, key))
    if error["type"] == "missing":
        return f"{where} {key}: is missing; it must be {allowed}"
    return f"{where} {key}: {shown(error['input'])} is not allowed; it must be {allowed}"


def _field(owner: Any, name: str) -> FieldInfo:
    """A field of a table; in a mapping with names of the user's own, all fields are alike."""
    if typing.get_origin(owner) is Mapping:
        return FieldInfo.from_annotation(typing.get_args(owner)[1])
    found: FieldInfo = owner.model_fields[name]
    return found
