"""Figures of a whole study: its history, importances, and the objective by each param."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from catdog_search.figures.style import MARK, TRAIN, VAL, plain_style
from catdog_search.markup import as_figure_text
from catdog_search.objective import Direction, best_so_far
from catdog_search.space import Params, Value

_COLUMNS = 4
# Most characters of a recipe's, a param's or a choice's name.
_NAME = 40
# A range of at least this ratio is plotted on a logarithmic axis.
_LOG_RATIO = 8
# Below this ratio one label per decade would be too few.
_DENSE_RATIO = 30


@dataclass(frozen=True)
class Point:
    """One trial, as it is plotted.

    Attributes:
        number: Trial's number, from 0.
        value: Objective's value; None unless COMPLETE.
        failed: Whether it failed; being pruned isn't failing.
        varied: Searched params.
        name: Name of its recipe; None where the sampler proposed it.
    """

    number: int
    value: float | None
    failed: bool
    varied: Params
    name: str | None


@plain_style()
def optimization_history(
    points: Sequence[Point], metric: str, direction: Direction, title: str
) -> Figure:
    """The objective of each trial in order, and the best so far."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    done = [(p.number, p.value) for p in points if p.value is not None]
    axes.scatter([n for n, _ in done], [v for _, v in done], color=VAL, s=22, label="COMPLETE")
    if done:
        best = best_so_far(direction, [v for _, v in done])
        numbers = [n for n, _ in done]
        axes.step(numbers, best, where="post", color=MARK, label="best so far")
        floor = axes.get_ylim()[0]
        for label, failed, colour in (
            ("stopped, no value", False, TRAIN),
            ("failed, no value", True, MARK),
        ):
            others = [p.number for p in points if p.value is None and p.failed == failed]
            if others:
                marks = [floor] * len(others)
                axes.scatter(others, marks, color=colour, marker="x", s=22, label=label)
        for point in points:
            if point.name and point.value is not None:
                place = (point.number, point.value)
                name = as_figure_text(point.name, _NAME)
                axes.annotate(name, place, (4, 4), textcoords="offset points", fontsize=7)
        axes.legend(loc="best")
    axes.set(xlabel="trial", ylabel=as_figure_text(metric, _NAME), title=as_figure_text(title))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return figure


@plain_style()
def importance_bars(shares: Mapping[str, float], note: str, title: str) -> Figure:
    """How much of the difference between trials each param explains."""
    names = list(shares)[::-1]
    figure = Figure(figsize=(7, 1 + 0.36 * max(len(names), 1)), layout="constrained")
    axes = figure.subplots()
    values = [shares[name] for name in names]
    axes.barh([as_figure_text(name, _NAME) for name in names], values, color=VAL)
    for row, share in enumerate(values):
        axes.text(share, row, f" {share:.0%}", va="center", fontsize=8)
    label = "\n".join(map(as_figure_text, ("share of the difference", f"({note})")))
    axes.set(xlabel=label, title=as_figure_text(title))
    axes.set_xlim(0, max([*values, 0.1]) * 1.15)
    return figure


@plain_style()
def slices(points: Sequence[Point], metric: str, title: str) -> Figure:
    """The objective against each searched param, the later trials darker."""
    done = [point for point in points if point.value is not None]
    names = sorted({name for point in done for name in point.varied})
    rows = max(math.ceil(len(names) / _COLUMNS), 1)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.6 * rows), layout="constrained")
    figure.suptitle(as_figure_text(f"{title}; later trials are darker"))
    panels: list[Axes] = list(figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).flat)
    for axes, name in zip(panels, names, strict=False):
        having = [point for point in done if name in point.varied]
        places = _places([point.varied[name] for point in having], axes)
        values = [point.value or 0.0 for point in having]
        ages = [point.number for point in having]
        axes.scatter(places, values, c=ages, cmap="Blues", edgecolors=TRAIN, vmin=-5, s=26)
        axes.set(xlabel=as_figure_text(name, _NAME))
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.axis("off")
    for axes in panels[::_COLUMNS]:
        axes.set(ylabel=as_figure_text(metric, _NAME))
    return figure


def _places(values: Sequence[Value], axes: Axes) -> list[float]:
    """Positions of values on an axis, which is set up for them."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values) and numbers:
        least, most = min(numbers), max(numbers)
        if least > 0 and most / least >= _LOG_RATIO:
            _make_logarithmic(axes, most / least)
        elif all(number.is_integer() for number in numbers):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return numbers
    kinds = sorted({str(value) for value in values})
    axes.set_xticks(range(len(kinds)), list(map(as_figure_text, kinds)), fontsize=7)
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    return [float(kinds.index(str(value))) for value in values]


def _make_logarithmic(axes: Axes, ratio: float) -> None:
    """Make an axis logarithmic, with labels as in a study file that don't overlap."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < _DENSE_RATIO else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
