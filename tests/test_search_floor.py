"""The floor beside a score: what one answer to every photo reaches."""

from __future__ import annotations

import math
import typing

import numpy as np
import pytest

from catdog_search.evaluation.floor import always
from catdog_search.study.config import Metric
from catdog_search.training.metrics import scores

COUNTS = {"cat": 66, "dog": 4}


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("val_accuracy", "always 'cat' scores 0.9429"),
        ("val_balanced_accuracy", "always 'cat' scores 0.5000"),
        ("val_auc", "always 'cat' scores 0.5000"),
        ("val_loss", "always 94.3% 'cat' scores 0.2190"),
    ],
)
def test_floor_is_what_one_answer_scores(metric: str, says: str) -> None:
    floor = always(metric, COUNTS)
    assert str(floor) == says
    labels = np.repeat([0.0, 1.0], list(COUNTS.values()))
    answer = np.full(70, 4 / 70, np.float32)
    assert floor is not None
    assert floor.value == pytest.approx(scores(labels, answer)[metric], abs=1e-6)


def test_every_metric_has_a_floor() -> None:
    for metric in typing.get_args(Metric):
        floor = always(metric, {"cat": 5, "dog": 5})
        assert floor is not None
        assert floor.value == pytest.approx(math.log(2) if metric == "val_loss" else 0.5)


@pytest.mark.parametrize(("metric", "counts"), [(None, COUNTS), ("val_accuracy", {})])
def test_floor_that_nobody_knows_is_none(metric: str | None, counts: dict[str, int]) -> None:
    assert always(metric, counts) is None


@pytest.mark.parametrize("metric", ["val_accuracy", "val_balanced_accuracy", "val_auc"])
def test_no_answer_to_every_photo_beats_the_floor(metric: str) -> None:
    floor = always(metric, {"cat": 4, "dog": 6})
    labels = np.repeat([0.0, 1.0], [4, 6])
    assert floor is not None
    best = max(scores(labels, np.full(10, p, np.float32))[metric] for p in (0.1, 0.9))
    assert floor.value == pytest.approx(best)


def test_name_of_a_class_is_printed_on_one_line() -> None:
    assert "\n" not in str(always("val_accuracy", {"a\nb": 2, "c": 1}))
