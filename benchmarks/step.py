"""Photos a second of our training against bare Keras `fit`: same model, batch, arrays, backend.

Plain: `fit` on arrays, accuracy alone, nothing logged, against `training.loop.train` with its
metrics, reports and order by seed. With full augmentation: Keras's layers in the model and, on
TensorFlow, in `tf.data` as Keras's guide has them, against our fused warp and colours. Every
measurement is a training of its own; its first epoch compiles and is not counted.

    python benchmarks/step.py [--data PHOTOS] [--network published] [--photos 3200] [--n 5]
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np

from catdog_search.data.dataset import Dataset
from catdog_search.families.base import AUGMENTATIONS
from catdog_search.families.cnn import CnnParams
from catdog_search.machine.backends import choose_backend
from catdog_search.training.execution import Execution, Precision
from catdog_search.training.result import TrainData

# The published network: small steps, so that whatever is beside them shows.
PARAMS = {"n_blocks": 3, "filters": 32, "dense_units": 128, "dropout": 0.5, "batch_size": 64}
# All that is done to a photo alone; of the two flips the one that Keras has too.
FULL = "+".join(kind for kind in AUGMENTATIONS if kind not in ("alternating_flip", "mixup"))
_VAL = 64
# With batch normalization, as most that our searches find.
RESIDUAL = {
    "block": "residual",
    "n_blocks": 4,
    "filters": 24,
    "convolutions": 3,
    "normalization": "batch",
    "head": "average",
    "dense_units": 128,
    "dropout": 0.2,
    "batch_size": 64,
}
# What each kind is compared with.
BESIDE = {
    "ours, plain": "fit, plain",
    "ours, augmented": "ours, plain",
    "fit, layers in the model": "fit, plain",
    "fit, layers in tf.data": "fit, plain",
    "fit, plain, tf.data not tuned": "fit, plain",
}

Measure = Callable[[], float]


def ours(data: TrainData, image_size: int, epochs: int, execution: Execution, **more: Any) -> float:
    """Photos a second of whole epochs, val of 64 photos and the report included."""
    from catdog_search.training.job import job_of
    from catdog_search.training.loop import train

    config = common.study("step", image_size, epochs)
    ends: list[float] = []
    job = job_of(config, {**PARAMS, **more}, seed=1, execution=execution)
    train(job, data, lambda *_: ends.append(time.perf_counter()) is None)
    return len(data.y_train) * (epochs - 1) / (ends[-1] - ends[0])


def layers(strength: float) -> list[Any]:
    """Keras's own layers for what we do in one warp and one change of colour."""
    from keras.layers import (
        RandomBrightness,
        RandomColorJitter,
        RandomErasing,
        RandomFlip,
        RandomRotation,
        RandomTranslation,
        RandomZoom,
    )

    return [
        RandomFlip("horizontal"),
        RandomRotation(0.1 * strength),
        RandomZoom(0.2 * strength),
        RandomTranslation(0.2 * strength, 0.2 * strength),
        RandomBrightness(0.3 * strength),
        RandomColorJitter(contrast_factor=0.3 * strength, saturation_factor=0.5 * strength),
        RandomErasing(factor=1.0, scale=(0.0, 0.04 * strength)),
    ]


def bare(
    network: dict[str, Any],
    data: TrainData,
    image_size: int,
    epochs: int,
    augmented: str = "",
    *,
    untuned: bool = False,
    precision: Precision = "float32",
) -> float:
    """Photos a second of Keras `fit` as its guides have it; augmented in `model` or `tf.data`.

    `untuned` switches off what `tf.data` does by itself while it runs, as we do; `precision` is
    Keras's dtype policy.
    """
    import keras

    from catdog_search.models.cnn import build_cnn

    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(precision)
    params = CnnParams.model_validate(network)
    body = build_cnn(params, image_size)
    made = layers(1.0) if augmented else []
    inputs = keras.Input((image_size, image_size, 3), dtype="float32")
    x = inputs
    for layer in made if augmented == "model" else []:
        x = layer(x)
    model = keras.Model(inputs, body(x))
    model.compile(
        optimizer=keras.optimizers.Adam(params.learning_rate),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
    )
    arguments: dict[str, Any] = {"x": data.x_train, "y": data.y_train, "batch_size": 64}
    if augmented == "tf.data":
        arguments = {"x": augmented_tf_data(data, keras.Sequential(made))}
    if untuned:
        arguments = {"x": common.untuned(data.x_train, data.y_train, 64, shuffle=True)}
    model.fit(**arguments, epochs=epochs, verbose=0, callbacks=[clock])
    return len(data.y_train) * (epochs - 1) / (ends[-1] - ends[0])


