"""The worker: a process of its own that owns the device and takes trials one after another."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from catdog_search.errors import CacheLostError, CatdogError, UnfitParamsError
from catdog_search.machine.backends import versions
from catdog_search.objective import is_better
from catdog_search.outcomes import Ending
from catdog_search.outside import outside_reason, was_deleted
from catdog_search.redact import redact
from catdog_search.retry import Retry
from catdog_search.search.events import BatchDone, EpochDone, Notice, Ready
from catdog_search.search.scratch import state_of
from catdog_search.search.workers.messages import (
    Decision,
    Launch,
    Outcome,
    Recording,
    Start,
    Stop,
    TrialSpec,
    Unready,
)
from catdog_search.text import named_line
from catdog_search.tracking.store import CALL_S

if TYPE_CHECKING:
    import keras

    from catdog_search.data.dataset import Dataset
    from catdog_search.tracking.recorded import Recorded
    from catdog_search.tracking.trial_log import TrialLog
    from catdog_search.training.result import TrainData, TrialResult

_T = TypeVar("_T")

# Largest side of a model's input example, which MLflow stores as text, twice.
_EXAMPLE_SIDE = 64
_REASONS = {Ending.DIVERGED: "diverged: the loss is not finite"}


def serve(connection: Connection, launch: Launch) -> None:
    """The worker's whole life: import Keras, wait for Start, run trials until Shutdown or Stop."""
    threading.Thread(target=_die_with_coordinator, daemon=True).start()
    worker = _Worker(connection, launch)
    try:
        if not _start(connection, launch, worker):
            return
        while isinstance(spec := connection.recv(), TrialSpec):
            connection.send(worker.run(spec))
        worker.finish()
    except (EOFError, BrokenPipeError):
        return  # the coordinator is gone


def _start(connection: Connection, launch: Launch, worker: _Worker) -> bool:
    """Get ready; False if that is impossible or not wanted."""
    try:
        _redirect_output(launch.log)
        os.environ["KERAS_BACKEND"] = launch.backend
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        worker.prepare()
        if not isinstance(connection.recv(), Start):
            return False  # a spare that wasn't needed
        connection.send(worker.ready())
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:
        reason = outside_reason(error, state_of(launch.log.parent))
        if reason is None:
            raise
        connection.send(Unready(reason))
        return False
    return True


def _die_with_coordinator() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _redirect_output(log: Path) -> None:
    """Send what libraries print, from C++ too, to the log: the terminal is the coordinator's."""
    log.parent.mkdir(exist_ok=True)  # doesn't recreate a state folder that was moved meanwhile
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


