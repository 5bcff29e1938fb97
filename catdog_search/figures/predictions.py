"""Data that figures of predictions are plotted from; imports no matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Figures of a finished trial whose photos are available.
TRIAL_FIGURES = (
    "learning_curves.png",
    "confusion_matrix.png",
    "roc_pr.png",
    "reliability.png",
    "most_wrong.png",
)

# Probability above which class 1 is predicted by default.
THRESHOLD = 0.5
# Number of equal-mass bins.
MASS_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """Predictions on photos, those of val for a trial.

    Attributes:
        labels: Labels, (n,), 0 or 1.
        probabilities: Probabilities of class 1, (n,), 0 to 1.
        threshold: Probability above which class 1 is predicted.
    """

    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[Any]
    threshold: float = THRESHOLD

    @property
    def predicted(self) -> npt.NDArray[Any]:
        """The class predicted for each photo."""
        return (self.probabilities > self.threshold).astype(int)

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Whether each photo's prediction is right."""
        return np.asarray(self.predicted == self.labels)

    def confusion(self, n_classes: int) -> npt.NDArray[np.int_]:
        """Photos by true and by predicted class: (n_classes, n_classes)."""
        counts = np.zeros((n_classes, n_classes), int)
        np.add.at(counts, (np.asarray(self.labels, int), self.predicted), 1)
        return counts

    @property
    def brier(self) -> float:
        """Mean squared difference of probabilities and labels: 0 to 1.

        Source: Brier 1950, Mon. Weather Rev. 78.
        """
        return float(np.mean((self.probabilities - self.labels) ** 2))

    def equal_mass_bins(self, most: int = MASS_BINS) -> Bins:
        """Put photos into equal-mass bins, from the least probable to the most.

        Photos of equal probability share a bin, so that their order doesn't matter; then, or with
        fewer photos than bins, bins are uneven or fewer.

        Args:
            most: Number of bins, at least 1.
        """
        p = np.asarray(self.probabilities, np.float64)
        _, place, counts = np.unique(p, return_inverse=True, return_counts=True)
        middles = np.cumsum(counts) - counts / 2
        bins = (middles * most / len(p)).astype(int)[place]
        photos = np.bincount(bins, minlength=most)
        filled = photos > 0
        sums = (np.bincount(bins, weights=each, minlength=most) for each in (p, self.labels))
        means, shares = (each[filled] / photos[filled] for each in sums)
        return Bins(photos[filled], means, shares)


@dataclass(frozen=True)
class Bins:
    """Photos by their probability.

    Attributes:
        photos: Number of photos in each bin, at least 1.
        means: Mean probability of class 1 in each.
        shares: Share of class 1 in each.
    """

    photos: npt.NDArray[np.int64]
    means: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """How far mean probabilities are from shares, on average over photos: 0 to 1."""
        return float(np.average(np.abs(self.means - self.shares), weights=self.photos))


@dataclass(frozen=True)
class RiskCurve:
    """Error among answered photos by how many are answered, surest first.

    Attributes:
        coverage: Shares of answered photos, ascending.
        error: Share of wrong answers among those.
    """

    coverage: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Photos:
    """Photos in the order of their predictions.

    Attributes:
        pixels: Pixels, uint8 RGB (n, side, side, 3).
        names: Keys in their source, (n,).
    """

    pixels: npt.NDArray[np.uint8]
    names: Sequence[str]
