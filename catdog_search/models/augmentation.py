"""Random changes that preserve a photo's class; active in training only."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import keras
from keras import KerasTensor, ops

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
_GEOMETRY = frozenset({"flip", "alternating_flip", "rotation", "zoom", "translation"})
_COLOUR = frozenset({"brightness", "contrast", "saturation"})

# What was sampled for a batch: `transforms` (batch, 2, 3), `hole` (batch, 2, 2), and `brightness`,
# `contrast` and `saturation` (batch, 1, 1, 1); kinds that are off are absent.
Sampled = dict[str, Any]


class Augment(keras.layers.Layer):  # type: ignore[misc]
    """One warp and one change of colour for each photo of a batch.

    Each photo is sampled separately, uniformly between the bounds: mirrored or not, rotated by up
    to `strength` times ±36°, zoomed and shifted by ±20 % of its side, all in one bilinear warp that
    mirrors what lies outside; then brightness by ±30 % of white, contrast by ±30 % and saturation
    by ±50 %; last, a rectangle with sides of up to 40 % is painted grey. In inference the photos
    only become float32.

    `alternating_flip` shows each photo as it is in one epoch and mirrored in the next; its own
    pixels decide which comes first, so no photo is seen the same way twice in a row
    (Jordan 2024, arXiv:2404.00498).

    Args:
        strength: Strength, 0 to 1.
        kinds: Kinds of `families.base.AUGMENTATIONS` that it applies; mixup isn't one of them.
        seed: Seed of its random stream, from 0.
    """

    def __init__(self, strength: float, kinds: Collection[str], seed: int) -> None:
        # A photo's 256 levels would not survive a warp in half precision.
        super().__init__(dtype="float32", autocast=False)
        self._strength = strength
        self._kinds = frozenset(kinds)
        self._random = keras.random.SeedGenerator(seed)
        self._epoch: keras.Variable | None = None
        if "alternating_flip" in self._kinds:
            self._epoch = self.add_weight((), "zeros", "int32", trainable=False, name="epoch")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, for what alternates; a kept view counts as one."""
        if self._epoch is not None:
            self._epoch.assign(epoch)

    def go_to(self, place: int) -> None:
        """Jump to a place in the random stream, so that what follows doesn't depend on the past."""
        seed = ops.convert_to_numpy(self._random.state.value)[0]
        self._random.state.assign([seed, place])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Unchanged."""
        return input_shape

    def compute_output_spec(self, photos: KerasTensor, training: bool = False) -> KerasTensor:
        """Unchanged except for the dtype."""
        del training
        return KerasTensor(photos.shape, "float32")

    def call(self, photos: Any, training: bool = False) -> Any:
        """Change RGB photos (batch, side, side, 3), 0 to 255; the result is float32."""
        if not training or not self._kinds:
            return ops.cast(photos, "float32")
        return _change(photos, self._sample_all(photos))

    def _sample_all(self, photos: Any) -> Sampled:
        batch, side = ops.shape(photos)[0], photos.shape[1]
        sampled: Sampled = {}
        if self._kinds & _GEOMETRY:
            sampled["transforms"] = self._transforms(photos)
        if self._kinds & _COLOUR:
            sampled["brightness"] = self._sample("brightness", BRIGHTNESS, batch, 1, 1, 1) * _WHITE
            sampled["contrast"] = 1 + self._sample("contrast", CONTRAST, batch, 1, 1, 1)
            sampled["saturation"] = 1 + self._sample("saturation", SATURATION, batch, 1, 1, 1)
        if "erasing" in self._kinds:
            most = ERASED_SIDE * self._strength * side
            size = keras.random.uniform((batch, 2), 0, most, seed=self._random)
            first = keras.random.uniform((batch, 2), 0, 1, seed=self._random) * (side - size)
            sampled["hole"] = ops.stack([first, first + size], axis=1)
        return sampled

    def _sample(self, kind: str, most: float, batch: Any, *shape: int) -> Any:
        """Numbers (batch, *shape) in ± strength x most; zeros where `kind` is off."""
        if kind not in self._kinds:
            return ops.zeros((batch, *shape))
        bound = most * self._strength
        return keras.random.uniform((batch, *shape), -bound, bound, seed=self._random)

    def _mirror(self, photos: Any) -> Any:
        """For each photo of a batch -1 to mirror it, or 1."""
        batch = ops.shape(photos)[0]
        if self._epoch is not None:
            own = ops.sum(ops.cast(photos, "int32"), axis=(1, 2, 3))
            return 1 - 2 * ops.cast((own + self._epoch) % 2, "float32")
        if "flip" in self._kinds:
            return ops.sign(keras.random.uniform((batch,), -1, 1, seed=self._random))
        return ops.ones((batch,))

    def _transforms(self, photos: Any) -> Any:
        """Affine maps (batch, 2, 3) from a pixel of the result to a column and row of the photo."""
        batch, side = ops.shape(photos)[0], photos.shape[1]
        turned = self._sample("rotation", math.radians(ROTATION_DEGREES), batch)
        scale = 1 / (1 + self._sample("zoom", ZOOM, batch))
        shift = self._sample("translation", TRANSLATION, batch, 2) * side
        mirror = self._mirror(photos)
        cos, sin = scale * ops.cos(turned), scale * ops.sin(turned)
        centre = (side - 1) / 2
        x_x, x_y, y_x, y_y = mirror * cos, -mirror * sin, sin, cos
        x_0 = centre - (x_x + x_y) * centre + shift[:, 0]
        y_0 = centre - (y_x + y_y) * centre + shift[:, 1]
        columns = ops.stack([x_x, x_y, x_0], axis=1)
        return ops.stack([columns, ops.stack([y_x, y_y, y_0], axis=1)], axis=1)


def _change(photos: Any, sampled: Sampled) -> Any:
    """Apply to photos what was sampled for them; on TensorFlow XLA fuses it into one loop.

    Unlike TensorFlow's own projective warp it works in a model that XLA compiles as a whole.
    """
    if keras.backend.backend() != "tensorflow":
        return _change_in_steps(photos, sampled)
    return _compiled_change()(photos, sampled)


@functools.cache
def _compiled_change() -> Callable[[Any, Sampled], Any]:
    import tensorflow as tf

    compiled: Callable[[Any, Sampled], Any] = tf.function(
        _change_in_steps, autograph=False, jit_compile=True
    )
    return compiled


def _change_in_steps(photos: Any, sampled: Sampled) -> Any:
    side = photos.shape[1]
    if "transforms" in sampled:
        photos = _warp(photos, sampled["transforms"], side)
    photos = ops.cast(photos, "float32")
    if "contrast" in sampled:
        photos = _recolour(photos, sampled)
    if "hole" in sampled:
        photos = _erase(photos, sampled["hole"], side)
    return photos


def _warp(photos: Any, transforms: Any, side: int) -> Any:
    """Interpolate every pixel where its transform points; what lies outside is mirrored."""
    at = ops.arange(side, dtype="float32")
    grid = transforms[:, :, :, None, None]  # (batch, 2, 3, 1, 1)
    where = grid[:, :, 0] * at[None, :] + grid[:, :, 1] * at[:, None] + grid[:, :, 2]
    # Photo, mirrored photo, photo ... along each axis.
    where = side - ops.abs(ops.mod(where + 0.5, 2.0 * side) - side) - 0.5
    where = ops.clip(where, 0, side - 1)
    low = ops.floor(where)
    part = (where - low)[..., None]
    low = ops.cast(low, "int32")
    high = ops.minimum(low + 1, side - 1)
    # One list of pixels for the whole batch: one plain lookup per corner, on every backend.
    pixels = ops.reshape(photos, (-1, 3))
    first = ops.arange(ops.shape(photos)[0], dtype="int32")[:, None, None] * (side * side)

    def corner(row: Any, column: Any) -> Any:
        return ops.cast(ops.take(pixels, first + row * side + column, axis=0), "float32")

    along_x, along_y = part[:, 0], part[:, 1]
    top = corner(low[:, 1], low[:, 0]) * (1 - along_x) + corner(low[:, 1], high[:, 0]) * along_x
    foot = corner(high[:, 1], low[:, 0]) * (1 - along_x) + corner(high[:, 1], high[:, 0]) * along_x
    return top * (1 - along_y) + foot * along_y


def _recolour(photos: Any, sampled: Sampled) -> Any:
    grey = ops.sum(photos * ops.convert_to_tensor(_GREY), axis=-1, keepdims=True)
    photos = grey + sampled["saturation"] * (photos - grey)
    mean = ops.mean(photos, axis=(1, 2, 3), keepdims=True)
    contrast = sampled["contrast"]
    # One multiplication and one addition per number.
    shift = mean * (1 - contrast) + sampled["brightness"]
    return ops.clip(contrast * photos + shift, 0, _WHITE)


def _erase(photos: Any, hole: Any, side: int) -> Any:
    """Paint the hole (batch, 2, 2) grey: its first and last, each of rows and columns."""
    at = ops.arange(side, dtype="float32")[None, :, None]
    inside = ops.logical_and(at >= hole[:, :1], at < hole[:, 1:])  # (batch, side, 2)
    both = ops.logical_and(inside[:, :, None, 0], inside[:, None, :, 1])
    return ops.where(both[..., None], _WHITE / 2, photos)


class Shrink(keras.layers.Layer):  # type: ignore[misc]
    """Halves the side of photos in training while switched on; never in inference.

    Source of the idea: Howard 2018, progressive resizing in the DAWNBench entry of fast.ai.

    Attributes:
        halves: Whether it is on. What was compiled before a change doesn't see it.
    """

    def __init__(self) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.halves = False

    def compute_output_spec(self, photos: KerasTensor, training: bool = False) -> KerasTensor:
        """Photos of any side."""
        del training
        return KerasTensor((photos.shape[0], None, None, 3), "float32")

    def call(self, photos: Any, training: bool = False) -> Any:
        """RGB photos (batch, side, side, 3) of any type -> float32, means of four pixels each."""
        photos = ops.cast(photos, "float32")
        if not (training and self.halves):
            return photos
        half = photos.shape[1] // 2  # an odd side would have been refused with the study
        return ops.mean(ops.reshape(photos, (-1, half, 2, half, 2, 3)), axis=(2, 4))


class Mixup(keras.layers.Layer):  # type: ignore[misc]
    """Blends each photo with its neighbour in the batch; the labels are blended in the batches.

    Source: Zhang et al. 2017, arXiv:1710.09412.
    """

    def __init__(self) -> None:
        super().__init__(dtype="float32")

    def compute_output_shape(self, input_shape: list[tuple[int | None, ...]]) -> Any:
        """The photos' shape."""
        return input_shape[0]

    def call(self, inputs: list[Any], training: bool = False) -> Any:
        """Blend photos (batch, side, side, 3) by shares (batch, 1)."""
        photos, share = inputs
        if not training:
            return photos
        share = share[:, :, None, None]
        return share * photos + (1 - share) * ops.roll(photos, 1, axis=0)
