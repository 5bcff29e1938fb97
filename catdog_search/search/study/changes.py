"""Change the space, sampler or pruner of a study that has trials.

A trial keeps its value whatever the space, the sampler or the pruner becomes. What gives the value
its meaning (photos, metric, network family, length of training) is fixed by the first trial.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import optuna
import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from catdog_search.errors import StateError
from catdog_search.search.study import schema
from catdog_search.search.study.settings import differences
from catdog_search.space import Params, Space
from catdog_search.study.config import StudyConfig
from catdog_search.text import first_line

# Marks the name of a copy that hasn't yet replaced its study.
_BEGUN = "(space changes: "


class Suggesting(Protocol):
    """Answers a space's suggest calls as an Optuna trial does, given each param's distribution."""

    def take(self, name: str, distribution: BaseDistribution) -> Any:
        """Value of a param."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Take an integer."""
        return int(self.take(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """Take a float."""
        return float(self.take(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Take one of the choices."""
        return self.take(name, CategoricalDistribution(choices))


class _Recorder(Suggesting):
    """Notes the distributions that it is asked to draw from.

    Attributes:
        found: Distributions by param.
    """

    def __init__(self) -> None:
        self.found: dict[str, BaseDistribution] = {}

    def take(self, name: str, distribution: BaseDistribution) -> Any:
        """Any value of the distribution."""
        self.found[name] = distribution
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[0]
        assert isinstance(distribution, IntDistribution | FloatDistribution), "there are no others"
        return distribution.low


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each param that a space searches."""
    recorder = _Recorder()
    for name, dimension in space.dimensions.items():
        dimension.suggest(name, recorder)
    return recorder.found


def outside(trials: list[FrozenTrial], config: StudyConfig) -> dict[int, Params]:
    """The params of trials that the space doesn't have, by the trial's number.

    Those that [space] leaves out, or has under other conditions only, must have their defaults.
    """
    begun = [trial for trial in trials if schema.PARAMS in trial.user_attrs]
    found = {trial.number: _outside(trial, config) for trial in begun}
    return {number: params for number, params in found.items() if params}


def _outside(trial: FrozenTrial, config: StudyConfig) -> Params:
    space, has = config.space, _params(trial, config)
    active = {name: value for name, value in has.items() if space.is_active(name, has)}
    out = {n: value for n, value in active.items() if not space.dimensions[n].contains(value)}
    if out:
        return out
    was = config.trial_params(trial.user_attrs[schema.PARAMS]).told()
    now = config.trial_params(active).told()
    return {name: value for name, value in was.items() if now.get(name, value) != value}


def _params(trial: FrozenTrial, config: StudyConfig) -> Params:
    """All params that a trial was trained with, in terms of the current space."""
    own: Params = trial.user_attrs.get(schema.PARAMS, trial.params)
    known = {**config.trial_params(own).model_dump(), **own}
    return {name: known[name] for name in config.space.dimensions if name in known}


def moved(study: optuna.Study, storage: RDBStorage, config: StudyConfig) -> optuna.Study:
    """The study under the space of `config`: a copy of it, trials in order, that replaces it.

    Optuna can't change the choices of a param, and leaves a param out of its model where ranges
    differ between trials. A trial outside the new space keeps its objective and all its params, but
    the sampler no longer sees the params that are outside.

    Args:
        study: Study as it is.
        storage: Its storage.
        config: Study's configuration, with the new space.

    Raises:
        StateError: An unfinished trial is outside the new space, or the storage can't be written.
    """
    trials = study.get_trials(deepcopy=False)
    _require_finished(trials, config)
    _remove_left(storage, study.study_name)
    beside = optuna.create_study(
        storage=storage,
        study_name=f"{study.study_name} {_BEGUN}{uuid.uuid4().hex})",
        direction=study.direction,
        sampler=study.sampler,
        pruner=study.pruner,
    )
    for key, value in study.user_attrs.items():
        beside.set_user_attr(key, value)
    for key, value in storage.get_study_system_attrs(study._study_id).items():
        storage.set_study_system_attr(beside._study_id, key, value)
    wanted = distributions(config.space)
    for trial in trials:
        beside.add_trial(_under(trial, wanted, config))
    _swap(storage, study, beside)
    return optuna.load_study(
        study_name=study.study_name, storage=storage, sampler=study.sampler, pruner=study.pruner
    )


def _require_finished(trials: list[FrozenTrial], config: StudyConfig) -> None:
    if left := outside([t for t in trials if not t.state.is_finished()], config):
        numbers = ", ".join(map(str, left))
        raise StateError(
            f"study {config.name!r}: trial {numbers} isn't finished and lies outside of the space "
            "as it is now; run the study as it was to its end, or leave those params in"
        )


def _under(
    trial: FrozenTrial, wanted: Mapping[str, BaseDistribution], config: StudyConfig
) -> FrozenTrial:
    """A trial under other distributions, with only those of its params that they contain."""
    changed = copy.deepcopy(trial)
    if schema.PARAMS not in trial.user_attrs:
        return changed  # it is queued and has none yet
    has = _params(trial, config)
    kept = {
        name: distribution
        for name, distribution in wanted.items()
        if name in has
        and config.space.is_active(name, has)
        and config.space.dimensions[name].contains(has[name])
    }
    changed.params = {name: config.space.for_sampler(name, has[name]) for name in kept}
    changed.distributions = kept
    return changed


def _swap(storage: RDBStorage, study: optuna.Study, beside: optuna.Study) -> None:
    """Give `beside` the name of `study` in one transaction, and remove `study`."""
    name, aside = study.study_name, beside.study_name + " "
    # In this order, so that no two studies ever have the same name.
    give_names(storage, {study._study_id: aside, beside._study_id: name})
    _remove_left(storage, name)


def give_names(storage: RDBStorage, names: Mapping[int, str]) -> None:
    """Give studies other names, one after another in one transaction.

    Args:
        storage: Their storage.
        names: New names by the studies' ids in Optuna's database.

    Raises:
        StateError: The storage can't be written.
    """
    table = sa.table("studies", *map(sa.column, ("study_id", "study_name")))
    try:
        with storage.engine.begin() as connection:
            for number, name in names.items():
                is_it = table.c.study_id == number
                connection.execute(table.update().where(is_it).values(study_name=name))
    except SQLAlchemyError as error:
        raise StateError(f"Optuna storage: a study can't be named: {first_line(error)}") from error


def _remove_left(storage: RDBStorage, name: str) -> None:
    """Remove copies that an interrupted change left beside a study."""
    for each in storage.get_all_studies():
        if each.study_name.startswith(f"{name} {_BEGUN}"):
            storage.delete_study(each._study_id)


def is_aside(study_name: str) -> bool:
    """Whether a study is a copy that a change put beside the original."""
    return _BEGUN in study_name


def told(
    then: Mapping[str, Any], now: Mapping[str, Any], study: optuna.Study, config: StudyConfig
) -> Iterator[str]:
    """What changed and what becomes of the trials so far, for people.

    Args:
        then: Settings that the study remembers.
        now: Settings that it goes on with.
        study: Study as it is.
        config: Study's configuration as it is now.
    """
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    said = "; ".join(map(str, differences(then, now)))
    if not trials or not said:
        return
    yield f"changed since the study began: {said}; its trials so far stay and count"
    if left := outside(trials, config):
        numbers = ", ".join(map(str, left))
        yield f"outside of the space as it is now: trial{'' if len(left) == 1 else 's'} {numbers}"
