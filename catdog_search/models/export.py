"""The two faces of one network: what is trained, and what leaves the house."""

from __future__ import annotations

import keras
from keras import layers

from catdog_search.config import CnnParams
from catdog_search.models.augmentation import Augment, Mixup


def training_model(body: keras.Model, params: CnnParams, seed: int) -> keras.Model:
    """`body` behind augmentation.

    Args:
        body: RGB (batch, side, side, 3), 0 to 255 -> logits (batch, 1).
        params: Say what is augmented, and how strongly.
        seed: Of the augmentation.

    Returns:
        Uncompiled model: packed uint8 RGB (batch, side, side, 3) -> float32 logits (batch, 1). It
        shares its weights with `body`. With mixup it takes a second input, the share (batch, 1)
        of each photo that is its own; the rest is its neighbour's in the batch.
    """
    packed = keras.Input(body.input_shape[1:], dtype="uint8", name="packed")
    inputs = [packed]
    x = layers.Rescaling(1.0)(packed)  # to float
    kinds = params.augmentations
    if kinds - {"mixup"}:
        x = Augment(params.augmentation, kinds - {"mixup"}, seed)(x)
    if "mixup" in kinds:
        inputs.append(keras.Input((1,), name="share"))
        x = Mixup()([x, inputs[1]])
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, body(x), name="training")


def exported_model(body: keras.Model) -> keras.Model:
    """`body` as others load it: stock Keras layers alone, from a raw photo to a probability.

    The resize is that of `data.decode`.

    Args:
        body: RGB (batch, side, side, 3), 0 to 255 -> logits (batch, 1).

    Returns:
        Uncompiled model: uint8 RGB (batch, any height, any width, 3) -> float32 probability of
        class 1 (batch, 1). It shares its weights with `body`.
    """
    side = body.input_shape[1]
    inputs = keras.Input((None, None, 3), dtype="uint8", name="photo")
    x = layers.Rescaling(1.0)(inputs)  # to float first: resizing whole levels would cut them off
    x = layers.Resizing(side, side, interpolation="bilinear", antialias=True)(x)
    # Keras's Resizing defaults to training=True and passes it on to the layers after it: called
    # as model(x), dropout would be active and BatchNormalization would learn.
    logits = body(x, training=False)
    probability = layers.Activation("sigmoid", dtype="float32", name="probability")(logits)
    return keras.Model(inputs, probability, name="catdog")
