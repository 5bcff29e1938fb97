"""Compare Optuna's storage with its copy, to find what the storage has lost."""

from __future__ import annotations

import json

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from catdog_search import sqlite
from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.retry import Retry
from catdog_search.search.study.schema import UID
from catdog_search.search.study.storage import about_storage, open_file

_FEW = 5


def lost(state: StateFolder, name: str | None = None, *, thorough: bool = False) -> list[str]:
    """Facts in the copy of the storage that the storage has lost or changed.

    A finished trial never changes, so it must be the same in both.

    Args:
        state: State folder that keeps both.
        name: Name of the study to look at; None for all.
        thorough: Whether to compare all that is known of a trial, not just its outcome.

    Returns:
        A line for each study that lost something.
    """
    kept = sqlite.kept_copy(state.optuna_db)
    if not kept.exists() or sqlite.damage(kept):
        return []
    retry = Retry(about_storage(state))
    then, now = (
        _lasting(open_file(state.to_read(path), retry), name, thorough)
        for path in (kept, state.optuna_db)
    )
    lines = []
    for study, before in then.items():
        after = now.get(study, {})
        if missing := [what for what, fact in before.items() if after.get(what) != fact]:
            lines.append(f"study {study!r}: {', '.join(missing[:_FEW])} of the copy are not there")
    return lines


def _lasting(storage: RDBStorage, name: str | None, thorough: bool) -> dict[str, dict[str, str]]:
    """Facts that never change, by study: its finished trials and its own id."""
    facts: dict[str, dict[str, str]] = {}
    try:
        for study in storage.get_all_studies():
            if name not in (None, study.study_name):
                continue
            known = storage.get_study_user_attrs(study._study_id)
            facts[study.study_name] = {UID: str(known.get(UID))} | {
                f"trial {trial.number}": _said(trial, thorough)
                for trial in storage.get_all_trials(study._study_id, deepcopy=False)
                if trial.state.is_finished()
            }
    # Any error: a damaged row may read as anything.
    except Exception as error:
        facts[name or "any"] = {f"rows ({type(error).__name__})": "unreadable"}
    finally:
        storage.engine.dispose()
    return facts


def _said(trial: FrozenTrial, thorough: bool) -> str:
    more = (trial.params, trial.intermediate_values, trial.user_attrs) if thorough else ()
    facts = (trial.state, trial.values, *more)
    return json.dumps(facts, sort_keys=True, default=str)


def require_kept(state: StateFolder, name: str) -> None:
    """Refuse to go on with a study that has lost trials, before the copy forgets them too.

    Raises:
        StateError: It has; the message names the cure.
    """
    state.require_whole(state.optuna_db, thorough=True)
    if lines := lost(state, name):
        kept = sqlite.kept_copy(state.optuna_db)
        raise StateError(
            f"{state.optuna_db}: {lines[0]}; {state.cure_of(state.optuna_db)}; "
            f"remove {kept} to do without"
        )
