"""The worker: a process of its own that owns the device and takes trials one after another."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import multiprocessing as mp
import os
import platform
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from catdog_search.config import is_better
from catdog_search.errors import BackendError, CacheLostError, CatdogError, outside_reason
from catdog_search.search.messages import (
    BatchDone,
    Decision,
    EpochDone,
    Launch,
    Notice,
    Outcome,
    Ready,
    Start,
    Stop,
    TrialSpec,
)

if TYPE_CHECKING:
    import keras

    from catdog_search.data.dataset import Dataset
    from catdog_search.training.result import OnBatch, Report, TrainData, TrialResult

TRAINING = "catdog_search.training.loop"
BACKENDS = ("tensorflow", "jax", "torch")
# MLflow keeps the example of a model's input as text, twice.
_EXAMPLE_SIDE = 64
_REASONS = {"diverged": "diverged: the loss is not finite"}


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


def serve(connection: Connection, launch: Launch) -> None:
    """The worker's whole life: import Keras, wait for Start, then trials until Shutdown or Stop."""
    threading.Thread(target=_die_with_coordinator, daemon=True).start()
    _redirect_output(launch.log)
    os.environ["KERAS_BACKEND"] = launch.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    trainer = _Trainer(connection, launch.backend, launch.training)
    try:
        trainer.prepare(launch)
        if not isinstance(connection.recv(), Start):
            return  # a spare that wasn't needed
        connection.send(trainer.ready())
        while isinstance(spec := connection.recv(), TrialSpec):
            connection.send(trainer.run(spec))
        trainer.finish()
    except (EOFError, BrokenPipeError):
        return  # the coordinator is gone


def _die_with_coordinator() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _redirect_output(log: Path) -> None:
    """Send what libraries print, from C++ too, to the log: the terminal is the coordinator's."""
    log.parent.mkdir(parents=True, exist_ok=True)
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
        self._module: Any = None  # the training, once it is imported
        self._data: tuple[Dataset, TrainData] | None = None
        self._stopped = False
        self._drawing: threading.Thread | None = None

    def prepare(self, launch: Launch) -> None:
        """Import the training, and with it Keras; the device is left alone."""
        self._module = importlib.import_module(self._training)
        if launch.sharing > 1:
            self._module.share_device(self._backend, launch.sharing)
        if launch.deterministic:
            self._module.set_deterministic(self._backend)

    def ready(self) -> Ready:
        """Look at the device."""
        module = self._module
        return Ready(
            backend=self._backend,
            device=module.look_at_device(self._backend),
            versions=_versions(self._backend),
            product_rate=module.product_rate(),
        )

    def run(self, spec: TrialSpec) -> Outcome:
        """Train and log one trial; a bug becomes an outcome."""
        try:
            return self._run(spec)
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:
            return Outcome(
                self._ending(error),
                reason=_first_line(error),
                trace=traceback.format_exc(),
                photos_lost=isinstance(error, CacheLostError),
            )

    def _ending(self, error: Exception) -> Literal["oom", "blocked", "bug"]:
        if self._module.is_out_of_memory(error):
            return "oom"
        return "blocked" if isinstance(error, CatdogError) or outside_reason(error) else "bug"

    def _run(self, spec: TrialSpec) -> Outcome:
        from catdog_search.tracking.runs import log_metrics, system_metrics

        client = spec.store.client()

        def report(epoch: int, metrics: Mapping[str, float]) -> bool:
            log_metrics(client, spec.run_id, metrics, epoch)
            self._connection.send(EpochDone(spec.number, epoch, metrics))
            return self._keep_going(self._connection.recv())

        def on_batch(epoch: int | None, step: int, steps: int) -> bool:
            self._connection.send(BatchDone(spec.number, epoch, step, steps))
            return not self._connection.poll() or self._keep_going(self._connection.recv())

        def say(text: str) -> None:
            self._connection.send(Notice(f"trial {spec.number}: {text}"))

        data = self._load(spec.dataset)
        with system_metrics(spec.store, spec.run_id):
            result = self._train(spec, data, report, on_batch, say)
        if self._stopped:
            return Outcome("interrupted")
        return self._log(spec, data, result, client)

    def _train(
        self,
        spec: TrialSpec,
        data: TrainData,
        report: Report,
        on_batch: OnBatch,
        say: Callable[[str], None],
    ) -> TrialResult:
        result: TrialResult = self._module.train(
            spec.params,
            spec.config,
            data,
            report,
            seed=spec.seed,
            on_batch=on_batch,
            say=say,
            checkpoint=spec.checkpoint,
            execution=spec.execution,
        )
        return result

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
        """Log scores, what val was taken for, and, where it is worth keeping, the model.

        This comes before the outcome is told, so that COMPLETE means that they are there.
        """
        from catdog_search.tracking.runs import log_metrics
        from catdog_search.tracking.trial_files import log_val

        if result.ending != "finished":
            reason = _REASONS.get(result.ending, "")
            return Outcome(result.ending, n_weights=result.n_weights, reason=reason)
        value = result.scores[spec.config.metric]
        final = {f"final/{name}": score for name, score in result.scores.items()}
        kept_epoch = float(result.best_epoch or 0)
        final |= {"objective": value, "n_weights": result.n_weights, "best_epoch": kept_epoch}
        log_metrics(client, spec.run_id, final, step=0)
        log_val(client, spec.run_id, data.y_val, result.val_probabilities)
        kept = spec.keep_above is None or is_better(spec.config.direction, value, spec.keep_above)
        if kept:
            self._draw(spec, data, result, client)
        model = result.model if kept else None
        return Outcome(
            ending="finished",
            value=value,
            scores=result.scores,
            n_weights=result.n_weights,
            kept=kept,
            model_id=None if model is None else self._log_model(spec, model, data),
        )

    def _draw(self, spec: TrialSpec, data: TrainData, result: TrialResult, client: Any) -> None:
        """Draw the figures while the next trial trains.

        They need nothing but numbers, so that is safe; where it fails, or a kill comes before,
        the coordinator draws what is missing, from what MLflow keeps.
        """
        from catdog_search.tracking.figures import Predictions
        from catdog_search.tracking.trial_files import log_figures

        title = f"{spec.config.name} trial {spec.number}"
        predictions = Predictions(data.y_val.ravel(), result.val_probabilities)
        drawn = (title, result.history, result.best_epoch, predictions, spec.dataset)
        self.finish()
        self._drawing = threading.Thread(target=log_figures, args=(client, spec.run_id, *drawn))
        self._drawing.start()

    def finish(self) -> None:
        """Wait for the figures that are being drawn."""
        if self._drawing is not None:
            self._drawing.join()

    def _log_model(self, spec: TrialSpec, model: keras.Model, data: TrainData) -> str:
        from catdog_search.tracking.models import log_model

        metadata = {
            "class_names": list(data.class_names),
            "image_size": spec.config.image_size,
            "dataset_digest": spec.dataset.digest,
            "study": spec.config.name,
            "trial": spec.number,
        }
        step = -(-spec.config.image_size // _EXAMPLE_SIDE)
        example = data.x_val[:1, ::step, ::step]
        return log_model(spec.run_id, model, self._backend, metadata, example)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, CatdogError):
        return text  # written to be read
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__


def _versions(backend: str) -> dict[str, str]:
    packages = ("keras", backend, "mlflow", "optuna", "scikit-learn", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in (*packages, "catdog-search")}
    return {"python": platform.python_version(), **found}
