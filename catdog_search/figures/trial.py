"""Figures of a trial, plotted without a display and without global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from catdog_search.data.lettering import in_figure
from catdog_search.figures.predictions import Photos, Predictions
from catdog_search.figures.style import MARK, TRAIN, VAL, plain_style
from catdog_search.markup import as_figure_text
from catdog_search.text import printable

_DARK = "#111827"
_BINS = 10
# Most characters of a class's name.
_NAME = 20
_GALLERY = 24
_COLUMNS = 8
# A photo and its caption, in widths of a photo.
_CAPTION = 0.3
_CELL = 1 + _CAPTION


def trial_figures(
    title: str,
    history: Sequence[Mapping[str, float]],
    best_epoch: int | None,
    predictions: Predictions | None,
    class_names: Sequence[str],
    photos: Photos | None,
) -> dict[str, Figure]:
    """Every figure of a trial that the arguments allow, by file name.

    Args:
        title: Title of every figure.
        history: Metrics by epoch, from 0.
        best_epoch: Epoch whose weights were kept, from 0; None where no epoch's were.
        predictions: Predictions on val; None for a trial that didn't finish.
        class_names: Class names, by index.
        photos: Photos of val; None where they are not available.
    """
    figures = {"learning_curves.png": learning_curves(history, best_epoch, title)}
    if predictions is not None:
        figures["confusion_matrix.png"] = confusion_matrix(predictions, class_names, title)
        figures["roc_pr.png"] = roc_and_precision_recall(predictions, class_names[1], title)
        figures["reliability.png"] = reliability(predictions, class_names[1], title)
        if photos is not None:
            figures["most_wrong.png"] = most_wrong(predictions, photos, class_names, title)
    return figures


@plain_style()
def learning_curves(
    history: Sequence[Mapping[str, float]], best_epoch: int | None, title: str
) -> Figure:
    """Loss and accuracy on train and val and the learning rate by epoch; marks the kept epoch."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    figure.suptitle(as_figure_text(title))
    epochs = range(1, len(history) + 1)
    panels = figure.subplots(1, 3)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=False):
        for key, label, colour in ((name, "train", TRAIN), (f"val_{name}", "val", VAL)):
            values = [metrics_.get(key, np.nan) for metrics_ in history]
            axes.plot(epochs, values, color=colour, label=label, marker="o", markersize=3)
        axes.set(ylabel=name)
        if best_epoch is not None:
            kept = f"kept: epoch {best_epoch + 1}"
            axes.axvline(best_epoch + 1, color=MARK, linestyle=":", label=kept)
        axes.legend()
    rates = [metrics_.get("learning_rate", np.nan) for metrics_ in history]
    panels[2].plot(epochs, rates, color=_DARK, marker="o", markersize=3)
    panels[2].set(ylabel="learning rate at the epoch's end")
    panels[2].set_ylim(bottom=0)  # or a constant one would be shown by its last digits
    for axes in panels:
        axes.set(xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    return figure


@plain_style()
def confusion_matrix(
    predictions: Predictions, class_names: Sequence[str], title: str, split: str = "val"
) -> Figure:
    """Number of photos by true and predicted class."""
    counts = predictions.confusion(len(class_names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        share = shares[row, column]
        text = f"{counts[row, column]}\n{share:.1%}"
        colour = "white" if share > 0.5 else "black"  # noqa: PLR2004  half of the colour scale
        axes.text(column, row, text, ha="center", va="center", color=colour)
    ticks = range(len(class_names))
    names = [in_figure(name, _NAME) for name in class_names]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="is", title=as_figure_text(f"{title}: {split}"))
    return figure


@plain_style()
def roc_and_precision_recall(predictions: Predictions, positive: str, title: str) -> Figure:
    """How the two kinds of error trade against each other as the threshold moves."""
    from sklearn import metrics  # takes seconds, which only the worker can spare

    labels, probabilities = predictions.labels, predictions.probabilities
    figure = Figure(figsize=(8.4, 4), layout="constrained")
    figure.suptitle(as_figure_text(f"{title}: val"))
    roc, trade = figure.subplots(1, 2)
    wrong, found, _ = metrics.roc_curve(labels, probabilities)
    area = metrics.roc_auc_score(labels, probabilities)
    roc.plot(wrong, found, color=VAL, label=f"area {area:.4f}")
    roc.plot([0, 1], [0, 1], color=TRAIN, linestyle=":", label="chance")
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
    average = metrics.average_precision_score(labels, probabilities)
    trade.plot(recall, precision, color=VAL, label=f"average precision {average:.4f}")
    share = float(np.mean(labels))
    trade.axhline(share, color=TRAIN, linestyle=":", label=f"chance {share:.2f}")
    trade.set(
        xlabel="recall",
        ylabel="precision",
        title=f"precision and recall of {in_figure(positive, _NAME)}",
    )
    for axes in (roc, trade):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left" if axes is trade else "lower right")
    return figure


@plain_style()
def reliability(predictions: Predictions, positive: str, title: str) -> Figure:
    """Whether photos given 80 % for class 1 are class 1 in 80 % of cases."""
    p, y = predictions.probabilities, predictions.labels
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    filled = counts > 0
    shares = np.bincount(bins, weights=y, minlength=_BINS)[filled] / counts[filled]
    means = np.bincount(bins, weights=p, minlength=_BINS)[filled] / counts[filled]
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color=TRAIN, linestyle=":", label="calibrated")
    upper.plot(means, shares, color=VAL, marker="o", label="val")
    shown, heading = in_figure(positive, _NAME), as_figure_text(f"{title}: val")
    upper.set(ylabel=f"share that is {shown}", title=heading, ylim=(-0.02, 1.02))
    upper.legend(loc="upper left")
    upper.grid(alpha=0.3)
    edges = (np.arange(_BINS) + 0.5) / _BINS
    lower.bar(edges, counts, width=0.9 / _BINS, color=VAL)
    lower.set(xlabel=f"probability of {shown}", ylabel="photos", xlim=(-0.02, 1.02))
    return figure


@plain_style()
def most_wrong(
    predictions: Predictions,
    photos: Photos,
    class_names: Sequence[str],
    title: str,
    split: str = "val",
) -> Figure:
    """The photos misclassified with the most confidence, worst first."""
    wrongness = np.abs(predictions.probabilities - predictions.labels)
    order = np.argsort(-wrongness, kind="stable")
    order = order[predictions.predicted[order] != predictions.labels[order]][:_GALLERY]
    rows = max(math.ceil(len(order) / _COLUMNS), 1)
    figure = Figure(figsize=(1.5 * _COLUMNS, 1.5 * _CELL * rows + 0.4))
    what = "most wrong" if len(order) else "none is wrong"
    figure.suptitle(as_figure_text(f"{title}: {split}, {what}"))
    # One panel for all: a panel per photo would take half a second.
    axes = figure.add_axes((0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    for place, index in enumerate(order):
        row, column = divmod(place, _COLUMNS)
        top = row * _CELL + _CAPTION
        axes.imshow(photos.pixels[index], extent=(column, column + 0.95, top + 0.95, top))
        taken = class_names[int(predictions.predicted[index])]
        sure = max(predictions.probabilities[index], 1 - predictions.probabilities[index])
        lines = (_short(photos.names[index]), f"{taken} {sure:.1%}")
        text = "\n".join(map(in_figure, lines))
        axes.text(column + 0.475, top - 0.03, text, ha="center", va="bottom", fontsize=7)
    axes.set(xlim=(-0.05, _COLUMNS), ylim=(rows * _CELL, 0), aspect="auto")
    axes.axis("off")
    return figure


def _short(name: str, most: int = 22) -> str:
    last = printable(name.rsplit("/", 1)[-1])
    return last if len(last) <= most else f"…{last[1 - most :]}"
