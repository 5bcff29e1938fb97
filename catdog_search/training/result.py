"""What goes into a training and what comes out; imports no backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from catdog_search.outcomes import Ending

if TYPE_CHECKING:
    import keras

    from catdog_search.data.dataset import Dataset
    from catdog_search.data.decode import Pixels

Metrics = Mapping[str, float]
Report = Callable[[int, Metrics], bool]
# (epoch, step, steps), or (None, photos, all photos) while features are computed.
OnBatch = Callable[[int | None, int, int], bool]


@dataclass(frozen=True, eq=False)  # arrays aren't hashable; the object itself is
class TrainData:
    """Two splits in memory.

    Attributes:
        x_train: uint8 RGB (n, side, side, 3).
        y_train: float32 labels (n, 1), 0 or 1.
        x_val: uint8 RGB (n, side, side, 3).
        y_val: float32 labels (n, 1), 0 or 1.
        class_names: Index 1 is positive.
        digest: Names photos, labels, split, size and subset; empty where nothing is to be cached.
    """

    x_train: Pixels
    y_train: npt.NDArray[np.float32]
    x_val: Pixels
    y_val: npt.NDArray[np.float32]
    class_names: tuple[str, ...]
    digest: str = ""

    @classmethod
    def of(cls, dataset: Dataset) -> TrainData:
        """Train and val of a dataset; test stays on disk."""
        x_train, y_train = dataset.split("train")
        x_val, y_val = dataset.split("val")
        digest = f"{dataset.digest}-{dataset.image_size}-{dataset.subset or 'all'}"
        return cls(x_train, y_train, x_val, y_val, dataset.manifest.class_names, digest)


@dataclass(frozen=True)
class TrialResult:
    """How a training ended.

    Attributes:
        ending: FINISHED after all epochs or early stopping, PRUNED where `report` said stop,
            INTERRUPTED where `on_batch` did, or DIVERGED.
        history: Metrics of every epoch, from epoch 0.
        best_epoch: Epoch whose weights were kept, by the monitored metric; None where there is no
            finite one.
        scores: Final metrics of val with those weights; empty unless finished.
        val_probabilities: float32 (n_val,), probability of class 1; empty unless finished.
        model: Exported model with those weights; None unless finished.
        n_weights: Trainable and other weights of the network.
    """

    ending: Ending
    history: list[dict[str, float]]
    best_epoch: int | None
    scores: dict[str, float]
    val_probabilities: npt.NDArray[np.float32]
    model: keras.Model | None
    n_weights: int
