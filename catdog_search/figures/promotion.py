"""Figures of a promotion: the candidates, the value of the chosen one, the gates it had to pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from catdog_search.data.lettering import in_figure
from catdog_search.figures.predictions import Predictions, RiskCurve
from catdog_search.figures.style import MARK, TRAIN, VAL, plain_style
from catdog_search.markup import as_figure_text

# Most characters of a class's, a gate's, a trial's or a kind's name, and of the text beside it.
_NAME = 40
_TOLD = 60
# A gate's mark, its words and its colour, by whether it passed.
_PASSED: Mapping[bool | None, tuple[str, str, str]] = {
    True: ("o", "✓ passed", VAL),
    False: ("X", "✗ FAILED", MARK),
    None: ("", "–", TRAIN),
}
_CURVES = ((VAL, "-"), (MARK, "--"))
_SHADE = 0.12
_BARS = 40
# Scores that span at least this ratio are plotted on a logarithmic axis.
_LOG_RATIO = 100


@dataclass(frozen=True)
class GateRow:
    """One gate, as it is plotted.

    Attributes:
        name: Gate's name.
        number: Measured value; None where there is none, or it isn't a number.
        limit: Limit for it; None where that isn't a number.
        at_least: Whether the limit is a lower one.
        passed: Whether it passed; None where that is open: not evaluated, or not required.
        told: Number and limit for display, with their unit.
    """

    name: str
    number: float | None
    limit: float | None
    at_least: bool
    passed: bool | None
    told: str


@dataclass(frozen=True)
class FinalistRow:
    """One finalist, as it is plotted.

    Attributes:
        name: Finalist's name.
        values: Val metric of each seed, at least one.
        noise: Standard error of their mean; None for a single seed.
        chosen: Whether it is the one that was chosen.
        tied: Whether it is within noise of the best; the best itself counts if others are.
    """

    name: str
    values: Sequence[float]
    noise: float | None
    chosen: bool
    tied: bool


@plain_style()
def gates(rows: Sequence[GateRow], title: str) -> Figure:
    """Every gate: its number's margin to the limit, and whether it passed."""
    figure = Figure(figsize=(10, 1.3 + 0.42 * max(len(rows), 1)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(0, 1, color=VAL, alpha=_SHADE, linewidth=0)
    axes.axvline(0, color="black", linewidth=1)
    for place, row in enumerate(rows):
        mark, _, colour = _PASSED[row.passed]
        axes.axhline(place, color=TRAIN, linewidth=0.6, zorder=0)
        if row.passed is not None and row.number is not None and row.limit is not None:
            to_spare = _to_spare(row.number, row.limit, row.at_least)
            axes.plot([0, to_spare], [place, place], color=colour, linewidth=3)
            axes.plot(to_spare, place, mark, color=colour, markersize=9, clip_on=False)
    axes.set_yticks(range(len(rows)), [in_figure(row.name, _NAME) for row in rows])
    axes.set(xlim=(-1, 1), ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.set_xticks([-0.5, 0, 0.5], ["worse", "limit", "better"])
    axes.set_xlabel("distance from the limit, not to scale")
    words = axes.twinx()
    told = [
        f"{_PASSED[row.passed][1]}{'' if row.passed is None else ':'} {in_figure(row.told, _TOLD)}"
        for row in rows
    ]
    words.set_yticks(range(len(rows)), told)
    words.set_ylim(axes.get_ylim())
    words.tick_params(axis="y", length=0)
    for label, row in zip(words.get_yticklabels(), rows, strict=True):
        label.set(color=_PASSED[row.passed][2], fontweight="normal" if row.passed else "bold")
    passed = [row.passed for row in rows]
    counts = f"{passed.count(True)} passed, {passed.count(False)} failed"
    unseen = f", {passed.count(None)} open" if None in passed else ""
    figure.suptitle(as_figure_text(f"{title}: {counts}{unseen}"))
    return figure


def _to_spare(number: float, limit: float, at_least: bool) -> float:
    """How much better than its limit a number is: -1 to 1, with small differences magnified."""
    better = (number - limit) if at_least else (limit - number)
    scale = max(abs(number), abs(limit))
    if not better or math.isnan(better):
        return 0.0
    share = 1.0 if math.isinf(scale) else min(abs(better) / scale, 1.0)
    return math.copysign(math.sqrt(share) * 0.95, better)


@plain_style()
def seeds(finalists: Sequence[FinalistRow], metric: str, title: str) -> Figure:
    """Each finalist's seeds, their mean and its noise; which was chosen, and which were tied."""
    figure = Figure(figsize=(9, 1.6 + 0.5 * max(len(finalists), 1)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(finalists):
        mean = float(np.mean(row.values))
        colour = MARK if row.chosen else VAL
        axes.axhline(place, color=TRAIN, linewidth=0.6, zorder=0)
        axes.plot(row.values, [place] * len(row.values), "o", color=TRAIN, alpha=0.7)
        noise = 0.0 if row.noise is None else row.noise
        style = "D" if row.chosen else "s"
        axes.errorbar(mean, place, xerr=noise, fmt=style, color=colour, capsize=5, linewidth=2)
    axes.plot([], [], "o", color=TRAIN, label="a seed")
    for style, colour, label in (("D", MARK, "chosen"), ("s", VAL, "others")):
        axes.errorbar([], [], xerr=[], fmt=style, color=colour, label=f"mean ± noise, {label}")
    axes.set_yticks(range(len(finalists)), [in_figure(row.name, _NAME) for row in finalists])
    axes.set_ylim(max(len(finalists), 1) - 0.5, -0.5)
    axes.set_xlabel(as_figure_text(metric, _NAME))
    axes.grid(alpha=0.3, axis="x")
    words = axes.twinx()
    words.set_yticks(range(len(finalists)), [_told(row) for row in finalists])
    words.set_ylim(axes.get_ylim())
    words.tick_params(axis="y", length=0)
    figure.suptitle(as_figure_text(title))
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _told(row: FinalistRow) -> str:
    noise = "" if row.noise is None else f" ± {row.noise:.4f}"
    said = (("chosen", row.chosen), ("tie", row.tied))
    return ", ".join(
        [f"{np.mean(row.values):.4f}{noise}", *(word for word, is_so in said if is_so)]
    )


@plain_style()
def reliability_before_after(
    labels: npt.NDArray[Any],
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    class_name: str,
    title: str,
) -> Figure:
    """Reliability before and after the temperature, over equal-mass bins.

    Args:
        labels: (n,), 0 or 1, of at least one photo.
        before: (n,), probabilities of class 1 at temperature 1.
        after: (n,), the same at the fitted temperature.
        class_name: Class 1.
        title: Title.
    """
    figure = Figure(figsize=(5.6, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1.2))
    upper.plot([0, 1], [0, 1], color=TRAIN, linestyle=":", label="calibrated")
    lower.axhline(0, color=TRAIN, linestyle=":")
    kinds = (("before", before, "s--", MARK, -0.2), ("after", after, "o-", VAL, 0.2))
    for name, probabilities, style, colour, aside in kinds:
        seen = Predictions(labels, probabilities)
        bins = seen.equal_mass_bins()
        label = f"{name}: calibration error {bins.error:.4f}, Brier {seen.brier:.4f}"
        upper.plot(bins.means, bins.shares, style, color=colour, markersize=5, label=label)
        places = np.arange(1, len(bins.photos) + 1) + aside
        hatch = "//" if name == "before" else None
        gaps = bins.shares - bins.means
        lower.bar(places, gaps, 0.4, color=colour, hatch=hatch, edgecolor="white")
    shown = in_figure(class_name, _NAME // 2)
    upper.set(xlabel=f"probability of {shown}", ylabel=f"share that is {shown}")
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    upper.set_title(as_figure_text(title))
    upper.legend(loc="upper left", fontsize=8)
    lower.set(xlabel="bin, each of as many photos", ylabel="share minus probability")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


@plain_style()
def risk_coverage(
    curves: Mapping[str, RiskCurve],
    rate: float,
    chosen: tuple[float, float] | None,
    title: str,
) -> Figure:
    """The error among answered photos by how many are answered, surest first.

    Args:
        curves: Curves by the photos that they are of, at most two.
        rate: Largest error that was allowed.
        chosen: Coverage of the "not sure" band and its error's upper bound on the calibration
            photos; None where there is no band.
        title: Title.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for (name, curve), (colour, style) in zip(curves.items(), _CURVES, strict=False):
        label = as_figure_text(name, _NAME)
        axes.plot(curve.coverage, curve.error, color=colour, linestyle=style, label=label)
    axes.axhline(rate, color="black", linestyle=":", linewidth=1, label=f"asked for: {rate:.2%}")
    top = max([rate, *(float(curve.error[-1]) for curve in curves.values())])
    if chosen is not None:
        coverage, upper = chosen
        axes.axvspan(coverage, 1, color=TRAIN, alpha=2 * _SHADE, linewidth=0)
        label = f"band: {coverage:.1%} answered, 95 % bound {upper:.2%}"
        axes.plot([coverage] * 2, [0, upper], color="black", linewidth=1)
        axes.plot(coverage, upper, "kv", markersize=8, label=label, clip_on=False)
        if coverage < 1:
            place = ((coverage + 1) / 2, 0.97)
            across = axes.get_xaxis_transform()
            axes.text(*place, "not sure", transform=across, ha="center", va="top", rotation=90)
    else:
        axes.plot([], [], " ", label="no band holds")
    # The few surest photos may err by chance; showing such peaks would flatten all that matters.
    axes.set(xlim=(0, 1.005), ylim=(-0.03 * top, 1.4 * top))
    axes.set(xlabel="photos that are answered", ylabel="wrong among answered")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.grid(alpha=0.3)
    axes.set_title(as_figure_text(title))
    axes.legend(loc="upper left", fontsize=8)
    return figure


@plain_style()
def neither(
    known: npt.NDArray[Any],
    negatives: Mapping[str, npt.NDArray[Any]],
    threshold: float,
    title: str,
) -> Figure:
    """How unlike train the calibration photos are, and pictures of neither class.

    Args:
        known: Finite scores of the calibration photos, (n,), at least one.
        negatives: Finite scores of each kind of negatives, at least one each; may be empty.
        threshold: A score above it is "neither".
        title: Title.
    """
    rows = [("calibration photos", known, VAL)]
    rows += [(kind, scores, TRAIN) for kind, scores in negatives.items()]
    every = np.concatenate([*(scores for _, scores, _ in rows), [threshold]])
    logarithmic = bool(every.min() > 0 and every.max() / every.min() >= _LOG_RATIO)
    edges = _edges(float(every.min()), float(every.max()), logarithmic)
    figure = Figure(figsize=(8, 1.2 + 0.75 * len(rows)), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(rows), 1, sharex=True, squeeze=False).flat)
    for axes, (name, scores, colour) in zip(panels, rows, strict=True):
        axes.hist(scores, edges, color=colour)
        axes.axvline(threshold, color=MARK, linestyle="--")
        axes.set_yticks([])
        label = as_figure_text(name, _NAME // 2)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        flagged = f"{np.mean(scores > threshold):.1%} above\nof {len(scores)}"
        axes.text(1.01, 0.5, flagged, transform=axes.transAxes, va="center", fontsize=9)
    if logarithmic:
        panels[-1].set_xscale("log")
        panels[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panels[-1].set_xlabel("score: the higher, the less like train")
    panels[0].set_title(f'above {threshold:.4g}: "neither"', loc="right", fontsize=9, color=MARK)
    figure.suptitle(as_figure_text(title))
    return figure


def _edges(least: float, most: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        return list(np.geomspace(least, most, _BARS + 1))
    return list(np.linspace(least, most if most > least else least + 1, _BARS + 1))
