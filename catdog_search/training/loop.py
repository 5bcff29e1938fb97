"""Train one trial: numbers in, a report an epoch, a result out. Keras `fit` is the loop."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops

from catdog_search.config import CnnParams, StudyConfig
from catdog_search.models.cnn import build_cnn
from catdog_search.models.export import exported_model, training_model
from catdog_search.space import Params
from catdog_search.training.callbacks import ReportCallback
from catdog_search.training.device import device_name
from catdog_search.training.evaluate import scores
from catdog_search.training.result import OnBatch, Report, TrainData, TrialResult

__all__ = ["device_name", "train"]

# Val in few large batches: it needs no gradients, so they fit.
VAL_BATCH = 512


def train(
    params: Params,
    config: StudyConfig,
    data: TrainData,
    report: Report,
    *,
    seed: int,
    on_batch: OnBatch | None = None,
) -> TrialResult:
    """Train and score one trial.

    Training stops early when the metric hasn't improved for `patience` epochs; the best epoch's
    weights are what is scored and returned.

    Args:
        params: Values for the knobs of `config.family`; those absent take their defaults.
        config: Of the study.
        data: Train and val.
        report: Called with (epoch, metrics) after every epoch; False stops the training.
        seed: Of weights, order, dropout and augmentation. The order in which threads add numbers
            is not fixed by it.
        on_batch: Called with (epoch, step, steps) now and then; False stops at once.

    Raises:
        KeyError: The model doesn't log `config.metric`.
    """
    keras.utils.set_random_seed(seed)
    cnn = CnnParams.model_validate(params)
    body = build_cnn(cnn, config.image_size)
    model = training_model(body, cnn.augmentation, seed)
    model.compile(optimizer=_optimizer(cnn), loss=_loss(), metrics=[accuracy])
    reporter = ReportCallback(report, on_batch, config.metric)
    stopper = _early_stopping(config)
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=cnn.batch_size,
        epochs=config.training.epochs,
        validation_data=(data.x_val, data.y_val),
        validation_batch_size=VAL_BATCH,
        verbose=0,
        callbacks=[stopper, reporter],
    )
    result = TrialResult(
        ending=reporter.ending,
        history=reporter.history,
        best_epoch=stopper.best_epoch if reporter.history else None,
        scores={},
        val_probabilities=np.empty(0, np.float32),
        model=None,
        n_weights=int(body.count_params()),
    )
    return _scored(result, body, data) if result.ending == "finished" else result


def accuracy(y_true: object, logits: object) -> object:
    """Whether each answer is right, from logits (n, 1); Keras's own wants probabilities.

    One value a photo, and not their mean: Keras would average batches, the last and smaller one
    with the same weight as the others.
    """
    right = ops.equal(ops.greater(logits, 0), ops.greater(y_true, 0.5))
    return ops.cast(ops.squeeze(right, axis=-1), "float32")


def _optimizer(params: CnnParams) -> keras.optimizers.Optimizer:
    if params.optimizer == "sgd":
        return keras.optimizers.SGD(params.learning_rate, params.momentum, nesterov=True)
    return keras.optimizers.Adam(params.learning_rate)


def _loss() -> keras.losses.Loss:
    return keras.losses.BinaryCrossentropy(from_logits=True)


def _early_stopping(config: StudyConfig) -> keras.callbacks.EarlyStopping:
    return keras.callbacks.EarlyStopping(
        monitor=config.metric,
        mode="max" if config.direction == "maximize" else "min",
        patience=config.training.patience,
        min_delta=config.training.min_delta,
        restore_best_weights=True,
    )


def _scored(result: TrialResult, body: keras.Model, data: TrainData) -> TrialResult:
    logits = np.ravel(body.predict(data.x_val, batch_size=VAL_BATCH, verbose=0))
    probabilities = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    return dataclasses.replace(
        result,
        scores=scores(data.y_val, probabilities),
        val_probabilities=probabilities,
        model=exported_model(body),
    )
