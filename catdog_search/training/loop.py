"""Train one trial: arrays in, a report per epoch, a result out. Keras `fit` is the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from catdog_search import __version__
from catdog_search.families import registry
from catdog_search.models.augmentation import Augment
from catdog_search.models.defaults import pin_defaults
from catdog_search.models.export import exported_model
from catdog_search.objective import keras_mode
from catdog_search.outcomes import Ending
from catdog_search.training import checkpoint as ckpt
from catdog_search.training.batches import feed
from catdog_search.training.callbacks import (
    STOPPER,
    CheckpointCallback,
    ReportCallback,
    ValCallback,
    training_variables,
)
from catdog_search.training.checkpoint import Checkpoint, UnusableError
from catdog_search.training.features import StoppedError
from catdog_search.training.job import TrainingJob
from catdog_search.training.metrics import probabilities_of, scores
from catdog_search.training.plan import CompiledPhase, Phase, Planner, Task, TrainingPlan
from catdog_search.training.result import OnBatch, Report, TrainData, TrialResult
from catdog_search.training.scoring import val_logits


def train(
    job: TrainingJob,
    data: TrainData,
    report: Report,
    *,
    on_batch: OnBatch | None = None,
    say: Callable[[str], None] = lambda text: None,
    checkpoint: Path | None = None,
) -> TrialResult:
    """Train and score one trial, or resume it.

    With a constant learning rate training stops early when the metric hasn't improved for
    `patience` epochs, and the best epoch's weights are scored and returned. With a decaying one
    the last epoch's are, averaged if `ema` says so: a better epoch before it would be luck.

    Args:
        job: Training to run. Its seed doesn't fix the order in which threads add numbers unless
            `set_deterministic` was called.
        data: Train and val, at the job's image size.
        report: Called with (epoch, metrics) after every epoch, those of a checkpoint included;
            False stops the training.
        on_batch: Called with (epoch, step, steps) now and then; False stops immediately.
        say: Callback given what a user should know, a line each.
        checkpoint: File to save to after every epoch, and to resume from. One that is damaged or
            not from exactly this training is dropped.

    Raises:
        KeyError: The model doesn't log the job's metric.
        DataError: The backbone's weights can't be obtained.
        OSError: The checkpoint can't be written.
    """
    key = training_key(job, data)
    begin = functools.partial(_train, job, data, report, on_batch, say, checkpoint, key)
    if checkpoint is None:
        return begin(None)
    try:
        return begin(ckpt.load(checkpoint, key))
    except UnusableError as error:
        say(f"its checkpoint {error}: it is dropped, and the trial begins anew")
        with contextlib.suppress(OSError):  # the first epoch overwrites it
            checkpoint.unlink()
        return begin(None)


def _train(  # noqa: PLR0913, PLR0917  those of `train`
    job: TrainingJob,
    data: TrainData,
    report: Report,
    on_batch: OnBatch | None,
    say: Callable[[str], None],
    checkpoint: Path | None,
    key: str,
    resumed: Checkpoint | None,
) -> TrialResult:
    """As `train`, from a checkpoint or from the beginning.

    Raises:
        UnusableError: The checkpoint doesn't fit; nothing was reported.
    """
    keras.utils.clear_session()  # frees what the previous trial left in memory
    pin_defaults()
    keras.utils.set_random_seed(job.seed)
    keras.config.set_dtype_policy(job.execution.precision)
    history = resumed.history if resumed else []
    plan = _plan(job, data, on_batch, say)
    reporter = ReportCallback(report, on_batch, job.metric, len(data.y_train), history)
    fitter = _Fitter(job, data, reporter, key, checkpoint, resumed)
    try:
        if resumed:
            fitter.take_up(plan.phases)
            done = len(history)
            say(f"resumes after epoch {done}; earlier epochs are reported again, not retrained")
        if not all(report(epoch, metrics) for epoch, metrics in enumerate(history)):
            return _unscored(Ending.PRUNED, history, plan)
        for phase in plan.phases:
            if fitter.concerns(phase):
                fitter.fit(phase)
    except StoppedError:
        return _unscored(Ending.INTERRUPTED, reporter.history, plan)
    result = _unscored(reporter.ending, reporter.history, plan)
    if reporter.history:
        result = dataclasses.replace(result, best_epoch=fitter.best_epoch())
    if result.ending is not Ending.FINISHED:
        return result
    logits = fitter.logits() if plan.as_trained else None
    return _scored(result, plan, data, logits, say, job.params.image_size)


def _plan(
    job: TrainingJob, data: TrainData, on_batch: OnBatch | None, say: Callable[[str], None]
) -> TrainingPlan:
    def on_photos(done: int, total: int) -> bool:
        return on_batch is None or on_batch(None, done, total)

    task = Task(
        job.params,
        job.epochs,
        job.weights,
        data,
        job.seed,
        job.execution,
        job.limits,
        on_photos,
        say,
    )
    planner: Planner = importlib.import_module(registry.family_of(job.params).training)
    return planner.make_plan(task)


class _Fitter:
    """Runs the phases of one training through Keras `fit`.

    Args:
        job: Training to run.
        data: Train and val, at the job's image size.
        reporter: Counts epochs through all phases.
        key: Key of the training's checkpoints, see `training_key`.
        checkpoint: File to save to after every epoch; None for no checkpoints.
        resumed: Checkpoint to resume from; None at the start.
    """

    def __init__(
        self,
        job: TrainingJob,
        data: TrainData,
        reporter: ReportCallback,
        key: str,
        checkpoint: Path | None,
        resumed: Checkpoint | None,
    ) -> None:
        self._job = job
        self._data = data
        self._reporter = reporter
        self._key = key
        self._checkpoint = checkpoint
        self._resumed = resumed
        self._begun: tuple[Phase, CompiledPhase] | None = None
        self._stopper: keras.callbacks.EarlyStopping | None = None
        self._scorer: ValCallback | None = None

    def concerns(self, phase: Phase) -> bool:
        """Whether a phase has something to train, or to take over from a checkpoint at its end."""
        done, end = len(self._reporter.history), self._end_of(phase)
        at_its_end = done == end and self._resumed is not None
        goes_on = self._reporter.ending is Ending.FINISHED
        return goes_on and (done < end or at_its_end)

    def _end_of(self, phase: Phase) -> int:
        return min(phase.end, self._job.last)

    def take_up(self, phases: Sequence[Phase]) -> None:
        """Begin the phase in which the checkpoint was saved, in its state.

        Raises:
            UnusableError: It doesn't fit.
        """
        assert self._resumed is not None
        phase = next((phase for phase in phases if self.concerns(phase)), None)
        if phase is None:
            raise UnusableError("has more epochs than the trial")
        compiled = phase.begin()
        restore(compiled.model, self._resumed, early_stopping=phase.early_stopping)
        self._begun = (phase, compiled)

    def fit(self, phase: Phase) -> None:
        """Train the remaining epochs of a phase."""
        compiled = self._begun[1] if self._begun and self._begun[0] is phase else phase.begin()
        self._stopper = _early_stopping(self._job) if phase.early_stopping else None
        done = len(self._reporter.history)
        callbacks = self._callbacks(compiled, averaged=phase.averaged)
        if compiled.own_fit is not None:
            compiled.own_fit(self._end_of(phase), callbacks)
            return
        compiled.model.fit(
            feed(compiled.batches),
            shuffle=False,  # they shuffle themselves; Keras would use another random stream
            initial_epoch=done,
            epochs=done if self._resumed and self._resumed.done else self._end_of(phase),
            verbose=0,
            callbacks=callbacks,
        )
        self._resumed = self._begun = None  # later phases begin afresh

    def _callbacks(self, compiled: CompiledPhase, *, averaged: bool) -> list[Any]:
        """Callbacks in the order in which they act at the end of an epoch."""
        averager = keras.callbacks.SwapEMAWeights() if averaged else None
        self._scorer = ValCallback(
            feed(compiled.val),
            self._data.y_val,
            self._reporter,
            self._stopper,
            averager,
            compiled.logits_of,
        )
        order = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: _begin_epoch(compiled, epoch)
        )
        own = [averager, order, self._scorer, self._stopper, self._reporter]
        callbacks = [*compiled.callbacks, *(callback for callback in own if callback)]
        if (path := self._checkpoint) is not None and compiled.own_fit is None:
            saver = CheckpointCallback(
                lambda c: ckpt.save(path, c),
                self._key,
                self._reporter,
                self._stopper,
                self._resumed,
            )
            callbacks.append(saver)
        return callbacks

    def best_epoch(self) -> int:
        """The epoch whose weights the model now has."""
        last = len(self._reporter.history) - 1
        return int(self._stopper.best_epoch) if self._stopper else last

    def logits(self) -> Any:
        """Logits of val with the weights of the best epoch; None where they were not kept."""
        return self._scorer.logits.get(self.best_epoch()) if self._scorer else None


def _begin_epoch(compiled: CompiledPhase, epoch: int) -> None:
    compiled.batches.set_epoch(epoch)
    for layer in compiled.model.layers:
        if isinstance(layer, Augment):
            layer.set_epoch(epoch)


def training_key(job: TrainingJob, data: TrainData) -> str:
    """A key that covers everything a checkpoint must share with this training."""
    backend = keras.backend.backend()
    facts: dict[str, Any] = {
        "params": job.params.model_dump(),
        "training": job.training.model_dump(),
        "metric": [job.metric, job.direction],
        "seed": job.seed,
        "data": data.digest,
        # In case the data have no digest.
        "shapes": [data.x_train.shape, data.x_val.shape, float(data.y_train.sum())],
        "precision": job.execution.precision,
        "versions": [
            __version__,
            keras.__version__,
            backend,
            importlib.metadata.version(backend),
        ],
    }
    if job.weights_id is not None:
        facts["weights"] = job.weights_id
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def restore(model: keras.Model, checkpoint: Checkpoint, *, early_stopping: bool) -> None:
    """Restore a model from a checkpoint, completely or not at all.

    Raises:
        UnusableError: It doesn't fit.
    """
    model.optimizer.build(model.trainable_variables)
    variables = training_variables(model)
    wanted = [(tuple(v.shape), keras.backend.standardize_dtype(v.dtype)) for v in variables]
    if [(value.shape, str(value.dtype)) for value in checkpoint.variables] != wanted:
        raise UnusableError("doesn't fit the network and its optimizer")
    best = [value.shape for value in checkpoint.best_weights]
    if best and best != [value.shape for value in model.get_weights()]:
        raise UnusableError("doesn't fit the network")
    if set(checkpoint.stopper) != set(STOPPER if early_stopping else ()):
        raise UnusableError("doesn't fit the trial's early stopping")
    for variable, value in zip(variables, checkpoint.variables, strict=True):
        variable.assign(value)


def _early_stopping(job: TrainingJob) -> keras.callbacks.EarlyStopping:
    return keras.callbacks.EarlyStopping(
        monitor=job.metric,
        mode=keras_mode(job.direction),
        patience=job.training.patience,
        min_delta=job.training.min_delta,
        restore_best_weights=True,
    )


def _unscored(ending: Ending, history: list[dict[str, float]], plan: TrainingPlan) -> TrialResult:
    return TrialResult(
        ending=ending,
        history=history,
        best_epoch=None,
        scores={},
        val_probabilities=np.empty(0, np.float32),
        model=None,
        n_weights=plan.n_weights,
    )


def _scored(
    result: TrialResult,
    plan: TrainingPlan,
    data: TrainData,
    logits: Any,
    say: Callable[[str], None],
    image_size: int,
) -> TrialResult:
    """Score val, reusing `logits` where they are those of the exported network."""
    network = plan.network()
    if logits is None:
        logits = val_logits(plan.rest(), network, data, say)
    probabilities = probabilities_of(logits)
    return dataclasses.replace(
        result,
        scores=scores(data.y_val, probabilities),
        val_probabilities=probabilities,
        model=exported_model(network, image_size),
    )
