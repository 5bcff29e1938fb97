"""KerasTuner's oracles, used like Optuna's samplers.

An oracle here remembers nothing: it is made for one proposal, told what the study knows of its
trials, and asked once. So the study is the one source of truth, and a kill loses nothing: the same
seed and the same trials give the same proposal. The oracle's own files, retries and failure counts
aren't used.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from catdog_search.kerastuner.hyperband import Rung, Told, needed, rung_of, tell_brackets
from catdog_search.kerastuner.package import keras_tuner
from catdog_search.kerastuner.spaces import Translation, of_ours
from catdog_search.objective import Direction
from catdog_search.space import Params, Space, params_key
from catdog_search.study.config import ORACLES, SamplerConfig

_RUNNING = "RUNNING"
# KerasTuner's own rule: number of random points per hyperparameter before it fits a model.
_INITIAL_POINTS = 3


@dataclass(frozen=True)
class Answer:
    """What an oracle proposes.

    Attributes:
        params: All active params.
        rung: Where the trial stands in Hyperband; None for other oracles.
    """

    params: Params
    rung: Rung | None = None


class Oracle:
    """Proposes params as one of KerasTuner's oracles does.

    Args:
        config: Study's `[sampler]` settings, which name an oracle.
        space: Study's search space.
        direction: Objective's direction.
        epochs: Number of epochs of a complete trial.
    """

    def __init__(
        self, config: SamplerConfig, space: Space, direction: Direction, epochs: int
    ) -> None:
        assert config.name in ORACLES
        self._config = config
        self._space = space
        self._direction = direction
        self._epochs = epochs
        self._translated: Translation | None = None

    def ask(
        self,
        number: int,
        seed: int,
        told: Sequence[Told],
        refused: Sequence[Params] = (),
        tried: Collection[str] = (),
    ) -> Answer | None:
        """Params for a trial; None where the oracle has no more.

        Args:
            number: Trial's number, from 0.
            seed: Seed of this proposal, from 1.
            told: All other trials of the study, by number.
            refused: Params that the oracle proposed for this trial and that were rejected.
            tried: Keys of the params that must not be proposed again; only used for grids.
        """
        from threadpoolctl import threadpool_limits

        # The matrices are small: threads would wait for each other, and sum in a varying order.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # scikit-learn's optimizer says when it stops early
            if self._config.name == "kt-grid":
                passed = {*tried, *map(params_key, refused)}
                left = (p for p in self._grid(seed) if params_key(p) not in passed)
                return next(map(Answer, left), None)
            oracle = self._make(seed)
            for trial in told:
                self._tell(oracle, str(trial.number), trial)
            # Told as running elsewhere, since an oracle keeps away from running trials.
            for i, params in enumerate(refused):
                self._tell(oracle, f"refused {i}", Told(number, params, "RUNNING"))
            if self._config.name == "kt-bayesian":
                _fit(oracle)
            brackets = tell_brackets(oracle, told) if self.has_rungs else []
            answer = oracle.populate_space(str(number))
            if answer["status"] != _RUNNING:
                return None
            values = answer["values"]
            rung = rung_of(oracle, brackets, number, told, values) if self.has_rungs else None
        return Answer(self._translation.to_ours(values), rung)

    @property
    def has_rungs(self) -> bool:
        """Whether trials are repeated with the same params and more epochs."""
        return self._config.name == "kt-hyperband"

    def needed(self, told: Sequence[Told]) -> set[int]:
        """Numbers of the trials that others continue, or may."""
        return needed(self._make(1), told) if self.has_rungs else set()

    @property
    def patience(self) -> int:
        """How often to ask for one trial: a model takes seconds and keeps proposing its optimum."""
        return 3 if self._config.name == "kt-bayesian" else 10

    @property
    def _translation(self) -> Translation:
        if self._translated is None:
            self._translated = of_ours(self._space)
        return self._translated

    def _make(self, seed: int) -> Any:
        oracles = keras_tuner().oracles
        facts = {
            "objective": keras_tuner().Objective("objective", self._direction[:3]),
            "seed": seed,
            "hyperparameters": self._translation.theirs,
        }
        match self._config.name:
            case "kt-grid":
                return oracles.GridSearchOracle(**facts)
            case "kt-bayesian":
                points = self._config.num_initial_points
                points = points or _INITIAL_POINTS * max(len(self._space.searched), 1)
                alpha, beta = self._config.alpha, self._config.beta
                more = {"num_initial_points": points, "alpha": alpha, "beta": beta}
                return oracles.BayesianOptimizationOracle(max_trials=None, **more, **facts)
            case "kt-hyperband":
                factor, sweeps = self._config.factor, self._config.hyperband_iterations
                more = {"factor": factor, "hyperband_iterations": sweeps}
                return oracles.HyperbandOracle(max_epochs=self._epochs, **more, **facts)
        return oracles.RandomSearchOracle(max_trials=None, **facts)

    def _tell(self, oracle: Any, name: str, told: Told) -> None:
        values = self._translation.to_theirs(told.params)
        oracle.trials[name] = trial = self._trial(name, values, told.status)
        trial.score = told.score
        if told.status == _RUNNING:
            oracle.ongoing_trials[name] = trial

    def _trial(self, name: str, values: Params, status: str) -> Any:
        hyperparameters = copy.copy(self._translation.theirs)  # the space is shared
        hyperparameters.values = values
        trial = keras_tuner().engine.trial.Trial
        return trial(hyperparameters=hyperparameters, trial_id=name, status=status)

    def _grid(self, seed: int) -> Iterator[Params]:
        """All points in the order in which KerasTuner's grid search tries them."""
        oracle = self._make(seed)
        for place in map(str, itertools.count()):
            answer = oracle.populate_space(place)
            if answer["status"] != _RUNNING:
                return
            oracle.trials[place] = self._trial(place, answer["values"], "COMPLETED")
            oracle.start_order.append(place)
            oracle._populate_next.append(place)  # as it does when a trial has ended
            yield self._translation.to_ours(answer["values"])


def _fit(oracle: Any) -> None:
    """Fit the model to known scores before it guesses those of running trials."""
    ongoing, oracle.ongoing_trials = oracle.ongoing_trials, {}
    everything = oracle.trials
    oracle.trials = {n: t for n, t in everything.items() if t.status == "COMPLETED"}
    if ongoing and oracle.trials:
        oracle.gpr.fit(*oracle._vectorize_trials())
    oracle.trials, oracle.ongoing_trials = everything, ongoing