class _Worker:
    """Trains and logs trials, keeping what the next one can use."""

    def __init__(self, connection: Connection, launch: Launch) -> None:
        self._connection = connection
        self._launch = launch
        self._trainer = launch.trainer(launch.backend)
        self._data: tuple[Dataset, TrainData] | None = None
        self._stopped = False
        self._number = -1  # of the trial
        self._log: TrialLog | None = None
        self._figures: _FigureThread | None = None

    def prepare(self) -> None:
        """Import what trains; the device is left alone."""
        launch = self._launch
        self._trainer.prepare(concurrency=launch.concurrency, deterministic=launch.deterministic)

    def ready(self) -> Ready:
        """Look at the device."""
        launch, trainer = self._launch, self._trainer
        return Ready(
            backend=launch.backend,
            device=trainer.look_at_device(),
            versions=versions(launch.backend),
            product_rate=trainer.product_rate(),
            memory_bytes=launch.memory_bytes,
            concurrency=launch.concurrency,
        )

    def run(self, spec: TrialSpec) -> Outcome:
        """Train and log one trial; a bug becomes an outcome."""
        self._number = spec.number
        try:
            return self._run(spec)
        except (EOFError, BrokenPipeError):
            raise
        except UnfitParamsError as error:
            ending = Ending.TOO_LARGE if error.is_too_large else Ending.INFEASIBLE
            return Outcome(ending, excess=error.excess, reason=str(error))
        except Exception as error:
            ending, reason = self._ending(error, state_of(spec.checkpoint.parent))
            if was_deleted(error):
                reason = f"run {spec.run_id} was deleted in MLflow; the next call makes a new one"
            lost = isinstance(error, CacheLostError)
            trace = redact(traceback.format_exc())
            return Outcome(ending, reason=redact(reason), trace=trace, photos_lost=lost)

    def _ending(self, error: Exception, state: Path) -> tuple[Ending, str]:
        if isinstance(error, CatdogError):
            return Ending.BLOCKED, str(error)  # its message is meant for users
        if reason := outside_reason(error, state):
            return Ending.BLOCKED, reason
        is_full = self._trainer.is_out_of_memory(error)
        return (Ending.OOM if is_full else Ending.BUG), named_line(error)

    def _say(self, text: str) -> None:
        self._connection.send(Notice(f"trial {self._number}: {text}"))

    def _open(self, spec: TrialSpec) -> TrialLog:
        """The log of trials in MLflow, kept open for later trials."""
        if self._log is None:
            from catdog_search.tracking.trial_log import TrialLog

            # While the worker calls MLflow, the only message that can come is Stop.
            retry = _AnnouncedRetry(
                self._connection,
                spec.store.about,
                spec.retry_s,
                self._say,
                self._connection.poll,
            )
            self._log = TrialLog(spec.store, retry)
        return self._log

    def _run(self, spec: TrialSpec) -> Outcome:
        log = self._open(spec)

        def report(epoch: int, metrics: Mapping[str, float]) -> bool:
            log.log_epoch(spec.run_id, epoch, metrics)
            self._connection.send(EpochDone(spec.number, epoch, metrics))
            return self._keep_going(self._connection.recv())

        def on_batch(epoch: int | None, step: int, steps: int) -> bool:
            self._connection.send(BatchDone(spec.number, epoch, step, steps))
            return not self._connection.poll() or self._keep_going(self._connection.recv())

        data = self._load(spec.data.at(spec.job.params.image_size))
        with log.watch_machine(spec.run_id):
            result = self._trainer.train(
                spec.job,
                data,
                report,
                on_batch=on_batch,
                say=self._say,
                checkpoint=spec.checkpoint,
            )
        if self._stopped:
            return Outcome(Ending.INTERRUPTED)
        return self._record(spec, data, result, log)

    def _keep_going(self, message: object) -> bool:
        if isinstance(message, Stop):
            self._stopped = True
        return isinstance(message, Decision) and message.keep_going

    def _load(self, dataset: Dataset) -> TrainData:
        from catdog_search.training.result import TrainData

        if self._data is None or self._data[0] != dataset:
            self._data = (dataset, TrainData.of(dataset))
        return self._data[1]

    def _record(
        self, spec: TrialSpec, data: TrainData, result: TrialResult, log: TrialLog
    ) -> Outcome:
        """Log scores, predictions on val and, where it is worth keeping, the model.

        This happens before the outcome is sent, so that COMPLETE means that they are logged.
        """
        from catdog_search.figures.predictions import Predictions
        from catdog_search.tracking.recorded import Recorded

        if result.ending is not Ending.FINISHED:
            reason = _REASONS.get(result.ending, "")
            return Outcome(
                result.ending,
                n_weights=result.n_weights,
                reason=reason,
                train_scores=_of_train(result.history, None),
            )
        value = result.scores[spec.job.metric]
        predictions = Predictions(data.y_val.ravel(), result.val_probabilities)
        seen = Recorded(result.history, result.best_epoch, predictions)
        log.log_result(spec.run_id, value, result.scores, result.n_weights, seen)
        if said := _scored_anew(spec.job.metric, value, result):
            log.note(spec.run_id, said)
        kept = spec.keep_above is None or is_better(spec.job.direction, value, spec.keep_above)
        if kept:
            self._draw(spec, seen)
        model = result.model if kept else None
        return Outcome(
            ending=Ending.FINISHED,
            value=value,
            scores=result.scores,
            n_weights=result.n_weights,
            best_epoch=result.best_epoch,
            train_scores=_of_train(result.history, result.best_epoch),
            kept=kept,
            model_id=None if model is None else self._log_model(spec, model, data, log),
        )

    def _draw(self, spec: TrialSpec, seen: Recorded) -> None:
        """Plot the figures while the next trial trains."""
        assert self._data is not None, "it has just trained on them"
        self.finish()
        self._figures = _FigureThread(spec, seen, self._data[0])
        self._figures.start()

    def finish(self) -> None:
        """Wait for the figures that are being plotted."""
        if self._figures is not None:
            self._figures.join()
            if said := self._figures.failed:
                self._connection.send(Notice(said))

    def _log_model(
        self, spec: TrialSpec, model: keras.Model, data: TrainData, log: TrialLog
    ) -> str:
        metadata = {
            "class_names": list(data.class_names),
            "image_size": spec.job.params.image_size,
            "dataset_digest": spec.data.digest,
            "study": spec.study,
            "trial": spec.number,
        }
        step = -(-spec.job.params.image_size // _EXAMPLE_SIDE)
        example = data.x_val[:1, ::step, ::step]
        return log.log_model(spec.run_id, model, self._launch.backend, metadata, example)


def _scored_anew(metric: str, value: float, result: TrialResult) -> str:
    """Why a trial's value differs from its best epoch's; empty if it doesn't."""
    if result.best_epoch is None:
        return ""
    trained = result.history[result.best_epoch][metric]
    if f"{trained:.4f}" == f"{value:.4f}":
        return ""
    return (
        f"objective and final_… are those of the exported model, which scores val anew in float32: "
        f"{metric} {value:.4f}, where epoch {result.best_epoch + 1}, whose weights it has, had "
        f"{trained:.4f} in training."
    )


def _of_train(history: list[dict[str, float]], epoch: int | None) -> dict[str, float]:
    """Metrics of train in an epoch, from 0, or in the last one; only those that val has too."""
    metrics = history[-1 if epoch is None else epoch] if history else {}
    return {name: value for name, value in metrics.items() if f"val_{name}" in metrics}


class _AnnouncedRetry(Retry):
    """Announces each call to the coordinator, as it may take long.

    Args:
        connection: Connection to the coordinator.
        about: Name of the store that is called, for people, as in `Retry`.
        seconds: Time to keep retrying for, in s; 0 for no retries.
        say: Callback for a line when retrying begins.
        stopped: Function that says whether to stop retrying.
    """

    def __init__(
        self,
        connection: Connection,
        about: str,
        seconds: float,
        say: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> None:
        super().__init__(about, seconds, say, stopped)
        self._connection = connection
        self._longest = seconds + CALL_S

    def __call__(self, call: Callable[[], _T], again: Callable[[], _T] | None = None) -> _T:
        """As in `Retry`."""
        self._connection.send(Recording(self._longest))
        try:
            return super().__call__(call, again)
        finally:
            self._connection.send(Recording(0))


class _FigureThread(threading.Thread):
    """Plots a trial's figures and logs them, with a client of its own.

    Plotting needs only numbers, so it is safe beside a training. If it fails or is killed, the
    coordinator plots what is missing from what MLflow keeps.

    Args:
        spec: Trial's spec.
        seen: Curves and predictions that the figures are plotted from.
        dataset: Dataset that the trial trained on.

    Attributes:
        failed: Message for the user, in one line; empty where nothing failed.
    """

    def __init__(self, spec: TrialSpec, seen: Recorded, dataset: Dataset) -> None:
        super().__init__(name="figures")
        self._spec = spec
        self._seen = seen
        self._dataset = dataset
        self.failed = ""

    def run(self) -> None:
        """Plot the figures and log them."""
        from catdog_search.tracking.trial_log import draw_figures, remove_figures

        spec = self._spec
        title = f"{spec.study} trial {spec.number}"
        try:
            draw_figures(spec.store, spec.run_id, title, self._seen, self._dataset)
        # Any error: the trial has its value, and the coordinator would meet the same error itself.
        except Exception as error:
            reason = outside_reason(error, state_of(spec.checkpoint.parent)) or named_line(error)
            self.failed = (
                f"trial {spec.number}: its figures were not drawn: {reason}; they are when the "
                "study ends, or at the next start"
            )
            with contextlib.suppress(Exception):
                remove_figures(spec.store, spec.run_id)
