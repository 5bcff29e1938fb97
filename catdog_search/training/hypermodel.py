"""How the family `hypermodel` is trained: a user's network, by our loop or by its own `fit`."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from catdog_search import clock
from catdog_search.errors import RequestError, StateError, UnfitParamsError
from catdog_search.families.hypermodel import HypermodelParams
from catdog_search.kerastuner import networks, targets
from catdog_search.kerastuner.targets import Target
from catdog_search.text import named_line
from catdog_search.training.batches import TrainBatches, ValBatches
from catdog_search.training.callbacks import ReportCallback
from catdog_search.training.plan import CompiledPhase, Phase, Task, TrainingPlan

# Keras `fit`'s default; a hypermodel that wants another has its own `fit`.
_BATCH_SIZE = 32


class HypermodelTraining:
    """The network of one trial.

    Args:
        task: Training to plan.
        target: The user's code.

    Raises:
        UnfitParamsError: The code rejects its params, or what it builds exceeds a limit or can't
            be served.
    """

    def __init__(self, task: Task[HypermodelParams], target: Target) -> None:
        self._task = task
        self._target = target
        self._model, self._hyperparameters = _built(task, target)
        self._face = networks.face_of(self._model, task.params.labels)
        self.n_weights = int(self._model.count_params())
        self.as_trained = False
        self.phases = [Phase(task.epochs, self._begin, early_stopping=True, averaged=False)]
        _say_unknown(task, self._hyperparameters)

    def _begin(self) -> CompiledPhase:
        data, face = self._task.data, self._face
        batches = _TrainBatches(data, _BATCH_SIZE, self._task.seed)
        batches.face = face
        # A loop of their own begins anew.
        seeds = [] if self._target.has_own_fit else [_SeedOfEpoch(self._task.seed)]
        return CompiledPhase(
            self._model,
            batches,
            _ValBatches(data),
            callbacks=[*self._time_limit(), *seeds],
            logits_of=face.logits,
            own_fit=self._fit if self._target.has_own_fit else None,
        )

    def _time_limit(self) -> list[Any]:
        minutes = self._task.limits.max_trial_minutes
        return [] if minutes is None else [_TimeLimit(self._task.epochs, minutes)]

    def _fit(self, epochs: int, callbacks: list[Any]) -> None:
        """Train by the user's `fit`, which gets all photos at once, as floats."""
        data, face = self._task.data, self._face
        # Ours come one class after the other; a loop that keeps the order would learn the last one.
        rows = np.random.default_rng(self._task.seed).permutation(len(data.y_train))
        train = data.x_train[rows].astype(np.float32), face.labels(data.y_train[rows])
        val = data.x_val.astype(np.float32), face.labels(data.y_val)
        together = _Together(callbacks)
        try:
            networks.call_fit(
                self._target.hypermodel,
                self._hyperparameters,
                self._model,
                train,
                val,
                epochs,
                [together],
            )
        except _EnoughError:
            pass
        except Exception as error:
            if targets.is_failed_trial(error):
                raise UnfitParamsError(named_line(error)) from error
            raise
        together.end()
        if not together.epochs:
            raise RequestError(
                f"{self._target.name}: its fit told our callbacks of no epoch; hand callbacks on "
                "to model.fit, or call their set_model and on_epoch_end"
            )
        _say_unknown(self._task, self._hyperparameters)

    def network(self) -> keras.Model:
        """RGB (batch, side, side, 3) -> logits (batch, 1), in float32, with the trained weights."""
        return networks.network_of(self._model, self._task.params.image_size)

    def rest(self) -> None:
        """None: no features are kept, so all of it must be computed."""


def _built(task: Task[HypermodelParams], target: Target) -> tuple[keras.Model, Any]:
    params = task.params
    try:
        model, hyperparameters = targets.build(target, params.values)
    except Exception as error:
        if targets.is_failed_trial(error):
            raise UnfitParamsError(named_line(error)) from error
        raise
    try:
        side = networks.settle(model, params.image_size)
        networks.face_of(model)
        networks.require_stock(model)
    except RequestError as error:
        raise UnfitParamsError(str(error)) from error
    if side not in (None, params.image_size):
        raise UnfitParamsError(f"takes photos of {side} px, not {params.image_size}")
    count, most = int(model.count_params()), task.limits.max_parameters
    if most is not None and count > most:
        text = f"too large: {count} parameters, at most {most}"
        raise UnfitParamsError(text, math.log(count / most), is_too_large=True)
    return model, hyperparameters


