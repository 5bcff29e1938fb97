"""Optuna's storage, and what a study remembers about itself there."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from catdog_search.data.dataset import Dataset
from catdog_search.errors import CatdogError, StateError
from catdog_search.places import StateFolder, make_database
from catdog_search.retry import Retry
from catdog_search.search.study import changes
from catdog_search.search.study.schema import (
    DATA_STATED,
    FINGERPRINT,
    OUTSIDE,
    PHOTOS,
    SPLITS,
    UID,
    WEIGHTS,
)
from catdog_search.search.study.settings import about_photos, made_with, require_same, settings_of
from catdog_search.space import did_you_mean
from catdog_search.study.config import StudyConfig
from catdog_search.tracking.store import sqlite_uri

# Seconds that sqlite waits for another writer: short for calls that are retried, since retries are
# announced; long for the others, which wait silently.
_WAIT_S, _ALONE_WAIT_S = 5.0, 60.0

# Our own events say better what Optuna logs.
optuna.logging.set_verbosity(optuna.logging.ERROR)


class _RetryingStorage(RDBStorage):
    """Optuna's storage, which retries each call that failed for a reason that may pass.

    Every call is one transaction, which sqlite rolls back if it fails, so it may be repeated.
    """

    def __init__(self, path: Path, wait_s: float, retry: Retry) -> None:
        self._retry = retry
        # Seconds that sqlite waits silently for another writer; its default is 5.
        waiting = {"connect_args": {"timeout": wait_s}}
        # Optuna treats the URL as a template and fills in braces.
        url = sqlite_uri(path).replace("{", "{{").replace("}", "}}")
        super().__init__(url, engine_kwargs=waiting)


def _retried(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def call(self: _RetryingStorage, *args: Any, **options: Any) -> Any:
        return self._retry(functools.partial(method, self, *args, **options))

    return call


# What Optuna's cache calls on the storage behind it: the public methods and four private ones.
for _name in (
    *sorted(BaseStorage.__abstractmethods__),
    *("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id"),
):
    setattr(_RetryingStorage, _name, _retried(_name))


def about_storage(state: StateFolder) -> str:
    """The storage's name, for people."""
    return f"Optuna storage {state.optuna_db}"


def open_storage(state: StateFolder, retry: Retry | None = None) -> RDBStorage:
    """Optuna's storage in `state`, created atomically if it doesn't exist.

    Args:
        state: State folder that keeps the storage.
        retry: Retry that makes every call; None tries each once.
    """
    state.require_home()
    path = state.optuna_db
    state.require_whole(path)
    make_database(
        path, lambda fresh: open_file(fresh, Retry(about_storage(state))).engine.dispose()
    )
    return open_file(path, retry, _WAIT_S) if retry else _existing(state)


def open_file(path: Path, retry: Retry, wait_s: float = _ALONE_WAIT_S) -> RDBStorage:
    """The storage in a sqlite file.

    Raises:
        StateError: It can't be opened.
    """
    try:
        return retry(lambda: _RetryingStorage(path, wait_s, retry))
    except CatdogError:
        raise
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise StateError(f"Optuna storage {path}: {first}") from error


def existing_studies(state: StateFolder) -> list[str]:
    """Names of the studies in `state`, sorted; creates nothing."""
    state.require_home()
    state.require_whole(state.optuna_db)
    if not state.optuna_db.exists():
        return []
    return _names(_existing(state))


def _names(storage: RDBStorage) -> list[str]:
    return sorted(n for n in optuna.get_all_study_names(storage) if not changes.is_aside(n))


def _existing(state: StateFolder) -> RDBStorage:
    return open_file(state.to_read(state.optuna_db), Retry(about_storage(state)))


def recorded_studies(state: StateFolder) -> list[optuna.Study]:
    """Every study in `state`, even if that isn't at home; creates nothing."""
    if not state.optuna_db.exists():
        return []
    storage = _existing(state)
    names = _names(storage)
    return [optuna.load_study(study_name=name, storage=storage) for name in names]


