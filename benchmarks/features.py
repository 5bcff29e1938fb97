"""What keeping the features of ResNet50's frozen stages saves, by the number of trained stages.

The same training with features from the cache, after the first trial, and with every step
computing its own: seconds an epoch, their ratio beside its share of the arithmetic, and val
accuracy of both. No augmentation; the backbone ends after stage 4.

    python benchmarks/features.py --data PHOTOS --weights FILE [--n 3]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from step import subset

from catdog_search.families.resnet50 import ResNet50Params, cost_of_resnet50
from catdog_search.families.weights import require_weights, stages_in
from catdog_search.machine.backends import choose_backend
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig
from catdog_search.training.result import TrainData

END = "conv4_block6_out"
EPOCHS = 3

# Seconds of an epoch, the first one apart, and val accuracy.
Measured = tuple[float, float]
# (trained stages, views, seed): views are 1 for kept features, 0 for live ones.
Train = Callable[[int, int, int], Measured]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--weights", default="imagenet", help="imagenet, or a Keras weights file")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--photos", type=int, default=640)
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def study_of(weights: str, image_size: int) -> StudyConfig:
    """A study of ResNet50 whose trials train `EPOCHS` epochs."""
    table = {
        "name": "features",
        "purpose": "A benchmark.",
        "family": "resnet50",
        "weights": weights,
        "image_size": image_size,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": 1,
        "training": {"epochs": EPOCHS, "patience": EPOCHS},
        "space": {"dropout": 0.2},
    }
    return studies.parse(table, "features")


def trainer(config: StudyConfig, data: TrainData) -> Train:
    """Trains once on `data`; imports Keras, whose backend must be set before."""
    from catdog_search.training.job import job_of
    from catdog_search.training.loop import train

    def once(depth: int, views: int, seed: int) -> Measured:
        params = {"trainable_stages": depth, "backbone_end": END, "views": views}
        result = train(job_of(config, params, seed=seed), data, lambda *_: True)
        seconds = statistics.median(epoch["seconds"] for epoch in result.history[1:])
        return seconds, result.scores["val_accuracy"]

    return once


def measure_in_turns(once: Train, depth: int, n: int) -> tuple[list[Measured], list[Measured]]:
    """Trainings with kept features, and with live ones, on seeds 1 to n."""
    once(depth, 1, 0)  # the first trial, which computes the features
    kept, live = [], []
    for seed in range(1, n + 1):
        kept.append(once(depth, 1, seed))
        live.append(once(depth, 0, seed))
    return kept, live


def share_of_arithmetic(depth: int, image_size: int, weights: str) -> float:
    """Share of a live epoch's arithmetic that is left when the features are kept, 0 to 1."""
    params = ResNet50Params(image_size=image_size, trainable_stages=depth, backbone_end=END)
    cost = cost_of_resnet50(params, stages_in(weights))
    trained = cost.training_operations(1)
    return trained / (trained + 2 * cost.once)


def row_of(depth: int, kept: list[Measured], live: list[Measured], share: float) -> dict[str, Any]:
    """Results of one number of trained stages."""
    return {
        "trained_stages": depth,
        "kept_s": common.spread([s for s, _ in kept]),
        "live_s": common.spread([s for s, _ in live]),
        "ratio": common.ratio([s for s, _ in kept], [s for s, _ in live]),
        "share_of_arithmetic": round(share, 4),
        "kept_val_accuracy": common.spread([a for _, a in kept]),
        "live_val_accuracy": common.spread([a for _, a in live]),
    }


def measure_depths(asked: argparse.Namespace, data: TrainData) -> list[dict[str, Any]]:
    """Results by number of trained stages, with a cache of their own."""
    once = trainer(study_of(asked.weights, asked.image_size), data)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CATDOG_CACHE"] = str(Path(folder))
        for depth in asked.depths:
            kept, live = measure_in_turns(once, depth, asked.n)
            share = share_of_arithmetic(depth, asked.image_size, asked.weights)
            rows.append(row_of(depth, kept, live, share))
    return rows


def main() -> None:
    """Measure in turns and print."""
    asked = arguments()
    require_weights(asked.weights)
    backend = os.environ["KERAS_BACKEND"] = choose_backend()
    whole = subset(common.packed(asked, asked.image_size), asked.photos)
    # The digest is what lets features be kept.
    data = dataclasses.replace(whole, digest="benchmark")
    common.report(
        asked,
        ("keras", backend),
        measure_depths(asked, data),
        image_size=asked.image_size,
        train_photos=len(data.y_train),
        val_photos=len(data.y_val),
        epochs=EPOCHS,
    )


if __name__ == "__main__":
    main()
