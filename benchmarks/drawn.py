"""Do hyperparameters matter on the drawn pictures? A bad configuration against a good one.

    python benchmarks/drawn.py --n 2000 --image-size 48 --seeds 3

Each configuration is trained with the project's own `training.train`, once a seed, and scored on
val. Bad ones should stay below 0.75, the good one should pass 0.93. Prints a table and one line of
JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import common

from catdog_search.data import packing
from catdog_search.data.sources import SyntheticSource
from catdog_search.space import Params
from catdog_search.training.job import job_of
from catdog_search.training.loop import train
from catdog_search.training.result import TrainData

SMALL: Params = {"n_blocks": 1, "filters": 8, "dense_units": 0, "dropout": 0.0, "batch_size": 32}
LARGE: Params = {"n_blocks": 3, "filters": 32, "dense_units": 64, "dropout": 0.4, "batch_size": 32}
CONFIGURATIONS: dict[str, tuple[Params, int]] = {
    "bad: one block, rate 1e-4": ({**SMALL, "learning_rate": 1e-4}, 10),
    "bad: one block, rate 0.1": ({**SMALL, "learning_rate": 0.1}, 10),
    "good: three blocks, rate 1e-3": ({**LARGE, "learning_rate": 1e-3}, 20),
}


def scored(params: Params, epochs: int, data: TrainData, image_size: int, seed: int) -> float:
    """Accuracy on val of one training."""
    config = common.study("drawn", image_size, epochs, space=params)
    job = job_of(config, params, seed=seed)
    return train(job, data, lambda *_: True).scores["val_accuracy"]


@click.command()
@click.option("--n", default=2000, show_default=True, help="Pictures.")
@click.option("--image-size", default=48, show_default=True, help="Side in pixels.")
@click.option("--seeds", default=3, show_default=True, help="Trainings of each configuration.")
def main(n: int, image_size: int, seeds: int) -> None:
    """Train, print a table, then JSON."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = packing.load(SyntheticSource(n), image_size, Path(folder), 10**12)
        data = TrainData.of(loaded)
    results: list[dict[str, Any]] = []
    for name, (params, epochs) in CONFIGURATIONS.items():
        started = time.perf_counter()
        values = [scored(params, epochs, data, image_size, seed) for seed in range(seeds)]
        row = {
            "configuration": name,
            "params": params,
            "epochs": epochs,
            "val_accuracy": [round(value, 4) for value in values],
            "median": round(statistics.median(values), 4),
            "seconds_each": round((time.perf_counter() - started) / seeds, 1),
        }
        results.append(row)
        click.echo(f"{name:32s} median {row['median']:.3f}  of {row['val_accuracy']}")
    versions = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow", "numpy")}
    facts = {
        "command": " ".join(["python", *sys.argv]),
        "hardware": common.hardware(),
        "python": platform.python_version(),
        "versions": versions,
        "n": seeds,
        "digest": loaded.digest,
        "results": results,
    }
    click.echo(json.dumps(facts))


if __name__ == "__main__":
    main()
