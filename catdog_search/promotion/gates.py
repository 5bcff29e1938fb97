"""Gates: what a model must pass before others load it, each with its number and its limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from catdog_search.answering.runtime import TOLERANCE
from catdog_search.errors import StateError
from catdog_search.evaluation.calibration import equal_mass_error, error_by_chance
from catdog_search.evaluation.floors import Floor
from catdog_search.exporting.proof import Proof
from catdog_search.intervals import mcnemar, needed_for, needed_to_tie, paired_difference, wilson
from catdog_search.study.config import PromotionConfig
from catdog_search.text import printable

# `open`: test wasn't looked at, or nothing was trained yet. `off`: measured, but no limit was set.
Verdict = Literal["passed", "failed", "open", "off"]

# Fewest photos of test, new to both challenger and champion, that they may be compared on.
FEWEST_COMMON = 200
ROUND_TRIP = 1e-4
# How many answers may differ between raw and packed photos: this number or this share.
_DIFFERENT, _DIFFERENT_SHARE = 2, 0.002


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes:
        name: Gate's name.
        verdict: Verdict.
        number: Measured value; None where nothing was measured.
        limit: Value asked for; None where nothing is.
        text: Both, for people.
        asks: How number must compare with limit: `at least`, `above` or `at most`.
    """

    name: str
    verdict: Verdict
    number: float | None
    limit: float | None
    text: str
    asks: Literal["at least", "above", "at most"] = "at most"

    @property
    def failed(self) -> bool:
        """Whether it keeps the model out."""
        return self.verdict == "failed"


def _judged(
    name: str,
    number: float,
    limit: float | None,
    text: str,
    asks: Literal["at least", "above", "at most"] = "at most",
) -> Gate:
    if limit is None:
        return Gate(name, "off", number, None, text, asks)
    passes = {
        "above": number > limit,
        "at least": number >= limit,
        "at most": number <= limit,
    }[asks]
    return Gate(name, "passed" if passes else "failed", number, limit, text, asks)


def not_looked_at(config: PromotionConfig, floors: Sequence[Floor]) -> list[Gate]:
    """The gates on test, before it is looked at."""
    limit = _least_accuracy(config, floors)
    unseen = "test is not looked at"
    return [
        Gate("accuracy", "open", None, limit, unseen, "above"),
        Gate("recall", "open", None, config.min_recall_share, unseen, "at least"),
        Gate("calibration", "open", None, config.max_calibration_error, unseen),
        Gate("champion", "open", None, -config.margin, unseen, "above"),
    ]


def _least_accuracy(config: PromotionConfig, floors: Sequence[Floor]) -> float:
    return max([floor.accuracy for floor in floors] + [config.min_accuracy or 0.0])


def require_enough(config: PromotionConfig, floors: Sequence[Floor], n: int, where: str) -> None:
    """Refuse a test split that is too small for the bound asked, before anything is trained.

    Args:
        config: Study's `[promotion]`.
        floors: Floors on test.
        n: Number of photos in test.
        where: Name of the photos, for people.

    Raises:
        StateError: The bound could not be reached even without an error.
    """
    least = _least_accuracy(config, floors)
    low, _ = wilson(n, n)
    if low > least:
        return
    needed = needed_for(least)
    if needed is None:
        floor = max(floors, key=lambda floor: floor.accuracy)
        raise StateError(
            f"{where}: the floor {floor.name} has all {n} photos of test right, so no model can be "
            "shown to be better, however many there are"
        )
    raise StateError(
        f"{where}: test has {n} photos, so even without an error the lower 95 % bound of the "
        f"accuracy would be {low:.4f}, and more than {least:.4f} is asked; it takes {needed} photos"
    )


