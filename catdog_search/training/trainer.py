"""Training with Keras for a worker; Keras is imported only by `prepare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catdog_search.training.execution import Device
    from catdog_search.training.job import TrainingJob
    from catdog_search.training.result import OnBatch, Report, TrainData, TrialResult


class KerasTrainer:
    """Trains on the first device of a Keras backend.

    Args:
        backend: `tensorflow`, `jax` or `torch`; the same as KERAS_BACKEND.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def prepare(self, *, concurrency: int, deterministic: bool) -> None:
        """Import Keras; the device is left alone.

        Args:
            concurrency: Processes that train on the device concurrently.
            deterministic: Whether the same training must give the same numbers to the bit.
        """
        from catdog_search.training.device import set_deterministic, share_device

        if concurrency > 1:
            share_device(self._backend, concurrency)
        if deterministic:
            set_deterministic(self._backend)

    def look_at_device(self) -> Device:
        """What it computes on."""
        from catdog_search.training.device import look_at_device

        return look_at_device(self._backend)

    def product_rate(self) -> float:
        """Floating-point operations per second of a large matrix product."""
        from catdog_search.training.device import product_rate

        return product_rate()

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out."""
        from catdog_search.training.device import is_out_of_memory

        return is_out_of_memory(error)

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
        """As `loop.train`."""
        from catdog_search.training.loop import train

        return train(job, data, report, on_batch=on_batch, say=say, checkpoint=checkpoint)
