"""Accuracy on val at equal seconds of training, for each lever of the best small-CNN recipes.

One residual network under a cosine schedule, and one thing changed: the schedule (constant,
one-cycle), averaged weights (EMA), photos of half the side in the first half of the epochs
(progressive), flips that alternate instead of random ones, a whitening first layer, He's
initialization with branches that begin at zero, and a photo judged together with its mirror image.
A pilot of a few epochs says what an epoch costs with those that change it; each then trains for as
many whole epochs as fit the seconds of `--epochs` epochs of the plain one. All are trained on the
same photos on seeds 1 to n, in turns. A trial's value is what a study would see: with a constant
rate that of the best epoch by val, which flatters it; else that of the last.

    python benchmarks/levers.py --data PHOTOS [--photos 7000] [--epochs 12] [--n 3] [--levers EMA …]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any

import common

from catdog_search.machine.backends import choose_backend
from catdog_search.training.execution import Execution, ForcedExecution, choose
from catdog_search.training.result import TrainData, TrialResult

Levers = dict[str, dict[str, Any]]
# Value, seconds of training, and (seconds so far, accuracy on val) after each epoch.
Measured = tuple[float, float, list[tuple[float, float]]]

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
    "schedule": "cosine",
    "batch_size": 64,
    "augmentation": 0.3,
    "augmentation_kinds": "flip+zoom+translation",
}
PROGRESSIVE = 0.5
PLAIN = "cosine"
LEVERS: Levers = {
    PLAIN: {},
    "constant rate": {"schedule": "constant"},
    "one-cycle": {"schedule": "one-cycle"},
    "EMA": {"ema": 0.98},
    "progressive": {"progressive": PROGRESSIVE},
    "alternating flip": {"augmentation_kinds": "alternating_flip+zoom+translation"},
    "whitening": {"stem": "whitening"},
    "He": {"initialization": "he"},
    "mirrored": {"test_time_augmentation": "flip"},
}
# Those whose epochs don't cost what the plain one's do.
OTHER_COST = {"EMA", "progressive", "whitening"}
_PILOT_EPOCHS = 4

Train = Callable[[dict[str, Any], int, int], TrialResult]


def epoch_seconds(train: Train, lever: dict[str, Any]) -> float:
    """What an epoch takes; of smaller and whole photos in their proportion."""

    def least(progressive: float) -> float:
        history = train({**lever, "progressive": progressive}, _PILOT_EPOCHS, 0).history
        return min(metrics["seconds"] for metrics in history[1:])  # the first one compiles

    share, whole = lever.get("progressive", 0.0), least(0.0)
    return share * least(0.9) + (1 - share) * whole if share else whole


def measure(train: Train, lever: dict[str, Any], epochs: int, seed: int) -> Measured:
    """Train a lever once."""
    result = train(lever, epochs, seed)
    seconds, curve = 0.0, []
    for metrics in result.history:
        seconds += metrics["seconds"]
        curve.append((round(seconds, 1), round(metrics["val_accuracy"], 4)))
    return result.scores["val_accuracy"], seconds, curve


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--photos", type=int, default=7000, help="of train; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=12, help="of the plain one")
    others = [name for name in LEVERS if name != PLAIN]
    parser.add_argument("--levers", nargs="+", choices=others, default=others)
    return parser.parse_args()


def trainer(image_size: int, data: TrainData, execution: Execution) -> Train:
    """Trains one lever on `data`; imports Keras, whose backend must be set before."""
    from catdog_search.training.job import job_of
    from catdog_search.training.loop import train as train_one

    def train(lever: dict[str, Any], epochs: int, seed: int) -> TrialResult:
        config = common.study("levers", image_size, epochs)
        params = {**PARAMS, **lever}
        job = job_of(config, params, seed=seed, execution=execution)
        return train_one(job, data, lambda *_: True)

    return train


def epoch_costs(train: Train, levers: Levers) -> dict[str, float]:
    """Seconds of an epoch, by lever; measured where it isn't the plain one's."""
    costs = dict.fromkeys(levers, epoch_seconds(train, levers[PLAIN]))
    return costs | {name: epoch_seconds(train, levers[name]) for name in OTHER_COST & set(levers)}


def measure_in_turns(
    train: Train, levers: Levers, epochs: dict[str, int], n: int
) -> dict[str, list[Measured]]:
    """What `measure` gives on seeds 1 to n, by lever."""
    found: dict[str, list[Measured]] = {name: [] for name in levers}
    for seed in range(1, n + 1):
        for name, lever in levers.items():
            found[name].append(measure(train, lever, epochs[name], seed))
            value, seconds, _ = found[name][-1]
            print(f"{name}: {value:.4f} in {seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def row_of(
    name: str, runs: list[Measured], plain: list[Measured], epochs: int, epoch_s: float
) -> dict[str, Any]:
    """One lever's results; its gain is that over the plain one on the same seeds."""
    values = [value for value, _, _ in runs]
    return {
        "lever": name,
        "epochs": epochs,
        "epoch_s": round(epoch_s, 2),
        "val_accuracy": common.spread(values, 4),
        "val_accuracy_mean": round(statistics.mean(values), 4),
        "gain": common.spread([a - b for (a, *_), (b, *_) in zip(runs, plain, strict=True)], 4),
        "seconds": common.spread([seconds for _, seconds, _ in runs], 1),
        "curve_of_seed_1": runs[0][2],
    }


def compare(train: Train, levers: Levers, plain_epochs: int, n: int) -> list[dict[str, Any]]:
    """Results of each lever in the seconds of `plain_epochs` epochs of the plain one."""
    costs = epoch_costs(train, levers)
    budget = plain_epochs * costs[PLAIN]
    epochs = {name: round(budget / cost) for name, cost in costs.items()}
    print(f"epochs in {budget:.0f} s: {epochs}", file=sys.stderr, flush=True)
    found = measure_in_turns(train, levers, epochs, n)
    return [
        row_of(name, runs, found[PLAIN], epochs[name], costs[name]) for name, runs in found.items()
    ]


def main() -> None:
    """Measure in turns and print."""
    asked = arguments()
    levers = {name: LEVERS[name] for name in (PLAIN, *asked.levers)}
    backend = os.environ["KERAS_BACKEND"] = choose_backend()
    photos = asked.photos if asked.data else None
    data = TrainData.of(common.packed(asked, asked.image_size, subset=photos))
    from catdog_search.training.device import look_at_device

    execution = choose(ForcedExecution(), backend, look_at_device(backend), data.x_train.nbytes)
    train = trainer(asked.image_size, data, execution)
    common.report(
        asked,
        ("keras", backend),
        compare(train, levers, asked.epochs, asked.n),
        image_size=asked.image_size,
        train_photos=len(data.y_train),
        val_photos=len(data.y_val),
        params=PARAMS,
        execution=str(execution),
    )


if __name__ == "__main__":
    main()
