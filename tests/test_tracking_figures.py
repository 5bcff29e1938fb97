"""Figures show the numbers they were given."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.figure import Figure
from matplotlib.text import Text

from catdog_search.figures import promotion
from catdog_search.figures import trial as figures
from catdog_search.figures.comparison import Bar, accuracies, curves, page
from catdog_search.figures.predictions import TRIAL_FIGURES, Photos, Predictions, RiskCurve
from catdog_search.figures.study import Point, importance_bars, optimization_history, slices

NAMES = ("cat", "dog")
GOT = Predictions(np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.95, 0.4, 0.8, 0.3]))
RISK = RiskCurve(np.array([0.5, 1.0]), np.array([0.0, 0.02]))
METRICS = {
    "loss": 1.0,
    "accuracy": 0.5,
    "val_loss": 1.1,
    "val_accuracy": 0.4,
    "learning_rate": 0.1,
}


def test_learning_curves_draw_both_splits_the_rate_and_the_kept_epoch() -> None:
    history = [{**METRICS, "loss": 1 / (i + 1), "learning_rate": 0.1 * i} for i in range(4)]
    loss, accuracy, rate = figures.learning_curves(history, 2, "study s trial 3").axes
    assert [line.get_label() for line in loss.lines] == ["train", "val", "kept: epoch 3"]
    assert loss.lines[0].get_ydata() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert accuracy.lines[1].get_ydata() == pytest.approx([0.4] * 4)
    assert list(accuracy.lines[2].get_xdata()) == [3, 3]
    assert rate.lines[0].get_ydata() == pytest.approx([0, 0.1, 0.2, 0.3])


def test_confusion_matrix_counts_by_class() -> None:
    (axes,) = figures.confusion_matrix(GOT, NAMES, "t").axes
    cells = [text.get_text().split("\n") for text in axes.texts]
    assert cells == [["2", "66.7%"], ["1", "33.3%"], ["1", "50.0%"], ["1", "50.0%"]]


def test_roc_and_precision_recall_name_their_areas() -> None:
    roc, trade = figures.roc_and_precision_recall(GOT, "dog", "t").axes
    # Of the 6 pairs of a dog and a cat, 3 are in the right order.
    assert roc.lines[0].get_label() == "area 0.5000"
    assert trade.lines[0].get_label().startswith("average precision 0.")
    assert trade.lines[1].get_label() == "chance 0.40"
    assert roc.get_title() == "ROC"


def test_reliability_puts_each_photo_in_its_bin() -> None:
    upper, lower = figures.reliability(GOT, "dog", "t").axes
    heights = [bar.get_height() for bar in lower.patches]
    assert heights == [0, 1, 0, 1, 1, 0, 0, 0, 1, 1]
    assert list(upper.lines[1].get_xdata()) == pytest.approx([0.1, 0.3, 0.4, 0.8, 0.95])
    assert list(upper.lines[1].get_ydata()) == pytest.approx([0, 1, 0, 1, 0])


def test_most_wrong_shows_the_surest_mistakes_first_with_their_names() -> None:
    photos = Photos(np.zeros((5, 4, 4, 3), np.uint8), [f"train/photo.{i}.jpg" for i in range(5)])
    figure = figures.most_wrong(GOT, photos, NAMES, "t")
    (axes,) = figure.axes
    captions = [text.get_text() for text in axes.texts]
    assert captions == ["photo.1.jpg\ndog 95.0%", "photo.4.jpg\ncat 70.0%"]
    assert len(axes.images) == 2


def test_most_wrong_says_when_none_is() -> None:
    right = Predictions(np.array([0, 1]), np.array([0.1, 0.9]))
    photos = Photos(np.zeros((2, 4, 4, 3), np.uint8), ["a", "b"])
    figure = figures.most_wrong(right, photos, NAMES, "t")
    assert figure.get_suptitle() == "t: val, none is wrong"


def test_trial_figures_are_what_there_is_data_for() -> None:
    photos = Photos(np.zeros((5, 4, 4, 3), np.uint8), list("abcde"))
    every = figures.trial_figures("t", [METRICS], 0, GOT, NAMES, photos)
    assert tuple(every) == TRIAL_FIGURES
    assert list(every) == [
        "learning_curves.png",
        "confusion_matrix.png",
        "roc_pr.png",
        "reliability.png",
        "most_wrong.png",
    ]
    assert list(figures.trial_figures("t", [METRICS], 0, GOT, NAMES, None)) == list(every)[:4]
    assert list(figures.trial_figures("t", [METRICS], None, None, NAMES, photos)) == list(every)[:1]


NASTY = (
    "$x_{$",
    "a_$1_$2^^.png",
    "100 % {of} \\textbf $a$ \\$",
    "_two\nlines\x1b[31m\x00 b\udce9",
    "猫\u202e.gpj",
    "long" * 60,
)


def drawn_with(text: str) -> dict[str, Figure]:
    """Every figure that we draw, with a text of somebody's wherever one can stand."""
    names, metrics = (text, f"{text} 2"), [METRICS]
    photos = Photos(np.zeros((5, 4, 4, 3), np.uint8), [f"{text}/{text}"] * 5)
    varied = {"dropout": 0.5, "activation": text}
    points = [Point(i, 0.5 + i / 10, False, varied, text) for i in range(3)]
    bars = [Bar(text, 0.9, 0.1, 0.9, 0.8, [metrics])]
    finalists = [promotion.FinalistRow(text, [0.9], None, True, True)]
    return {
        **figures.trial_figures(text, metrics, 0, GOT, names, photos),
        "history": optimization_history(points, text, "maximize", text),
        "importance": importance_bars({"dropout": 1.0}, text, text),
        "slices": slices(points, text, text),
        "accuracy": accuracies(bars, {text: 0.5}),
        "curves": curves(bars),
        "gates": promotion.gates([promotion.GateRow(text, 0.9, 0.8, True, True, text)], text),
        "seeds": promotion.seeds(finalists, text, text),
        "risk": promotion.risk_coverage({text: RISK}, 0.01, None, text),
        "neither": promotion.neither(np.array([0.1, 99.0]), {text: np.ones(3)}, 50.0, text),
        "calibration": promotion.reliability_before_after(
            GOT.labels, GOT.probabilities, GOT.probabilities, text, text
        ),
    }