def on_test(
    config: PromotionConfig,
    floors: Sequence[Floor],
    labels: npt.NDArray[np.int_],
    probabilities: npt.NDArray[np.float64],
    threshold: float,
    class_names: Sequence[str],
) -> Iterator[Gate]:
    """The gates on a model's answers to test.

    Args:
        config: Study's `[promotion]`.
        floors: Floors on the same photos.
        labels: Labels (n,), indices of classes.
        probabilities: Calibrated probabilities of class 1 (n,).
        threshold: Probability above which the answer is class 1.
        class_names: Class names, by index.
    """
    answered = (probabilities > threshold).astype(int)
    right = int((answered == labels).sum())
    n = len(labels)
    (low, high), least = wilson(right, n), _least_accuracy(config, floors)
    said = max(floors, key=lambda floor: floor.accuracy, default=None)
    best = f"{said.name} {said.accuracy:.4f}" if said else "no floor is known"
    yield _judged(
        "accuracy",
        low,
        least,
        f"{right / n:.4f} on {n} photos, 95 %: {low:.4f} to {high:.4f}; lower bound above "
        f"{least:.4f} ({best})",
        "above",
    )
    recalls = {
        name: float((answered[labels == index] == index).mean())
        for index, name in enumerate(class_names)
    }
    worst = min(recalls, key=lambda name: recalls[name])
    limit = config.min_recall_share * right / n
    each = ", ".join(f"{printable(name)} {value:.4f}" for name, value in recalls.items())
    text = f"{each}; each at least {limit:.4f}, {config.min_recall_share:g} of the accuracy"
    yield _judged("recall", recalls[worst], limit, text, "at least")
    yield _calibration(config, labels, probabilities)


def _calibration(
    config: PromotionConfig, labels: npt.NDArray[np.int_], probabilities: npt.NDArray[np.float64]
) -> Gate:
    """The gate on calibration, which allows for the error that chance alone gives on few photos."""
    error, chance = equal_mass_error(labels, probabilities), error_by_chance(probabilities)
    most = config.max_calibration_error
    text = (
        f"calibration error {error:.4f}, {chance:.4f} of which so many photos show by chance; the "
        f"rest at most {most:g}"
    )
    return _judged("calibration", max(error - chance, 0.0), most, text)


@dataclass(frozen=True)
class Rival:
    """A champion, and how it answers the same photos.

    Attributes:
        version: Number of its version.
        is_right: Whether it answers correctly (n,), without photos of its own train and val.
        ours: Whether the challenger does (n,).
        dropped: Number of photos left out.
    """

    version: int
    is_right: npt.NDArray[np.bool_]
    ours: npt.NDArray[np.bool_]
    dropped: int


def against(config: PromotionConfig, rivals: Sequence[Rival]) -> Gate:
    """The gate against the best champion so far, on photos that are new to both.

    Args:
        config: Study's `[promotion]`.
        rivals: Champions so far; empty where there was no other.
    """
    if not rivals:
        text = "there is no other champion to compare with"
        return Gate("champion", "passed", None, -config.margin, text, "above")
    few = [rival for rival in rivals if len(rival.is_right) < FEWEST_COMMON]
    if len(few) == len(rivals):
        rival = rivals[-1]
        text = (
            f"refused: of test's photos {len(rival.is_right)} are new to champion version "
            f"{rival.version} too, and it takes {FEWEST_COMMON}; more photos, or a model of "
            "another name (--model NAME)"
        )
        return Gate("champion", "failed", None, -config.margin, text, "above")
    compared = [rival for rival in rivals if len(rival.is_right) >= FEWEST_COMMON]
    rival = max(compared, key=lambda rival: float(rival.is_right.mean()))
    gained = int((rival.ours & ~rival.is_right).sum())
    lost = int((rival.is_right & ~rival.ours).sum())
    n = len(rival.is_right)
    low, high = paired_difference(gained, lost, n)
    left_out = f", {rival.dropped} that it was trained on left out" if rival.dropped else ""
    text = (
        f"{(gained - lost) / n:+.4f} against version {rival.version} on {n} photos{left_out}, "
        f"95 %: {low:+.4f} to {high:+.4f}; lower bound above {-config.margin:+.4f} (McNemar's "
        f"exact p {mcnemar(gained, lost):.3f}; {gained} photos gained, {lost} lost)"
        f"{_too_few(gained, lost, n, config.margin)}"
    )
    return _judged("champion", low, -config.margin, text, "above")


