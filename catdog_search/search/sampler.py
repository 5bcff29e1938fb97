"""Who proposes params and who stops trials; seeded so that a resume proposes the same."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from catdog_search.config import PrunerConfig, SamplerConfig


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of a trial, 0 to 2**31 - 1, from the study's seed and the trial's number."""
    digest = hashlib.sha256(f"{study_seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def make_sampler(config: SamplerConfig, seed: int) -> BaseSampler:
    """The sampler of a study file."""
    if config.name == "random":
        return PerTrialSampler(lambda s: RandomSampler(seed=s), seed)
    start = config.n_startup_trials
    return PerTrialSampler(lambda s: TPESampler(n_startup_trials=start, seed=s), seed)


def make_pruner(config: PrunerConfig) -> BasePruner:
    """The pruner of a study file."""
    if config.name == "none":
        return NopPruner()
    return MedianPruner(config.n_startup_trials, config.n_warmup_epochs)


def report_epoch(study: Study, trial: Trial, epoch: int, value: float) -> bool:
    """Store an epoch's value and ask the pruner whether to go on.

    An earlier attempt may have reported this epoch, and later ones. `trial.report` would ignore
    the new value, and the pruner judges by the last epoch that it sees; so the value is
    overwritten, and later ones are kept from the pruner.

    Args:
        study: Of the trial.
        trial: That runs.
        epoch: From 0.
        value: The study's metric.
    """
    trial.storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
    frozen = copy.copy(trial.storage.get_trial(trial._trial_id))
    reported = frozen.intermediate_values.items()
    frozen.intermediate_values = {e: v for e, v in reported if e <= epoch}
    return not study.pruner.prune(study, frozen)


class PerTrialSampler(BaseSampler):
    """A fresh sampler for every trial, seeded from the study's seed and the trial's number.

    Optuna's samplers restart their random stream in every process, so a resumed study would
    repeat itself. Here what is proposed depends on the seed, the trial's number and the finished
    trials alone.

    Args:
        make: Makes the sampler from a seed.
        seed: Of the study.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._current: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            # One stream for the params, another for the training.
            seed = trial_seed(self._seed, trial.number) ^ 1
            self._current = (trial.number, self._make(seed))
        return self._current[1]

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
