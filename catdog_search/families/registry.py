"""All families, and the one place that knows what `family = "any"` means."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from catdog_search.families.base import Domain, Family, Rule, TrialParams, UnreadError
from catdog_search.families.cnn import CNN
from catdog_search.families.hypermodel import HYPERMODEL
from catdog_search.families.resnet50 import RESNET50
from catdog_search.fields import knobs_of
from catdog_search.space import Knob, Params, Value

# By name, the default first. A new family is a row here and its own files.
FAMILIES: dict[str, Family[Any]] = {row.name: row for row in (CNN, RESNET50, HYPERMODEL)}
# A study over several families; the param says which family a trial belongs to.
ANY_FAMILY = "any"
NETWORK = "network"


def names() -> tuple[str, ...]:
    """The values that a study's family may take."""
    return (*FAMILIES, ANY_FAMILY)


def default() -> str:
    """The family of a study that names none."""
    return next(iter(FAMILIES))


def _members(family: str) -> tuple[Family[Any], ...]:
    """The families that a study may include."""
    return tuple(declared().values()) if family == ANY_FAMILY else (FAMILIES[family],)


def declared() -> dict[str, Family[Any]]:
    """The families whose params are declared, by name; a hypermodel's are found by running it."""
    return {name: row for name, row in FAMILIES.items() if row is not HYPERMODEL}


def is_found(family: str) -> bool:
    """Whether what a study of a family may search is found by running a user's code."""
    return family == HYPERMODEL.name


def knobs(family: str) -> dict[str, Knob]:
    """What a study of a family may search, by name; of several families, the first one wins."""
    found: dict[str, Knob] = {}
    if family == ANY_FAMILY:
        allowed = "one of " + ", ".join(declared())
        found[NETWORK] = Knob("choice", allowed, "family of the trial", default(), _is_name)
    for row in reversed(_members(family)):
        found |= knobs_of(row.params) if row.name in declared() else {}
    return found


def having(family: str, name: str) -> dict[str, Value]:
    """The families of a study that have a param, with its default in each.

    Empty for what belongs to no family: `network` itself.
    """
    fields = {row.name: row.params.model_fields for row in _members(family)}
    return {row: infos[name].default for row, infos in fields.items() if name in infos}


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value in declared()


def resolve(family: str, params: Params) -> tuple[Family[Any], Params]:
    """The family that a trial of a study belongs to, and that family's params.

    Args:
        family: Family of the study, or `any` where it has several.
        params: Params of the trial; with several families, `network` may be among them.
    """
    own = dict(params)
    name = str(own.pop(NETWORK, default())) if family == ANY_FAMILY else family
    return FAMILIES[name], own


def family_of(trial: TrialParams) -> Family[Any]:
    """The family that a trial's params belong to."""
    return next(row for row in FAMILIES.values() if row.params is type(trial))


def problems(family: str, domain: Domain) -> Iterator[str]:
    """Conflicts between a study's params, a line each, beginning with the place in its file."""
    for rule in _rules(family, domain):
        with contextlib.suppress(UnreadError):  # what is wrong there is told already
            yield from rule(domain)


def _rules(family: str, domain: Domain) -> Iterator[Rule]:
    """The rules of the families possible in a study's space."""
    if family == ANY_FAMILY:
        yield _foreign
    with contextlib.suppress(UnreadError):
        yield from (rule for row in _possible(family, domain) for rule in row.rules)


def _possible(family: str, domain: Domain) -> list[Family[Any]]:
    """The families possible in a study's space; what the others ask doesn't apply."""
    rows = _members(family)
    return [row for row in rows if family != ANY_FAMILY or row.name in _networks(domain)]


def _foreign(domain: Domain) -> Iterator[str]:
    """Params that a trial could be given although its family lacks them."""
    for name in domain.space.dimensions:
        having = [row.name for row in declared().values() if name in row.params.model_fields]
        if name != NETWORK and (without := sorted(_networks_with(name, domain).difference(having))):
            when = json.dumps(having[0] if len(having) == 1 else having)
            yield (
                f"[space] {name}: {' and '.join(without)} has no such param; add when = "
                f"{{ {NETWORK} = {when} }}"
            )


def _networks(domain: Domain) -> set[str]:
    """Names of the families that a trial can have."""
    said = domain.dimension(NETWORK)
    now_and_then = {default()} if said and said.when else set()
    return {*map(str, domain.values(NETWORK)), *now_and_then}


def _networks_with(name: str, domain: Domain) -> set[str]:
    """Names of the families that a trial can have while a param is active."""
    found = _networks(domain)
    for parent, values in domain.space.dimensions[name].when.items():
        found &= set(map(str, values)) if parent == NETWORK else _networks_with(parent, domain)
    return found


def loads_weights(family: str) -> bool:
    """Whether a study of a family may choose the weights that its trials start from."""
    return any(row.loads_weights for row in _members(family))


def require_weights(family: str, domain: Domain, weights: str) -> None:
    """Refuse weights that a study's trials can't start from; may access the network.

    Raises:
        DataError: Why, and what is allowed.
    """
    for row in _possible(family, domain):
        if row.require_weights:
            row.require_weights(weights)
