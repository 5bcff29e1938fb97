"""A hypermodel as KerasTuner's guides write them, at 48 px: what `tuners.py` searches."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

IMAGE_SIZE = 48


def build(hp: Any) -> keras.Model:
    """A plain or normalized CNN with one sigmoid unit, compiled."""
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    if hp.Boolean("augment"):
        x = layers.RandomFlip("horizontal")(x)
    normalized = hp.Boolean("normalize")
    activation = hp.Choice("activation", ["relu", "elu", "gelu"])
    for block in range(hp.Int("blocks", 2, 4)):
        x = layers.Conv2D(hp.Int(f"filters_{block}", 8, 32, step=8), 3, padding="same")(x)
        x = layers.BatchNormalization()(x) if normalized else x
        x = layers.MaxPooling2D()(layers.Activation(activation)(x))
    if hp.Choice("head", ["flatten", "average"]) == "flatten":
        x = layers.Flatten()(x)
        with hp.conditional_scope("head", ["flatten"]):
            x = layers.Dense(hp.Int("units", 32, 128, step=32), activation=activation)(x)
    else:
        x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.6))(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")),
        "binary_crossentropy",
        metrics=["accuracy"],
    )
    return model
