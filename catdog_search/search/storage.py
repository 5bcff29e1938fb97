"""Optuna's storage, and what a study remembers of itself in it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from catdog_search.config import LABELS, StudyConfig
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.models.resnet_plan import weights_id
from catdog_search.places import State, file_lock
from catdog_search.space import did_you_mean
from catdog_search.tracking.store import enable_wal

FINGERPRINT = "fingerprint"
UID = "study_uid"
# Which photos are in another split than by their own content, see `Manifest.moved`.
SPLITS = "splits"

# Optuna logs what our own events say better.
optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(state: State) -> RDBStorage:
    """Optuna's storage in `state`, made where it is absent: whole or not at all."""
    path = state.optuna_db
    if not path.exists():
        with file_lock(path.with_suffix(".lock")):
            if not path.exists():
                _make(path)
    return _storage(path)


def _make(path: Path) -> None:
    fresh = path.with_suffix(".new")
    for leftover in path.parent.glob(f"{fresh.name}*"):
        leftover.unlink()
    _storage(fresh).engine.dispose()
    enable_wal(fresh)
    fresh.replace(path)


def _storage(path: Path) -> RDBStorage:
    # Seconds to wait for another writer; sqlite gives up after 5 otherwise.
    waiting = {"connect_args": {"timeout": 60}}
    try:
        return RDBStorage(f"sqlite:///{path}", engine_kwargs=waiting)
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise StateError(f"Optuna storage {path}: {first}") from error


def existing_studies(state: State) -> list[str]:
    """Names of the studies in `state`, sorted; makes nothing."""
    if not state.optuna_db.exists():
        return []
    return sorted(optuna.get_all_study_names(_storage(state.optuna_db)))


def load_study(state: State, name: str) -> optuna.Study:
    """An existing study, to read.

    Raises:
        StateError: There is none of this name.
    """
    storage = _storage(state.optuna_db) if state.optuna_db.exists() else None
    names = sorted(optuna.get_all_study_names(storage)) if storage else []
    if storage is None or name not in names:
        there = did_you_mean(name, names, "recorded") if names else "it holds no study"
        raise StateError(f"no study {name!r} in {state.root}; {there}")
    return optuna.load_study(study_name=name, storage=storage)


def remembered_data(state: State, name: str) -> dict[str, Any] | None:
    """The choices of `[data]` that a study was made with; None where there is no such study."""
    made, _ = _remembered(state, name)
    return None if made is None else dict(made.get("data", {}))


def remembered_splits(state: State, name: str) -> tuple[str, dict[str, list[str]]] | None:
    """A study's dataset digest, and what `Manifest.moved` said of it; None for a new study."""
    made, attrs = _remembered(state, name)
    return None if made is None else (made["dataset_digest"], attrs.get(SPLITS, {}))


def _remembered(state: State, name: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What a study was made with, and its attributes; None where there is no such study."""
    if name not in existing_studies(state):
        return None, {}
    attrs = load_study(state, name).user_attrs
    return (json.loads(attrs[FINGERPRINT]) if FINGERPRINT in attrs else None), attrs


def open_study(
    state: State,
    config: StudyConfig,
    dataset: Dataset,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """The study of `config`, made or resumed.

    Raises:
        StateError: It was made with another space, objective or dataset; the differences are named.
    """
    study = optuna.create_study(
        storage=open_storage(state),
        sampler=sampler,
        pruner=pruner,
        study_name=config.name,
        direction=config.direction,
        load_if_exists=True,
    )
    now = {
        **config.fingerprint(),
        "dataset_digest": dataset.digest,
        "subset": dataset.subset,
    }
    if "weights" in now:
        now["weights"] = weights_id(config.weights)
    if FINGERPRINT not in study.user_attrs:
        study.set_user_attr(UID, uuid.uuid4().hex)
        study.set_user_attr(FINGERPRINT, json.dumps(now))
    made = json.loads(study.user_attrs[FINGERPRINT])
    then = _with_moved_labels(made, now)
    if changes := list(differences(then, now)):
        raise StateError(
            f"study {config.name!r} in {state.root} was made with another setting, so its trials "
            f"can't be compared: {'; '.join(changes)}. Give the changed study another name, or "
            "use another --state"
        )
    if then != made:
        study.set_user_attr(FINGERPRINT, json.dumps(then))
    if SPLITS not in study.user_attrs:
        study.set_user_attr(SPLITS, dataset.manifest.moved())
    return study


def _with_moved_labels(then: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What a study remembers, with its file of labels where that is now.

    What is in the file is compared with the dataset's digest.
    """
    was, moved = (dict(facts.get("data", {})) for facts in (then, now))
    files = {data.get("labels") for data in (was, moved)}
    if files & {None, *LABELS} or len(files) == 1:
        return then
    return {**then, "data": {**was, "labels": moved["labels"]}}


def differences(then: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """`space.dropout.high was 0.5, now 0.6`, one for every leaf that differs.

    A recipe that is new is no difference: it is tried next.
    """
    for key in sorted({*then, *now}):
        before, after, at = then.get(key), now.get(key), f"{path}{key}"
        if before == after or (path == "recipes." and key not in then):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after, f"{at}.")
        else:
            yield f"{at} was {_say(before)}, now {_say(after)}"


def _say(value: object) -> str:
    return "absent" if value is None else json.dumps(value, ensure_ascii=False)
