"""The family `cnn`: convolution blocks that halve the side, then a dense head."""

from __future__ import annotations

import keras
from keras import layers

from catdog_search.config import CnnParams

MAX_FILTERS = 512


def build_cnn(params: CnnParams, image_size: int) -> keras.Model:
    """A plain convolutional network.

    Args:
        params: Its shape; `n_blocks` must leave at least one pixel.
        image_size: Side in pixels, at least 2 ** n_blocks.

    Returns:
        Uncompiled model: RGB (batch, image_size, image_size, 3), 0 to 255 -> float32 logits
        (batch, 1).

    Raises:
        ValueError: image_size is smaller than 2 ** n_blocks.
    """
    if image_size < 2**params.n_blocks:
        raise ValueError(f"image_size {image_size} is below 2 ** n_blocks = {2**params.n_blocks}")
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for block in range(params.n_blocks):
        filters = min(params.filters * 2**block, MAX_FILTERS)
        # A bias before BatchNormalization would be subtracted again.
        batch_norm = params.normalization == "batch"
        x = layers.Conv2D(filters, 3, padding="same", use_bias=not batch_norm)(x)
        if batch_norm:
            # The usual 0.99 would need hundreds of steps before inference matches training; a
            # thousand photos make 20 an epoch.
            x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation(params.activation)(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    if params.dense_units:
        x = layers.Dropout(params.dropout)(x)
        x = layers.Dense(params.dense_units, activation=params.activation)(x)
    x = layers.Dropout(params.dropout)(x)
    # The loss wants full precision whatever the blocks compute in.
    logits = layers.Dense(1, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="cnn")
