"""Heat maps: they lie on what the answer rests on, at a cost that the photo doesn't set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_onnx

from catdog_search.answering import heat as heat_module
from catdog_search.answering.heat import GRID, heat
from catdog_search.answering.runtime import OnnxModel
from catdog_search.errors import StateError

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (120, 120, 120)
# Of a place, and of a photo.
PLACE = 4
SIDE = PLACE * GRID


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return OnnxModel(tiny_onnx.content(), "tiny")


class Counting:
    """A model that counts what it is asked."""

    def __init__(self, model: OnnxModel) -> None:
        self.facts = model.facts
        self.sizes: list[tuple[int, ...]] = []
        self._model = model

    def run(self, photos: Any) -> Any:
        self.sizes.append(photos.shape)
        return self._model.run(photos)


def ground(colour: tuple[int, int, int], side: int = SIDE) -> Any:
    return np.full((side, side, 3), colour, np.uint8)


def share_within(found: Any, rows: slice, columns: slice) -> float:
    return float(found.map[rows, columns].sum() / found.map.sum())


@pytest.mark.parametrize("colour", [RED, BLUE])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 7), (3, 4), (7, 2)])
def test_map_lies_on_the_patch_that_decides(
    model: OnnxModel, colour: Any, top: int, left: int
) -> None:
    photo = ground(GREY)
    photo[top * PLACE : (top + 3) * PLACE, left * PLACE : (left + 3) * PLACE] = colour
    found = heat(model, photo)
    # Patches reach one place beside theirs, and so does the mean over them.
    rows, columns = (slice(max(at - 2, 0), at + 5) for at in (top, left))
    assert share_within(found, rows, columns) > 0.95
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    assert top <= row < top + 3
    assert left <= column < left + 3
    assert (found.map.min(), found.map.max()) == (0, 1)


@pytest.mark.parametrize(("many", "few", "label"), [(RED, BLUE, "dog"), (BLUE, RED, "cat")])
def test_map_is_of_the_class_that_is_meant(
    model: OnnxModel, many: Any, few: Any, label: str
) -> None:
    photo = ground(many)
    photo[:, : 3 * PLACE] = few
    assert model.answer(photo[None])[0].label == label
    assert share_within(heat(model, photo), slice(None), slice(3, None)) > 0.9


def test_range_is_the_largest_fall_of_the_logit(model: OnnxModel) -> None:
    photo = ground(GREY)
    photo[:16, :16] = RED
    found = heat(model, photo)
    # Patches of 8, 12 and 12 of the red's 16 pixels hide the place that matters most.
    hidden = (8 + 12 + 12) ** 2 / 3**2
    mean = photo.reshape(-1, 3).mean(axis=0).round()
    fall = 8 * hidden * ((255 - mean[0]) - (0 - mean[2])) / (255 * SIDE**2)
    assert found.range == pytest.approx(fall, rel=1e-3)


@pytest.mark.parametrize("last", [255, 254])
def test_photo_that_says_the_same_everywhere_has_no_map(model: OnnxModel, last: int) -> None:
    photo = ground(RED)
    photo[-1, -1, 0] = last
    found = heat(model, photo)
    assert found.range == 0
    assert not found.map.any()


def test_model_that_is_as_sure_as_a_number_can_be_has_a_map_of_numbers() -> None:
    sure = OnnxModel(tiny_onnx.content(strength=400.0), "sure")
    photo = ground(RED)
    photo[: SIDE // 2] = GREY
    found = heat(sure, photo)
    assert np.isfinite(found.map).all()
    assert np.isfinite(found.range)


@pytest.mark.parametrize(
    ("shape", "places"), [((40, 40), (10, 10)), ((8, 30), (8, 10)), ((1, 1), (1, 1))]
)
def test_grid_is_no_finer_than_the_photo(
    model: OnnxModel, shape: tuple[int, int], places: tuple[int, int]
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = heat(model, photo)
    assert (found.rows, found.columns) == found.map.shape == places


@pytest.mark.parametrize("side", [16, 64, 400, 1200])
def test_cost_is_bounded_whatever_the_size(model: OnnxModel, side: int) -> None:
    counting: Any = Counting(model)
    heat(counting, ground(RED, side))
    assert sum(shape[0] for shape in counting.sizes) == GRID**2 + 1
    most = max(np.prod(shape[:3]) for shape in counting.sizes)
    assert most <= max(heat_module._MOST_PIXELS, side * side)


def test_map_is_the_same_every_time(model: OnnxModel) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    before = photo.copy()
    one, other = heat(model, photo), heat(model, photo)
    assert np.array_equal(one.map, other.map)
    assert one.range == other.range
    assert np.array_equal(photo, before)


def test_photo_that_the_model_fails_on_is_said(model: OnnxModel) -> None:
    with pytest.raises(StateError, match="tiny"):
        heat(model, np.zeros((8, 8, 4), np.uint8))
