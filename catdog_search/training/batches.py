"""Photos in batches for `fit`, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from catdog_search.training.result import TrainData

# Val in few large batches, which fit because it needs no gradients: 512 photos of 64 pixels, fewer
# of larger ones, or else the first layer's maps alone would take more memory than a training step.
_VAL_PIXELS = 512 * 64 * 64
_LEAST_VAL_BATCH = 64
# TensorFlow prepares this many batches while the device computes. On JAX and PyTorch the host
# dispatches a step and makes the next batch while an accelerator computes it.
_AHEAD = 2


class TrainBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of train, reshuffled every epoch; a resumed epoch sees what it would have seen.

    All batches have the same size, so that nothing is compiled twice: the last one is filled up
    with the epoch's first photos.

    Args:
        data: Train and val of the trial.
        batch_size: Photos per batch, or all there are if they are fewer.
        seed: Seed of the order and of mixup, from 0.
        mixup_alpha: Both parameters of the Beta distribution that shares are sampled from, above 0;
            None for no mixup.
        rows: Whether the model looks the photos up itself: batches then hold row numbers.
        views: Features of train's photos that are given instead, rotating by epoch.
    """

    def __init__(
        self,
        data: TrainData,
        batch_size: int,
        seed: int,
        mixup_alpha: float | None = None,
        *,
        rows: bool = False,
        views: Sequence[npt.NDArray[Any]] = (),
    ) -> None:
        super().__init__()
        self._data = data
        self._rows = rows
        self._views = views or [data.x_train]
        self._batch_size = min(batch_size, len(data.y_train))
        self._seed = seed
        self._alpha = mixup_alpha
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for an epoch, which counts from 0."""
        self._epoch = epoch
        self._view = epoch % len(self._views)
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._data.y_train)).astype(np.int32)
        n_batches = math.ceil(len(order) / self._batch_size)
        self._order = np.resize(order, n_batches * self._batch_size)

    @property
    def _shown(self) -> npt.NDArray[Any]:
        return self._views[self._view]

    def __len__(self) -> int:
        return len(self._order) // self._batch_size

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Photos (n, side, side, 3) or rows (n,), with mixup also shares (n, 1); labels (n, 1)."""
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        x = rows + self._view * len(self._data.y_train) if self._rows else self._shown[rows]
        y = self._data.y_train[rows]
        if self._alpha is None:
            return x, y
        random = np.random.default_rng((self._seed, self._epoch, index))
        share = random.beta(self._alpha, self._alpha, (len(rows), 1)).astype(np.float32)
        share = np.maximum(share, 1 - share)  # so that the photo's own label dominates
        return (x, share), share * y + (1 - share) * np.roll(y, 1, axis=0)


class ValBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Val in its own order, in batches of about the same size.

    Args:
        data: Train and val of the trial.
        rows: Whether the model looks the photos up itself.
        shares: Whether the model takes mixup's shares too; for val they are all 1.
        photos: Features of val's photos that are given instead.
        first_row: Row of val's first photo, where the model looks them up; by default after
            train's photos.
    """

    def __init__(
        self,
        data: TrainData,
        *,
        rows: bool = False,
        shares: bool = False,
        photos: npt.NDArray[Any] | None = None,
        first_row: int | None = None,
    ) -> None:
        super().__init__()
        n_val = len(data.y_val)
        self._photos: Any = data.x_val if photos is None else photos
        if rows:
            first = len(data.y_train) if first_row is None else first_row
            self._photos = np.arange(first, first + n_val, dtype=np.int32)
        self._labels = data.y_val
        self._shares = shares
        at_once: int = max(_LEAST_VAL_BATCH, _VAL_PIXELS // data.x_val.shape[1] ** 2)
        n_batches = math.ceil(n_val / at_once)
        self._size = math.ceil(n_val / n_batches)

    def __len__(self) -> int:
        return math.ceil(len(self._labels) / self._size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """As for train."""
        chosen = slice(index * self._size, (index + 1) * self._size)
        x, y = self._photos[chosen], self._labels[chosen]
        return ((x, np.ones_like(y)) if self._shares else x), y


def feed(batches: keras.utils.PyDataset) -> Any:
    """Batches as `fit` and `predict` are given them.

    On TensorFlow this is a `tf.data.Dataset` without autotuning. The one that Keras would make is
    autotuned, and at the end of an epoch it waits for the tuner, which sleeps for up to as long as
    the epoch took: that costs half of a training's time, or none, at random.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    first, last = batches[0], batches[len(batches) - 1]
    signature = tf.nest.map_structure(_spec, first, last)
    batched = tf.data.Dataset.from_generator(
        lambda: (batches[index] for index in range(len(batches))), output_signature=signature
    )
    batched = batched.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(_AHEAD)
    options = tf.data.Options()
    options.autotune.enabled = False
    return batched.with_options(options)


def _spec(first: Any, last: Any) -> Any:
    """The spec of one part of a batch; the batch size is open where the last batch is smaller."""
    import tensorflow as tf

    size = len(first) if len(first) == len(last) else None
    return tf.TensorSpec((size, *first.shape[1:]), first.dtype)
