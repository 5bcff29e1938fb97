"""Accuracy on val at equal seconds of training, for each lever alone and all together.

One residual network; the levers are a falling learning rate (cosine, one-cycle), averaged weights
(EMA) and photos of half the side for the first half of the epochs (progressive), which buys more
epochs for the same time. Each is trained on the same photos on seeds 1 to n, in turns. A trial's
value is what a study would see: with a constant rate that of the best epoch by val, which
flatters it; else that of the last.

    python benchmarks/levers.py --data PHOTOS [--photos 5000] [--epochs 6] [--n 3]
"""

from __future__ import annotations

import os
import sys
from typing import Any

import common

from catdog_search import places
from catdog_search.data import dataset
from catdog_search.search.worker import choose_backend
from catdog_search.training.result import TrainData

PARAMS = {
    "block": "residual",
    "n_blocks": 4,
    "convolutions": 2,
    "filters": 16,
    "normalization": "batch",
    "head": "average",
    "dense_units": 0,
    "dropout": 0.2,
    "weight_decay": 0.02,
    "learning_rate": 2e-3,
    "batch_size": 64,
    "augmentation": 0.3,
    "augmentation_kinds": "flip+zoom+translation",
}
PROGRESSIVE = 0.5
# An epoch at half the side costs a quarter.
_EPOCHS_BOUGHT = 1 / (1 - 0.75 * PROGRESSIVE)
LEVERS: dict[str, dict[str, Any]] = {
    "constant rate": {"schedule": "constant"},
    "cosine": {"schedule": "cosine"},
    "one-cycle": {"schedule": "one-cycle"},
    "one-cycle, EMA": {"schedule": "one-cycle", "ema": 0.98},
    "one-cycle, progressive": {"schedule": "one-cycle", "progressive": PROGRESSIVE},
}


def measure(
    data: TrainData, image_size: int, epochs: int, lever: dict[str, Any], seed: int
) -> tuple[float, float, list[tuple[float, float]]]:
    """Value, seconds of training, and (seconds so far, accuracy on val) after each epoch."""
    from catdog_search.training.loop import train

    if "progressive" in lever:
        epochs = round(epochs * _EPOCHS_BOUGHT)
    config = common.study("levers", image_size, epochs)
    result = train({**PARAMS, **lever}, config, data, lambda *_: True, seed=seed)
    seconds, curve = 0.0, []
    for metrics in result.history:
        seconds += metrics["seconds"]
        curve.append((round(seconds, 1), round(metrics["val_accuracy"], 4)))
    return result.scores["val_accuracy"], seconds, curve


def main() -> None:
    """Measure in turns and print."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--photos", type=int, default=5000, help="of train; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=6)
    asked = parser.parse_args()
    backend = os.environ["KERAS_BACKEND"] = choose_backend()
    photos = asked.photos if asked.data else None
    packed = dataset.load(
        common.source(asked), asked.image_size, places.cache_folder(), 10**11, subset=photos
    )
    data = TrainData.of(packed)
    found: dict[str, list[Any]] = {name: [] for name in LEVERS}
    for seed in range(1, asked.n + 1):
        for name, lever in LEVERS.items():
            found[name].append(measure(data, asked.image_size, asked.epochs, lever, seed))
            value, seconds, _ = found[name][-1]
            print(f"{name}: {value:.4f} in {seconds:.0f} s", file=sys.stderr, flush=True)
    rows = [
        {
            "lever": name,
            "val_accuracy": common.spread([value for value, _, _ in runs], 4),
            "seconds": common.spread([seconds for _, seconds, _ in runs], 1),
            "curve_of_seed_1": runs[0][2],
        }
        for name, runs in found.items()
    ]
    common.report(
        asked,
        ("keras", backend),
        rows,
        image_size=asked.image_size,
        train_photos=len(data.y_train),
        val_photos=len(data.y_val),
        params=PARAMS,
    )


if __name__ == "__main__":
    main()