@pytest.mark.parametrize("text", NASTY)
def test_text_of_others_is_drawn_as_it_is(text: str) -> None:
    for name, figure in drawn_with(text).items():
        assert not any(cbook.is_math_text(t.get_text()) for t in figure.findobj(Text)), name
        with figures.plain_style():
            figure.savefig(io.BytesIO())


def test_most_wrong_captions_a_photo_as_its_file_is_named() -> None:
    (axes,) = drawn_with("a_$1_$2^^.png")["most_wrong.png"].axes
    caption = axes.texts[0].get_text().split("\n")[0]
    assert caption.replace(r"\$", "$") == "a_$1_$2^^.png"


def test_page_shows_text_of_others_as_it_is() -> None:
    text = page("<b>", [("a",), ("<script>\x1b\udce9",)], ["&"], {})
    assert "<title>&lt;b&gt;</title>" in text
    assert "<td>&lt;script&gt;\\x1b\\xe9</td>" in text
    assert "<li>&amp;</li>" in text


def test_no_style_of_the_current_folder_is_drawn_with() -> None:
    with mpl.rc_context(
        {"text.usetex": True, "axes.titlesize": 99, "axes.formatter.use_mathtext": True}
    ):
        figure = figures.confusion_matrix(GOT, NAMES, "t")
        with figures.plain_style():
            figure.savefig(io.BytesIO())
        assert figure.axes[0].title.get_fontsize() < 20
        assert not any(text.get_usetex() for text in figure.findobj(Text))
        assert mpl.rcParams["text.usetex"]
