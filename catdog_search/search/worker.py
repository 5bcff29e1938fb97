"""The worker: a process of its own that owns the device and takes trials one after another."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import multiprocessing as mp
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog_search.errors import BackendError
from catdog_search.search.messages import (
    BatchDone,
    Decision,
    EpochDone,
    Outcome,
    Ready,
    Shutdown,
    Stop,
    TrialSpec,
)

if TYPE_CHECKING:
    from catdog_search.data.dataset import Dataset
    from catdog_search.training.result import TrainData, TrialResult

TRAINING = "catdog_search.training.loop"
BACKENDS = ("tensorflow", "jax", "torch")


def choose_backend() -> str:
    """`KERAS_BACKEND`, else the first of tensorflow, jax, torch that is installed.

    Raises:
        BackendError: None is installed, or the one asked for isn't.
    """
    asked = os.environ.get("KERAS_BACKEND")
    if asked and asked not in BACKENDS:
        raise BackendError(f"KERAS_BACKEND: {asked!r} is not one of {', '.join(BACKENDS)}")
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if asked:
        if asked not in installed:
            raise BackendError(f"KERAS_BACKEND: {asked} is not installed")
        return asked
    if not installed:
        raise BackendError(
            "no Keras backend is installed; install one: pip install 'catdog-search[tf]' "
            "(or gpu, jax, torch)"
        )
    return installed[0]


class WorkerHandle:
    """The coordinator's end of a worker.

    Args:
        log: File that takes what the worker and its libraries print.
        backend: Keras backend.
        training: Module with `train` and `device_name` as `training.loop` has them.
    """

    def __init__(self, log: Path, backend: str, training: str = TRAINING) -> None:
        self.log = log
        context = mp.get_context("spawn")  # a fork would copy threads and locks half-way
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, str(log), backend, training), name="worker", daemon=True
        )
        # Ctrl-C reaches the whole group; the coordinator decides what it means. A signal that is
        # ignored here is ignored in the worker from its first moment on.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()  # so that a dead worker is the end of the pipe

    def shutdown(self, timeout: float = 5) -> None:
        """End the worker, by force if it doesn't end by itself."""
        with contextlib.suppress(OSError):  # it may be gone
            self.connection.send(Shutdown())
        self._process.join(timeout)
        self.kill()

    def kill(self) -> None:
        """End the worker at once."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.connection.close()

    def how_it_died(self) -> str:
        """For people: `was killed by SIGKILL` or `exited with 1`."""
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with {code}"


def serve(connection: Connection, log: str, backend: str, training: str) -> None:
    """The worker's whole life: import Keras once, then trials until Shutdown or Stop."""
    threading.Thread(target=_die_with_coordinator, daemon=True).start()
    _redirect_output(log)
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    trainer = _Trainer(connection, backend, training)
    try:
        connection.send(trainer.prepare())
        while isinstance(spec := connection.recv(), TrialSpec):
            connection.send(trainer.run(spec))
    except (EOFError, BrokenPipeError):
        return  # the coordinator is gone


def _die_with_coordinator() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _redirect_output(log: str) -> None:
    """Send what libraries print, from C++ too, to the log: the terminal is the coordinator's."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


class _Trainer:
    """Trains the trials of one worker, keeping what the next one can use."""

    def __init__(self, connection: Connection, backend: str, training: str) -> None:
        self._connection = connection
        self._backend = backend
        self._training = training
        self._train: Callable[..., TrialResult] | None = None
        self._data: tuple[Dataset, TrainData] | None = None
        self._stopped = False

    def prepare(self) -> Ready:
        """Import the training, and with it Keras."""
        module = importlib.import_module(self._training)
        self._train = module.train
        device = module.device_name(self._backend)
        return Ready(self._backend, device, _versions(self._backend))

    def run(self, spec: TrialSpec) -> Outcome:
        """Train and log one trial; a bug becomes an outcome."""
        try:
            return self._run(spec)
        except (EOFError, BrokenPipeError):
            raise
        except Exception:
            return Outcome("bug", trace=traceback.format_exc())

    def _run(self, spec: TrialSpec) -> Outcome:
        from catdog_search.tracking.runs import log_metrics

        assert self._train is not None, "prepare() comes first"
        client = spec.store.client()

        def report(epoch: int, metrics: Mapping[str, float]) -> bool:
            log_metrics(client, spec.run_id, metrics, epoch)
            self._connection.send(EpochDone(epoch, metrics))
            return self._keep_going(self._connection.recv())

        def on_batch(epoch: int, step: int, steps: int) -> bool:
            self._connection.send(BatchDone(epoch, step, steps))
            return not self._connection.poll() or self._keep_going(self._connection.recv())

        data = self._load(spec.dataset)
        result = self._train(
            spec.params, spec.config, data, report, seed=spec.seed, on_batch=on_batch
        )
        if self._stopped:
            return Outcome("interrupted")
        return self._log(spec, data, result, client)

    def _keep_going(self, message: object) -> bool:
        if isinstance(message, Stop):
            self._stopped = True
        return isinstance(message, Decision) and message.keep_going

    def _load(self, dataset: Dataset) -> TrainData:
        from catdog_search.training.result import TrainData

        if self._data is None or self._data[0] != dataset:
            self._data = (dataset, TrainData.of(dataset))
        return self._data[1]

    def _log(self, spec: TrialSpec, data: TrainData, result: TrialResult, client: Any) -> Outcome:
        """Log figures, scores and a model worth keeping.

        This comes before the outcome is told, so that COMPLETE means that they are there.
        """
        from catdog_search.tracking import figures
        from catdog_search.tracking.runs import log_metrics

        title = f"{spec.config.name} trial {spec.number}"
        curves = figures.learning_curves(result.history, result.best_epoch, title)
        client.log_figure(spec.run_id, curves, "figures/learning_curves.png")
        if result.ending != "finished":
            return Outcome(result.ending, best_epoch=result.best_epoch, n_weights=result.n_weights)
        predicted = result.val_probabilities > 0.5  # noqa: PLR2004  the more probable class
        matrix = figures.confusion_matrix(
            data.y_val.ravel(), predicted, data.class_names, f"{title}: val"
        )
        client.log_figure(spec.run_id, matrix, "figures/confusion_matrix.png")
        value = result.scores[spec.config.metric]
        final = {f"final/{name}": score for name, score in result.scores.items()}
        final |= {"objective": value, "n_weights": float(result.n_weights)}
        log_metrics(client, spec.run_id, final, step=result.best_epoch or 0)
        return Outcome(
            ending="finished",
            value=value,
            scores=result.scores,
            best_epoch=result.best_epoch,
            n_weights=result.n_weights,
            model_id=self._log_model(spec, data, result, value),
        )

    def _log_model(
        self, spec: TrialSpec, data: TrainData, result: TrialResult, value: float
    ) -> str | None:
        from catdog_search.config import is_better
        from catdog_search.tracking.models import log_model

        better = spec.keep_above is None or is_better(spec.config.direction, value, spec.keep_above)
        if result.model is None or not better:
            return None
        metadata = {
            "class_names": list(data.class_names),
            "image_size": spec.config.image_size,
            "dataset_digest": spec.dataset.digest,
            "study": spec.config.name,
            "trial": spec.number,
        }
        return log_model(spec.run_id, result.model, self._backend, metadata)


def _versions(backend: str) -> dict[str, str]:
    packages = ("keras", backend, "mlflow", "optuna", "scikit-learn", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in (*packages, "catdog-search")}
    return {"python": platform.python_version(), **found}
