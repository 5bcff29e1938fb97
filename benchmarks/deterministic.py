"""How far apart the same training ends, with and without `--deterministic`, and what that costs.

python benchmarks/deterministic.py [--n 5]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing as mp
import os
import platform
import time
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

from catdog_search import places, studies
from catdog_search.data import dataset
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.search.worker import choose_backend

PARAMS = {
    "n_blocks": 3,
    "filters": 32,
    "normalization": "batch",
    "dropout": 0.3,
    "augmentation": 0.5,
}
TABLE = {
    "name": "deterministic",
    "purpose": "The same training again and again.",
    "image_size": 32,
    "metric": "val_accuracy",
    "direction": "maximize",
    "trials": 1,
    "training": {"epochs": 6, "patience": 6},
    "space": {"dropout": 0.3},
}


def child(connection: Connection, packed: Dataset, deterministic: bool) -> None:
    """Train once in a process of its own."""
    from catdog_search.training.loop import set_deterministic, train
    from catdog_search.training.result import TrainData

    if deterministic:
        set_deterministic(os.environ["KERAS_BACKEND"])
    data = TrainData.of(packed)
    config = studies.parse(TABLE, "deterministic")
    started = time.perf_counter()
    result = train(PARAMS, config, data, lambda epoch, metrics: True, seed=1)
    seconds = time.perf_counter() - started
    digest = hashlib.sha256(result.val_probabilities.tobytes()).hexdigest()[:16]
    connection.send((result.scores["val_accuracy"], digest, seconds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=5)
    n = parser.parse_args().n
    packed = dataset.load(SyntheticSource(2000), 32, places.cache_folder(), 10**11)
    os.environ["KERAS_BACKEND"] = backend = choose_backend()
    context = mp.get_context("spawn")
    found: dict[bool, list[Any]] = {True: [], False: []}
    for _ in range(n):
        for deterministic in (True, False):
            ours, theirs = context.Pipe()
            process = context.Process(target=child, args=(theirs, packed, deterministic))
            process.start()
            found[deterministic].append(ours.recv())
            process.join()
    facts: dict[str, Any] = {"command": f"python benchmarks/deterministic.py --n {n}"}
    for deterministic, name in ((True, "with --deterministic"), (False, "without")):
        accuracies, digests, seconds = zip(*found[deterministic], strict=True)
        facts[name] = {
            "distinct_results": len(set(digests)),
            "val_accuracy": [round(min(accuracies), 4), round(max(accuracies), 4)],
            "seconds": [round(min(seconds), 1), round(max(seconds), 1)],
        }
        print(name, facts[name])
    facts["n"] = n
    facts["hardware"] = f"{platform.machine()}, {os.cpu_count()} cores, no GPU"
    facts["versions"] = {name: version(name) for name in ("keras", backend)}
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
