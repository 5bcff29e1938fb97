"""What keeping the features of ResNet50's frozen stages saves, by the number of trained stages.

The same training with features from the cache, after the first trial, and with every step
computing its own: seconds an epoch, their ratio beside its share of the arithmetic, and val
accuracy of both. No augmentation; the backbone ends after stage 4.

    python benchmarks/features.py --data PHOTOS --weights FILE [--n 3]
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import common
from step import subset

from catdog_search.families.resnet50 import ResNet50Params, cost_of_resnet50
from catdog_search.families.weights import require_weights, stages_in
from catdog_search.machine.backends import choose_backend
from catdog_search.study import studies
from catdog_search.training.result import TrainData

END = "conv4_block6_out"
EPOCHS = 3


def main() -> None:
    """Measure in turns and print."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--weights", default="imagenet", help="imagenet, or a Keras weights file")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--photos", type=int, default=640)
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    require_weights(asked.weights)
    backend = os.environ["KERAS_BACKEND"] = choose_backend()
    from catdog_search.training.job import job_of
    from catdog_search.training.loop import train

    whole = subset(common.packed(asked, asked.image_size), asked.photos)
    data = TrainData(
        whole.x_train, whole.y_train, whole.x_val, whole.y_val, whole.class_names, "benchmark"
    )
    config = studies.parse(
        {
            "name": "features",
            "purpose": "A benchmark.",
            "family": "resnet50",
            "weights": asked.weights,
            "image_size": asked.image_size,
            "metric": "val_accuracy",
            "direction": "maximize",
            "trials": 1,
            "training": {"epochs": EPOCHS, "patience": EPOCHS},
            "space": {"dropout": 0.2},
        },
        "features",
    )

    def once(depth: int, views: int, seed: int) -> tuple[float, float]:
        """Seconds of an epoch, the first one apart, and val accuracy."""
        params = {"trainable_stages": depth, "backbone_end": END, "views": views}
        result = train(job_of(config, params, seed=seed), data, lambda *_: True)
        seconds = statistics.median(epoch["seconds"] for epoch in result.history[1:])
        return seconds, result.scores["val_accuracy"]

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CATDOG_CACHE"] = str(Path(folder))
        for depth in asked.depths:
            once(depth, 1, 0)  # the first trial, which computes the features
            kept, live = [], []
            for seed in range(1, asked.n + 1):
                kept.append(once(depth, 1, seed))
                live.append(once(depth, 0, seed))
            params = ResNet50Params(
                image_size=asked.image_size, trainable_stages=depth, backbone_end=END
            )
            cost = cost_of_resnet50(params, stages_in(asked.weights))
            trained = cost.training_operations(1)
            rows.append(
                {
                    "trained_stages": depth,
                    "kept_s": common.spread([s for s, _ in kept]),
                    "live_s": common.spread([s for s, _ in live]),
                    "ratio": common.ratio([s for s, _ in kept], [s for s, _ in live]),
                    "share_of_arithmetic": round(trained / (trained + 2 * cost.once), 4),
                    "kept_val_accuracy": common.spread([a for _, a in kept]),
                    "live_val_accuracy": common.spread([a for _, a in live]),
                }
            )
    common.report(
        asked,
        ("keras", backend),
        rows,
        image_size=asked.image_size,
        train_photos=len(data.y_train),
        val_photos=len(data.y_val),
        epochs=EPOCHS,
    )


if __name__ == "__main__":
    main()
