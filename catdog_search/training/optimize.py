"""What a model is compiled with: optimizer, schedule of the learning rate, loss, metrics."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from catdog_search.config import CnnParams

# One-cycle: the rate starts at a 25th of its height and rises for 30 % of the steps
# (Smith 2018, arXiv:1803.09820).
_RISE, _START = 0.3, 1 / 25


def compile_model(
    model: keras.Model,
    params: CnnParams,
    total_steps: int,
    *,
    steps_per_call: int = 1,
    xla: bool = False,
) -> None:
    """Compile for training.

    Args:
        model: RGB -> logits (batch, 1).
        params: Of the trial.
        total_steps: Of the whole training; a falling rate reaches its end there.
        steps_per_call: Steps that one call of the host runs.
        xla: Whether XLA compiles a step; on JAX it does anyway.
    """
    model.compile(
        optimizer=_optimizer(params, total_steps),
        loss=keras.losses.BinaryCrossentropy(
            from_logits=True, label_smoothing=params.label_smoothing
        ),
        metrics=[Accuracy(), Precision(), Recall(), Auc()],
        steps_per_execution=steps_per_call,
        jit_compile=xla or keras.backend.backend() == "jax",
    )


def _optimizer(params: CnnParams, total_steps: int) -> keras.optimizers.Optimizer:
    options: dict[str, Any] = {"weight_decay": params.weight_decay or None}
    if params.ema:
        options |= {"use_ema": True, "ema_momentum": params.ema}
    rate = learning_rate(params, total_steps)
    if params.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, params.momentum, nesterov=True, **options)
    else:
        optimizer = keras.optimizers.Adam(rate, **options)
    if params.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def learning_rate(
    params: CnnParams, total_steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The rate of a trial: a number where it is constant, else by step."""
    if params.schedule == "constant":
        return params.learning_rate
    if params.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(params.learning_rate, total_steps)
    rise = max(1, round(_RISE * total_steps))
    return keras.optimizers.schedules.CosineDecay(
        params.learning_rate * _START,
        max(1, total_steps - rise),
        warmup_target=params.learning_rate,
        warmup_steps=rise,
    )


class _OnLogits:
    """Makes a metric of hard labels and probabilities take soft labels and logits."""

    def update_state(self, y_true: Any, logits: Any, sample_weight: Any = None) -> Any:
        """Add a batch; labels (n, 1) in 0 to 1, mixed ones count as the nearer class."""
        labels = ops.cast(ops.greater(y_true, 0.5), "float32")
        return super().update_state(labels, ops.sigmoid(logits), sample_weight)  # type: ignore[misc]


class Accuracy(_OnLogits, keras.metrics.BinaryAccuracy):  # type: ignore[misc]
    """Share of right answers."""

    def __init__(self) -> None:
        super().__init__(name="accuracy")


class Precision(_OnLogits, keras.metrics.Precision):  # type: ignore[misc]
    """Share of class 1 among what is taken for it."""

    def __init__(self) -> None:
        super().__init__(name="precision")


class Recall(_OnLogits, keras.metrics.Recall):  # type: ignore[misc]
    """Share of class 1 that is found."""

    def __init__(self) -> None:
        super().__init__(name="recall")


class Auc(_OnLogits, keras.metrics.AUC):  # type: ignore[misc]
    """Area under the ROC curve, from 200 thresholds; the final score is exact."""

    def __init__(self) -> None:
        super().__init__(name="auc")
