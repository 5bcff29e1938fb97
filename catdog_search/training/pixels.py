"""Photos on the device: placed there once, looked up by row number."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from catdog_search.training.result import TrainData

_placed: weakref.WeakKeyDictionary[TrainData, DevicePixels] = weakref.WeakKeyDictionary()


class DevicePixels(keras.layers.Layer):  # type: ignore[misc]
    """Rows (batch,) int32 -> photos, or their features, (batch, ...).

    Args:
        photos: Array to place on the device (n, ...): uint8 pixels or float16 features.
    """

    def __init__(self, photos: npt.NDArray[Any]) -> None:
        super().__init__(name="pixels_on_device", autocast=False)
        self.photos = self.add_weight(
            shape=photos.shape,
            dtype=str(photos.dtype),
            initializer=lambda shape, dtype: ops.convert_to_tensor(photos, dtype),
            trainable=False,
            name="photos",
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """A photo for each row."""
        return (*input_shape, *self.photos.shape[1:])

    def compute_output_spec(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        """A photo for each row."""
        return keras.KerasTensor(self.compute_output_shape(rows.shape), self.photos.dtype)

    def call(self, rows: Any) -> Any:
        """Look the photos up."""
        return ops.take(self.photos, rows, axis=0)


def on_device(data: TrainData) -> DevicePixels:
    """The photos of `data` on the device, train's first; one copy for all trials of a process."""
    if data not in _placed:
        _placed.clear()  # frees the memory that the new ones need
        _placed[data] = DevicePixels(np.concatenate([data.x_train, data.x_val]))
    return _placed[data]
