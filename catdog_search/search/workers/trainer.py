"""Protocol of the trainer in a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from catdog_search.training.execution import Device
    from catdog_search.training.job import TrainingJob
    from catdog_search.training.result import OnBatch, Report, TrainData, TrialResult


class Trainer(Protocol):
    """Trains one trial after another, in the process of a worker."""

    def prepare(self, *, concurrency: int, deterministic: bool) -> None:
        """Import what takes long; the device is left alone.

        Args:
            concurrency: Number of workers that train on the device concurrently, from 1.
            deterministic: Whether the same training must give bit-identical numbers.
        """
        ...

    def look_at_device(self) -> Device:
        """The device that it computes on."""
        ...

    def product_rate(self) -> float:
        """Rate of a large matrix product, in floating-point operations per second."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out."""
        ...

    def train(
        self,
        job: TrainingJob,
        data: TrainData,
        report: Report,
        *,
        on_batch: OnBatch,
        say: Callable[[str], None],
        checkpoint: Path,
    ) -> TrialResult:
        """Train and score one trial, continuing it if `checkpoint` is of this training.

        Args:
            job: Training to run.
            data: Photos of train and val, at the job's image size.
            report: Callback with (epoch, metrics) after every epoch, including those of a
                checkpoint; False stops the training.
            on_batch: Callback with (epoch, step, steps) now and then; False stops immediately.
            say: Callback for what a user should know, a line each.
            checkpoint: File to save to after every epoch.
        """
        ...


# Makes a trainer, given the backend's name; must be picklable and quick to import.
MakeTrainer = Callable[[str], Trainer]
