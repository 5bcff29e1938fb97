"""Logits of val by the exported network, without recomputing kept features."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from catdog_search.training.batches import ValBatches, feed
from catdog_search.training.metrics import probabilities_of
from catdog_search.training.plan import Rest
from catdog_search.training.result import TrainData

# Photos that go through the whole network, to check that features give the same answers.
_SAMPLE = 64
# How far off a probability from half-precision features may be.
_TOLERANCE = 0.05
# Scoring that takes longer than this says so.
_QUIET_S = 3.0

Say = Callable[[str], None]


def val_logits(rest: Rest | None, network: keras.Model, data: TrainData, say: Say) -> Any:
    """Logits of val (n, 1), through its features where they are kept and give the same answers.

    Args:
        rest: What is left to compute from features; None where there are none.
        network: RGB (batch, side, side, 3) -> logits (batch, 1), as it is exported.
        data: Train and val.
        say: Callback given what a user should know, a line each.
    """
    if rest is not None:
        logits = rest.model.predict(feed(rest.val), verbose=0)
        off = _distance(logits, network, data)
        if off <= _TOLERANCE:
            return logits
        say(
            f"kept features give probabilities that are off by {off:.3f}: val is scored from photos"
        )
    telling = _Telling(len(data.y_val), say)
    return network.predict(feed(ValBatches(data)), verbose=0, callbacks=[telling])


def _distance(logits: Any, network: keras.Model, data: TrainData) -> float:
    """Largest distance of probabilities from the network's, on some photos of val."""
    rows = np.unique(np.linspace(0, len(data.y_val) - 1, _SAMPLE).astype(int))
    direct = keras.ops.convert_to_numpy(network.predict_on_batch(data.x_val[rows]))
    return float(np.abs(probabilities_of(direct) - probabilities_of(logits[rows])).max())


class _Telling(keras.callbacks.Callback):  # type: ignore[misc]
    """Says once what is being computed and for how long, unless it is over in a moment."""

    def __init__(self, n_photos: int, say: Say) -> None:
        super().__init__()
        self._n_photos = n_photos
        self._say = say
        self._began = time.monotonic()
        self._said = False

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        del logs
        spent = time.monotonic() - self._began
        if self._said or spent < _QUIET_S:
            return
        self._said = True
        total = spent / (batch + 1) * self.params["steps"]
        self._say(
            f"scoring {self._n_photos} photos of val by the network that is exported: about "
            f"{total:.0f} s"
        )
