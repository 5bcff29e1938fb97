"""Samplers, seeded so that a resumed study proposes the same params."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from catdog_search.errors import StateError
from catdog_search.kerastuner.package import require_keras_tuner
from catdog_search.search.quiet import quiet_experiments
from catdog_search.space import Space
from catdog_search.study.config import ORACLES, SamplerConfig

_NEEDS = {"gp": "torch", "cmaes": "cmaes"}


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of a trial, 0 to 2**31 - 1, from the study's seed and the trial's number."""
    digest = hashlib.sha256(f"{study_seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def proposal_seed(study_seed: int, number: int) -> int:
    """The seed of a trial's params: a different stream from its training's, and never 0.

    A further sample for the same trial gets its own seed by incrementing the study's.
    """
    return (trial_seed(study_seed, number) ^ 1) or 2


def make_sampler(config: SamplerConfig, space: Space, seed: int) -> PerTrialSampler:
    """The sampler that a study file asks for.

    Raises:
        StateError: It needs a package that is not installed.
    """
    require_sampler(config)
    start, name = config.n_startup_trials, config.name
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "random": lambda s: RandomSampler(seed=s),
        "tpe": lambda s: TPESampler(n_startup_trials=start, seed=s),
        # The storage, not the random stream, determines which points come next.
        "qmc": lambda s: QMCSampler(seed=s),
        "grid": lambda s: _Grid(_grid(space), seed=s),
        "gp": lambda s: GPSampler(n_startup_trials=start, seed=s),
        "cmaes": lambda s: CmaEsSampler(n_startup_trials=start, seed=s),
        # Optuna needs some sampler to begin a trial; the oracle proposes the params.
        **dict.fromkeys(ORACLES, lambda s: RandomSampler(seed=s)),
    }
    return PerTrialSampler(makers[name], seed)


def require_sampler(config: SamplerConfig) -> None:
    """Refuse a sampler that can't work here.

    Raises:
        StateError: It needs a package that is not installed.
    """
    if config.name in ORACLES:
        require_keras_tuner(f"sampler {config.name!r}")
    package = _NEEDS.get(config.name)
    if package and importlib.util.find_spec(package) is None:
        raise StateError(
            f"sampler {config.name!r} needs the package {package}, which is not installed"
        )


class _Grid(GridSampler):
    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Do nothing: Optuna's would stop `study.optimize`, which nobody called."""


def _grid(space: Space) -> dict[str, list[Any]]:
    return {name: list(space.dimensions[name].values or ()) for name in space.searched}


class PerTrialSampler(BaseSampler):
    """A fresh sampler for every trial, seeded from the study's seed and the trial's number.

    Optuna's samplers restart their random stream in every process, so a resumed study would
    repeat itself. Here proposals depend only on the seed, the trial's number and the finished
    trials.

    Args:
        make: Factory of the sampler, called with a seed.
        seed: Study's seed, 0 to 2**32 - 1.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._draw = 0
        self._current: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            self._draw = 0
            self._current = (trial.number, self._fresh(trial.number))
        return self._current[1]

    def _fresh(self, number: int) -> BaseSampler:
        with quiet_experiments():
            return self._make(proposal_seed(self._seed + self._draw, number))

    def redraw(self, number: int) -> None:
        """Propose something else for a trial that hasn't taken its params yet."""
        self._draw += 1
        self._current = (number, self._fresh(number))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on."""
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Pass on."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Pass on."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Pass on."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass on."""
        self._of(trial).after_trial(study, trial, state, values)
