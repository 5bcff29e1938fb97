"""The two faces of one network: what is trained, and what leaves the house."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from catdog_search.families.base import TrialParams
from catdog_search.models.augmentation import Augment, Mixup


class TrainingModel(keras.Model):  # type: ignore[misc]
    """A network behind what its photos go through in training; the network is its last layer."""

    @property
    def body(self) -> keras.Model:
        """The network."""
        return self.layers[-1]

    def get_weights(self) -> list[Any]:
        """Of the network: what early stopping keeps must not hold photos that lie on the device."""
        weights: list[Any] = self.body.get_weights()
        return weights

    def set_weights(self, weights: list[Any]) -> None:
        """Of the network."""
        self.body.set_weights(weights)


def training_model(
    body: keras.Model,
    image_size: int,
    params: TrialParams,
    seed: int,
    lookup: keras.layers.Layer | None = None,
    first: keras.layers.Layer | None = None,
) -> TrainingModel:
    """`body` behind augmentation.

    Args:
        body: RGB (batch, side, side, 3), 0 to 255 -> logits (batch, 1).
        image_size: Side of the packed photos.
        params: Say what is augmented, and how strongly.
        seed: Seed of the augmentation, from 0.
        lookup: Layer: rows (batch,) int32 -> packed photos; None where the model takes photos.
        first: Layer of a family that takes packed photos before augmentation; None for nothing.

    Returns:
        Uncompiled model: packed uint8 RGB (batch, side, side, 3), or rows of `lookup` ->
        float32 logits (batch, 1). It shares its weights with `body`. With mixup it takes a second
        input, the share (batch, 1) of each photo that is its own; the rest is its neighbour's in
        the batch.
    """
    if lookup is None:
        inputs = [keras.Input((image_size, image_size, 3), dtype="uint8", name="packed")]
        x = inputs[0]
    else:
        inputs = [keras.Input((), dtype="int32", name="row")]
        x = lookup(inputs[0])
    if first is not None:
        x = first(x)
    kinds = params.augmentations
    x = Augment(params.augmentation, kinds - {"mixup"}, seed)(x)  # of no kind: to float alone
    if "mixup" in kinds:
        inputs.append(keras.Input((1,), name="share"))
        x = Mixup()([x, inputs[1]])
    return TrainingModel(inputs[0] if len(inputs) == 1 else inputs, body(x), name="training")


def exported_model(body: keras.Model, image_size: int) -> keras.Model:
    """`body` as others load it: stock Keras layers alone, from a raw photo to a probability.

    The resize is that of `data.decode`.

    Args:
        body: RGB (batch, side, side, 3), 0 to 255 -> logits (batch, 1).
        image_size: The side that it is given.

    Returns:
        Uncompiled model: uint8 RGB (batch, any height, any width, 3) -> float32 probability of
        class 1 (batch, 1). It shares its weights with `body`.
    """
    inputs = keras.Input((None, None, 3), dtype="uint8", name="photo")
    x = layers.Rescaling(1.0)(inputs)  # to float first: resizing whole levels would cut them off
    x = layers.Resizing(image_size, image_size, interpolation="bilinear", antialias=True)(x)
    # Keras's Resizing defaults to training=True and passes it on to the layers after it: called
    # as model(x), dropout would be active and BatchNormalization would learn.
    logits = body(x, training=False)
    probability = layers.Activation("sigmoid", dtype="float32", name="probability")(logits)
    return keras.Model(inputs, probability, name="catdog")
