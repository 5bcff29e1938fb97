"""Drawn pictures: always the same, all different, and not told apart by anything simple."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from catdog_search.data.synthetic import SIDE, draw


def pixels(label: int, index: int, seed: int = 0) -> np.ndarray:
    return np.asarray(draw(label, index, seed))


def test_draw_gives_a_square_rgb_picture() -> None:
    picture = draw(1, 3)
    assert (picture.mode, picture.size) == ("RGB", (SIDE, SIDE))


def test_draw_is_the_same_in_another_process(in_fresh_python: Callable[[str], str]) -> None:
    code = (
        "import hashlib; from catdog_search.data.synthetic import draw\n"
        "print([hashlib.sha256(draw(i % 2, i, 4).tobytes()).hexdigest() for i in range(6)])"
    )
    here = [hashlib.sha256(draw(i % 2, i, 4).tobytes()).hexdigest() for i in range(6)]
    assert in_fresh_python(code) == str(here)


def test_draw_ignores_the_global_random_state() -> None:
    np.random.seed(1)
    first = pixels(0, 5)
    np.random.seed(2)
    assert np.array_equal(pixels(0, 5), first)


def test_draw_never_repeats_a_picture() -> None:
    drawn = {
        draw(label, i, seed).tobytes() for label in (0, 1) for i in range(60) for seed in (0, 1)
    }
    assert len(drawn) == 240


@pytest.mark.parametrize("arguments", [(2, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_draw_refuses_what_it_does_not_know(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"label must be 0 \(cat\) or 1|non-negative"):
        draw(*arguments)


def test_linear_probe_does_not_tell_the_kinds_apart() -> None:
    labels = np.arange(1000) % 2
    small = [draw(int(y), i).resize((16, 16), Image.Resampling.BOX) for i, y in enumerate(labels)]
    x = np.stack([np.asarray(picture).ravel() / 255 for picture in small])
    probe = LogisticRegression(C=0.1, max_iter=500).fit(x[:700], labels[:700])
    assert probe.score(x[700:], labels[700:]) < 0.75


def test_simple_statistics_do_not_tell_the_kinds_apart() -> None:
    labels = np.arange(800) % 2
    rows = []
    for i, y in enumerate(labels):
        x = pixels(int(y), i).astype(float)
        edges = np.abs(np.diff(x, axis=0)).mean(), np.abs(np.diff(x, axis=1)).mean()
        rows.append([*x.mean((0, 1)), *x.std((0, 1)), *edges])
    features = np.array(rows)
    features = (features - features.mean(0)) / features.std(0)
    probe = LogisticRegression(max_iter=500).fit(features[:560], labels[:560])
    assert probe.score(features[560:], labels[560:]) < 0.65