def _too_few(gained: int, lost: int, n: int, margin: float) -> str:
    """Why even a model as good as the champion fails; empty where that is not the reason."""
    disagreements = gained + lost
    passes = paired_difference(gained, lost, n)[0] > -margin
    tie = disagreements // 2
    if passes or gained - lost < -margin * n or paired_difference(tie, tie, n)[0] > -margin:
        return ""
    needed = needed_to_tie(disagreements / n, margin)
    if needed is None:
        return "; without a [promotion] margin only a model that is shown to be better passes"
    return (
        f"; {n} photos are too few for a margin of {margin:g}: as often as these two disagree, a "
        f"model that is exactly as good passes from {needed} photos on; take more photos, or a "
        "larger [promotion] margin"
    )


def of_file(config: PromotionConfig, n_bytes: int) -> Gate:
    """The gate on the size of a model's file."""
    size = n_bytes / 1e6
    text = f"{size:.1f} MB, at most {config.max_size_mb:g}"
    return _judged("size", size, config.max_size_mb, text)


def of_latency(config: PromotionConfig, milliseconds: float, low: float, high: float) -> Gate:
    """The gate on the time that one photo takes: median, minimum and maximum."""
    limit = config.max_latency_ms
    asked = "not asked" if limit is None else f"at most {limit:g}"
    text = f"one photo takes {milliseconds:.1f} ms ({low:.1f} to {high:.1f}) here, {asked}"
    return _judged("latency", milliseconds, limit, text)


def of_round_trip(difference: float, n: int) -> Gate:
    """The gate on the saved model's answers in a fresh process without this package."""
    text = (
        f"saved, and loaded without this package, it answers {n} raw photos within "
        f"{difference:.1e}, at most {ROUND_TRIP:g}"
    )
    number = difference if math.isfinite(difference) else math.inf
    return _judged("round trip", number, ROUND_TRIP, text)


def of_resize(different: int, n: int) -> Gate:
    """The gate on how many answers to raw photos differ from those to packed ones."""
    limit = max(_DIFFERENT, math.floor(_DIFFERENT_SHARE * n))
    text = f"{different} of {n} photos get another answer raw than packed, at most {limit}"
    return _judged("raw and packed", different, limit, text)


def of_onnx(proof: Proof) -> Gate:
    """The gate on the model as ONNX, against the model itself."""
    apart = max(proof.worst, proof.worst_score or 0.0)
    return _judged("onnx", apart, TOLERANCE, f"as ONNX, {proof}; at most {TOLERANCE:g} apart")


def of_leaks(config: PromotionConfig, leaked: int, n: int) -> Gate:
    """The gate on photos of test that are in train too."""
    limit = config.max_leaked
    text = f"{leaked} of test's {n} photos have a copy, or nearly one, in train, at most {limit}"
    return _judged("leaks", leaked, limit, text)


def of_kind(config: PromotionConfig, kind: str, champion: str | None) -> Gate:
    """The gate that keeps a model of drawn pictures from replacing a champion trained on photos."""
    over = kind == "synthetic" and champion not in (None, "synthetic")
    text = "trained on drawn pictures" if kind == "synthetic" else "trained on photos"
    if champion is not None:
        text += (
            ", as the champion"
            if (kind == "synthetic") == (champion == "synthetic")
            else (", the champion on photos" if over else ", the champion on drawn pictures")
        )
    if over and not config.drawn_over_photos:
        text += "; [promotion] drawn_over_photos lets it follow"
        return Gate("photos", "failed", None, None, text)
    return Gate("photos", "passed", None, None, text)


def as_facts(found: Sequence[Gate]) -> list[Mapping[str, object]]:
    """Gates for records, with None for numbers that JSON can't express."""
    return [
        {
            "name": gate.name,
            "verdict": gate.verdict,
            "number": gate.number if gate.number is None or math.isfinite(gate.number) else None,
            "limit": gate.limit,
            "asks": gate.asks,
            "text": gate.text,
        }
        for gate in found
    ]
