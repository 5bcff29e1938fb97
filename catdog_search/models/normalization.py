"""Batch normalization, as one operation where Keras would use many."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Keras's BatchNormalization, in training by TensorFlow's single operation for it.

    It has the same weights and gives the same numbers up to rounding, in float32 whatever the
    precision. With Keras's own, made of many small operations, a residual network's step takes a
    quarter longer on CPUs (`benchmarks/step.py --network residual`). It replaces that while a
    network trains on TensorFlow, and is never exported.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize (batch, rows, columns, channels)."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(
            ops.cast(inputs, "float32"),
            ops.convert_to_tensor(self.gamma),
            ops.convert_to_tensor(self.beta),
            epsilon=self.epsilon,
            is_training=True,
        )
        # TensorFlow's is the sample variance, over n - 1; Keras's is over n.
        n = ops.cast(ops.size(inputs) // inputs.shape[-1], "float32")
        self._remember(self.moving_mean, mean)
        self._remember(self.moving_variance, variance * (n - 1) / n)
        return ops.cast(outputs, self.compute_dtype)

    def _remember(self, moving: keras.Variable, seen: Any) -> None:
        moving.assign(moving * self.momentum + seen * (1.0 - self.momentum))
