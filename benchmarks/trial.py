"""A whole tracked trial against bare Keras `fit` of the same model on the same arrays, in turns.

The trial is measured from the moment it is proposed to the moment its outcome is recorded: run in
MLflow, metrics of every epoch, checkpoints, scores, figures, model. Bare `fit` builds, compiles and
fits, in a process of its own that is as warm as the worker; it logs accuracy and nothing else.

    python benchmarks/trial.py --data PHOTOS [--epochs 5] [--n 3]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from catdog_search import places, studies
from catdog_search.data import dataset
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource, open_source
from catdog_search.places import State
from catdog_search.search.coordinator import Options, run_study
from catdog_search.search.messages import Event, TrialEnded
from catdog_search.search.worker import choose_backend

# The published network, plain: the shorter a step, the more the rest of a trial weighs.
PARAMS = {"n_blocks": 3, "filters": 32, "dense_units": 128, "dropout": 0.5, "batch_size": 64}


def bare(connection: Connection, packed: Dataset, epochs: int) -> None:
    """Fit on request; answers with seconds."""
    import keras

    from catdog_search.config import CnnParams
    from catdog_search.models.cnn import build_cnn
    from catdog_search.models.export import training_model

    x, y = packed.split("train")
    val = packed.split("val")
    params = CnnParams.model_validate(PARAMS)
    while connection.recv():
        started = time.perf_counter()
        keras.utils.clear_session()
        model = training_model(build_cnn(params, packed.image_size), params, 1)
        model.compile(
            keras.optimizers.Adam(params.learning_rate),
            keras.losses.BinaryCrossentropy(from_logits=True),
            metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
        )
        model.fit(
            x, y, params.batch_size, epochs, verbose=0, validation_data=val,
            validation_batch_size=512,
        )  # fmt: skip
        connection.send(time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", help="folder or zip of photos; default: 2,000 drawn pictures")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--n", type=int, default=3, help="pairs, after one that warms up")
    asked = parser.parse_args()
    source = open_source(asked.data) if asked.data else SyntheticSource(2000)
    packed = dataset.load(source, asked.image_size, places.cache_folder(), 10**11)
    os.environ["KERAS_BACKEND"] = choose_backend()
    config = studies.parse(
        {
            "name": "trial",
            "purpose": "Trials that are all alike.",
            "image_size": asked.image_size,
            "metric": "val_accuracy",
            "direction": "maximize",
            "trials": asked.n + 1,
            "training": {"epochs": asked.epochs, "patience": asked.epochs},
            "pruner": {"name": "none"},
            "space": {**PARAMS, "activation": {"choices": ["relu", "elu"]}},
            "recipes": {"same": {"activation": "relu"}},
        },
        "trial",
    )
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    peer = context.Process(target=bare, args=(theirs, packed, asked.epochs), daemon=True)
    peer.start()
    theirs.close()  # so that a dead peer is the end of the pipe
    pairs: list[tuple[float, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialEnded):
            ours.send(True)
            pairs.append((event.seconds, ours.recv()))
            print(f"tracked {pairs[-1][0]:.2f} s, bare {pairs[-1][1]:.2f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        options = Options(trials=asked.n + 1, seeds=asked.n + 1)
        run_study(config, packed, State(Path(folder)), listen, options)
    ours.send(False)
    print(json.dumps(facts(asked, packed, pairs[1:]), indent=2))


def facts(
    asked: argparse.Namespace, packed: Dataset, pairs: list[tuple[float, float]]
) -> dict[str, Any]:
    """What is kept of a measurement."""
    differences = [tracked - plain for tracked, plain in pairs]
    ratios = [tracked / plain for tracked, plain in pairs]
    named = {"tracked_s": [p[0] for p in pairs], "bare_s": [p[1] for p in pairs]}
    command = f"python benchmarks/trial.py --data PHOTOS --epochs {asked.epochs} --n {asked.n}"
    return {
        "command": command if asked.data else command.replace("--data PHOTOS ", ""),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "train_photos": len(packed.rows("train")),
        "image_size": asked.image_size,
        "epochs": asked.epochs,
        "n": len(pairs),
        **{name: [round(v, 3) for v in values] for name, values in named.items()},
        "difference_s": {"median": round(statistics.median(differences), 3)}
        | {"spread": [round(min(differences), 3), round(max(differences), 3)]},
        "ratio": {"median": round(statistics.median(ratios), 4)}
        | {"spread": [round(min(ratios), 4), round(max(ratios), 4)]},
        "versions": {
            name: version(name)
            for name in ("keras", os.environ["KERAS_BACKEND"], "mlflow", "optuna")
        },
    }


if __name__ == "__main__":
    main()
