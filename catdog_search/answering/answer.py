"""The answer to one photo: a class, "not sure", or "neither"; the one place that decides it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from catdog_search.answering.facts import ModelFacts

Verdict = Literal["answered", "not sure", "neither"]


@dataclass(frozen=True)
class Answer:
    """A model's answer to a photo.

    Attributes:
        verdict: `answered`; `not sure`, where too many answers would be wrong to give any;
            `neither`, where the photo is unlike everything that the model was trained on.
        label: Class that it means, or would mean.
        probability: Calibrated probability of that class.
        probabilities: Probability of every class, by name.
        unlike: How unlike train the photo is; train's average is 1. None for a model without such
            a score.
    """

    verdict: Verdict
    label: str
    probability: float
    probabilities: dict[str, float]
    unlike: float | None

    @property
    def text(self) -> str:
        """The class where there is an answer, or else why there is none."""
        return self.label if self.verdict == "answered" else self.verdict

    @property
    def plain(self) -> dict[str, Any]:
        """The answer as plain values for JSON, which has no non-finite numbers."""
        is_number = self.unlike is not None and math.isfinite(self.unlike)
        return {
            "answer": self.text,
            "verdict": self.verdict,
            "label": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
            "unlike": self.unlike if is_number else None,
        }


def answer_of(facts: ModelFacts, probability: float, unlike: float | None) -> Answer:
    """Decide.

    Args:
        facts: What the model says of itself.
        probability: Calibrated probability of class 1.
        unlike: Score of how unlike train the photo is; None for none.

    Raises:
        ValueError: The probability isn't one.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the model says {probability}, which is no probability")
    shares = (1 - probability, probability)
    predicted = int(probability > facts.threshold)
    names = facts.class_names
    return Answer(
        verdict=_verdict(facts, probability, unlike),
        label=names[predicted],
        probability=shares[predicted],
        probabilities=dict(zip(names, shares, strict=True)),
        unlike=unlike,
    )


def answers_of(
    facts: ModelFacts,
    probabilities: npt.NDArray[np.float32],
    unlike: npt.NDArray[np.float32] | None,
) -> list[Answer]:
    """Decide for several photos, see `answer_of`.

    Args:
        facts: What the model says of itself.
        probabilities: (n,).
        unlike: (n,), or None.
    """
    scores = [None] * len(probabilities) if unlike is None else unlike.tolist()
    pairs = zip(probabilities.tolist(), scores, strict=True)
    return [answer_of(facts, p, score) for p, score in pairs]


def _verdict(facts: ModelFacts, probability: float, unlike: float | None) -> Verdict:
    # A NaN score counts as "neither".
    if facts.neither_above is not None and unlike is not None and not unlike <= facts.neither_above:
        return "neither"
    low, high = facts.not_sure or (facts.threshold, facts.threshold)
    return "not sure" if low < probability < high else "answered"