def _say_unknown(task: Task[HypermodelParams], hyperparameters: Any) -> None:
    """Report params that were not known when the study began."""
    for name, value in hyperparameters.values.items():
        if name not in task.params.values:
            task.say(
                f"{name} is asked for the first time; it is {value}, its default, and not searched"
            )


class _TrainBatches(TrainBatches):
    """Photos as floats, labels as the loss expects them."""

    face: networks.Face

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = super().__getitem__(index)
        return x.astype(np.float32), self.face.labels(y)


class _ValBatches(ValBatches):
    """Photos as floats."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = super().__getitem__(index)
        return x.astype(np.float32), y


class _SeedOfEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Seeds each epoch, so that one after a resume draws as it would have.

    Layers without a seed draw from the backend's own numbers on PyTorch, which no checkpoint has.

    Args:
        seed: The trial's seed.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Seed it."""
        del logs
        keras.utils.set_random_seed((self._seed + epoch) % 2**32)


class _TimeLimit(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends a training that would exceed its time limit, judging by its epochs so far.

    Args:
        epochs: Maximum number of epochs.
        minutes: Maximum number of minutes.
    """

    def __init__(self, epochs: int, minutes: float) -> None:
        super().__init__()
        self._epochs = epochs
        self._minutes = minutes
        self._ends = [clock.now()]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Estimate the time left; the first epoch doesn't count, since it compiles.

        Raises:
            UnfitParamsError: It is too long.
        """
        del epoch, logs
        self._ends.append(clock.now())
        done = len(self._ends) - 1
        took = self._ends[-1] - self._ends[-2] if done > 1 else 0.0
        whole = self._ends[-1] - self._ends[0] + took * max(self._epochs - done, 0)
        if whole > self._minutes * 60:
            text = f"too large: about {whole / 60:.1f} minutes, at most {self._minutes}"
            raise UnfitParamsError(text, math.log(whole / (60 * self._minutes)), is_too_large=True)


class _EnoughError(Exception):
    """Ends a loop that ignores `stop_training`."""


class _Together(keras.callbacks.Callback):  # type: ignore[misc]
    """Our callbacks as one, sharing the logs of an epoch whoever calls them.

    A custom loop may give each callback its own logs, not announce its start, and ignore
    `stop_training`. Epochs are counted across everything that it trains.

    Args:
        callbacks: In the order in which they take effect.

    Attributes:
        epochs: Epochs that it was told of.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        super().__init__()
        self._callbacks = callbacks
        self._began = False
        self._in_fit = False
        self.epochs = 0

    def set_params(self, params: Any) -> None:
        """To each."""
        super().set_params(params)
        for each in self._callbacks:
            each.set_params(params)

    def set_model(self, model: Any) -> None:
        """To each."""
        super().set_model(model)
        for each in self._callbacks:
            each.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Keras's `fit` begins, for the first time or again.

        Raises:
            _EnoughError: The training is already over.
        """
        if any(isinstance(c, ReportCallback) and c.is_over for c in self._callbacks):
            raise _EnoughError
        self._in_fit = True
        self._begin(logs)

    def _begin(self, logs: Any = None) -> None:
        self._began = True
        for each in self._callbacks:
            each.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """To each."""
        del epoch
        for each in self._callbacks:
            each.on_epoch_begin(self.epochs, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """To each."""
        for each in self._callbacks:
            each.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """To each, with the same logs.

        Raises:
            _EnoughError: Nothing else would end the loop.
        """
        if not self._began:
            self._begin()
        del epoch
        shared = dict(logs or {})
        for each in self._callbacks:
            each.on_epoch_end(self.epochs, shared)
        self.epochs += 1
        if getattr(self.model, "stop_training", False) and not self._in_fit:
            raise _EnoughError

    def on_train_end(self, logs: Any = None) -> None:
        """Keras's `fit` ends."""
        self._in_fit = False
        for each in self._callbacks:
            each.on_train_end(logs)

    def end(self) -> None:
        """The whole training is over: put the best epoch's weights back, whichever loop trained."""
        if self._began:
            self.on_train_end()


def make_plan(task: Task[HypermodelParams]) -> TrainingPlan:
    """See `training.plan.Planner`.

    Raises:
        StateError: The code isn't what the study began with.
    """
    params = task.params
    target = targets.load(params.hypermodel)
    if target.source != params.source:
        raise StateError(
            f"the source of {params.hypermodel} changed since the study began: it was "
            f"{params.source}, now {target.source}; give the changed one another study"
        )
    return HypermodelTraining(task, target)
