"""Rename and delete studies, in Optuna, in MLflow and in the state folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass

import optuna

from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.scratch import only_coordinator
from catdog_search.search.study import schema
from catdog_search.search.study.changes import give_names
from catdog_search.search.study.settings import made_with
from catdog_search.search.study.storage import existing_studies, load_study, open_storage
from catdog_search.search.study.views import view_of
from catdog_search.study.config import require_free_name
from catdog_search.tracking.located import Located, locate
from catdog_search.tracking.renaming import discard_experiment, rename_experiment
from catdog_search.tracking.store import Store


@dataclass(frozen=True)
class Kept:
    """A study in a state folder.

    Attributes:
        name: Its name.
        counts: Number of trials by Optuna's state.
        best: Value of the best trial; None where none is COMPLETE.
        photos: Photos that it began with, for people; empty where it doesn't say.
        experiment: Name of its experiment in MLflow; None where it has none.
    """

    name: str
    counts: dict[str, int]
    best: float | None
    photos: str
    experiment: str | None


def kept(state: StateFolder) -> list[Kept]:
    """The studies of a state, by name; creates nothing."""
    return [look_at(state, name) for name in existing_studies(state)]


def look_at(state: StateFolder, name: str) -> Kept:
    """A study of a state.

    Raises:
        StateError: There is none of this name.
    """
    study = load_study(state, name)
    view, found = view_of(study), _place(state, study)
    return Kept(
        name=name,
        counts=dict(view.counts),
        best=view.best.value if view.best else None,
        photos=study.user_attrs.get(schema.PHOTOS, ""),
        experiment=found.experiment if found else None,
    )


def _place(state: StateFolder, study: optuna.Study) -> Located | None:
    """Where a study is in MLflow; None before its first run, or if it was lost."""
    uid = study.user_attrs.get(schema.UID)
    return locate(Store.of(state), study.study_name, uid) if uid else None


def rename(state: StateFolder, name: str, new: str) -> None:
    """Give a study another name; its trials, runs and models stay.

    Optuna's name is the one that counts: MLflow's experiment is found by the study's id, whatever
    it is called.

    Args:
        state: State folder that keeps the study.
        name: Study's name.
        new: Name that no other study has.

    Raises:
        StateError: There is no such study, or the new name is taken or invalid.
    """
    load_study(state, name)
    try:
        require_free_name(new)
    except ValueError as error:
        raise StateError(f"{new!r} can't be a study's name, which must be: {error}") from None
    if new in existing_studies(state):
        raise StateError(f"there is a study {new!r} in {state.root} already")
    with only_coordinator(state, name), only_coordinator(state, new):
        study = load_study(state, name)
        place = _place(state, study)
        if place is not None:
            rename_experiment(Store.of(state), place, name, new)
        study.set_user_attr(schema.FINGERPRINT, json.dumps({**made_with(study), "name": new}))
        give_names(open_storage(state), {study._study_id: new})
        state.keep_copy(state.optuna_db)
        _move_scratch(state, name, new)


def _move_scratch(state: StateFolder, name: str, new: str) -> None:
    """Move checkpoints along, so that a trial in flight can continue."""
    for path in state.scratch(name).glob("trial-*"):
        path.replace(state.scratch(new) / path.name)


def delete(state: StateFolder, name: str) -> None:
    """Delete a study; its experiment goes to MLflow's trash, registered models stay.

    Args:
        state: State folder that keeps the study.
        name: Study's name, which is free afterwards.

    Raises:
        StateError: There is no such study, or a store can't be written.
    """
    load_study(state, name)
    with only_coordinator(state, name):
        study = load_study(state, name)
        place = _place(state, study)
        if place is not None:
            # Renamed first, or the experiment in the trash would keep the study's name taken.
            uid = study.user_attrs[schema.UID]
            discard_experiment(Store.of(state), place, f"{name} (deleted {uid[:8]})")
        optuna.delete_study(study_name=name, storage=open_storage(state))
        state.keep_copy(state.optuna_db)
    shutil.rmtree(state.scratch(name), ignore_errors=True)
