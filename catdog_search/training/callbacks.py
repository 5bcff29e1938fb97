"""The Keras callbacks of a trial."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from catdog_search import clock
from catdog_search.models.augmentation import Shrink
from catdog_search.outcomes import Ending
from catdog_search.training.checkpoint import Checkpoint
from catdog_search.training.metrics import probabilities_of, scores
from catdog_search.training.pixels import DevicePixels
from catdog_search.training.result import OnBatch, Report

# on_batch may cross to another process, so it isn't asked more often than a person could notice.
_ASK_EVERY_S = 0.2
# What early stopping remembers besides the weights.
STOPPER = ("wait", "best", "best_epoch", "stopped_epoch")
_VAL_METRICS = ("val_loss", "val_accuracy", "val_precision", "val_recall", "val_auc")


class ReportCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports every epoch and asks whether to go on; stops where the numbers are no longer finite.

    It stops through `model.stop_training`, so that other callbacks still restore the best weights.

    Args:
        report: Called with (epoch, metrics) after each epoch; False stops.
        on_batch: Called with (epoch, step, steps) now and then between batches, steps being 0
            where their number is unknown; False stops.
        monitor: The metric that must be present and finite.
        photos: Photos of an epoch, for its speed in photos per second.
        history: Metrics of the epochs before the first one; they are not reported.

    Attributes:
        monitor: The metric that must be present and finite.
        ending: Why training ended.
        history: Metrics of every epoch.
    """

    def __init__(
        self,
        report: Report,
        on_batch: OnBatch | None,
        monitor: str,
        photos: int,
        history: list[dict[str, float]],
    ) -> None:
        super().__init__()
        self._report = report
        self._on_batch = on_batch
        self.monitor = monitor
        self._photos = photos
        self._epoch = self._step = 0
        self._asked = self._started = 0.0
        self._trained: float | None = None
        self.ending = Ending.FINISHED
        self.history = list(history)

    @property
    def is_over(self) -> bool:
        """Whether it has stopped the training."""
        return self.ending is not Ending.FINISHED

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Note the time."""
        del logs
        self._epoch = epoch
        self._started = clock.now()
        self._trained = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Ask `on_batch`, if it is time."""
        del logs  # reading them would make the host wait for the device
        self._step = batch + 1
        self.ask()

    def on_val_begin(self) -> None:
        """Note how long the training part of the epoch took."""
        self._trained = clock.now() - self._started

    def ask(self) -> None:
        """Ask `on_batch`, if it is time."""
        now = time.monotonic()
        if self._on_batch is None or now - self._asked < _ASK_EVERY_S:
            return
        self._asked = now
        steps = (self.params or {}).get("steps") or 0  # a custom loop doesn't tell how many
        if not self._on_batch(self._epoch, self._step, steps):
            self._stop(Ending.INTERRUPTED)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Record and report.

        Raises:
            KeyError: The model doesn't log the monitored metric.
        """
        if self.ending is Ending.INTERRUPTED:
            return  # a partial epoch doesn't count
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        if self.monitor not in metrics:
            raise KeyError(f"monitor {self.monitor!r} is not logged; there are {sorted(metrics)}")
        # A custom loop may not compile the model.
        if (optimizer := getattr(self.model, "optimizer", None)) is not None:
            rate = keras.ops.convert_to_numpy(optimizer.learning_rate)
            # Through its float32 text: 0.001, not 0.0010000000474974513.
            metrics["learning_rate"] = float(str(rate))
        metrics["seconds"] = clock.now() - self._started
        if self._trained:
            metrics["images_per_second"] = self._photos / self._trained
        self.history.append(metrics)
        watched = {"loss", self.monitor} & metrics.keys()
        if not all(math.isfinite(metrics[name]) for name in watched):
            self._stop(Ending.DIVERGED)
        elif not self._report(epoch, metrics):
            self._stop(Ending.PRUNED)

    def _stop(self, ending: Ending) -> None:
        self.ending = ending
        self.model.stop_training = True


class ValCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Scores val after every epoch, and keeps its logits.

    Keras's own validation discards the logits, so the final scores would take another pass. Comes
    before the callbacks that read val's metrics.

    Args:
        val: Batches of val, as `predict` is given them.
        labels: Labels of val (n, 1), 0 or 1.
        reporter: Told when the training part of an epoch ends, and asked whether to stop.
        stopper: Knows the best epoch; None where the last one counts.
        averager: Swaps in the averaged weights while val is scored; None for no averages.
        logits_of: Turns the model's output into logits (n,).

    Attributes:
        logits: Logits of val (n,), float32, by epoch; those of the last two, and of the best
            while there is one.
    """

    def __init__(
        self,
        val: Any,
        labels: Any,
        reporter: ReportCallback,
        stopper: keras.callbacks.EarlyStopping | None,
        averager: keras.callbacks.SwapEMAWeights | None,
        logits_of: Callable[[Any], Any] = np.ravel,
    ) -> None:
        super().__init__()
        self._logits_of = logits_of
        self._val = val
        self._labels = labels
        self._reporter = reporter
        self._stopper = stopper
        self._averager = averager
        self._asking = keras.callbacks.LambdaCallback(
            on_predict_batch_end=lambda batch, logs: reporter.ask()
        )
        self.logits: dict[int, Any] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Add val's scores to the logs of the epoch."""
        self._reporter.on_val_begin()
        best = epoch if self._stopper is None else self._stopper.best_epoch
        self.logits = {e: kept for e, kept in self.logits.items() if e >= min(best, epoch - 1)}
        if self._averager:  # by hand: its hook for the end of `predict` doesn't swap back
            self._averager.on_test_begin()
        found = self.model.predict(self._val, verbose=0, callbacks=[self._asking])
        if self._averager:
            self._averager.on_test_end()
        self.logits[epoch] = self._logits_of(found).astype(np.float32)
        if logs is not None:
            logs.update(val_metrics(self._labels, self.logits[epoch], self._reporter.monitor))


