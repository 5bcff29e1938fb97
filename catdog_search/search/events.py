"""What a study tells a listener while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from catdog_search.outcomes import Ending
from catdog_search.search.estimate import StudyEstimate
from catdog_search.space import Params
from catdog_search.study.config import StudyConfig
from catdog_search.training.execution import Device, Execution


@dataclass(frozen=True)
class Ready:
    """Worker to coordinator: Keras is imported, the device there.

    Attributes:
        backend: Keras's.
        device: What it computes on.
        versions: Of Python and the packages that matter, by name.
        product_rate: Floating-point operations a second of a large matrix product.
        memory_bytes: That the worker may use.
        concurrency: Workers that share the device.
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

    Before the first epoch, where features are computed, `epoch` is None and photos are counted.
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
    """What the study is estimated to take, now that the device is known.

    Attributes:
        estimate: Of its trials.
        memory_bytes: That a worker may use.
        execution: How trainings run on the device.
        concurrency: Trials that train at once.
    """

    estimate: StudyEstimate
    memory_bytes: int
    execution: Execution
    concurrency: int


@dataclass(frozen=True)
class TrialStarted:
    """A trial was handed to the worker.

    Attributes:
        number: Of the trial.
        varied: The searched params among its params.
        recipe: Name of the recipe; None where the sampler proposed it.
        attempt: 1, or more where earlier ones died.
        epochs: At most so many.
    """

    number: int
    varied: Params
    recipe: str | None
    attempt: int
    epochs: int


@dataclass(frozen=True)
class TrialEnded:
    """A trial ended, or its attempt did."""

    number: int
    ending: Ending
    value: float | None
    epochs: int
    seconds: float
    best: Best | None


@dataclass(frozen=True)
class Notice:
    """Something a user should know."""

    text: str


Event = StudyOpened | Ready | Planned | TrialStarted | BatchDone | EpochDone | TrialEnded | Notice

Listener = Callable[[Event], None]
