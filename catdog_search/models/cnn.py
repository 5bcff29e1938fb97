"""The family `cnn`: convolution blocks that halve the side, then a dense head."""

from __future__ import annotations

import itertools

import keras
from keras import KerasTensor, layers

from catdog_search.config import CnnParams
from catdog_search.models.plan import Convolution, plan_cnn

# Keras's 0.99 would need hundreds of steps before inference matches training; a thousand photos
# make 20 an epoch.
_NORM_MOMENTUM = 0.9
_HEADS = {
    "flatten": layers.Flatten,
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
}


def build_cnn(params: CnnParams, image_size: int, seed: int = 0) -> keras.Model:
    """A convolutional network: plain, residual or separable.

    Args:
        params: Its shape; `n_blocks` must leave at least one pixel.
        image_size: Side in pixels, at least 2 ** n_blocks.
        seed: Of dropout; on PyTorch a layer without one draws from a stream that isn't saved.

    Returns:
        Uncompiled model: RGB (batch, image_size, image_size, 3), 0 to 255 -> float32 logits
        (batch, 1). With `progressive` it takes any side.

    Raises:
        ValueError: image_size is smaller than 2 ** n_blocks.

    Source:
        The residual block, with its pooling between the widening convolution and the shortcut, is
        that of David Page's ResNet-9 (DAWNBench 2018); its shortcut is He et al. 2015,
        arXiv:1512.03385. Separable convolutions: Chollet 2016, arXiv:1610.02357.
    """
    seeds = itertools.count(seed)
    side = None if params.progressive else image_size
    inputs = keras.Input((side, side, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for block in plan_cnn(params, image_size):
        for convolution in block.before:
            x = _convolve(x, convolution, params)
        x = layers.MaxPooling2D()(x)
        if block.after:
            shortcut = x
            for convolution in block.after:
                x = _convolve(x, convolution, params)
            x = layers.Add()([shortcut, x])
        if params.spatial_dropout:
            x = layers.SpatialDropout2D(params.spatial_dropout, seed=next(seeds))(x)
    x = _HEADS[params.head]()(x)
    if params.dense_units:
        x = layers.Dropout(params.dropout, seed=next(seeds))(x)
        x = layers.Dense(params.dense_units, activation=params.activation)(x)
    x = layers.Dropout(params.dropout, seed=next(seeds))(x)
    # The loss wants full precision whatever the blocks compute in.
    logits = layers.Dense(1, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="cnn")


def _convolve(x: KerasTensor, convolution: Convolution, params: CnnParams) -> KerasTensor:
    """Convolution, normalization, activation."""
    batch_norm = params.normalization == "batch"
    kind = layers.SeparableConv2D if convolution.separable else layers.Conv2D
    # A bias before BatchNormalization would be subtracted again.
    x = kind(convolution.filters, convolution.kernel_size, padding="same", use_bias=not batch_norm)(
        x
    )
    if batch_norm:
        x = layers.BatchNormalization(momentum=_NORM_MOMENTUM)(x)
    return layers.Activation(params.activation)(x)
