"""Scores from probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from catdog_search.figures.predictions import THRESHOLD, Predictions

# Beyond this a logit means certainty, and its exponential overflows.
_LARGEST = 500.0


def scores(
    labels: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    prefix: str = "val_",
    threshold: float = THRESHOLD,
) -> dict[str, float]:
    """How well probabilities tell the classes apart.

    Precision, recall and F1 are those of class 1; where nothing is predicted as class 1 they are 0.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both classes must occur.
        probabilities: (n,) or (n, 1), of class 1.
        prefix: Prefix of every name.
        threshold: Probability above which class 1 is predicted.

    Returns:
        accuracy, balanced_accuracy (mean recall of the classes), loss (mean log loss), precision,
        recall, f1, auc and calibration_error (equal-mass, as `Predictions` bins), each with
        `prefix`.
    """
    y = np.ravel(labels).astype(int)
    p = np.ravel(probabilities).astype(np.float64)
    predicted = (p > threshold).astype(int)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        y, predicted, average="binary", zero_division=0
    )
    named = {
        "accuracy": metrics.accuracy_score(y, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, predicted),
        "loss": metrics.log_loss(y, p),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "auc": metrics.roc_auc_score(y, p),
        "calibration_error": Predictions(y, p).equal_mass_bins().error,
    }
    return {prefix + name: float(value) for name, value in named.items()}


def probabilities_of(logits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Float32 probabilities of class 1 (n,) from logits of any shape."""
    wide = np.clip(np.ravel(logits).astype(np.float64), -_LARGEST, _LARGEST)
    return np.asarray(1 / (1 + np.exp(-wide)), np.float32)
