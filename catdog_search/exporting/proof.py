"""An exported file compared with the trained model, on photos of many shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from catdog_search.answering.answer import answers_of
from catdog_search.answering.facts import ModelFacts
from catdog_search.answering.runtime import TOLERANCE, OnnxModel, score_apart
from catdog_search.data import synthetic
from catdog_search.errors import StateError

if TYPE_CHECKING:
    from catdog_search.models.export import ExportedModel

N_PHOTOS = 200
# Height and width: square, landscape, portrait, tiny, a pixel beyond another size, phone sizes.
_SHAPES = (
    *((96, 96), (375, 500), (500, 333), (480, 640), (299, 301), (97, 63), (8, 300), (300, 9)),
    *((224, 224), (720, 1280), (1200, 900), (31, 33)),
)
_GRAIN = 20.0  # levels

Photo = npt.NDArray[np.uint8]


class ExportError(StateError):
    """A model can't be exported, or the exported file answers differently."""


@dataclass(frozen=True)
class Proof:
    """How an exported file answers, compared with the model that it was made from.

    Attributes:
        n: Number of photos.
        shapes: Number of different shapes.
        worst: Largest difference of a probability.
        mean: Mean difference.
        worst_score: Largest relative difference of a "neither" score; None where there is none.
        different: Number of photos that are answered differently.
    """

    n: int
    shapes: int
    worst: float
    mean: float
    worst_score: float | None
    different: int

    @property
    def passed(self) -> bool:
        """Whether the file may be released."""
        largest = max(self.worst, self.worst_score or 0.0)
        return largest <= TOLERANCE and not self.different

    def __str__(self) -> str:
        score = "" if self.worst_score is None else f", scores within {self.worst_score:.1e}"
        return (
            f"{self.n} photos of {self.shapes} shapes: probabilities within {self.worst:.1e}"
            f"{score}, {self.different} with another answer"
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
    """Run an ONNX file and the Keras models it was made from on the same photos, one by one.

    Args:
        onnx: Exported file.
        model: Exported Keras model: uint8 RGB (n, height, width, 3) -> probability (n, 1).
        neither: Score of how unlike train a photo is, from the same; None for none.
        shown: Photos, at least one.

    Raises:
        ExportError: One has a score and the other has none, or an answer is not a number.
    """
    told = [onnx.run(photo[None]) for photo in shown]
    columns = [np.array([float(p[0]) for p, _ in told])]
    if all(unlike is not None for _, unlike in told):
        columns.append(np.array([float(unlike[0]) for _, unlike in told if unlike is not None]))
    return compare(model, neither, onnx.facts, shown, columns)


def compare(
    model: ExportedModel,
    neither: ExportedModel | None,
    facts: ModelFacts,
    shown: Sequence[Photo],
    told: Sequence[npt.NDArray[Any]],
) -> Proof:
    """Compare answers from elsewhere with the models' own.

    Args:
        model: Exported Keras model: uint8 RGB (n, height, width, 3) -> probability (n, 1).
        neither: Score of how unlike train a photo is, from the same; None for none.
        facts: What the answers mean.
        shown: Photos, at least one.
        told: Probabilities (n,) and, where there are any, scores (n,).

    Raises:
        ExportError: One has a score and the other has none, or an answer is not a number.
    """
    from catdog_search.models.export import answers_to

    models = [model] if neither is None else [model, neither]
    if len(told) != len(models):
        raise ExportError("one of the two has a score of what is neither, the other has none")
    if not all(np.isfinite(column).all() for column in told):
        raise ExportError("it says what is no number of some photos")
    here = [np.array([answers_to(each, photo[None])[0] for photo in shown]) for each in models]
    apart = [abs(a - b) for a, b in zip(told[0].tolist(), here[0].tolist(), strict=True)]
    scores = None
    if neither is not None:
        pairs = zip(told[1].tolist(), here[1].tolist(), strict=True)
        scores = [score_apart(a, b) for a, b in pairs]
    return Proof(
        n=len(apart),
        shapes=len({photo.shape for photo in shown}),
        worst=max(apart),
        mean=float(np.mean(apart)),
        worst_score=None if scores is None else max(scores),
        different=sum(
            a != b for a, b in zip(_texts(facts, told), _texts(facts, here), strict=True)
        ),
    )


def _texts(facts: ModelFacts, columns: Sequence[npt.NDArray[Any]]) -> list[str]:
    unlike = columns[1] if len(columns) > 1 else None
    return [answer.text for answer in answers_of(facts, columns[0], unlike)]
