"""What an exported model says of itself, so that answering needs only one file."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from catdog_search.families.base import LARGEST_IMAGE, SMALLEST_IMAGE
from catdog_search.text import N_CLASSES, name_key, printable

_LONGEST_NAME = 255
_MOST_EXAMPLES = 64
DRAWN_WARNING = "this model learned from drawn pictures; what it says of photos means nothing"

Share = Annotated[float, Field(ge=0, le=1)]
_Text = Annotated[str, Field(max_length=1000)]


class FactsError(ValueError):
    """A file doesn't have the metadata that ours have."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ScoreOnTest(_Facts):
    """What a champion reached on test.

    Attributes:
        accuracy: Share of the photos answered rightly.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: Number of photos.
        looks: How often they have been looked at, as of the promotion.
    """

    accuracy: Share
    low: Share
    high: Share
    n: int = Field(ge=1)
    looks: int = Field(ge=0)


class Example(_Facts):
    """A photo, and what the model said of it when it was exported.

    Attributes:
        shape: Height and width, in pixels.
        pixels: uint8 RGB, row by row, in base64.
        probability: Probability of class 1.
        unlike: Score of how unlike train it is; None for a model without one.
    """

    shape: tuple[PositiveInt, PositiveInt]
    pixels: str
    probability: Share
    unlike: float | None = None

    @classmethod
    def of(cls, photo: npt.NDArray[np.uint8], probability: float, unlike: float | None) -> Example:
        """The example of a photo, uint8 RGB (height, width, 3)."""
        height, width = photo.shape[:2]
        text = base64.b64encode(photo.tobytes()).decode("ascii")
        return cls(shape=(height, width), pixels=text, probability=probability, unlike=unlike)

    @property
    def photo(self) -> npt.NDArray[np.uint8]:
        """uint8 RGB (height, width, 3)."""
        raw = base64.b64decode(self.pixels, validate=True)
        return np.frombuffer(raw, np.uint8).reshape(*self.shape, 3)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        try:
            _ = self.photo
        except (binascii.Error, ValueError):
            raise ValueError("its pixels are not those of its shape") from None
        return self


class ModelFacts(_Facts):
    """All that answering needs to know beside the network, and where that comes from.

    Attributes:
        format: Version of these facts.
        class_names: Class names, by index; index 1 is positive.
        image_size: Side that it resizes photos to, in pixels.
        temperature: Number that its logits were divided by.
        threshold: Probability above which it means class 1.
        not_sure: What lies strictly between the two is "not sure"; None where nothing is.
        error_rate: Largest share of wrong answers that `not_sure` was fitted for; None for none.
        guaranteed: Whether it was fitted on photos that chose nothing.
        neither_above: Score above which a photo is "neither"; None where nothing is.
        dataset_digest: Digest of the dataset that it was trained on.
        study: Name of its study.
        run_id: Id of the MLflow run that logged it.
        model_id: Id of the logged model.
        trained_on: Number and kind of photos that it was trained on, for people.
        is_drawn: Whether those were drawn pictures, so that its answers to photos mean nothing.
        name: Name in the registry; None where it is not registered, or wasn't yet.
        version: Version there.
        registered_at: Time of its registration.
        test: What it reached on test; None where that is not known.
        examples: Photos to try it on before it is trusted.
    """

    format: Literal[1] = 1
    class_names: tuple[str, ...] = Field(min_length=N_CLASSES, max_length=N_CLASSES)
    image_size: int = Field(strict=True, ge=SMALLEST_IMAGE, le=LARGEST_IMAGE)
    temperature: float = Field(default=1.0, strict=True, gt=0)
    threshold: float = Field(default=0.5, strict=True, gt=0, lt=1)
    not_sure: tuple[Share, Share] | None = None
    error_rate: Share | None = None
    guaranteed: bool = False
    neither_above: float | None = None
    dataset_digest: _Text | None = None
    study: _Text | None = None
    run_id: _Text | None = None
    model_id: _Text | None = None
    trained_on: _Text | None = None
    is_drawn: bool = False
    name: _Text | None = None
    version: int | None = None
    registered_at: _Text | None = None
    test: ScoreOnTest | None = None
    examples: tuple[Example, ...] = Field(default=(), max_length=_MOST_EXAMPLES)

    @field_validator("class_names")
    @classmethod
    def _can_be_told(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        bad = [n for n in names if not 0 < len(n) <= _LONGEST_NAME or printable(n) != n]
        if bad or len(set(map(name_key, names))) < len(names):
            raise ValueError("must be names that differ and can be printed")
        return names

    @property
    def warning(self) -> str | None:
        """A warning for anyone who relies on its answers; None for none."""
        return DRAWN_WARNING if self.is_drawn else None

    @classmethod
    def from_json(cls, text: str) -> ModelFacts:
        """Read them.

        Raises:
            FactsError: They are not like ours.
        """
        with _told():
            return cls.model_validate_json(text)

    @classmethod
    def of(cls, said: Mapping[str, object]) -> ModelFacts:
        """Read them from plain values, which may include others.

        Raises:
            FactsError: They are not like ours.
        """
        with _told():
            return cls.model_validate(dict(said))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "they"
        raise FactsError(f"its facts: {where}: {printable(first['msg'])}") from None
