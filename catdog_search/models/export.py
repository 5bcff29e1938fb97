"""The two faces of one network: what is trained, and what is exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from catdog_search.families.base import NetworkParams
from catdog_search.models.augmentation import Augment, Mixup

# Its name in packages that don't import Keras.
ExportedModel: TypeAlias = keras.Model

_BATCH = 64
# Photos that are converted to floats at a time.
_AT_ONCE = 16 * _BATCH


class TrainingModel(keras.Model):  # type: ignore[misc]
    """A network behind the layers that photos pass in training; the network is the last layer."""

    @property
    def body(self) -> keras.Model:
        """The network."""
        return self.layers[-1]

    def get_weights(self) -> list[Any]:
        """The network's: what early stopping keeps must not include photos on the device."""
        weights: list[Any] = self.body.get_weights()
        return weights

    def set_weights(self, weights: list[Any]) -> None:
        """The network's."""
        self.body.set_weights(weights)


def training_model(
    body: keras.Model,
    image_size: int,
    params: NetworkParams,
    seed: int,
    lookup: keras.layers.Layer | None = None,
    first: keras.layers.Layer | None = None,
) -> TrainingModel:
    """`body` behind augmentation.

    Args:
        body: RGB (batch, side, side, 3), 0 to 255 -> logits (batch, 1).
        image_size: Side of the packed photos.
        params: Say how photos are augmented, and how strongly.
        seed: Seed of the augmentation, from 0.
        lookup: Layer: rows (batch,) int32 -> packed photos; None where the model takes photos.
        first: A family's layer for packed photos before augmentation; None for none.

    Returns:
        Uncompiled model: packed uint8 RGB (batch, side, side, 3), or rows of `lookup` ->
        float32 logits (batch, 1). It shares its weights with `body`. With mixup it takes a second
        input, each photo's own share (batch, 1) of the blend; the rest is its neighbour's in the
        batch.
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
    x = Augment(params.augmentation, kinds - {"mixup"}, seed)(x)  # no kinds: float only
    if "mixup" in kinds:
        inputs.append(keras.Input((1,), name="share"))
        x = Mixup()([x, inputs[1]])
    return TrainingModel(inputs[0] if len(inputs) == 1 else inputs, body(x), name="training")


def exported_model(body: keras.Model, image_size: int) -> keras.Model:
    """`body` as others load it: stock Keras layers only, from a raw photo to a probability.

    The resize is that of `data.decode`.

    Args:
        body: RGB (batch, side, side, 3), 0 to 255 -> logits (batch, 1).
        image_size: Side of the photos that it takes.

    Returns:
        Uncompiled model: uint8 RGB (batch, any height, any width, 3) -> float32 probability of
        class 1 (batch, 1). It shares its weights with `body`.
    """
    return calibrated_model([body], image_size)


def calibrated_model(
    bodies: Sequence[keras.Model], image_size: int, temperature: float = 1.0
) -> keras.Model:
    """As `exported_model`; for several networks, the mean of their probabilities.

    Args:
        bodies: Networks: RGB (batch, side, side, 3), 0 to 255 -> logits (batch, 1); at least one.
        image_size: Side of the photos that they take.
        temperature: Number that each one's logits are divided by, above 0.
    """
    inputs = keras.Input((None, None, 3), dtype="uint8", name="photo")
    x = layers.Rescaling(1.0)(inputs)  # to float first: resizing integers would truncate
    x = layers.Resizing(image_size, image_size, interpolation="bilinear", antialias=True)(x)
    only = len(bodies) == 1
    found = []
    for number, body in enumerate(bodies):
        # Keras's Resizing defaults to training=True and passes it on to the layers after it: called
        # as model(x), dropout would be active and BatchNormalization would learn.
        logits = (body if only else _renamed(body, number))(x, training=False)
        if temperature != 1:
            logits = layers.Rescaling(1 / temperature, dtype="float32")(logits)
        name = "probability" if only else f"probability_{number}"
        found.append(layers.Activation("sigmoid", dtype="float32", name=name)(logits))
    mean = found[0] if only else layers.Average(dtype="float32", name="probability")(found)
    return keras.Model(inputs, mean, name="catdog")


def _renamed(body: keras.Model, number: int) -> keras.Model:
    """The same layers, renamed: Keras refuses equal names, which networks of one recipe have."""
    return keras.Model(body.inputs[0], body.outputs[0], name=f"network_{number}")


def body_of(exported: keras.Model) -> keras.Model:
    """The network within an exported model of one network."""
    return next(layer for layer in exported.layers if isinstance(layer, keras.Model))


def logits_of(
    exported: Sequence[keras.Model], photos: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Networks' logits for photos.

    Args:
        exported: Exported models of one network each, at the photos' size.
        photos: uint8 RGB (n, side, side, 3).

    Returns:
        float32 (n, networks).
    """
    bodies = [body_of(model) for model in exported]
    found = np.empty((len(photos), len(bodies)), np.float32)
    for start in range(0, len(photos), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        x = photos[rows].astype(np.float32)
        for column, body in enumerate(bodies):
            found[rows, column] = np.ravel(body.predict(x, batch_size=_BATCH, verbose=0))
    return found


def averaged_weights(exported: Sequence[keras.Model]) -> keras.Model:
    """One network with the mean weights of several, which must share their initialisation.

    Args:
        exported: Exported models of one network each, of the same architecture; the first one's
            weights are changed.

    Source: Wortsman et al. 2022, Model soups, arXiv:2203.05482.
    """
    bodies = [body_of(model) for model in exported]
    columns = zip(*(body.get_weights() for body in bodies), strict=True)
    bodies[0].set_weights([np.mean(column, axis=0) for column in columns])
    return exported[0]


def answers_to(model: keras.Model, photos: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """An exported model's answers to photos of one size, whatever that is; compiles nothing.

    Args:
        model: Model: uint8 RGB (batch, height, width, 3) -> (batch, 1).
        photos: uint8 RGB (n, height, width, 3), few enough for one batch.

    Returns:
        float32 (n,).
    """
    found = model(keras.ops.convert_to_tensor(photos), training=False)
    return np.ravel(np.asarray(keras.ops.convert_to_numpy(found), np.float32))
