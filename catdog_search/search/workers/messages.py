"""Messages between the coordinator and a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        trainer: Factory of the trainer, called with the backend's name.
        deterministic: Whether the same trial must give bit-identical numbers.
        concurrency: Number of workers that share the device, from 1.
        memory_bytes: Memory that a worker may use, in bytes.
        stall_s: Time without a sign of life after which a worker is taken for dead, in s.
        trials: Number of trials after which a worker gives way to a fresh one, from 1.
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
        number: Trial's number, from 0.
        job: Training to run.
        data: Reference to the photos; their size is the job's.
        run_id: Id of the MLflow run to log to; the coordinator opened it.
        store: MLflow store to log to.
        keep_above: Objective's value that the trial must beat for its model to be logged; None logs
            it always.
        checkpoint: File that the training is saved to after every epoch.
        retry_s: Time to keep retrying for while the store doesn't answer, in s.
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
    """Coordinator to worker, at any time: stop at the next batch; no trial follows."""


@dataclass(frozen=True)
class Start:
    """Coordinator to worker: look at the device and say Ready; a spare waits for it."""


@dataclass(frozen=True)
class Shutdown:
    """Coordinator to worker, between trials: end."""


@dataclass(frozen=True)
class Unready:
    """Worker to coordinator: something in its environment keeps it from starting: `reason`."""

    reason: str


@dataclass(frozen=True)
class Recording:
    """Worker to coordinator: it is calling MLflow and may be silent for `seconds`; 0 when done."""

    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        ending: Kind of end.
        value: Objective's value; None unless finished.
        scores: Final metrics of val, by name; None unless finished.
        n_weights: Number of the network's weights; None where it isn't known.
        best_epoch: Epoch whose weights were kept, from 0; None unless finished.
        train_scores: Metrics of train, by name, measured while training that epoch, or the last one
            if unfinished.
        kept: Whether it was worth a model and figures.
        model_id: Logged model's id; None where none was logged.
        excess: Amount by which a limit was exceeded, above 0; the sampler's constraint value of a
            failed trial.
        reason: Reason, in one line, if it did not finish; else empty.
        trace: Traceback of an error; else empty.
        photos_lost: Whether it was blocked because the cache lost the photos.
    """

    ending: Ending
    value: float | None = None
    scores: Mapping[str, float] | None = None
    n_weights: int | None = None
    best_epoch: int | None = None
    train_scores: Mapping[str, float] = field(default_factory=dict)
    kept: bool = False
    model_id: str | None = None
    excess: float = 1.0
    reason: str = ""
    trace: str = ""
    photos_lost: bool = False
