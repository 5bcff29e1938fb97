"""What a worker asks of whoever trains."""

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
            concurrency: Workers that train on the device at once.
            deterministic: Whether the same training must give the same numbers to the bit.
        """
        ...

    def look_at_device(self) -> Device:
        """What it computes on."""
        ...

    def product_rate(self) -> float:
        """Floating-point operations a second of a large matrix product."""
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
        """Train and score one trial, or go on with it where `checkpoint` is this training's.

        Args:
            job: What is trained.
            data: Train and val, at the job's image size.
            report: Called with (epoch, metrics) after every epoch, those of a checkpoint included;
                False stops the training.
            on_batch: Called with (epoch, step, steps) now and then; False stops at once.
            say: Told what a user should know, a line each.
            checkpoint: Where to save after every epoch.
        """
        ...


# Of the backend's name; what is given here must be picklable, and quick to import.
MakeTrainer = Callable[[str], Trainer]
