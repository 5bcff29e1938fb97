"""The "neither" score on photos: its threshold, and what it finds among negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Scores = npt.NDArray[np.floating]
# Share of the photos of a class that may be called neither.
FALSE_ALARMS = 0.01
# Fewest photos that it takes to set the threshold.
FEWEST = 99


@dataclass(frozen=True)
class Found:
    """What a score makes of one kind of negatives.

    Attributes:
        kind: Kind of negatives.
        n: Number of them.
        auc: Area under the ROC curve of negatives against photos of the classes, 0 to 1.
        flagged: Share of the negatives above the threshold, 0 to 1.
    """

    kind: str
    n: int
    auc: float
    flagged: float


def threshold_at(scores: Scores, false_alarms: float = FALSE_ALARMS) -> float:
    """The threshold above which at most a given share of photos of the classes lies.

    If the score was made without these photos, a further one like them lies above it with a
    probability of at most `false_alarms` (split conformal prediction: Vovk et al. 2005), which is
    why one photo more than the share is left below it. It is itself one of the scores, so that the
    photos above it can be counted.

    Args:
        scores: Scores of photos of the classes, none of which the score was made from.
        false_alarms: Share that may be above, over 0 and under 1.

    Raises:
        ValueError: A score is not finite, or there are too few for so small a share.
    """
    n = len(scores)
    if not np.isfinite(scores).all():
        raise ValueError("neither: a score of a photo is no number")
    above = int(np.floor(false_alarms * (n + 1) + 1e-9)) - 1
    if above < 0:
        least = int(np.ceil(1 / false_alarms - 1e-9)) - 1
        raise ValueError(
            f"neither: {n} photos say nothing of {false_alarms:g} false alarms; it takes {least}"
        )
    return float(np.sort(scores)[n - 1 - above])


def found_of(kind: str, photos: Scores, negatives: Scores, threshold: float) -> Found:
    """What a score makes of one kind of negatives.

    Args:
        kind: Kind of negatives, for display.
        photos: Scores of photos of the classes.
        negatives: Scores of the negatives.
        threshold: Score above which a photo is called neither.
    """
    is_negative = np.repeat([0, 1], [len(photos), len(negatives)])
    auc = roc_auc_score(is_negative, np.concatenate([photos, negatives]))
    flagged = float(np.mean(negatives > threshold))
    return Found(kind, len(negatives), float(auc), flagged)
