"""From the bytes of a photo to what is said of it. Runs in threads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from catdog_search.answering.answer import Answer
from catdog_search.answering.heat import heat
from catdog_search.answering.runtime import OnnxModel
from catdog_search.data.budget import Reserve
from catdog_search.data.decode import Pixels, UndecodableError, decode, size_of
from catdog_search.service.problems import Problem
from catdog_search.service.uploads import Upload
from catdog_search.text import printable

Json = dict[str, Any]

# Kinds of `UndecodableError` that tell of what this service takes, not of a broken file.
_TOO_LARGE = ("too large", "too little memory")


@dataclass(frozen=True)
class Unusable:
    """A file that can't be answered.

    Attributes:
        name: Its name where it came; None where it had none.
        kind: See `UndecodableError`.
        text: Kind and details, in one line.
    """

    name: str | None
    kind: str
    text: str

    @property
    def row(self) -> Json:
        """As it is sent among answers."""
        return {"name": self.name, "error": self.text}

    @property
    def problem(self) -> Problem:
        """As it is sent where there is nothing else."""
        is_large = self.kind in _TOO_LARGE
        status = (
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE if is_large else HTTPStatus.UNPROCESSABLE_ENTITY
        )
        return Problem(status, self.text)


class Photos:
    """Decodes and answers.

    Args:
        max_pixels: Pixels of the largest photo that is decoded.
        reserve: Takes memory while a photo is decoded.
    """

    def __init__(self, max_pixels: int, reserve: Reserve) -> None:
        self._max_pixels = max_pixels
        self._reserve = reserve

    def answer(self, model: OnnxModel, upload: Upload) -> Json | Unusable:
        """What a model says of a file."""
        photo = self._decoded(model, upload)
        if isinstance(photo, Unusable):
            return photo
        (answer,) = model.answer(photo[None])
        return _row(upload.name, answer)

    def explain(self, model: OnnxModel, upload: Upload) -> Json | Unusable:
        """What a model says of a file, and what of the photo that rests on."""
        photo = self._decoded(model, upload)
        if isinstance(photo, Unusable):
            return photo
        (answer,) = model.answer(photo[None])
        found = heat(model, photo)
        return {
            "answer": _row(upload.name, answer),
            "rows": found.rows,
            "columns": found.columns,
            "map": found.map.tolist(),
            "range": found.range,
        }

    def _decoded(self, model: OnnxModel, upload: Upload) -> Pixels | Unusable:
        try:
            width, height = size_of(upload.content)
            if width * height > self._max_pixels:
                most = f"{self._max_pixels / 1e6:g} million"
                raise UndecodableError("too large", f"{width}x{height} pixels, at most {most}")
            return decode(upload.content, model.facts.image_size, self._reserve)
        except UndecodableError as error:
            return Unusable(upload.name, error.kind, printable(str(error)))


def _row(name: str | None, answer: Answer) -> Json:
    unlike = answer.unlike
    return {
        "name": name,
        "answer": answer.text,
        "verdict": answer.verdict,
        "label": answer.label,
        "probability": answer.probability,
        "probabilities": answer.probabilities,
        # JSON knows no other number.
        "unlike": unlike if unlike is not None and math.isfinite(unlike) else None,
    }
