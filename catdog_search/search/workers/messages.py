"""What coordinator and worker say to each other, and what the coordinator tells a listener."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from catdog_search.data.reference import DataReference
from catdog_search.outcomes import Ending
from catdog_search.search.workers.trainer import MakeTrainer
from catdog_search.tracking.store import Store
from catdog_search.training.job import TrainingJob


@dataclass(frozen=True)
class Launch:
    """How workers are started.

    Attributes:
        log: File that takes what a worker and its libraries print.
        backend: Keras backend.
        trainer: Makes what trains the trials.
        deterministic: Whether the same trial must give the same numbers to the bit.
        concurrency: Workers that share the device.
        memory_bytes: That a worker may use.
        stall_s: Seconds without a sign of life after which it is taken for dead.
        trials: After which it gives way to a fresh one.
    """

    log: Path
    backend: str
    trainer: MakeTrainer
    deterministic: bool = False
    concurrency: int = 1
    memory_bytes: int = 2**62
    stall_s: float = 600.0
    trials: int = 50


@dataclass(frozen=True)
class TrialSpec:
    """Coordinator to worker: train this.

    Attributes:
        study: Name of the trial's study.
        number: Of the trial.
        job: What is trained.
        data: The photos; their size is the job's.
        run_id: The MLflow run to log to; the coordinator opened it.
        store: MLflow's.
        keep_above: The model is logged if the objective beats this; None logs it anyway.
        checkpoint: Where the training is saved after every epoch.
        retry_s: Seconds to try again for where the store doesn't answer.
    """

    study: str
    number: int
    job: TrainingJob
    data: DataReference
    run_id: str
    store: Store
    keep_above: float | None
    checkpoint: Path
    retry_s: float


@dataclass(frozen=True)
class Decision:
    """Coordinator to worker, after an epoch: whether to go on."""

    keep_going: bool


@dataclass(frozen=True)
class Stop:
    """Coordinator to worker, at any time: stop at the next batch; there is no trial after this."""


@dataclass(frozen=True)
class Start:
    """Coordinator to worker: look at the device and say Ready; a spare waits for it."""


@dataclass(frozen=True)
class Shutdown:
    """Coordinator to worker, between trials: end."""


@dataclass(frozen=True)
class Unready:
    """Worker to coordinator: something around it keeps it from starting, as `reason` says."""

    reason: str


@dataclass(frozen=True)
class Recording:
    """Worker to coordinator: it speaks to MLflow, and may be silent for `seconds`; 0 at the end."""

    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        ending: The kind of end.
        value: The objective; None unless finished.
        scores: Final metrics of val.
        n_weights: Of the network.
        kept: Whether it was worth a model and figures.
        model_id: Of the logged model.
        excess: How far a limit was exceeded, above 0; what the sampler is told of a failure.
        reason: In a line, where it is not finished.
        trace: Of an error.
        photos_lost: Whether it was blocked because the cache lost the photos.
    """

    ending: Ending
    value: float | None = None
    scores: Mapping[str, float] | None = None
    n_weights: int | None = None
    kept: bool = False
    model_id: str | None = None
    excess: float = 1.0
    reason: str = ""
    trace: str = ""
    photos_lost: bool = False
