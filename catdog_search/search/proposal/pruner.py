"""Pruners, which stop trials that look hopeless."""

from __future__ import annotations

import copy

from optuna import Study
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import Trial

from catdog_search.search.quiet import quiet_experiments
from catdog_search.study.config import PrunerConfig


def make_pruner(config: PrunerConfig, epochs: int) -> BasePruner:
    """The pruner that a study file asks for.

    Args:
        config: Study's `[pruner]` settings.
        epochs: Number of epochs of a complete trial.
    """
    startup, warmup = config.n_startup_trials, config.n_warmup_epochs
    match config.name:
        case "none":
            return NopPruner()
        case "percentile":
            return PercentilePruner(config.percentile, startup, warmup)
        case "asha":
            return SuccessiveHalvingPruner(config.min_epochs, config.reduction_factor)
        case "hyperband":
            return HyperbandPruner(config.min_epochs, epochs, config.reduction_factor)
        case "patient":
            with quiet_experiments():
                return PatientPruner(MedianPruner(startup, warmup), config.patience)
        case "median":
            return MedianPruner(startup, warmup)


def report_epoch(study: Study, trial: Trial, epoch: int, value: float) -> bool:
    """Store an epoch's value and ask the pruner whether to go on.

    An earlier attempt may have reported this epoch and later ones. `trial.report` would ignore
    the new value, and the pruner judges by the last epoch that it sees; so the value is
    overwritten and later ones are hidden from the pruner.

    Args:
        study: Trial's study.
        trial: RUNNING trial.
        epoch: Epoch's index, from 0.
        value: Value of the study's metric.
    """
    trial.storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
    frozen = copy.copy(trial.storage.get_trial(trial._trial_id))
    reported = frozen.intermediate_values.items()
    frozen.intermediate_values = {e: v for e, v in reported if e <= epoch}
    return not study.pruner.prune(study, frozen)
