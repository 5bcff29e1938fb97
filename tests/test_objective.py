"""What a direction means: to ranks, to what is kept, and to the best so far."""

from __future__ import annotations

import math

import pytest

from catdog_search.objective import DIRECTION_OF, Direction, best_so_far, is_better, keras_mode

VALUES = [0.5, 0.7, 0.6, 0.4]


@pytest.mark.parametrize(
    ("direction", "better", "so_far", "mode"),
    [
        ("maximize", 0.7, [0.5, 0.7, 0.7, 0.7], "max"),
        ("minimize", 0.4, [0.5, 0.5, 0.5, 0.4], "min"),
    ],
)
def test_direction(direction: Direction, better: float, so_far: list[float], mode: str) -> None:
    assert is_better(direction, better, 0.5)
    assert not is_better(direction, 0.5, better)
    assert not is_better(direction, 0.5, 0.5)
    assert best_so_far(direction, VALUES) == so_far
    assert keras_mode(direction) == mode


@pytest.mark.parametrize("direction", DIRECTION_OF.values())
def test_no_number_is_never_better(direction: Direction) -> None:
    assert not is_better(direction, math.nan, 0.5)
