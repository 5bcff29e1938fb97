"""Photos in batches, in an order that the seed and the epoch alone decide."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from catdog_search.training.result import TrainData


class TrainBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Train, reshuffled every epoch; an epoch that is resumed sees what it would have seen.

    All batches have one size, so that nothing is compiled twice: the last one is filled up with
    the epoch's first photos.

    Args:
        data: Of the trial.
        batch_size: Photos a batch, or all there are if they are fewer.
        seed: Of the order and of mixup.
        epoch: The first one.
        mixup_alpha: Of the Beta distribution that shares are drawn from; None for no mixup.
        rows: Whether the model looks the photos up itself: batches hold the numbers of rows.
    """

    def __init__(
        self,
        data: TrainData,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        mixup_alpha: float | None = None,
        *,
        rows: bool = False,
    ) -> None:
        # Not Keras's threads: TensorFlow prefetches a batch, and on JAX and PyTorch the host has
        # handed a step over and makes the next batch while an accelerator computes.
        super().__init__()
        self._data = data
        self._rows = rows
        self._batch_size = min(batch_size, len(data.y_train))
        self._seed = seed
        self._epoch = epoch
        self._alpha = mixup_alpha
        self._shuffle()

    def _shuffle(self) -> None:
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(len(self._data.y_train)).astype(np.int32)
        n_batches = math.ceil(len(order) / self._batch_size)
        self._order = np.resize(order, n_batches * self._batch_size)

    def __len__(self) -> int:
        return len(self._order) // self._batch_size

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self._epoch += 1
        self._shuffle()

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Photos (n, side, side, 3) or rows (n,), with mixup also shares (n, 1); labels (n, 1)."""
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        x = rows if self._rows else self._data.x_train[rows]
        y = self._data.y_train[rows]
        if self._alpha is None:
            return x, y
        random = np.random.default_rng((self._seed, self._epoch, index))
        share = random.beta(self._alpha, self._alpha, (len(rows), 1)).astype(np.float32)
        share = np.maximum(share, 1 - share)  # so that the photo's own label stays the larger part
        return (x, share), share * y + (1 - share) * np.roll(y, 1, axis=0)
