"""Somebody's code for KerasTuner, which tests write into a folder, and a study that names it."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from catdog_search.families.hypermodel import Hypermodel

HEAD = """
import keras
import keras_tuner as kt
from keras import layers


def compiled(x, inputs, loss="binary_crossentropy", units=1, activation="sigmoid"):
    model = keras.Model(inputs, layers.Dense(units, activation=activation)(x))
    model.compile("adam", loss)
    return model


def flat(side=16):
    inputs = keras.Input((side, side, 3))
    return inputs, layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
"""
FIT = """
class OwnFit(kt.HyperModel):
    def build(self, hp):
        inputs, x = flat()
        x = layers.Dense(hp.Int("units", 2, 4))(x)
        return compiled(x, inputs, "categorical_crossentropy", 2, "softmax")

    def fit(self, hp, model, x, y, **kwargs):
        if hp.Boolean("normalize"):
            x = layers.Normalization()(x)
        weights = {0: 1.0, 1: hp.Float("weight", 1, 2)}
        return model.fit(
            x, y, batch_size=hp.Choice("batch_size", [8, 16]), class_weight=weights,
            epochs=hp.Int("epochs", 2, 3), **kwargs)
"""
LOOP = """
class Loop(kt.HyperModel):
    def build(self, hp):
        inputs, x = flat()
        return keras.Model(inputs, layers.Dense(1)(layers.Dropout(hp.Float("rate", 0, 0.5))(x)))

    def fit(self, hp, model, x, y, validation_data, callbacks=(), **kwargs):
        optimizer = keras.optimizers.Adam(hp.Float("rate of learning", 1e-4, 1e-2, sampling="log"))
        optimizer.build(model.trainable_variables)
        for callback in callbacks:
            callback.set_model(model)
        for epoch in range(20):
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"my_metric": float(epoch)})
        return 19.0
"""

TABLE = {
    "name": "own",
    "purpose": "p",
    "family": "hypermodel",
    "hypermodel": "own:build",
    "metric": "val_accuracy",
    "direction": "maximize",
    "trials": 2,
}


def writer_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module into the current folder; returns its name."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str, name: str = "own") -> str:
        (folder / f"{name}.py").write_text(HEAD + textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return name

    return write


def explored(name: str, side: int | None = None) -> Hypermodel:
    from catdog_search.kerastuner.exploring import discover

    return discover(name, side)
