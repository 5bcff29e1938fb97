"""Make an earlier version champion again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from catdog_search.errors import RequestError, StateError
from catdog_search.exporting import served
from catdog_search.places import StateFolder
from catdog_search.promotion.versions import find_model, require_version
from catdog_search.text import in_a_line, printable
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.registry import CHAMPION_URI, Model, Registry
from catdog_search.tracking.store import Store

LONGEST_REASON = 1000


@dataclass(frozen=True)
class RolledBack:
    """What was rolled back.

    Attributes:
        uri: `models:/<name>@champion`.
        version: Version that is champion now, from 1.
        before: Version that was champion before; None where there was none.
        reason: Reason, as recorded.
        tracking_uri: MLflow's tracking URI, without which the model's URI means nothing.
        unserved: Why the served file isn't this version's; None where it is.
    """

    uri: str
    version: int
    before: int | None
    reason: str
    tracking_uri: str
    unserved: str | None

    @property
    def moved(self) -> bool:
        """Whether the champion changed."""
        return self.version != self.before


def rollback(
    state: StateFolder,
    name: str,
    reason: str,
    to: int | None = None,
    agree: Callable[[int, int | None], None] = lambda to, before: None,
) -> RolledBack:
    """Make the previous version, or another one, champion.

    Args:
        state: State folder whose registry to use, unless MLFLOW_TRACKING_URI is set.
        name: Name of the registered model.
        reason: Why, in a line; it is recorded.
        to: Version; None for the previous one, according to the record of moves.
        agree: Called before anything is changed, with the new and the current version; raises to
            refuse.

    Raises:
        RequestError: The reason is empty or too long.
        StateError: There is no such model or version or no previous one, its files are gone, or
            the registry doesn't answer.
    """
    reason = _read_reason(reason)
    registry, model = find_model(state, name)
    target, before = _target(model, to), model.record.champion
    _require_files(registry, model, target)
    if target != before:
        agree(target, before)
    with state.registering():
        # If somebody has moved the alias, the previous version is a different one.
        if (found := registry.model(name).record.champion) != before:
            raise StateError(
                f"somebody else has moved {words.CHAMPION} of {name!r} meanwhile, from version "
                f"{before} to {found}; look with catdog-search models, and ask again"
            )
        registry.move(name, target, words.ROLLBACK, reason)
        store = Store.of(state)
        store.keep_copy()
        unserved = served.why_not_served(state, store, name)
    uri = CHAMPION_URI.format(name)
    return RolledBack(uri, target, before, reason, store.shown, unserved)


def _read_reason(text: str) -> str:
    reason = printable(in_a_line(text))
    if not 0 < len(reason) <= LONGEST_REASON:
        raise RequestError(f"--reason: takes 1 to {LONGEST_REASON} characters, has {len(reason)}")
    return reason


def _target(model: Model, to: int | None) -> int:
    if to is not None:
        require_version(model, to)
        return to
    previous = model.record.previous
    if previous is None:
        raise StateError(
            f"registered model {model.name!r} has no version before its {words.CHAMPION} on "
            "record; " + ("--to names one" if len(model.versions) > 1 else "it has but one version")
        )
    if previous not in {version.number for version in model.versions}:
        raise StateError(
            f"version {previous} of {model.name!r}, the one before, was deleted; --to names another"
        )
    return previous


def _require_files(registry: Registry, model: Model, version: int) -> None:
    if missing := registry.said(model.name, version).missing:
        raise StateError(
            f"version {version} of {model.name!r} can't be {words.CHAMPION}: {missing}; --to names "
            "another"
        )
