"""One trial's training as a plan: phases that train, and the network that results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import keras
import numpy as np

from catdog_search.families.base import NetworkParams, TrialParams
from catdog_search.models.augmentation import MIXUP_ALPHA
from catdog_search.study.config import LimitsConfig
from catdog_search.training.batches import TrainBatches
from catdog_search.training.execution import Execution
from catdog_search.training.features import OnPhotos
from catdog_search.training.result import TrainData

# Learning rate, progress and requests to stop are handled between calls.
_CALLS_PER_EPOCH = 8

P = TypeVar("P", bound=TrialParams)


@dataclass(frozen=True)
class CompiledPhase:
    """A compiled model, and the batches that `fit` is given.

    Attributes:
        model: Model that `fit` trains.
        batches: Batches of train.
        val: Batches of val.
        callbacks: Callbacks that the plan needs besides those of every training.
        logits_of: Turns the model's output for val into logits (n,).
        own_fit: A user's loop that trains it instead of `fit`, given the epochs and our callbacks;
            such a training keeps no checkpoint. None for `fit`.
    """

    model: keras.Model
    batches: TrainBatches
    val: keras.utils.PyDataset
    callbacks: list[Any] = field(default_factory=list)
    logits_of: Callable[[Any], Any] = np.ravel
    own_fit: Callable[[int, list[Any]], None] | None = None


@dataclass(frozen=True)
class Rest:
    """The part of a network that remains to be computed for val, from its kept features.

    Attributes:
        model: Features (batch, …) -> logits (batch, 1), in float32, with the trained weights.
        val: Batches of val's features.
    """

    model: keras.Model
    val: keras.utils.PyDataset


@dataclass(frozen=True)
class Phase:
    """Epochs that train one model.

    Attributes:
        end: The epoch after its last one, counted through all phases.
        begin: Builds and compiles; called only when the phase begins.
        early_stopping: Whether it may stop when val stops improving.
        averaged: Whether val is scored with averaged weights.
    """

    end: int
    begin: Callable[[], CompiledPhase]
    early_stopping: bool
    averaged: bool


class TrainingPlan(Protocol):
    """One trial's models, whatever its family.

    Attributes:
        phases: Phases in order, at least one.
        n_weights: Trainable and other weights of the network.
        as_trained: Whether `network` gives the logits seen in training, up to float32 rounding:
            not after half precision, nor with test-time augmentation.
    """

    phases: list[Phase]
    n_weights: int
    as_trained: bool

    def network(self) -> keras.Model:
        """RGB (batch, side, side, 3) -> logits (batch, 1), in float32, with the trained weights."""
        ...

    def rest(self) -> Rest | None:
        """The part of `network` that remains to be computed for val; None where that is all."""
        ...


@dataclass(frozen=True)
class Task(Generic[P]):
    """What a plan is made from.

    Attributes:
        params: Params of the trial, with its image size in pixels.
        epochs: Maximum number of epochs, at least 1.
        weights: Weights of the study: `imagenet`, `none`, or the path of a file.
        data: Train and val.
        seed: Seed of weights, dropout, order and augmentation, from 0.
        execution: Execution on the device.
        limits: Limits of the study, for networks whose size shows only when built.
        on_photos: Called now and then while something is computed before the first epoch.
        say: Callback given what a user should know, a line each.
    """

    params: P
    epochs: int
    weights: str
    data: TrainData
    seed: int
    execution: Execution
    limits: LimitsConfig
    on_photos: OnPhotos
    say: Callable[[str], None]


class Planner(Protocol):
    """What a family's training module must provide."""

    def make_plan(self, task: Task[Any]) -> TrainingPlan:
        """Plan a training; it begins with the plan's first phase."""
        ...


def steps_per_call(execution: Execution, batches: TrainBatches) -> int:
    """Steps per call of the host, such that an epoch takes several calls."""
    return min(execution.steps_per_call, max(1, len(batches) // _CALLS_PER_EPOCH))


def mixup_alpha(params: NetworkParams) -> float | None:
    """Parameter of the distribution of mixup's shares; None for no mixup."""
    return MIXUP_ALPHA * params.augmentation if "mixup" in params.augmentations else None
