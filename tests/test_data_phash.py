"""Perceptual hashes: what they are defined as, and what they were before."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from catdog_search.data.decode import examine
from catdog_search.data.phash import perceptual_hashes
from catdog_search.data.synthetic import draw


def grey(image: Image.Image) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, "PPM")
    return examine(buffer.getvalue(), "a.ppm", 8).grey


def defined(levels: np.ndarray) -> str:
    low = dctn(levels.astype(float), type=2)[:8, :8]
    return (
        f"{int(''.join('01'[bit] for bit in (low > np.median(low)).ravel().astype(int)), 2):016x}"
    )


def test_hash_is_that_of_the_definition() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (500, 32, 32), np.uint8)
    assert perceptual_hashes(levels) == [defined(each) for each in levels]


@pytest.mark.parametrize(
    ("label", "index", "expected"),
    [
        (0, 0, "f923a68658796378"),
        (1, 0, "aced92929338ccc7"),
        (0, 7, "9d8c6832c763b39c"),
        (1, 7, "96a93739a8669387"),
    ],
)
def test_hash_is_what_imagehash_gives(label: int, index: int, expected: str) -> None:
    assert perceptual_hashes(grey(draw(label, index))[None]) == [expected]


def test_hash_does_not_depend_on_what_is_hashed_with_it() -> None:
    levels = np.stack([grey(draw(index % 2, index)) for index in range(40)])
    alone = [perceptual_hashes(each[None])[0] for each in levels]
    assert perceptual_hashes(levels) == alone


def test_flat_pictures_have_no_hash() -> None:
    nearly = Image.new("RGB", (50, 50), "grey")
    nearly.paste((140, 140, 140), (0, 0, 10, 10))
    levels = np.stack([grey(nearly), grey(draw(0, 0))])
    flat, drawn = perceptual_hashes(levels)
    assert flat == ""
    assert len(drawn) == 16


def test_what_is_zero_but_for_rounding_is_not_above_zero() -> None:
    # Alike in every row: all frequencies down the picture are zero, and so is the median.
    levels = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (1, 32, 1))
    (found,) = perceptual_hashes(levels)
    assert found[2:] == "0" * 14
