"""What a figure of a trial is drawn from; imports no matplotlib."""

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
    """What a trial took the photos of val for.

    Attributes:
        labels: (n,) 0 or 1.
        probabilities: (n,) of class 1.
    """

    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[Any]

    @property
    def predicted(self) -> npt.NDArray[Any]:
        """The more probable class of each photo."""
        return (self.probabilities > 0.5).astype(int)  # noqa: PLR2004


@dataclass(frozen=True)
class Photos:
    """The photos of val in the order of the predictions.

    Attributes:
        pixels: uint8 RGB (n, side, side, 3).
        names: (n,) keys in their source.
    """

    pixels: npt.NDArray[np.uint8]
    names: Sequence[str]
