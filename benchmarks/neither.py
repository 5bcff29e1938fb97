"""What tells photos that are neither class? Candidate scores on one half of the kinds, one on both.

Each network is trained on 6,000 photos of train, which every score is made from too; val stands for
the calibration split. The candidates are measured on the kinds that choose; the one with the
largest mean and worst kind's area under ROC is what `models.neither` has, and that one alone is
measured on the kinds that report, as the saved model gives it.

    python benchmarks/neither.py --data PHOTOS [--weights FILE] [--networks FOLDER] [--n 2]

`--n` seeds of two networks from scratch at 64 px, and a ResNet50's head at 96 px with `--weights`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np
from sklearn.covariance import ledoit_wolf

from catdog_search.evaluation.negatives import CHOOSE, REPORT, kinds_for, negatives
from catdog_search.evaluation.neither import Found, found_of, threshold_at
from catdog_search.machine.backends import choose_backend
from catdog_search.training.result import TrainData

TRAIN_PHOTOS = 6000
EPOCHS = 6
PICTURES = 200
# Of the photos of the set that is measured on; permuted ones are made at the network's own side.
PHOTO_SIDE = 200
SEED = 0

NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (
        64,
        {
            **{"n_blocks": 3, "filters": 32, "dense_units": 128, "dropout": 0.4},
            **{"head": "flatten", "learning_rate": 1e-3, "batch_size": 64},
        },
    ),
    "residual": (
        64,
        {
            **{"n_blocks": 4, "filters": 24, "block": "residual", "convolutions": 2},
            **{"normalization": "batch", "head": "average", "dense_units": 128, "dropout": 0.2},
            **{"learning_rate": 2e-3, "weight_decay": 5e-2, "schedule": "one-cycle"},
            **{"batch_size": 64, "augmentation": 0.3},
            "augmentation_kinds": "flip+zoom+translation+brightness+contrast",
        },
    ),
    "resnet50": (
        96,
        {
            **{"trainable_stages": 0, "backbone_end": "conv4_block6_out", "dense_units": 0},
            **{"dropout": 0.2, "learning_rate": 1e-3, "schedule": "one-cycle"},
            **{"batch_size": 64, "views": 1},
        },
    ),
}

Depths = list[np.ndarray]
Seen = Mapping[str, Depths]
Scores = dict[str, np.ndarray]


def trained(name: str, seed: int, data: TrainData, asked: argparse.Namespace) -> Path:
    """A network's exported model; one that is in the folder already is taken as it is."""
    from catdog_search.training.job import job_of
    from catdog_search.training.loop import train

    path = Path(asked.networks) / f"{name}-{seed}.keras"
    if not path.exists():
        side, params = NETWORKS[name]
        own = {"family": "resnet50", "weights": asked.weights} if name == "resnet50" else {}
        config = common.study("neither", side, EPOCHS, space=params, **own)
        result = train(job_of(config, params, seed=seed), data, lambda *_: True)
        result.model.save(path)
    return path


class Distance:
    """Mahalanobis distance, squared, with a shrunk covariance."""

    def __init__(self, x: np.ndarray) -> None:
        self._mean, deviation = x.mean(axis=0), x.std(axis=0)
        self._deviation = deviation + 1e-3 * deviation.mean()
        covariance, _ = ledoit_wolf((x - self._mean) / self._deviation, assume_centered=True)
        variances, directions = np.linalg.eigh(covariance)
        self._whiten = directions / np.sqrt(np.maximum(variances, 1e-7))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Of each row."""
        return np.square((x - self._mean) / self._deviation @ self._whiten).sum(axis=1)


def by_distance(depths: Seen, wanted: Callable[[Depths], np.ndarray]) -> Scores:
    """The distance of what is wanted of the depths."""
    distance = Distance(wanted(depths["train"]))
    return {name: distance(wanted(each)) for name, each in depths.items()}


def bounded(depths: Seen) -> Seen:
    """Each channel over what is usual, between -1 and 1."""
    usual = [np.abs(x).mean(axis=0) + 1e-3 * np.abs(x).mean() for x in depths["train"]]
    return {
        name: [x / (level + np.abs(x)) for x, level in zip(each, usual, strict=True)]
        for name, each in depths.items()
    }


def by_depth(depths: Seen) -> list[Scores]:
    """The distance at each depth."""
    return [by_distance(depths, lambda each, i=i: each[i]) for i in range(len(depths["train"]))]


def largest(per_depth: Sequence[Scores]) -> Scores:
    """The largest of the depths' distances, each as deviations of its logarithm from train's."""
    logs = [{name: np.log(x) for name, x in scores.items()} for scores in per_depth]
    standard = [
        {name: (x - log["train"].mean()) / log["train"].std() for name, x in log.items()}
        for log in logs
    ]
    return {name: np.max([each[name] for each in standard], axis=0) for name in per_depth[0]}


def averaged(per_depth: Sequence[Scores]) -> Scores:
    """The mean of the depths' distances, each over its own mean of train."""
    return {
        name: np.mean([each[name] / each["train"].mean() for each in per_depth], axis=0)
        for name in per_depth[0]
    }


