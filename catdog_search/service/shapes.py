"""What is answered, as the OpenAPI document says it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, create_model

from catdog_search.answering.answer import Verdict
from catdog_search.answering.facts import ModelFacts, Share


class Named(BaseModel):
    """Which model answered: its name and version in the registry, and the SHA-256 of its file."""

    name: str | None
    version: int | None
    digest: str


class Row(BaseModel):
    """What a model says of one photo."""

    name: str | None = Field(description="Name that the file came with.")
    answer: str = Field(description="A class, `not sure` or `neither`.")
    verdict: Verdict
    label: str = Field(description="Class that it means, or would mean.")
    probability: Share = Field(description="Calibrated probability of that class.")
    probabilities: dict[str, Share]
    unlike: float | None = Field(
        description="How unlike all photos that it was trained on; 1 is what those have on average."
    )


class UnusableRow(BaseModel):
    """Why a file can't be answered."""

    name: str | None
    error: str = Field(description="`empty`, `not an image`, `truncated`, … and what was found.")


class Predicted(BaseModel):
    """Answers, in the order in which the files came."""

    model: Named
    photos: list[Row | UnusableRow]


class Explained(BaseModel):
    """An answer, and how much each place of the photo speaks for it."""

    model: Named
    answer: Row
    rows: int
    columns: int
    map: list[list[Share]] = Field(
        description="By how much hiding a place lowers the class's logit, as a share of `range`."
    )
    range: float = Field(description="Largest fall of the logit; 0 where no place lowers it.")


class Failed(BaseModel):
    """Why there is no answer."""

    error: str
    request_id: str


class FailedPhotos(Failed):
    """Why there is no answer, file by file."""

    photos: list[UnusableRow]


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class RefusedFile(BaseModel):
    """A new model that stayed out."""

    file: str
    reason: str
    at: str


class Ready(BaseModel):
    """A model answers."""

    ready: Literal[True]
    model: Named
    since: str
    refused: RefusedFile | None


class NotReady(Failed):
    """No model answers yet."""

    ready: Literal[False]
    refused: RefusedFile | None


_FACTS = {
    name: (field.annotation, field)
    for name, field in ModelFacts.model_fields.items()
    if name != "examples"
}
# What a model says of itself, except for the photos of its self-test.
Said = create_model("Said", digest=(str, ...), **_FACTS)  # type: ignore[call-overload]
