"""The figures of a promotion: gates, seeds, reliability, risk-coverage, unlike photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from catdog_search.evaluation.calibration import risk_curve
from catdog_search.figures import promotion as plots
from catdog_search.promotion.candidate import Candidate
from catdog_search.promotion.choice import Choice
from catdog_search.promotion.finalists import Finalist
from catdog_search.promotion.gates import Gate
from catdog_search.tracking.promotions import Answers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(  # noqa: PLR0913, PLR0917  what they are plotted from
    title: str,
    metric: str,
    candidate: Candidate,
    choice: Choice | None,
    gates: Sequence[Gate],
    answers: Answers,
    rate: float,
    unlike: Mapping[str, npt.NDArray[Any]],
) -> dict[str, Figure]:
    """The figures of a promotion, by file name.

    Args:
        title: Title of every figure.
        metric: Name of the objective.
        candidate: Model that may become champion.
        choice: Chosen finalist; None where nothing was trained again, and then no seeds are drawn.
        gates: Gates in the order in which they are listed.
        answers: Answers to test.
        rate: Error rate among answered photos that was asked for.
        unlike: Scores of drawn negatives by kind; they are plotted if the score has a threshold.
    """
    drawn = {
        "gates.png": plots.gates([_gate_row(gate) for gate in gates], title),
        "reliability.png": _reliability(candidate, title),
        "risk_coverage.png": _risk(candidate, answers, rate, title),
    }
    if choice is not None:
        rows = [_finalist_row(choice, each) for each in choice.ranked]
        drawn["seeds.png"] = plots.seeds(rows, metric, title)
    if candidate.unlike_above is not None:
        known = candidate.answers.unlike
        drawn["neither.png"] = plots.neither(known, unlike, candidate.unlike_above, title)
    return drawn


def _reliability(candidate: Candidate, title: str) -> Figure:
    fitted = candidate.answers
    return plots.reliability_before_after(
        fitted.labels.astype(int),
        fitted.uncalibrated,
        fitted.probabilities,
        candidate.class_names[1],
        title,
    )


def _risk(candidate: Candidate, answers: Answers, rate: float, title: str) -> Figure:
    asked = {str(candidate.fitted_on): candidate.answers, "test": answers}
    curves = {
        name: risk_curve(each.labels.astype(int), each.probabilities, candidate.threshold)
        for name, each in asked.items()
    }
    band = candidate.band
    chosen = None if band is None else (band.coverage, band.upper)
    return plots.risk_coverage(curves, rate, chosen, title)


def _gate_row(gate: Gate) -> plots.GateRow:
    passed = {"passed": True, "failed": False}.get(gate.verdict)
    at_least = gate.asks != "at most"
    return plots.GateRow(gate.name, gate.number, gate.limit, at_least, passed, _in_short(gate))


def _in_short(gate: Gate) -> str:
    if gate.number is None:
        return gate.text
    asked = "not asked" if gate.limit is None else f"{gate.asks} {gate.limit:.4g}"
    return f"{gate.number:.4g}, {asked}"


def _finalist_row(choice: Choice, finalist: Finalist) -> plots.FinalistRow:
    return plots.FinalistRow(
        name=finalist.name,
        values=finalist.values,
        noise=choice.standard_error(finalist),
        chosen=finalist is choice.finalist,
        tied=finalist.name in choice.ties,
    )
