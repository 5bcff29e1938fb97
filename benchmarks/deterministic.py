"""How far apart the same training ends, with and without `--deterministic`, and what that costs.

python benchmarks/deterministic.py [--n 5]
"""

from __future__ import annotations

import hashlib
import multiprocessing as mp
import os
import time
from multiprocessing.connection import Connection
from typing import Any

import common

from catdog_search import places
from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.machine.backends import choose_backend

PARAMS = {
    "n_blocks": 3,
    "filters": 32,
    "normalization": "batch",
    "dropout": 0.3,
    "augmentation": 0.5,
}


def child(connection: Connection, packed: Dataset, deterministic: bool) -> None:
    """Train once in a process of its own."""
    from catdog_search.training.device import set_deterministic
    from catdog_search.training.job import job_of
    from catdog_search.training.loop import train
    from catdog_search.training.result import TrainData

    if deterministic:
        set_deterministic(os.environ["KERAS_BACKEND"])
    data = TrainData.of(packed)
    config = common.study("deterministic", 32, 6)
    started = time.perf_counter()
    result = train(job_of(config, PARAMS, seed=1), data, lambda epoch, metrics: True)
    seconds = time.perf_counter() - started
    digest = hashlib.sha256(result.val_probabilities.tobytes()).hexdigest()[:16]
    connection.send((result.scores["val_accuracy"], digest, seconds))


def main() -> None:
    """Measure and print."""
    asked = common.parser(__doc__, n=5).parse_args()
    packed = packing.load(SyntheticSource(2000), 32, places.cache_folder(), 10**11)
    os.environ["KERAS_BACKEND"] = backend = choose_backend()
    context = mp.get_context("spawn")
    found: dict[bool, list[Any]] = {True: [], False: []}
    for _ in range(asked.n):
        for deterministic in (True, False):
            ours, theirs = context.Pipe()
            process = context.Process(target=child, args=(theirs, packed, deterministic))
            process.start()
            found[deterministic].append(ours.recv())
            process.join()
    rows = []
    for deterministic, name in ((True, "with --deterministic"), (False, "without")):
        accuracies, digests, seconds = zip(*found[deterministic], strict=True)
        distinct = {"what": name, "distinct_results": len(set(digests))}
        times = common.spread(seconds, 1)
        rows.append(distinct | {"val_accuracy": common.spread(accuracies, 4), "seconds": times})
    common.report(asked, ("keras", backend), rows)


if __name__ == "__main__":
    main()