def nearest(depths: Seen, bank: int = 2000) -> Scores:
    """The cosine distance from the nearest of some photos of train, at the last depth."""
    train = depths["train"][-1]
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-3 * train.std()

    def unit(x: np.ndarray) -> np.ndarray:
        standard = (x - mean) / deviation
        return standard / np.linalg.norm(standard, axis=1, keepdims=True)

    kept = unit(train[:: max(1, len(train) // bank)])
    return {name: 1 - (unit(each[-1]) @ kept.T).max(axis=1) for name, each in depths.items()}


def confidence(probabilities: Scores) -> Scores:
    """The negative logit of the answer: with one logit, energy comes to the same."""
    clipped = {name: np.clip(p, 1e-7, 1 - 1e-7) for name, p in probabilities.items()}
    return {name: -np.abs(np.log(p / (1 - p))) for name, p in clipped.items()}


def last_means(each: Depths) -> np.ndarray:
    """The means alone of the last depth: what a head that averages reads."""
    return each[-1][:, : each[-1].shape[1] // 2]


def joined(each: Depths) -> np.ndarray:
    """All depths as one vector."""
    return np.concatenate(each, axis=1)


def candidates(depths: Seen, probabilities: Scores) -> dict[str, Scores]:
    """Scores by name."""
    soft = bounded(depths)
    soft_by_depth = by_depth(soft)
    means = {name: [x[:, : x.shape[1] // 2] for x in each] for name, each in soft.items()}
    return {
        "confidence (energy)": confidence(probabilities),
        "nearest cosine, last depth": nearest(depths),
        "distance, last depth, means": by_distance(depths, last_means),
        "distance, last depth": by_distance(depths, lambda each: each[-1]),
        "distance, all depths joined": by_distance(depths, joined),
        "mean of depths' distances": averaged(by_depth(depths)),
        "bounded: distance, all depths joined": by_distance(soft, joined),
        "bounded: largest of depths' distances": largest(soft_by_depth),
        "bounded: mean of depths' distances, means": averaged(by_depth(means)),
        CHOSEN: averaged(soft_by_depth),
    }


CHOSEN = "bounded: mean of depths' distances"


def found(scores: Mapping[str, np.ndarray], kinds: Sequence[str]) -> list[Found]:
    """What a score makes of some kinds."""
    threshold = threshold_at(scores["val"])
    return [found_of(kind, scores["val"], scores[kind], threshold) for kind in kinds]


def row_of(name: str, by_network: Sequence[Sequence[Found]]) -> dict[str, Any]:
    """A score on some kinds, over the networks."""
    areas = [[each.auc for each in network] for network in by_network]
    row: dict[str, Any] = {
        "score": name,
        "mean_auc": common.spread([statistics.mean(area) for area in areas]),
        "worst_auc": common.spread([min(area) for area in areas]),
        "mean_flagged": common.spread(
            [statistics.mean(each.flagged for each in network) for network in by_network]
        ),
    }
    for of_kind in zip(*by_network, strict=True):
        row[f"{of_kind[0].kind}_auc"] = common.spread([each.auc for each in of_kind])
        row[f"{of_kind[0].kind}_flagged"] = common.spread([each.flagged for each in of_kind])
    return row


def pictures_of(kinds: Sequence[str], data: TrainData) -> dict[str, np.ndarray]:
    """Negatives by kind."""
    own = data.x_val.shape[1]
    sides = {kind: own if kind == "permuted" else PHOTO_SIDE for kind in kinds}
    return {
        kind: negatives(kind, PICTURES, side, SEED, photos=data.x_val)
        for kind, side in sides.items()
    }


def seen_by(
    exported: Any, looked: Any, photos: Mapping[str, np.ndarray], kept: Path
) -> tuple[Seen, Scores]:
    """What a network makes of photos, depth by depth, and its answers; kept beside it."""
    from catdog_search.models.neither import statistics_of

    n_depths = len(looked.outputs)
    if not kept.exists():
        arrays = {}
        for name, x in photos.items():
            arrays[name] = np.ravel(exported.predict(x, batch_size=64, verbose=0))
            for depth, seen in enumerate(statistics_of(looked, x)):
                arrays[f"{name}/{depth}"] = seen
        np.savez(kept, **arrays)
    with np.load(kept) as arrays:
        depths = {name: [arrays[f"{name}/{i}"] for i in range(n_depths)] for name in photos}
        return depths, {name: arrays[name] for name in photos}


def measure(path: Path, side: int, data: TrainData) -> tuple[dict[str, Scores], Scores, Any]:
    """One network: the candidates, then the shipped score as its saved model gives it."""
    import keras

    from catdog_search.models.loading import load_exported, load_neither
    from catdog_search.models.neither import scoring, statistics_model, statistics_of

    exported = load_exported(path, side)
    looked = statistics_model(exported)
    photos = {"train": data.x_train, "val": data.x_val, **pictures_of(kinds_for(CHOOSE), data)}
    started = time.perf_counter()
    statistics_of(looked, data.x_val[:512])
    looking = (time.perf_counter() - started) / 512
    depths, answers = seen_by(exported, looked, photos, path.with_suffix(".npz"))
    started = time.perf_counter()
    score = scoring(looked, depths["train"])
    fit = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        score.save(own := Path(folder, "neither.keras"))
        size = own.stat().st_size
        shipped = load_neither(own, side)
    reported = {"val": data.x_val, **pictures_of(kinds_for(REPORT), data)}
    said = {
        name: np.ravel(shipped.predict(x, batch_size=64, verbose=0)) for name, x in reported.items()
    }
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        shipped.predict_on_batch(data.x_val[:1])
        seconds.append(time.perf_counter() - started)
    facts = {
        "megabytes": round(size / 1e6, 1),
        "one_photo_ms": round(1000 * statistics.median(seconds), 1),
        "looking_ms_a_photo": round(1000 * looking, 2),
        "fitting_s": round(fit, 1),
    }
    keras.utils.clear_session()
    double = {
        name: [x.astype(np.float64) for x in each if x.shape[1] > 0]
        for name, each in depths.items()
    }
    return candidates(double, answers), said, facts


def main() -> None:
    """Train or load, measure, print."""
    parser = common.parser(__doc__, n=2)
    parser.add_argument("--weights", help="a ResNet50's weights file; default: none of it")
    parser.add_argument("--networks", default=".", help="folder where trained networks are kept")
    asked = parser.parse_args()
    backend = os.environ["KERAS_BACKEND"] = choose_backend()
    wanted = [(name, seed) for name in ("plain", "residual") for seed in range(1, asked.n + 1)]
    wanted += [("resnet50", 1)] if asked.weights else []
    chosen: dict[str, list[list[Found]]] = {}
    reported: list[list[Found]] = []
    networks = []
    for name, seed in wanted:
        side, _ = NETWORKS[name]
        data = TrainData.of(common.packed(asked, side, subset=TRAIN_PHOTOS))
        scores, said, facts = measure(trained(name, seed, data, asked), side, data)
        for candidate, each in scores.items():
            chosen.setdefault(candidate, []).append(found(each, kinds_for(CHOOSE)))
        reported.append(found(said, kinds_for(REPORT)))
        networks.append({"network": f"{name}, seed {seed}", "image_size": side, **facts})
        print(networks[-1], *reported[-1], sep="\n", flush=True)
    rows = [row_of(name, each) for name, each in chosen.items()]
    rows.sort(key=lambda row: row["mean_auc"]["median"] + row["worst_auc"]["median"])
    rows.append(row_of(f"{CHOSEN}, reported", reported))
    common.report(
        asked,
        ("keras", backend, "numpy", "pillow", "scikit-learn"),
        rows,
        train_photos=TRAIN_PHOTOS,
        val_photos=len(data.y_val),
        pictures_a_kind=PICTURES,
        false_alarms=0.01,
        networks=networks,
    )


if __name__ == "__main__":
    main()
