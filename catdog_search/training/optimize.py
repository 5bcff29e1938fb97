"""What a model is compiled with: optimizer, learning-rate schedule, loss, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from catdog_search.families.base import NetworkParams

# One-cycle: the rate starts at 1/25 of its peak and rises for 30 % of the steps
# (Smith 2018, arXiv:1803.09820).
_RISE, _START = 0.3, 1 / 25
# Bins of the histogram that scores are computed from; 0.5 is an edge between two.
_BINS = 200


def compile_model(
    model: keras.Model,
    params: NetworkParams,
    total_steps: int,
    *,
    steps_per_call: int = 1,
    xla: bool = False,
    slow: tuple[Sequence[keras.Variable], float] = ((), 1.0),
) -> None:
    """Compile for training.

    Args:
        model: RGB -> logits (batch, 1).
        params: Params of the trial.
        total_steps: Optimizer steps of the whole training; a decaying rate ends there.
        steps_per_call: Steps that one call of the host runs.
        xla: Whether XLA compiles a step; on JAX it always does.
        slow: Variables with their own learning rate, and its ratio to that of the others.
    """
    model.compile(
        optimizer=_optimizer(params, total_steps, *slow),
        loss=keras.losses.BinaryCrossentropy(
            from_logits=True, label_smoothing=params.label_smoothing
        ),
        metrics=[Scores()],
        steps_per_execution=steps_per_call,
        jit_compile=xla or keras.backend.backend() == "jax",
    )


class _TwoRates:
    """Gives some variables a fraction of an optimizer's learning rate and weight decay."""

    _slow: frozenset[int] = frozenset()
    _share = 1.0

    def slow_down(self, variables: Sequence[keras.Variable], share: float) -> None:
        """Give these variables `share` times the rate."""
        self._slow, self._share = frozenset(map(id, variables)), share

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable], rate: Any
    ) -> None:
        """The one method that all variables pass through on every backend; here in two groups."""
        pairs = list(zip(grads, trainable_variables, strict=True))
        for is_slow, share in ((False, 1.0), (True, self._share)):
            group = [pair for pair in pairs if (id(pair[1]) in self._slow) == is_slow]
            if group:
                some_grads, variables = (list(part) for part in zip(*group, strict=True))
                super()._backend_update_step(some_grads, variables, rate * share)  # type: ignore[misc]

    def _apply_weight_decay(self: Any, variables: Sequence[keras.Variable]) -> None:
        """Keras's own would use the head's rate for every variable."""
        if self.weight_decay is None:
            return
        for variable in variables:
            if self._use_weight_decay(variable):
                share = self._share if id(variable) in self._slow else 1.0
                decay = self.weight_decay * self.learning_rate * share
                variable.assign(variable * (1 - ops.cast(decay, variable.dtype)))


class _Adam(_TwoRates, keras.optimizers.Adam):  # type: ignore[misc]
    pass


class _Sgd(_TwoRates, keras.optimizers.SGD):  # type: ignore[misc]
    pass


def _optimizer(
    params: NetworkParams, total_steps: int, slow: Sequence[keras.Variable], share: float
) -> keras.optimizers.Optimizer:
    # Named, because TensorFlow rejects names that begin with an underscore.
    options: dict[str, Any] = {
        "weight_decay": params.weight_decay or None,
        "name": params.optimizer,
    }
    if params.ema:
        options |= {"use_ema": True, "ema_momentum": params.ema}
    rate = learning_rate(params, total_steps)
    if params.optimizer == "sgd":
        optimizer = (_Sgd if slow else keras.optimizers.SGD)(
            rate, params.momentum, nesterov=True, **options
        )
    else:
        optimizer = (_Adam if slow else keras.optimizers.Adam)(rate, **options)
    if slow:
        optimizer.slow_down(slow, share)
    if params.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def learning_rate(
    params: NetworkParams, total_steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of a trial: a number where it is constant, else a schedule by step."""
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


class Scores(keras.metrics.Metric):  # type: ignore[misc]
    """Accuracy, precision, recall and AUC from one histogram of probabilities by class.

    One product of two small matrices per step, where Keras's own four metrics take many small
    operations. AUC is that of the histogram, as Keras's is that of its thresholds; the final score
    is exact.
    """

    def __init__(self) -> None:
        super().__init__(name="scores")
        self._counts = self.add_weight(
            shape=(2, _BINS), initializer="zeros", dtype="float32", name="counts"
        )

    def update_state(self, y_true: Any, logits: Any, sample_weight: Any = None) -> None:
        """Add a batch; labels (n, 1) from 0 to 1, where mixed ones count as the nearer class."""
        del sample_weight  # never used in this project
        positive = ops.cast(ops.greater(ops.reshape(y_true, (-1,)), 0.5), "float32")
        probabilities = ops.sigmoid(ops.cast(ops.reshape(logits, (-1,)), "float32"))
        bins = ops.clip(ops.cast(probabilities * _BINS, "int32"), 0, _BINS - 1)
        by_class = ops.stack([1 - positive, positive])  # (2, n)
        self._counts.assign_add(ops.matmul(by_class, ops.one_hot(bins, _BINS, dtype="float32")))

    def result(self) -> dict[str, Any]:
        """All four scores; class 1 is positive, predicted from a probability of 0.5 on."""
        negatives, positives = ops.sum(self._counts, axis=1)[0], ops.sum(self._counts, axis=1)[1]
        # Counts predicted positive with each bin's lower edge as the threshold.
        above = ops.flip(ops.cumsum(ops.flip(self._counts, axis=1), axis=1), axis=1)
        false_positives, true_positives = above[0, _BINS // 2], above[1, _BINS // 2]
        true_negatives = negatives - false_positives
        none = ops.zeros((2, 1))
        curve = ops.concatenate([above, none], axis=1)  # from everything positive to nothing
        widths = curve[0, :-1] - curve[0, 1:]
        area = ops.sum(widths * (curve[1, :-1] + curve[1, 1:]) / 2)
        return {
            "accuracy": _share(true_positives + true_negatives, negatives + positives),
            "precision": _share(true_positives, true_positives + false_positives),
            "recall": _share(true_positives, positives),
            "auc": _share(area, negatives * positives),
        }

    def reset_state(self) -> None:
        """Forget everything."""
        self._counts.assign(ops.zeros((2, _BINS)))


def _share(part: Any, whole: Any) -> Any:
    """`part` over `whole`; 0 where `whole` is 0."""
    return ops.divide_no_nan(part, whole)
