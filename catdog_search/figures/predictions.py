"""Data that a trial's figures are plotted from; imports no matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Files that show a finished trial whose photos are at hand.
TRIAL_FIGURES = (
    "learning_curves.png",
    "confusion_matrix.png",
    "roc_pr.png",
    "reliability.png",
    "most_wrong.png",
)


@dataclass(frozen=True)
class Predictions:
    """Predictions on photos, those of val for a trial.

    Attributes:
        labels: Labels, (n,), 0 or 1.
        probabilities: Probabilities of class 1, (n,), 0 to 1.
    """

    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[Any]

    @property
    def predicted(self) -> npt.NDArray[Any]:
        """The more probable class of each photo."""
        return (self.probabilities > 0.5).astype(int)  # noqa: PLR2004


@dataclass(frozen=True)
class Photos:
    """Photos in the order of their predictions.

    Attributes:
        pixels: Pixels, uint8 RGB (n, side, side, 3).
        names: Keys in their source, (n,).
    """

    pixels: npt.NDArray[np.uint8]
    names: Sequence[str]