def val_metrics(labels: Any, logits: Any, monitor: str) -> dict[str, float]:
    """What is logged of val after an epoch: the usual metrics and the monitored one.

    Args:
        labels: (n, 1).
        logits: (n,).
        monitor: Name of a score, or of a metric of train.
    """
    named = dict.fromkeys(_VAL_METRICS, math.nan)
    if np.isfinite(logits).all():
        found = scores(labels, probabilities_of(logits))
        named = {name: it for name, it in found.items() if name in (*_VAL_METRICS, monitor)}
    elif monitor.startswith("val_"):
        named[monitor] = math.nan
    return named


class CheckpointCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves after every whole epoch; restores early stopping's memory.

    Comes after the other callbacks, whose state it saves.

    Args:
        save: Stores a checkpoint.
        key: Key of the training, see `loop.training_key`.
        reporter: Reporter whose history is saved.
        stopper: Early stopping; None where there is none.
        resumed: Checkpoint that the training resumes from; None at the start.
    """

    def __init__(
        self,
        save: Callable[[Checkpoint], None],
        key: str,
        reporter: ReportCallback,
        stopper: keras.callbacks.EarlyStopping | None,
        resumed: Checkpoint | None,
    ) -> None:
        super().__init__()
        self._save = save
        self._key = key
        self._reporter = reporter
        self._stopper = stopper
        self._resumed = resumed

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Early stopping has just reset itself: restore its memory."""
        del logs
        if self._stopper is None or self._resumed is None:
            return
        for name, value in self._resumed.stopper.items():
            setattr(self._stopper, name, value)
        self._stopper.best_weights = self._resumed.best_weights or None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Save, unless the training is over for a reason other than early stopping."""
        del epoch, logs
        if self._reporter.ending is not Ending.FINISHED:
            return
        stopper: dict[str, Any] = {}
        weights: list[Any] = []
        if self._stopper is not None:
            stopper = {name: _plain(getattr(self._stopper, name)) for name in STOPPER}
            weights = self._stopper.best_weights or []
        self._save(
            Checkpoint(
                key=self._key,
                history=self._reporter.history,
                done=bool(self.model.stop_training),
                stopper=stopper,
                variables=[as_array(v) for v in training_variables(self.model)],
                best_weights=weights,
            )
        )


class ProgressiveCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Trains the first epochs on photos of half the side.

    Args:
        shrink: The layer that halves it.
        epochs: Number of epochs, 0 or more.
    """

    def __init__(self, shrink: Shrink, epochs: int) -> None:
        super().__init__()
        self._shrink = shrink
        self._epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Recompile the training step where the side changes."""
        del logs
        halves = epoch < self._epochs
        if halves != self._shrink.halves:
            self._shrink.halves = halves
            self.model.make_train_function(force=True)


def training_variables(model: keras.Model) -> list[keras.Variable]:
    """Everything that changes while a compiled, built model trains, random streams included."""
    lookups = [layer for layer in model.layers if isinstance(layer, DevicePixels)]
    photos = {id(layer.photos) for layer in lookups}
    return [v for v in (*model.variables, *model.optimizer.variables) if id(v) not in photos]


def as_array(variable: keras.Variable) -> Any:
    """A variable's value as a NumPy array."""
    return keras.ops.convert_to_numpy(variable.value)


def _plain(value: Any) -> Any:
    return None if value is None else float(value) if isinstance(value, float) else int(value)
