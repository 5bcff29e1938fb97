"""A whole tracked trial against bare Keras `fit` of the same model on the same arrays, in turns.

The trial is measured from the moment it is proposed to the moment its outcome is recorded: run in
MLflow, metrics of every epoch, checkpoints, scores, figures, model. Bare `fit` builds, compiles and
fits, in a process of its own that is as warm as the worker; it logs accuracy and nothing else. On
TensorFlow it is fed through `tf.data` without tuning, as we are: tuned, as Keras does it with
arrays, it waits for the tuner for up to half of the time, by chance (`benchmarks/step.py`).

    python benchmarks/trial.py --data PHOTOS [--epochs 5] [--n 3]
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import common

from catdog_search.data.dataset import Dataset
from catdog_search.places import State
from catdog_search.search.coordinator import Options, run_study
from catdog_search.search.messages import Event, TrialEnded
from catdog_search.search.worker import choose_backend
from catdog_search.training.execution import Wish

# The published network, plain: the shorter a step, the more the rest of a trial weighs.
PARAMS = {"n_blocks": 3, "filters": 32, "dense_units": 128, "dropout": 0.5, "batch_size": 64}


def arrays(x: Any, y: Any, batch_size: int, *, shuffle: bool = False) -> dict[str, Any]:
    """Arrays as an argument of `fit`."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return {"x": x, "y": y, "batch_size": batch_size} if shuffle else {"x": (x, y)}
    return {"x": common.untuned(x, y, batch_size, shuffle=shuffle)}


def bare(connection: Connection, packed: Dataset, asked: argparse.Namespace) -> None:
    """Fit on request; answers with seconds."""
    import keras

    keras.config.set_dtype_policy(asked.precision)

    from catdog_search.config import CnnParams
    from catdog_search.models.cnn import build_cnn

    x, y = packed.split("train")
    val = packed.split("val")
    params = CnnParams.model_validate(PARAMS)
    while connection.recv():
        started = time.perf_counter()
        keras.utils.clear_session()
        model = build_cnn(params, packed.image_size)
        model.compile(
            keras.optimizers.Adam(params.learning_rate),
            keras.losses.BinaryCrossentropy(from_logits=True),
            metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
        )
        model.fit(
            **arrays(x, y, params.batch_size, shuffle=True),
            epochs=asked.epochs,
            verbose=0,
            validation_data=arrays(*val, 512)["x"],
        )
        connection.send(time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", default="float32", help="of both")
    asked = parser.parse_args()
    packed = common.packed(asked, asked.image_size)
    os.environ["KERAS_BACKEND"] = choose_backend()
    config = common.study(
        "trial",
        asked.image_size,
        asked.epochs,
        space={**PARAMS, "activation": {"choices": ["relu", "elu"]}},
        recipes={"same": {"activation": "relu"}},
    )
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    peer = context.Process(target=bare, args=(theirs, packed, asked), daemon=True)
    peer.start()
    theirs.close()  # so that a dead peer is the end of the pipe
    pairs: list[tuple[float, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialEnded):
            ours.send(True)
            pairs.append((event.seconds, ours.recv()))
            print(f"tracked {pairs[-1][0]:.2f} s, bare {pairs[-1][1]:.2f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        wish = Wish(precision=asked.precision)
        options = Options(trials=asked.n + 1, seeds=asked.n + 1, wish=wish)
        run_study(config, packed, State(Path(folder)), listen, options)
    ours.send(False)
    tracked, plain = (list(times) for times in zip(*pairs[1:], strict=True))
    differences = [a - b for a, b in zip(tracked, plain, strict=True)]
    row = {
        "tracked_s": common.spread(tracked),
        "bare_s": common.spread(plain),
        "difference_s": common.spread(differences),
        "ratio": common.ratio(tracked, plain),
    }
    facts = {"train_photos": len(packed.rows("train")), "image_size": asked.image_size}
    packages = ("keras", os.environ["KERAS_BACKEND"], "mlflow", "optuna")
    common.report(asked, packages, [row], epochs=asked.epochs, precision=asked.precision, **facts)


if __name__ == "__main__":
    main()
