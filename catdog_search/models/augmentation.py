"""Random changes that leave a photo's class alone; active in training only."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import keras
from keras import ops

# At strength 1.
ROTATION_DEGREES = 36.0
ZOOM = 0.2
TRANSLATION = 0.2
BRIGHTNESS = 0.3
CONTRAST = 0.3
SATURATION = 0.5
ERASED_SIDE = 0.4
MIXUP_ALPHA = 0.4

_WHITE = 255.0
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
_GEOMETRY = frozenset({"flip", "rotation", "zoom", "translation"})


class Augment(keras.layers.Layer):  # type: ignore[misc]
    """One warp and one change of colour for each photo of a batch.

    Each photo draws for itself, evenly between the bounds: mirrored or not, turned by up to
    `strength` times ±36°, zoomed and shifted by ±20 % of its side, all in one bilinear warp that
    mirrors what lies outside; then brightness by ±30 % of white, contrast by ±30 % and saturation
    by ±50 %; last, a rectangle with sides of up to 40 % is painted grey. In inference the layer
    does nothing.

    Args:
        strength: 0 to 1.
        kinds: Which of `config.AUGMENTATIONS` it does; mixup is not its.
        seed: Of its random stream.
    """

    def __init__(self, strength: float, kinds: Collection[str], seed: int, **options: Any) -> None:
        super().__init__(**options)
        self._strength = strength
        self._kinds = frozenset(kinds)
        self._random = keras.random.SeedGenerator(seed)
        # TensorFlow's warp has no XLA kernel.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Unchanged."""
        return input_shape

    def call(self, photos: Any, training: bool = False) -> Any:
        """Change float RGB photos (batch, side, side, 3), 0 to 255."""
        if not training:
            return photos
        batch, side = ops.shape(photos)[0], photos.shape[1]
        if self._kinds & _GEOMETRY:
            photos = ops.image.affine_transform(
                photos, self._transforms(batch, side), interpolation="bilinear", fill_mode="reflect"
            )
        photos = self._recolour(photos, batch)
        if "erasing" in self._kinds:
            photos = self._erase(photos, batch, side)
        return photos

    def _draw(self, kind: str, most: float, batch: Any, *shape: int) -> Any:
        """Numbers (batch, *shape) in ± strength x most; zeros where `kind` is not done."""
        if kind not in self._kinds:
            return ops.zeros((batch, *shape))
        bound = most * self._strength
        return keras.random.uniform((batch, *shape), -bound, bound, seed=self._random)

    def _transforms(self, batch: Any, side: int) -> Any:
        """Rows (batch, 8) that say for each pixel of the result where it comes from."""
        turned = self._draw("rotation", math.radians(ROTATION_DEGREES), batch)
        scale = 1 / (1 + self._draw("zoom", ZOOM, batch))
        shift = self._draw("translation", TRANSLATION, batch, 2) * side
        mirror = ops.ones((batch,))
        if "flip" in self._kinds:
            mirror = ops.sign(keras.random.uniform((batch,), -1, 1, seed=self._random))
        cos, sin = scale * ops.cos(turned), scale * ops.sin(turned)
        centre = (side - 1) / 2
        x_x, x_y, y_x, y_y = mirror * cos, -mirror * sin, sin, cos
        x_0 = centre - (x_x + x_y) * centre + shift[:, 0]
        y_0 = centre - (y_x + y_y) * centre + shift[:, 1]
        zero = ops.zeros_like(x_0)
        return ops.stack([x_x, x_y, x_0, y_x, y_y, y_0, zero, zero], axis=1)

    def _recolour(self, photos: Any, batch: Any) -> Any:
        if not self._kinds & {"brightness", "contrast", "saturation"}:
            return photos
        brighter = self._draw("brightness", BRIGHTNESS, batch, 1, 1, 1) * _WHITE
        if "saturation" in self._kinds:
            colour = 1 + self._draw("saturation", SATURATION, batch, 1, 1, 1)
            grey = ops.sum(photos * ops.convert_to_tensor(_GREY), axis=-1, keepdims=True)
            photos = grey + colour * (photos - grey)
        contrast = 1 + self._draw("contrast", CONTRAST, batch, 1, 1, 1)
        mean = ops.mean(photos, axis=(1, 2, 3), keepdims=True)
        # One multiplication and one addition a number.
        return ops.clip(contrast * photos + (mean * (1 - contrast) + brighter), 0, _WHITE)

    def _erase(self, photos: Any, batch: Any, side: int) -> Any:
        most = ERASED_SIDE * self._strength * side
        size = keras.random.uniform((batch, 2), 0, most, seed=self._random)
        first = keras.random.uniform((batch, 2), 0, 1, seed=self._random) * (side - size)
        at = ops.arange(side, dtype="float32")[None, :, None]
        inside = ops.logical_and(at >= first[:, None, :], at < (first + size)[:, None, :])
        hole = ops.logical_and(inside[:, :, None, 0], inside[:, None, :, 1])
        return ops.where(hole[..., None], _WHITE / 2, photos)


class Mixup(keras.layers.Layer):  # type: ignore[misc]
    """Blends each photo with its neighbour in the batch; the labels are blended where they are fed.

    Source: Zhang et al. 2017, arXiv:1710.09412.
    """

    def compute_output_shape(self, input_shape: list[tuple[int | None, ...]]) -> Any:
        """That of the photos."""
        return input_shape[0]

    def call(self, inputs: list[Any], training: bool = False) -> Any:
        """Blend photos (batch, side, side, 3) by shares (batch, 1)."""
        photos, share = inputs
        if not training:
            return photos
        share = share[:, :, None, None]
        return share * photos + (1 - share) * ops.roll(photos, 1, axis=0)