def augmented_tf_data(data: TrainData, augment: Any) -> Any:
    """The pipeline of Keras's guide to augmentation."""
    import tensorflow as tf

    photos = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    changed = (
        photos.shuffle(len(data.y_train))
        .batch(64)
        .map(lambda x, y: (augment(tf.cast(x, tf.float32), training=True), y), tf.data.AUTOTUNE)
    )
    return changed.prefetch(tf.data.AUTOTUNE)


def subset(whole: Dataset, photos: int) -> TrainData:
    """The first photos of train, in a random order, and 64 of val."""
    data = TrainData.of(whole)
    chance = np.random.default_rng(0)
    rows = chance.permutation(len(data.y_train))[:photos]
    val = chance.permutation(len(data.y_val))[:_VAL]
    return TrainData(
        data.x_train[rows], data.y_train[rows], data.x_val[val], data.y_val[val], data.class_names
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__, n=5)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--photos", type=int, default=3200, help="an epoch; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=2, help="the first is not counted")
    parser.add_argument("--pixels", choices=["stream", "device"], default="stream")
    parser.add_argument("--precision", default="float32", help="as policy of the peers' too")
    parser.add_argument("--network", choices=["published", "residual"], default="published")
    parser.add_argument("--steps-per-call", type=int, default=1)
    parser.add_argument("--xla", action="store_true")
    parser.add_argument("--without", nargs="+", default=[], help="kinds that are not measured")
    return parser.parse_args()


def measures(
    asked: argparse.Namespace, data: TrainData, execution: Execution, backend: str
) -> dict[str, Measure]:
    """What is measured, by name; each gives photos a second."""
    size, epochs = asked.image_size, asked.epochs
    network = PARAMS if asked.network == "published" else RESIDUAL
    full = {**network, "augmentation": 1.0, "augmentation_kinds": FULL}
    peer = functools.partial(bare, network, data, size, epochs, precision=execution.precision)
    kinds: dict[str, Measure] = {
        "fit, plain": peer,
        "ours, plain": lambda: ours(data, size, epochs, execution, **network),
        "fit, layers in the model": lambda: peer("model"),
        "ours, augmented": lambda: ours(data, size, epochs, execution, **full),
    }
    if backend == "tensorflow":
        kinds["fit, layers in tf.data"] = lambda: peer("tf.data")
        kinds["fit, plain, tf.data not tuned"] = lambda: peer(untuned=True)
    return {kind: measure for kind, measure in kinds.items() if kind not in asked.without}


def measure_in_turns(kinds: dict[str, Measure], n: int) -> dict[str, list[float]]:
    """Photos a second of n measurements of each kind, every second turn in reverse."""
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(n):
        for kind in list(kinds) if turn % 2 == 0 else reversed(kinds):
            speeds[kind].append(kinds[kind]())
            print(f"{kind}: {speeds[kind][-1]:.1f} photos/s", file=sys.stderr, flush=True)
    return speeds


def rows_of(speeds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Photos a second of each kind, and their ratio to those of the kind it stands beside."""
    rows = []
    for kind, values in speeds.items():
        row: dict[str, Any] = {"what": kind, "photos_per_second": common.spread(values, 1)}
        if BESIDE.get(kind) in speeds:
            row |= {"against": BESIDE[kind], "ratio": common.ratio(values, speeds[BESIDE[kind]])}
        rows.append(row)
    return rows


def main() -> None:
    """Measure in turns and print."""
    asked = arguments()
    backend = os.environ["KERAS_BACKEND"] = choose_backend()
    whole = common.packed(asked, asked.image_size)
    data = subset(whole, asked.photos)
    xla = asked.xla or backend == "jax"  # which always compiles with it
    execution = Execution(asked.pixels, asked.precision, asked.steps_per_call, xla)
    speeds = measure_in_turns(measures(asked, data, execution, backend), asked.n)
    common.report(
        asked,
        ("keras", backend),
        rows_of(speeds),
        backend=backend,
        network=asked.network,
        execution=str(execution),
        image_size=asked.image_size,
        photos=len(data.y_train),
        data_kind=whole.manifest.kind,
    )


if __name__ == "__main__":
    main()
