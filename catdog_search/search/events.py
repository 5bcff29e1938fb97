"""Events that a running study sends to its listener."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from catdog_search.outcomes import Ending
from catdog_search.search.limits import StudyEstimate
from catdog_search.space import Params
from catdog_search.study.config import StudyConfig
from catdog_search.training.execution import Device, Execution


@dataclass(frozen=True)
class Ready:
    """Worker to coordinator: Keras is imported and the device is ready.

    Attributes:
        backend: Keras backend.
        device: Device that the worker computes on.
        versions: Versions of Python and the packages that matter, by name.
        product_rate: Rate of a large matrix product, in floating-point operations per second.
        memory_bytes: Memory that the worker may use, in bytes.
        concurrency: Number of workers that share the device, from 1.
    """

    backend: str
    device: Device
    versions: Mapping[str, str]
    product_rate: float
    memory_bytes: int = 2**62
    concurrency: int = 1


@dataclass(frozen=True)
class BatchDone:
    """Worker to coordinator, now and then: `step` of `steps` in `epoch`, which counts from 0.

    While features are computed, before the first epoch, `epoch` is None and steps count photos.
    `steps` is 0 where a custom loop doesn't tell how many there are.
    """

    number: int
    epoch: int | None
    step: int
    steps: int


@dataclass(frozen=True)
class EpochDone:
    """Worker to coordinator; it waits for a Decision."""

    number: int
    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Best:
    """The best trial so far."""

    number: int
    value: float
    params: Params
    run_id: str


@dataclass(frozen=True)
class StudyOpened:
    """The study is ready; trials follow."""

    config: StudyConfig
    finished: int
    wanted: int
    best: Best | None
    tracking_uri: str


@dataclass(frozen=True)
class Planned:
    """Estimate of the study, now that the device is known.

    Attributes:
        estimate: Estimate of its trials; None where only building their networks would tell.
        memory_bytes: Memory that a worker may use, in bytes.
        execution: How trainings run on the device.
        concurrency: Number of trials that train concurrently, from 1.
    """

    estimate: StudyEstimate | None
    memory_bytes: int
    execution: Execution
    concurrency: int


@dataclass(frozen=True)
class TrialStarted:
    """A trial was handed to the worker.

    Attributes:
        number: Trial's number, from 0.
        varied: Searched params among its params.
        recipe: Name of the recipe; None where the sampler proposed it.
        attempt: Number of the attempt, from 1; higher where earlier ones died.
        epochs: Maximum number of epochs that it may train.
    """

    number: int
    varied: Params
    recipe: str | None
    attempt: int
    epochs: int


@dataclass(frozen=True)
class TrialEnded:
    """A trial ended, or its attempt did.

    Attributes:
        number: Trial's number, from 0.
        ending: Kind of end.
        value: Objective's value; None unless finished.
        epochs: Number of its epochs.
        seconds: Duration of its work so far, in s.
        best: The best trial so far.
        best_epoch: Epoch whose weights were kept, from 1; None where none were.
        in_training: Value measured at that epoch in training; `value` is the exported model's.
    """

    number: int
    ending: Ending
    value: float | None
    epochs: int
    seconds: float
    best: Best | None
    best_epoch: int | None = None
    in_training: float | None = None


@dataclass(frozen=True)
class Notice:
    """Something a user should know."""

    text: str


Event = StudyOpened | Ready | Planned | TrialStarted | BatchDone | EpochDone | TrialEnded | Notice

Listener = Callable[[Event], None]
