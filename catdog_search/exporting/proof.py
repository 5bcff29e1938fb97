"""An exported file held against the model that was trained, on photos of many shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from catdog_search.answering.answer import answer_of
from catdog_search.answering.runtime import TOLERANCE, OnnxModel, score_apart
from catdog_search.data import synthetic
from catdog_search.errors import StateError

if TYPE_CHECKING:
    from catdog_search.models.export import ExportedModel

N_PHOTOS = 200
# Height and width: square, lying, standing, tiny, a pixel beyond another size, of phones.
_SHAPES = (
    *((96, 96), (375, 500), (500, 333), (480, 640), (299, 301), (97, 63), (8, 300), (300, 9)),
    *((224, 224), (720, 1280), (1200, 900), (31, 33)),
)
_GRAIN = 20.0  # levels

Photo = npt.NDArray[np.uint8]


class ExportError(StateError):
    """A model can't be exported, or what was written answers otherwise."""


@dataclass(frozen=True)
class Proof:
    """How an exported file answers, against the model that it was made of.

    Attributes:
        n: Number of photos.
        shapes: Number of different shapes.
        worst: Largest difference of a probability.
        mean: Mean difference.
        worst_score: Largest difference of a score of "neither", as a share of it; None where there
            is none.
        different: Number of photos that are answered otherwise.
    """

    n: int
    shapes: int
    worst: float
    mean: float
    worst_score: float | None
    different: int

    @property
    def passed(self) -> bool:
        """Whether others may have the file."""
        largest = max(self.worst, self.worst_score or 0.0)
        return largest <= TOLERANCE and not self.different

    def __str__(self) -> str:
        score = (
            "" if self.worst_score is None else f', "neither" within {self.worst_score:.1e} of it'
        )
        return (
            f"{self.n} photos of {self.shapes} shapes: probabilities within {self.worst:.1e}"
            f"{score}, {self.different} answered otherwise"
        )


def photos(n: int = N_PHOTOS) -> Iterator[Photo]:
    """Drawn animals in many shapes, some of them grainy: the same in every process.

    Yields:
        uint8 RGB (height, width, 3).
    """
    for i in range(n):
        height, width = _SHAPES[i % len(_SHAPES)]
        drawn = synthetic.draw(i % 2, i).resize((width, height), Image.Resampling.BICUBIC)
        grain = np.random.default_rng(i).normal(0, _GRAIN * (i % 3), (height, width, 3))
        yield np.clip(np.asarray(drawn) + grain, 0, 255).astype(np.uint8)


def prove(
    onnx: OnnxModel,
    model: ExportedModel,
    neither: ExportedModel | None,
    shown: Sequence[Photo],
) -> Proof:
    """Ask both of the same photos, one by one.

    Args:
        onnx: Exported file.
        model: Exported Keras model: uint8 RGB (n, height, width, 3) -> probability (n, 1).
        neither: Score of how unlike train a photo is, from the same; None for none.
        shown: Photos, at least one.
    """
    from catdog_search.models.export import answers_to

    apart, scores, different = [], [], 0
    for photo in shown:
        probabilities, unlike = onnx.run(photo[None])
        one, score = float(probabilities[0]), None if unlike is None else float(unlike[0])
        other = float(answers_to(model, photo[None])[0])
        expected = None if neither is None else float(answers_to(neither, photo[None])[0])
        apart.append(abs(one - other))
        if (score is None) != (expected is None):
            raise ExportError("one of the two has a score of what is neither, the other has none")
        if score is not None and expected is not None:
            scores.append(score_apart(score, expected))
        texts = {answer_of(onnx.facts, p, s).text for p, s in ((one, score), (other, expected))}
        different += len(texts) > 1
    return Proof(
        n=len(apart),
        shapes=len({photo.shape for photo in shown}),
        worst=_largest(apart),
        mean=float(np.mean(apart)),
        worst_score=_largest(scores) if scores else None,
        different=different,
    )


def _largest(values: Sequence[float]) -> float:
    """What is no number is as far apart as can be."""
    return max(value if math.isfinite(value) else math.inf for value in values)
