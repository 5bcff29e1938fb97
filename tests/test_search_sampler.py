"""Seeds, samplers and the pruner's view of a resumed trial."""

from __future__ import annotations

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from catdog_search.config import PrunerConfig, SamplerConfig
from catdog_search.search.sampler import make_pruner, make_sampler, report_epoch, trial_seed


def optimize(study: optuna.Study, n: int) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        return x**2 + trial.suggest_int("n", 0, 3) + trial.suggest_categorical("c", [0, 1])

    study.optimize(objective, n_trials=n)


def study_in(storage: optuna.storages.BaseStorage, config: SamplerConfig) -> optuna.Study:
    """As a new process would open it: with a new sampler."""
    sampler = make_sampler(config, seed=3)
    return optuna.create_study(
        study_name="s", storage=storage, sampler=sampler, load_if_exists=True
    )


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_sampler_resumed_in_pieces_proposes_the_same(name: str) -> None:
    config = SamplerConfig(name=name, n_startup_trials=5)  # type: ignore[arg-type]
    whole = study_in(optuna.storages.InMemoryStorage(), config)
    optimize(whole, 20)
    storage = optuna.storages.InMemoryStorage()
    for n in (1, 6, 13):
        optimize(study_in(storage, config), n)
    pieces = study_in(storage, config)
    assert [t.params for t in pieces.trials] == [t.params for t in whole.trials]
    assert len({t.params["x"] for t in whole.trials}) == 20


def test_trial_seed_differs_by_study_and_number() -> None:
    seeds = {trial_seed(study, number) for study in range(20) for number in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(("name", "kind"), [("median", "MedianPruner"), ("none", "NopPruner")])
def test_make_pruner_makes_the_named_one(name: str, kind: str) -> None:
    pruner = make_pruner(PrunerConfig(name=name))  # type: ignore[arg-type]
    assert type(pruner).__name__ == kind


class Recorder(BasePruner):
    """Remembers what it was shown, and prunes at a value below 0.2."""

    def __init__(self) -> None:
        self.shown: list[dict[int, float]] = []

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        self.shown.append(dict(trial.intermediate_values))
        return trial.intermediate_values[trial.last_step or 0] < 0.2


def test_report_epoch_hides_an_earlier_attempts_later_epochs() -> None:
    pruner = Recorder()
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    first_attempt = [report_epoch(study, trial, e, v) for e, v in enumerate((0.5, 0.6, 0.1))]
    second_attempt = [report_epoch(study, trial, e, v) for e, v in enumerate((0.4, 0.5, 0.7))]
    assert first_attempt == [True, True, False]
    assert second_attempt == [True, True, True]
    assert pruner.shown[3:] == [{0: 0.4}, {0: 0.4, 1: 0.5}, {0: 0.4, 1: 0.5, 2: 0.7}]
