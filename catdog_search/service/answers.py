"""From the bytes of a photo to its answer. Runs in threads."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from catdog_search.answering.heat import heat
from catdog_search.answering.photos import PhotoError, packed
from catdog_search.answering.runtime import OnnxModel
from catdog_search.data.budget import Reserve
from catdog_search.data.decode import Pixels
from catdog_search.service.problems import Problem
from catdog_search.service.uploads import Upload

Json = dict[str, Any]


@dataclass(frozen=True)
class Unusable:
    """A file that can't be answered.

    Attributes:
        name: Its name as sent; None where it had none.
        error: Why.
    """

    name: str | None
    error: PhotoError

    @property
    def row(self) -> Json:
        """As sent among answers."""
        return {"name": self.name, "error": str(self.error)}

    @property
    def problem(self) -> Problem:
        """As sent on its own."""
        is_large = self.error.is_too_large
        status = (
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE if is_large else HTTPStatus.UNPROCESSABLE_ENTITY
        )
        return Problem(status, str(self.error))


class Photos:
    """Decodes and answers.

    Args:
        max_pixels: Pixels of the largest photo that is decoded.
        reserve: Reserves memory while a photo is decoded.
    """

    def __init__(self, max_pixels: int, reserve: Reserve) -> None:
        self._max_pixels = max_pixels
        self._reserve = reserve

    def answer(self, model: OnnxModel, upload: Upload) -> Json | Unusable:
        """A model's answer to a file."""
        photo = self._decoded(model, upload)
        if isinstance(photo, Unusable):
            return photo
        (answer,) = model.answer(photo[None])
        return {"name": upload.name, **answer.plain}

    def explain(self, model: OnnxModel, upload: Upload) -> Json | Unusable:
        """A model's answer to a file, and the parts of the photo that it rests on."""
        photo = self._decoded(model, upload)
        if isinstance(photo, Unusable):
            return photo
        (answer,) = model.answer(photo[None])
        found = heat(model, photo)
        return {
            "answer": {"name": upload.name, **answer.plain},
            "rows": found.rows,
            "columns": found.columns,
            "map": found.map.tolist(),
            "range": found.range,
        }

    def _decoded(self, model: OnnxModel, upload: Upload) -> Pixels | Unusable:
        side = model.facts.image_size
        try:
            return packed(upload.content, side, self._reserve, self._max_pixels)
        except PhotoError as error:
            return Unusable(upload.name, error)
