"""Studies and recipes side by side, as figures and as one page for people without MLflow."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from catdog_search.figures.style import MARK, TRAIN, VAL, plain_style
from catdog_search.markup import as_figure_text
from catdog_search.text import printable

_COLUMNS = 3
# Most characters of a row's name.
_NAME = 48
_DPI = 110
_STYLE = (
    "body{font-family:system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;font-size:.9rem}td,th{padding:.3rem .6rem;text-align:left;"
    "border-bottom:1px solid #ddd}img{max-width:100%}"
)


@dataclass(frozen=True)
class Bar:
    """One row of the comparison, as it is plotted.

    Attributes:
        name: Row's name.
        val: Accuracy on val, mean over seeds, 0 to 1.
        deviation: Sample standard deviation over seeds; None for one.
        train: Accuracy on train, 0 to 1; None where it isn't known.
        published: Published accuracy on val, 0 to 1; None where there is none.
        curves: Metrics by epoch, from 0, for each seed.
    """

    name: str
    val: float
    deviation: float | None
    train: float | None
    published: float | None
    curves: Sequence[Sequence[Mapping[str, float]]]


@plain_style()
def accuracies(bars: Sequence[Bar], floors: Mapping[str, float]) -> Figure:
    """Val, published and train accuracy of every row, and the floors as lines."""
    figure = Figure(figsize=(9, 1.4 + 0.5 * len(bars)), layout="constrained")
    axes = figure.subplots()
    # Guessing gives a half; showing less than that would only squeeze what is above it.
    left = min([0.45, *(bar.val - 0.05 for bar in bars)])
    for place, bar in enumerate(bars):
        axes.barh(place, bar.val, color=VAL, height=0.6, xerr=bar.deviation, capsize=3)
        axes.text(left, place, f"  {bar.val:.3f}", va="center", color="white", fontsize=9)
        if bar.train is not None:
            axes.plot(bar.train, place, "o", color=TRAIN)
        if bar.published is not None:
            axes.plot(bar.published, place, "D", color=MARK)
    lines = zip(floors.items(), (":", "--", "-."), strict=False)
    for (name, value), style in lines:
        label = as_figure_text(f"{name} {value:.3f}")
        axes.axvline(value, color="black", linestyle=style, linewidth=1, label=label)
    axes.plot([], [], "o", color=TRAIN, label="train")
    axes.plot([], [], "D", color=MARK, label="published, val")
    axes.set_yticks(range(len(bars)), [as_figure_text(bar.name, _NAME) for bar in bars])
    axes.invert_yaxis()
    axes.set(xlim=(left, 1.01), xlabel="accuracy; bars: val, whiskers: deviation over seeds")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


@plain_style()
def curves(bars: Sequence[Bar]) -> Figure:
    """Accuracy on train and val by epoch, a panel per row, all on one scale."""
    columns = min(max(len(bars), 1), _COLUMNS)
    rows = max(math.ceil(len(bars) / columns), 1)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, bar in zip(panels, bars, strict=False):
        for number, curve in enumerate(bar.curves):
            epochs = range(1, len(curve) + 1)
            for name, colour in (("accuracy", TRAIN), ("val_accuracy", VAL)):
                label = {"accuracy": "train", "val_accuracy": "val"}[name] if not number else None
                axes.plot(epochs, [e.get(name, math.nan) for e in curve], color=colour, label=label)
        axes.set_title(as_figure_text(bar.name, _NAME), fontsize=10)
        axes.set(xlabel="epoch", ylim=(0.45, 1.01))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
    for axes in panels[len(bars) :]:
        axes.axis("off")
    panels[0].set_ylabel("accuracy")
    return figure


def page(
    title: str,
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    figures: Mapping[str, Figure],
) -> str:
    """One self-contained page of HTML.

    Args:
        title: Title of the page.
        rows: Head of the table, then its rows.
        notes: Notes under the table, a line each.
        figures: Figures by caption.
    """
    head, *body = rows
    cells = ["".join(f"<td>{_html(cell)}</td>" for cell in row) for row in body]
    table = "".join(f"<tr>{row}</tr>" for row in cells)
    titles = "".join(f"<th>{_html(cell)}</th>" for cell in head)
    images = "".join(
        f'<h2>{_html(caption)}</h2><img alt="{_html(caption)}" src="{_as_url(figure)}">'
        for caption, figure in figures.items()
    )
    said = "".join(f"<li>{_html(note)}</li>" for note in notes)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_html(title)}</title>'
        f"<style>{_STYLE}</style><h1>{_html(title)}</h1>"
        f"<table><tr>{titles}</tr>{table}</table><ul>{said}</ul>{images}</html>\n"
    )


def _html(text: str) -> str:
    return html.escape(printable(text))


def _as_url(figure: Figure) -> str:
    out = io.BytesIO()
    with plain_style():
        figure.savefig(out, format="png", dpi=_DPI)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
