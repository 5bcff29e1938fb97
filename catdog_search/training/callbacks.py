"""The Keras callbacks of a trial."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import keras

from catdog_search.training.result import Ending, OnBatch, Report

# on_batch may cross to another process, so it isn't asked more often than a person can see.
_ASK_EVERY_S = 0.2


class ReportCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports every epoch and asks whether to go on; stops where the numbers are no longer finite.

    It stops through `model.stop_training`, so that other callbacks still restore the best weights.

    Args:
        report: Called with (epoch, metrics) after each epoch; False stops.
        on_batch: Called with (epoch, step, steps) now and then between batches; False stops.
        monitor: The metric that must be there and finite.

    Attributes:
        ending: Why training ended.
        history: Metrics of every epoch.
    """

    def __init__(self, report: Report, on_batch: OnBatch | None, monitor: str) -> None:
        super().__init__()
        self._report = report
        self._on_batch = on_batch
        self._monitor = monitor
        self._epoch = 0
        self._asked = self._started = 0.0
        self.ending: Ending = "finished"
        self.history: list[dict[str, float]] = []

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Note the time."""
        del logs
        self._epoch = epoch
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Ask `on_batch`, if it is time."""
        del logs  # reading them would make the host wait for the device
        now = time.monotonic()
        if self._on_batch is None or now - self._asked < _ASK_EVERY_S:
            return
        self._asked = now
        if not self._on_batch(self._epoch, batch + 1, self.params["steps"]):
            self._stop("interrupted")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Record and report.

        Raises:
            KeyError: The model doesn't log the monitored metric.
        """
        if self.ending == "interrupted":
            return  # part of an epoch is no epoch
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        if self._monitor not in metrics:
            raise KeyError(f"monitor {self._monitor!r} is not logged; there are {sorted(metrics)}")
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        metrics["learning_rate"] = float(rate)
        metrics["seconds"] = time.perf_counter() - self._started
        self.history.append(metrics)
        if not all(math.isfinite(metrics[name]) for name in ("loss", self._monitor)):
            self._stop("diverged")
        elif not self._report(epoch, metrics):
            self._stop("told")

    def _stop(self, ending: Ending) -> None:
        self.ending = ending
        self.model.stop_training = True
