"""A whole tracked trial against bare Keras `fit` of the same model on the same arrays, in turns.

The trial is measured from the moment it is proposed to the moment its outcome is recorded: run in
MLflow, metrics of every epoch, checkpoints, scores, model. It follows another one, whose figures
are drawn while it trains, as in the middle of a study. Bare `fit` builds, compiles and fits, in a
process that has fitted something before, as the worker has; it logs accuracy and nothing else. On
TensorFlow it is fed through `tf.data` without tuning, as we are: tuned, as Keras does it with
arrays, it waits for the tuner for up to half of the time, by chance (`benchmarks/step.py`). Each
turn has two fresh processes: two that do the same differ by some percent as long as they live.

    python benchmarks/trial.py --data PHOTOS [--epochs 5] [--n 3]
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing as mp
import os
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import common

from catdog_search.data.dataset import Dataset
from catdog_search.machine.backends import choose_backend
from catdog_search.search.coordinator import run_study
from catdog_search.search.events import Event, TrialEnded
from catdog_search.training.execution import ForcedExecution

# The published network, plain: the shorter a step, the more the rest of a trial weighs.
PARAMS = {"n_blocks": 3, "dense_units": 128, "dropout": 0.5, "batch_size": 64}
FILTERS = 32
# Of what both train first, for one epoch.
WARM_FILTERS = 4


def arrays(x: Any, y: Any, batch_size: int, *, shuffle: bool = False) -> dict[str, Any]:
    """Arrays as an argument of `fit`."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return {"x": x, "y": y, "batch_size": batch_size} if shuffle else {"x": (x, y)}
    return {"x": common.untuned(x, y, batch_size, shuffle=shuffle)}


def bare(connection: Connection, packed: Dataset, asked: argparse.Namespace) -> None:
    """Fit something small, then what is measured; answers with its seconds."""
    import keras

    keras.config.set_dtype_policy(asked.precision)

    from catdog_search.families.cnn import CnnParams
    from catdog_search.models.cnn import build_cnn

    x, y = packed.split("train")
    val = packed.split("val")

    def fit(filters: int, epochs: int) -> float:
        params = CnnParams.model_validate({**PARAMS, "filters": filters})
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
            epochs=epochs,
            verbose=0,
            validation_data=arrays(*val, 512)["x"],
        )
        return time.perf_counter() - started

    fit(WARM_FILTERS, 1)
    connection.send(fit(FILTERS, asked.epochs))


def bare_seconds(packed: Dataset, asked: argparse.Namespace) -> float:
    """Of bare `fit`, in a process of its own."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    peer = context.Process(target=bare, args=(theirs, packed, asked), daemon=True)
    peer.start()
    theirs.close()  # so that a dead peer is the end of the pipe
    seconds: float = ours.recv()
    peer.join()
    return seconds


def tracked_seconds(asked: argparse.Namespace) -> float:
    """Of the second trial of a study."""
    warm = {"filters": WARM_FILTERS, "epochs": 1}
    same = {"filters": FILTERS, "epochs": asked.epochs}
    config = common.study(
        "trial",
        asked.image_size,
        asked.epochs,
        space={**PARAMS, **{name: {"choices": sorted({warm[name], same[name]})} for name in warm}},
        recipes={"warm": warm, "same": same},
    )
    seconds: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialEnded):
            seconds.append(event.seconds)

    with tempfile.TemporaryDirectory() as folder:
        forced = ForcedExecution(precision=asked.precision)
        ready = common.prepared(asked, config, folder, trials=2, forced=forced)
        run_study(ready.config, ready.dataset, ready.state, listen, ready.options)
    return seconds[-1]


def main() -> None:
    """Measure and print."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", default="float32", help="of both")
    asked = parser.parse_args()
    packed = common.packed(asked, asked.image_size)
    os.environ["KERAS_BACKEND"] = choose_backend()
    tracked, plain = [], []
    measures = [
        (tracked, functools.partial(tracked_seconds, asked)),
        (plain, functools.partial(bare_seconds, packed, asked)),
    ]
    for turn in range(asked.n):
        for into, measure in measures[:: (-1) ** turn]:
            into.append(measure())
        print(f"tracked {tracked[-1]:.2f} s, bare {plain[-1]:.2f} s", flush=True)
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
