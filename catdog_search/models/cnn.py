"""The family `cnn`: convolution blocks that halve the side, then a dense head."""

from __future__ import annotations

import itertools
from typing import Any

import keras
from keras import KerasTensor, layers

from catdog_search.families.cnn import CnnParams, Convolution, plan_cnn, whitening_of
from catdog_search.models.normalization import FusedBatchNormalization

# Keras's 0.99 would need hundreds of steps before inference matches training; a thousand photos
# give 20 per epoch.
_NORM_MOMENTUM = 0.9
_INITIALIZERS = {"glorot": "glorot_uniform", "he": "he_normal"}
# The layer whose kernel is computed from photos.
WHITENING = "whitening"
_HEADS = {
    "flatten": layers.Flatten,
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
}


def build_cnn(
    params: CnnParams, image_size: int, seed: int = 0, *, fused: bool = False
) -> keras.Model:
    """A convolutional network: plain, residual or separable.

    Args:
        params: Its shape; `n_blocks` must leave at least one pixel.
        image_size: Side in pixels, at least 2 ** n_blocks.
        seed: Seed of dropout; on PyTorch a layer without one uses a stream that isn't saved.
        fused: Whether batch normalization is TensorFlow's single operation, for training only.

    Returns:
        Uncompiled model: RGB (batch, image_size, image_size, 3), 0 to 255 -> float32 logits
        (batch, 1). With `progressive` it takes any side. A whitening stem's kernel has yet to be
        set, see `training.whitening`.

    Raises:
        ValueError: image_size is smaller than 2 ** n_blocks.

    Source:
        The residual block, with its pooling between the widening convolution and the shortcut, is
        that of David Page's ResNet-9 (DAWNBench 2018); its shortcut is from He et al. 2015,
        arXiv:1512.03385. Separable convolutions: Chollet 2016, arXiv:1610.02357.
    """
    seeds = itertools.count(seed)
    convolve = _Convolve(params, FusedBatchNormalization if fused else layers.BatchNormalization)
    side = None if params.progressive else image_size
    inputs = keras.Input((side, side, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    if (stem := whitening_of(params, image_size)) is not None:
        x = layers.Conv2D(
            stem.filters, stem.kernel_size, padding="same", use_bias=False, name=WHITENING
        )(x)
        x = layers.Activation(params.activation)(x)
    for block in plan_cnn(params, image_size):
        for convolution in block.before:
            x = convolve(x, convolution)
        x = layers.MaxPooling2D()(x)
        if block.after:
            shortcut = x
            for convolution in block.after:
                is_last = convolution is block.after[-1]
                x = convolve(x, convolution, from_zero=is_last and params.initialization == "he")
            x = layers.Add()([shortcut, x])
        if params.spatial_dropout:
            x = layers.SpatialDropout2D(params.spatial_dropout, seed=next(seeds))(x)
    x = _HEADS[params.head]()(x)
    if params.dense_units:
        x = layers.Dropout(params.dropout, seed=next(seeds))(x)
        x = layers.Dense(
            params.dense_units,
            activation=params.activation,
            kernel_initializer=_INITIALIZERS[params.initialization],
        )(x)
    x = layers.Dropout(params.dropout, seed=next(seeds))(x)
    # The loss needs full precision whatever the blocks compute in.
    logits = layers.Dense(1, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="cnn")


class _Convolve:
    """Convolution, normalization, activation.

    Args:
        params: Params of the network.
        batch_normalization: Class of its layer.
    """

    def __init__(self, params: CnnParams, batch_normalization: type[keras.layers.Layer]) -> None:
        self._params = params
        self._batch_normalization = batch_normalization

    def __call__(
        self, x: KerasTensor, convolution: Convolution, *, from_zero: bool = False
    ) -> KerasTensor:
        """Append them; with `from_zero` the initial output is just the activation of 0."""
        params = self._params
        batch_norm = params.normalization == "batch"
        # Batch normalization would cancel a bias.
        options: dict[str, Any] = {"padding": "same", "use_bias": not batch_norm}
        kernel = _INITIALIZERS[params.initialization]
        kind = layers.Conv2D
        if convolution.separable:
            kind = layers.SeparableConv2D
            options |= {"depthwise_initializer": kernel, "pointwise_initializer": kernel}
        else:
            options["kernel_initializer"] = "zeros" if from_zero and not batch_norm else kernel
        x = kind(convolution.filters, convolution.kernel_size, **options)(x)
        if batch_norm:
            scale = "zeros" if from_zero else "ones"
            x = self._batch_normalization(momentum=_NORM_MOMENTUM, gamma_initializer=scale)(x)
        return layers.Activation(params.activation)(x)