def change_attributes(
    state: StateFolder, keys: Collection[str], change: Callable[[str, Any], Any]
) -> int:
    """Change attributes of all studies in `state`, in one transaction.

    Args:
        state: State folder; it need not be at home.
        keys: Keys of the attributes.
        change: Function that gives an attribute's new value, by its key and value.

    Returns:
        Number of attributes that were changed.

    Raises:
        StateError: The storage can't be opened or written.
    """
    if not state.optuna_db.exists():
        return 0
    table = sa.table("study_user_attributes", *map(sa.column, ("study_id", "key", "value_json")))
    changed = 0
    engine = _existing(state).engine
    try:
        with engine.begin() as connection:
            for row in connection.execute(sa.select(table).where(table.c.key.in_(keys))).all():
                value = change(row.key, was := json.loads(row.value_json))
                if value == was:
                    continue
                at = (table.c.study_id == row.study_id) & (table.c.key == row.key)
                connection.execute(table.update().where(at).values(value_json=json.dumps(value)))
                changed += 1
    except SQLAlchemyError as error:
        first = str(error).strip().splitlines()[0]
        raise StateError(f"Optuna storage {state.optuna_db}: {first}") from error
    finally:
        engine.dispose()
    return changed


def load_study(state: StateFolder, name: str) -> optuna.Study:
    """An existing study, to read.

    Raises:
        StateError: There is none of this name.
    """
    state.require_home()
    state.require_whole(state.optuna_db)
    storage = _existing(state) if state.optuna_db.exists() else None
    names = _names(storage) if storage else []
    if storage is None:
        raise StateError(f"no study {name!r}: {state.nothing}")
    if name not in names:
        there = did_you_mean(name, names, "recorded") if names else "it holds no study"
        raise StateError(f"no study {name!r} in {state.root}; {there}")
    return optuna.load_study(study_name=name, storage=storage)


def remembered_data(state: StateFolder, name: str) -> dict[str, Any] | None:
    """The choices of `[data]` that a study was made with; None where there is no such study."""
    made, _ = _remembered(state, name)
    return None if made is None else dict(made.get("data", {}))


def stated_data(state: StateFolder, name: str) -> dict[str, Any] | None:
    """The choices of photos that a study's file stated last; None where that isn't known."""
    found: dict[str, Any] | None = _remembered(state, name)[1].get(DATA_STATED)
    return found


def remembered_splits(state: StateFolder, name: str) -> tuple[str, dict[str, list[str]]] | None:
    """A study's dataset digest, and what `Manifest.moved` said of it; None for a new study."""
    made, attrs = _remembered(state, name)
    return None if made is None else (made["dataset_digest"], attrs.get(SPLITS, {}))


def remembered_weights(state: StateFolder, name: str) -> str | None:
    """Origin of the weights that a study loaded last, as `--weights` takes it; None for none."""
    found: str | None = _remembered(state, name)[1].get(WEIGHTS)
    return found


def _remembered(state: StateFolder, name: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Settings that a study was made with, and its attributes; None and empty without a study."""
    if name not in existing_studies(state):
        return None, {}
    study = load_study(state, name)
    return made_with(study) or None, study.user_attrs


def open_study(
    state: StateFolder,
    config: StudyConfig,
    dataset: Dataset,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
    retry: Retry | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> optuna.Study:
    """The study of `config`, created or resumed, under its current space and settings.

    Args:
        state: State folder that keeps the study.
        config: Study's configuration.
        dataset: Dataset that it trains on.
        sampler: Sampler that proposes its trials.
        pruner: Pruner that stops them early.
        retry: Retry that makes every call to the storage; None tries each once.
        say: Callback for what has changed, a line each.

    Raises:
        StateError: A setting changed that makes its trials incomparable; the message names it.
    """
    storage = open_storage(state, retry)
    study = optuna.create_study(
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        study_name=config.name,
        direction=config.direction,
        load_if_exists=True,
    )
    if FINGERPRINT not in study.user_attrs:
        study.set_user_attr(UID, uuid.uuid4().hex)
        study.set_user_attr(FINGERPRINT, json.dumps(settings_of(config, dataset)))
        study.set_user_attr(PHOTOS, about_photos(dataset))
    before, now = made_with(study), require_same(study, config, dataset, state)
    if now != before:
        for line in changes.told(before, now, study, config):
            say(line)
        if now["space"] != before["space"]:
            study = changes.moved(study, storage, config)
            left = changes.outside(study.get_trials(deepcopy=False), config)
            study.set_user_attr(OUTSIDE, {str(number): params for number, params in left.items()})
        study.set_user_attr(FINGERPRINT, json.dumps(now))
    if SPLITS not in study.user_attrs:
        study.set_user_attr(SPLITS, dataset.manifest.moved())
    return study
