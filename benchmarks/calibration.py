"""What does setting photos aside cost, and what do they tell? The published network on n seeds.

Each seed is trained twice, on all of train and without the calibration photos. What is fitted on
the calibration photos is then looked at on val, which stands for photos that nothing chose by: each
network is the last epoch of a fixed length. Test is not looked at.

    python benchmarks/calibration.py --data PHOTOS [--n 5]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np

from catdog_search.data.calibration import set_aside
from catdog_search.evaluation.calibration import (
    brier,
    calibrate,
    covered,
    equal_mass_error,
    find_band,
    mean_probabilities,
)
from catdog_search.machine.backends import choose_backend
from catdog_search.study.config import PromotionConfig
from catdog_search.training.result import TrainData

SIDE, EPOCHS = 32, 12
# Rates of error among answered photos that a band is asked for.
RATES = (0.01, 0.05, 0.1)
PARAMS: dict[str, Any] = {
    **{"n_blocks": 3, "filters": 32, "dropout": 0.5, "dense_units": 128},
    **{"learning_rate": 1e-3, "schedule": "cosine", "batch_size": 64},
}


def main() -> None:
    """Train, fit and print."""
    asked = common.parser(__doc__, 5).parse_args()
    os.environ["KERAS_BACKEND"] = choose_backend()
    from catdog_search.models.export import logits_of

    whole = common.packed(asked, SIDE)
    defaults = PromotionConfig()
    share, fewest = defaults.calibration_share, defaults.calibration_photos
    less = set_aside({SIDE: whole}, share, fewest)[SIDE]
    config = common.study("calibration", SIDE, EPOCHS, space=PARAMS)
    rows: list[dict[str, Any]] = []
    for seed in range(asked.n):
        reached = trained(config, seed, TrainData.of(whole))
        without = trained(config, seed, TrainData.of(less))
        x, y = less.split("calibration")
        fitted = logits_of([without.model], x), y.ravel().astype(int)
        on_val = logits_of([without.model], whole.split("val")[0])
        labels = whole.split("val")[1].ravel().astype(int)
        rows.append(
            {
                "seed": seed,
                "val_all": reached.scores["val_accuracy"],
                "val_less": without.scores["val_accuracy"],
                **measured(*fitted, on_val, labels),
            }
        )
        print(rows[-1], flush=True)
    lost = [row["val_all"] - row["val_less"] for row in rows]
    common.report(
        asked,
        ("keras", choose_backend(), "numpy", "scipy"),
        rows,
        photos={"train": len(whole.rows("train")), "calibration": len(less.rows("calibration"))},
        lost={"mean": statistics.fmean(lost), "deviation": statistics.stdev(lost)},
    )


def trained(config: Any, seed: int, data: TrainData) -> Any:
    """A training that runs to its end."""
    from catdog_search.training.job import job_of
    from catdog_search.training.loop import train

    return train(job_of(config, PARAMS, seed=seed), data, lambda epoch, metrics: True)


def measured(
    logits: np.ndarray, y: np.ndarray, on_val: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """What is fitted on calibration photos, as found on val."""
    fitted = calibrate(y, logits)
    before, after = (mean_probabilities(on_val, t) for t in (1.0, fitted.temperature))
    return {
        "temperature": fitted.temperature,
        "error": changed(labels, before, after, equal_mass_error),
        "brier": changed(labels, before, after, brier),
        "bands": [banded(y, logits, labels, after, fitted.temperature, rate) for rate in RATES],
    }


def changed(
    labels: np.ndarray, before: np.ndarray, after: np.ndarray, score: Any
) -> Sequence[float]:
    """A score before and after the temperature."""
    return [score(labels, before), score(labels, after)]


def banded(
    y: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    on_val: np.ndarray,
    temperature: float,
    rate: float,
) -> dict[str, Any]:
    """A band for a rate, and what it does on val; None where there is none."""
    band = find_band(y, mean_probabilities(logits, temperature), 0.5, rate)
    if band is None:
        return {"rate": rate, "coverage": None, "error": None}
    found = covered(band, 0.5, labels, on_val)
    return {"rate": rate, "coverage": found.coverage, "error": found.error}


if __name__ == "__main__":
    main()
