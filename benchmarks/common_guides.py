"""Hypermodels as KerasTuner's guides teach them, unchanged by us but for the size of the photos."""

from __future__ import annotations

from typing import Any

import keras
import keras_tuner
import tensorflow as tf
from keras import layers
from keras_tuner.applications import HyperResNet, HyperXception

SHAPE = (48, 48, 3)


def resnet() -> Any:
    """KerasTuner's own ResNet, random weights."""
    return HyperResNet(input_shape=SHAPE, classes=2)


def xception() -> Any:
    """KerasTuner's own Xception, random weights."""
    return HyperXception(input_shape=SHAPE, classes=2)


def _body(hp: Any, inputs: Any) -> Any:
    x = layers.Rescaling(1 / 255)(inputs)
    for block in range(3):
        x = layers.Conv2D(hp.Int(f"filters_{block}", 16, 48, step=16), 3, activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    return layers.Flatten()(x)


def _ended(hp: Any, inputs: Any, x: Any, loss: str = "binary_crossentropy") -> keras.Model:
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def conditional(hp: Any) -> keras.Model:
    """Params that exist under others alone, as in the guide to distributing a search."""
    inputs = keras.Input(SHAPE)
    kind = hp.Choice("kind", ["cnn", "mlp"])
    if kind == "cnn":
        with hp.conditional_scope("kind", ["cnn"]):
            x = _body(hp, inputs)
    else:
        with hp.conditional_scope("kind", ["mlp"]):
            x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
            x = layers.Dense(hp.Int("units", 32, 96, step=32), activation="relu")(x)
    return _ended(hp, inputs, x)


def preprocessing(hp: Any) -> keras.Model:
    """Augmentation that is tuned with the rest, as in the guide to preprocessing."""
    inputs = x = keras.Input(SHAPE)
    if hp.Boolean("flip"):
        x = layers.RandomFlip("horizontal")(x)
    if hp.Boolean("rotate"):
        x = layers.RandomRotation(hp.Float("rotation", 0.02, 0.1))(x)
    return _ended(hp, inputs, _body(hp, x))


class OwnFit(keras_tuner.HyperModel):
    """A `fit` with a batch size and class weights to tune."""

    def build(self, hp: Any) -> keras.Model:
        """A compiled network."""
        inputs = keras.Input(SHAPE)
        return _ended(hp, inputs, _body(hp, inputs))

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Keras's `fit` with what is tuned of it."""
        weights = {0: 1.0, 1: hp.Float("weight", 0.8, 1.25)}
        return model.fit(
            *args, batch_size=hp.Choice("batch_size", [16, 64]), class_weight=weights, **kwargs
        )


class OwnLoop(keras_tuner.HyperModel):
    """A training loop of its own, as in the guide to custom training, on TensorFlow."""

    def build(self, hp: Any) -> keras.Model:
        """A network that is not compiled."""
        inputs = keras.Input(SHAPE)
        x = layers.Dense(hp.Int("units", 32, 64, step=16), activation="relu")(_body(hp, inputs))
        return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))

    def fit(
        self,
        hp: Any,
        model: keras.Model,
        x: Any,
        y: Any,
        validation_data: Any,
        callbacks: Any = None,
        epochs: int = 1,
        **kwargs: Any,
    ) -> float:
        """The lowest loss on val."""
        batch_size = hp.Int("batch_size", 32, 128, step=32, default=64)
        train = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
        val = tf.data.Dataset.from_tensor_slices(validation_data).batch(batch_size)
        optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"))
        loss_of, mean = keras.losses.BinaryCrossentropy(), keras.metrics.Mean()

        @tf.function
        def step(images: Any, labels: Any) -> None:
            with tf.GradientTape() as tape:
                loss = loss_of(labels, model(images, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        for callback in callbacks:
            callback.set_model(model)
        best = float("inf")
        for epoch in range(epochs):
            for images, labels in train:
                step(images, labels)
            for images, labels in val:
                mean.update_state(loss_of(labels, model(images, training=False)))
            loss = float(mean.result())
            mean.reset_state()
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"my_metric": loss})
            best = min(best, loss)
        return best
