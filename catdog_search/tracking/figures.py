"""Figures of a trial, drawn without a display and without global state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

_TRAIN, _VAL = "#7a869a", "#0b66c3"


def learning_curves(
    history: Sequence[dict[str, float]], best_epoch: int | None, title: str
) -> Figure:
    """Loss and accuracy of train and val by epoch, the kept epoch marked."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    epochs = range(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, label, colour in ((name, "train", _TRAIN), (f"val_{name}", "val", _VAL)):
            values = [metrics[key] for metrics in history]
            axes.plot(epochs, values, color=colour, label=label, marker="o", markersize=3)
        if best_epoch is not None:
            kept = f"kept: epoch {best_epoch + 1}"
            axes.axvline(best_epoch + 1, color="#c2410c", linestyle=":", label=kept)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion_matrix(
    labels: npt.NDArray[Any], predicted: npt.NDArray[Any], class_names: Sequence[str], title: str
) -> Figure:
    """How many photos of each class were taken for which.

    Args:
        labels: (n,) class indices.
        predicted: (n,) class indices.
        class_names: By index.
        title: Above the figure.
    """
    counts = np.zeros((len(class_names), len(class_names)), int)
    np.add.at(counts, (labels.astype(int), predicted.astype(int)), 1)
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
    axes.set_xticks(ticks, class_names)
    axes.set_yticks(ticks, class_names)
    axes.set(xlabel="predicted", ylabel="is", title=title)
    return figure
