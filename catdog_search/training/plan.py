"""One trial's training as a plan: phases that train, and the network that they leave."""

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

# The learning rate, the progress and a request to stop are looked at between calls.
_CALLS_PER_EPOCH = 8

P = TypeVar("P", bound=TrialParams)


@dataclass(frozen=True)
class CompiledPhase:
    """A compiled model, and the batches that `fit` is given.

    Attributes:
        model: Trained by `fit`.
        batches: Batches of train.
        val: Batches of val.
        callbacks: Callbacks that the plan needs besides those of every training.
        logits_of: Logits (n,) of what the model says of val.
        own_fit: A loop of somebody else's that trains it instead of `fit`, given the epochs and our
            callbacks; such a training keeps no checkpoint. None for `fit`.
    """

    model: keras.Model
    batches: TrainBatches
    val: keras.utils.PyDataset
    callbacks: list[Any] = field(default_factory=list)
    logits_of: Callable[[Any], Any] = np.ravel
    own_fit: Callable[[int, list[Any]], None] | None = None


@dataclass(frozen=True)
class Rest:
    """What of a network is left to compute for val, whose features are there.

    Attributes:
        model: Features (batch, …) -> logits (batch, 1), in float32, with what was learned.
        val: Batches of val's features.
    """

    model: keras.Model
    val: keras.utils.PyDataset


@dataclass(frozen=True)
class Phase:
    """Epochs that train one model.

    Attributes:
        end: The epoch after its last one, counted through all phases.
        begin: Builds and compiles; called when the phase begins, not before.
        early_stopping: Whether it may stop when val gets no better.
        averaged: Whether val sees averaged weights.
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
        as_trained: Whether `network` gives the logits that were seen in training, but for
            rounding in float32: not after half precision, and not where it looks twice.
    """

    phases: list[Phase]
    n_weights: int
    as_trained: bool

    def network(self) -> keras.Model:
        """RGB (batch, side, side, 3) -> logits (batch, 1), in float32, with what was learned."""
        ...

    def rest(self) -> Rest | None:
        """What is left to compute of `network` for val; None where that is all of it."""
        ...


@dataclass(frozen=True)
class Task(Generic[P]):
    """What a plan is made from.

    Attributes:
        params: Params of the trial, with its image size in pixels.
        epochs: Epochs at most, at least 1.
        weights: Weights of the study: `imagenet`, `none`, or the path of a file.
        data: Train and val.
        seed: Seed of weights, dropout, order and augmentation, from 0.
        execution: Execution on the device.
        limits: Limits of the study, for networks that only building tells of.
        on_photos: Asked now and then while something is computed before the first epoch.
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
    """What the module that a family names as its training has."""

    def make_plan(self, task: Task[Any]) -> TrainingPlan:
        """Plan a training; it begins with the plan's first phase."""
        ...


def steps_per_call(execution: Execution, batches: TrainBatches) -> int:
    """Steps of one call of the host, such that an epoch has several calls."""
    return min(execution.steps_per_call, max(1, len(batches) // _CALLS_PER_EPOCH))


def mixup_alpha(params: NetworkParams) -> float | None:
    """Of the distribution of mixup's shares; None for no mixup."""
    return MIXUP_ALPHA * params.augmentation if "mixup" in params.augmentations else None
