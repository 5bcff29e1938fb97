"""Which parts of a photo an answer rests on: each is hidden in turn, and the model asked again.

Occlusion (Zeiler & Fergus 2014, ECCV): it needs only a network's answers, so it works for any
exported model. It shows where the answer comes from, not whether it is right, nor what the model
sees there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from catdog_search.answering.answer import answer_of
from catdog_search.answering.runtime import OnnxModel

# Places per side: its square is the number of answers needed, whatever the size of the photo.
GRID = 10
# A patch also hides this many places on every side of its own: a single place covers next to
# nothing of an animal.
_AROUND = 1
# Photos per call, and their pixels: a network needs some hundred bytes per pixel.
_MOST_PHOTOS, _MOST_PIXELS = 16, 1_000_000
# Nearer to 0 or 1 than this, float32 can't express how sure a model is.
_LEAST = 2.0**-24
# A smaller fall of the logit, a quarter of a per cent at most, is rounding or nothing.
_NOTHING = 0.01

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Heat:
    """How strongly each place of a photo supports the class that the model means.

    Attributes:
        rows: Number of places from top to bottom.
        columns: Number of places from left to right.
        map: (rows, columns), 0 to 1: how much the logit of the class falls when a place is hidden,
            as a share of `range`; 0 where it rises.
        range: Largest fall; 0 where hiding any place changes next to nothing, or makes the model
            surer.
    """

    rows: int
    columns: int
    map: Floats
    range: float


def heat(model: OnnxModel, photo: Pixels) -> Heat:
    """What an answer rests on.

    Args:
        model: It is run on at most `GRID` squared plus one photos.
        photo: uint8 RGB (height, width, 3), of the size that the model resizes to: a larger one
            only takes longer.

    Raises:
        StateError: The model fails on it.
    """
    probability = model.run(photo[None])[0].astype(np.float64)
    named = answer_of(model.facts, float(probability[0]), None).label
    sign = 1 if named == model.facts.class_names[1] else -1
    rows, columns = (min(GRID, side) for side in photo.shape[:2])
    covered = _covered(photo, rows, columns)
    size = max(1, min(_MOST_PHOTOS, _MOST_PIXELS // photo[..., 0].size))
    hidden = [model.run(np.stack(batch))[0] for batch in iter(lambda: [*islice(covered, size)], [])]
    falls = sign * (_logits(probability) - _logits(np.concatenate(hidden)))
    speaks = np.maximum(_spread(falls.reshape(rows, columns)), 0)
    largest = float(speaks.max())
    if largest < _NOTHING:
        return Heat(rows, columns, np.zeros_like(speaks), 0.0)
    return Heat(rows, columns, speaks / largest, largest)


def _spread(falls: Floats) -> Floats:
    """For each place, the mean over all patches that hide it."""
    sums, patches = np.zeros_like(falls), np.zeros_like(falls)
    for row, column in np.ndindex(falls.shape):
        hidden = tuple(slice(max(at - _AROUND, 0), at + _AROUND + 1) for at in (row, column))
        sums[hidden] += falls[row, column]
        patches[hidden] += 1
    return sums / patches


def _covered(photo: Pixels, rows: int, columns: int) -> Iterator[Pixels]:
    """A photo with each place hidden in turn, row by row."""
    filling = _filling(photo)
    for top, bottom in _patches(photo.shape[0], rows):
        for left, right in _patches(photo.shape[1], columns):
            covered = photo.copy()
            covered[top:bottom, left:right] = filling[top:bottom, left:right]
            yield covered


def _filling(photo: Pixels) -> Pixels:
    """What hidden places are filled with: the photo's mean. A blurred copy did no better."""
    mean = photo.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return np.broadcast_to(mean, photo.shape)


def _patches(side: int, places: int) -> Iterator[tuple[int, int]]:
    """Where the patch of each place begins and ends; patches overlap, and end at the edge."""
    edges = np.linspace(0, side, places + 1).round().astype(int)
    for place in range(places):
        yield edges[max(place - _AROUND, 0)], edges[min(place + _AROUND + 1, places)]


def _logits(probabilities: npt.NDArray[np.floating]) -> Floats:
    clipped = np.clip(probabilities.astype(np.float64), _LEAST, 1 - _LEAST)
    return np.log(clipped / (1 - clipped))
