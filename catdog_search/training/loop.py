"""Train one trial: numbers in, a report an epoch, a result out. Keras `fit` is the loop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from catdog_search.config import CnnParams, StudyConfig
from catdog_search.models.augmentation import MIXUP_ALPHA, Shrink
from catdog_search.models.cnn import build_cnn
from catdog_search.models.export import exported_model, training_model
from catdog_search.space import Params
from catdog_search.training import checkpoint as ckpt
from catdog_search.training.batches import TrainBatches, ValBatches, feed
from catdog_search.training.callbacks import (
    CheckpointCallback,
    ProgressiveCallback,
    ReportCallback,
    ValCallback,
    training_variables,
)
from catdog_search.training.checkpoint import Checkpoint
from catdog_search.training.device import (
    is_out_of_memory,
    look_at_device,
    product_rate,
    set_deterministic,
    share_device,
)
from catdog_search.training.evaluate import probabilities_of, scores
from catdog_search.training.execution import PLAIN, Execution
from catdog_search.training.optimize import compile_model
from catdog_search.training.pixels import on_device
from catdog_search.training.result import OnBatch, Report, TrainData, TrialResult

# All that a worker asks of the module that trains; a stand-in has the same names.
__all__ = [
    "is_out_of_memory",
    "look_at_device",
    "product_rate",
    "set_deterministic",
    "share_device",
    "train",
]

# The learning rate, the progress and a request to stop are looked at between calls.
_CALLS_PER_EPOCH = 8


def train(  # noqa: PLR0913  the seam between search and training
    params: Params,
    config: StudyConfig,
    data: TrainData,
    report: Report,
    *,
    seed: int,
    on_batch: OnBatch | None = None,
    checkpoint: Path | None = None,
    execution: Execution = PLAIN,
) -> TrialResult:
    """Train and score one trial, or go on with it.

    With a constant learning rate training stops early when the metric hasn't improved for
    `patience` epochs, and the best epoch's weights are scored and returned. With a falling one
    the last epoch's are, averaged if `ema` says so: the best of the epochs before would be luck.

    Args:
        params: Values for the knobs of `config.family`; those absent take their defaults.
        config: Of the study.
        data: Train and val.
        report: Called with (epoch, metrics) after every epoch, those of a checkpoint included;
            False stops the training.
        seed: Of weights, order, dropout and augmentation. The order in which threads add numbers
            is not fixed by it, unless `set_deterministic` was called.
        on_batch: Called with (epoch, step, steps) now and then; False stops at once.
        checkpoint: Where to save after every epoch, and to go on from.
        execution: How it runs; what it learns is the same but for the rounding of numbers.

    Raises:
        KeyError: The model doesn't log `config.metric`.
        OSError: The checkpoint can't be written.
    """
    keras.utils.clear_session()  # what the trial before this one left in memory
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(execution.precision)
    cnn = CnnParams.model_validate(params)
    key = _key(cnn, config, data, seed)
    resumed = ckpt.load(checkpoint, key) if checkpoint else None
    history = resumed.history if resumed else []
    body = build_cnn(cnn, config.image_size, seed)
    if not all(report(epoch, metrics) for epoch, metrics in enumerate(history)):
        return _unscored("told", history, body)
    lookup = on_device(data) if execution.pixels == "device" else None
    model = training_model(body, config.image_size, cnn, seed, lookup)
    epochs = cnn.epochs or config.training.epochs
    batches = _batches(cnn, data, seed, execution)
    steps_per_call = min(execution.steps_per_call, max(1, len(batches) // _CALLS_PER_EPOCH))
    compile_model(
        model, cnn, epochs * len(batches), steps_per_call=steps_per_call, xla=execution.xla
    )
    stopper = _early_stopping(config) if cnn.schedule == "constant" else None
    reporter = ReportCallback(report, on_batch, config.metric, len(data.y_train), history)
    order = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: batches.set_epoch(epoch))
    averager = keras.callbacks.SwapEMAWeights() if cnn.ema else None
    val = feed(ValBatches(data, rows=lookup is not None, shares=len(model.inputs) > 1))
    scorer = ValCallback(val, data.y_val, reporter, stopper, averager)
    callbacks: list[Any] = [averager, order, scorer, stopper, reporter]
    callbacks = [callback for callback in callbacks if callback]
    if shrinks := [layer for layer in model.layers if isinstance(layer, Shrink)]:
        callbacks.insert(0, ProgressiveCallback(shrinks[0], cnn.half_side_epochs(epochs)))
    if checkpoint:
        target = checkpoint
        callbacks.append(
            CheckpointCallback(lambda c: ckpt.save(target, c), key, reporter, stopper, resumed)
        )
    if resumed:
        _restore(model, resumed)
    model.fit(
        feed(batches),
        shuffle=False,  # they shuffle themselves; Keras would shuffle their order by another stream
        initial_epoch=len(history),
        epochs=len(history) if resumed and resumed.done else epochs,
        verbose=0,
        callbacks=callbacks,
    )
    result = _unscored(reporter.ending, reporter.history, body)
    if reporter.history:
        best = stopper.best_epoch if stopper else len(reporter.history) - 1
        result = dataclasses.replace(result, best_epoch=best)
    if result.ending != "finished":
        return result
    full = _in_float32(body, cnn, config)
    best_epoch = -1 if result.best_epoch is None else result.best_epoch
    logits = scorer.logits.get(best_epoch) if full is body else None
    return _scored(result, full, data, config.image_size, logits)


def _batches(params: CnnParams, data: TrainData, seed: int, execution: Execution) -> TrainBatches:
    alpha = MIXUP_ALPHA * params.augmentation if "mixup" in params.augmentations else None
    rows = execution.pixels == "device"
    return TrainBatches(data, params.batch_size, seed, alpha, rows=rows)


def _in_float32(body: keras.Model, params: CnnParams, config: StudyConfig) -> keras.Model:
    """The same network in full precision: what is scored is what is exported."""
    if body.compute_dtype == "float32":
        return body
    keras.config.set_dtype_policy("float32")
    full = build_cnn(params, config.image_size)
    full.set_weights(body.get_weights())
    return full


def _key(params: CnnParams, config: StudyConfig, data: TrainData, seed: int) -> str:
    """What a checkpoint must agree in to be this training's."""
    shapes = [data.x_train.shape, data.x_val.shape, float(data.y_train.sum())]
    facts = [params.model_dump(), config.training.model_dump(), config.image_size, seed, shapes]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _restore(model: keras.Model, checkpoint: Checkpoint) -> None:
    model.optimizer.build(model.trainable_variables)
    for variable, value in zip(training_variables(model), checkpoint.variables, strict=True):
        variable.assign(value)


def _early_stopping(config: StudyConfig) -> keras.callbacks.EarlyStopping:
    return keras.callbacks.EarlyStopping(
        monitor=config.metric,
        mode="max" if config.direction == "maximize" else "min",
        patience=config.training.patience,
        min_delta=config.training.min_delta,
        restore_best_weights=True,
    )


def _unscored(ending: Any, history: list[dict[str, float]], body: keras.Model) -> TrialResult:
    return TrialResult(
        ending=ending,
        history=history,
        best_epoch=None,
        scores={},
        val_probabilities=np.empty(0, np.float32),
        model=None,
        n_weights=int(body.count_params()),
    )


def _scored(
    result: TrialResult, body: keras.Model, data: TrainData, image_size: int, logits: Any
) -> TrialResult:
    """Score val, by its logits where they are those of these weights."""
    if logits is None:
        logits = body.predict(feed(ValBatches(data)), verbose=0)
    probabilities = probabilities_of(logits)
    return dataclasses.replace(
        result,
        scores=scores(data.y_val, probabilities),
        val_probabilities=probabilities,
        model=exported_model(body, image_size),
    )
