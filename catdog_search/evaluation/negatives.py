"""Photos of neither class, drawn by seed, to choose the "neither" score and to report on it.

A score that is chosen on the data it is reported on flatters itself, so the kinds come in related
pairs, one of which is for choosing and the other for reporting: flat areas (shapes, blank), fine
grain (noise, textures), lettering (text, screenshots), and what looks most like train (drawn
animals, photos cut into squares and shuffled). So both halves have kinds that are easily told from
photos of animals, and one that is hard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from catdog_search.data import synthetic
from catdog_search.data.decode import Pixels

Use = Literal["choose", "report"]
CHOOSE: Use = "choose"
REPORT: Use = "report"

_Rng = np.random.Generator
_Plane = npt.NDArray[np.float64]
_Colour = tuple[int, int, int]
_LETTERS = "aaabcdeeeefghiiijklmnnoooprrsssttuvwxyzABDEGHMNRST0123456789"


@dataclass(frozen=True)
class Kind:
    """One kind of photos of neither class.

    Attributes:
        use: Whether it serves to choose a score or to report on it.
        draw: Function of a random generator and a side in pixels that draws one picture: uint8 RGB
            (side, side, 3); None where the pictures are made from photos.
    """

    use: Use
    draw: Callable[[_Rng, int], Pixels] | None


def negatives(kind: str, n: int, side: int, seed: int = 0, photos: Pixels | None = None) -> Pixels:
    """Draw pictures of one kind; the same arguments give the same pictures in every process.

    Args:
        kind: One of `KINDS`. `drawn` are the animals of the built-in data: negatives for a model
            of photos, not for one that was trained on them.
        n: Number of pictures.
        side: Side in pixels, at least 8.
        seed: Seed of the collection, from 0.
        photos: uint8 RGB (any number, rows, columns, 3): what kinds without a `draw` are made from,
            taken in turn; the others ignore them.

    Returns:
        uint8 RGB (n, side, side, 3).

    Raises:
        ValueError: The kind is made from photos, and there are none.
    """
    made = np.empty((n, side, side, 3), np.uint8)
    draw = KINDS[kind].draw
    if draw is None and (photos is None or not len(photos)):
        raise ValueError(f"negatives {kind}: are made of photos, and there are none")
    for i in range(n):
        rng = np.random.default_rng([seed, i, *kind.encode()])
        if draw is not None:
            made[i] = draw(rng, side)
        elif photos is not None:
            made[i] = _permuted(rng, photos[i % len(photos)], side)
    return made


def kinds_for(use: Use) -> list[str]:
    """The names of the kinds for one use."""
    return [name for name, kind in KINDS.items() if kind.use == use]


# Kinds drawn with NumPy.


def _noise(rng: _Rng, side: int) -> Pixels:
    """Noise per pixel, in coarse squares, or with as much of each scale as photos have."""
    match int(rng.integers(6)):
        case 0:
            return rng.integers(0, 256, (side, side, 3), np.uint8)
        case 1:
            around = rng.uniform(30, 225, 3)
            return _levels(around + rng.normal(0, rng.uniform(15, 70), (side, side, 3)))
        case 2:
            grey = rng.normal(128, rng.uniform(20, 80), (side, side, 1))
            return _levels(np.repeat(grey, 3, axis=2))
        case 3:
            flat = np.broadcast_to(rng.uniform(0, 255, 3), (side, side, 3)).copy()
            is_hit = rng.random((side, side)) < rng.uniform(0.05, 0.5)
            flat[is_hit] = rng.choice([0.0, 255.0], (int(is_hit.sum()), 1))
            return _levels(flat)
        case 4:
            cells = int(rng.integers(4, max(5, side // 2)))
            coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            return np.asarray(coarse.resize((side, side), Image.Resampling.NEAREST))
        case _:
            steepness = rng.uniform(0.5, 2.0)
            planes = [_clouds(rng, side, steepness) for _ in range(3)]
            return _levels(255 * np.stack(planes, axis=2))


def _textures(rng: _Rng, side: int) -> Pixels:
    """A repeated or grown pattern in two colours, a little uneven."""
    y, x = _grid(rng, side)
    period = rng.uniform(0.06, 0.3)
    rough = _clouds(rng, side, 1.8)
    match int(rng.integers(7)):
        case 0:  # stripes
            value = 0.5 + 0.5 * np.sin(math.tau * (x / period + rng.uniform(0, 0.6) * rough))
        case 1:  # chequered cloth
            value = (np.floor(x / period) + np.floor(y / period)) % 2
        case 2:  # bricks
            row = np.floor(y / period)
            across = (x / (2 * period) + 0.5 * (row % 2)) % 1
            value = 1.0 - np.maximum(across < 0.08, (y / period) % 1 < 0.14)
        case 3:  # wood
            rings = np.hypot(x - rng.uniform(-1, 2), 0.2 * y) / (0.4 * period)
            value = 0.5 + 0.5 * np.sin(math.tau * (rings + 1.5 * rough))
        case 4:  # cells
            points = rng.random((int(rng.integers(12, 60)), 2))
            far = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1])
            nearest = np.sort(far, axis=2)
            value = np.clip((nearest[..., 1] - nearest[..., 0]) * 12, 0, 1)
        case 5:  # cloth
            value = 0.5 + 0.25 * (np.sin(math.tau * x / period) + np.sin(math.tau * y / period))
        case _:  # marble
            value = np.abs(np.sin(math.tau * (x + y + 3 * rough)))
    uneven = np.clip(value + rng.uniform(0, 0.4) * (rough - 0.5), 0, 1)[..., None]
    first, second = _tint(rng), _tint(rng)
    grain = rng.normal(0, rng.uniform(0, 8), (side, side, 3))
    return _levels(first + (second - first) * uneven + grain)


def _blank(rng: _Rng, side: int) -> Pixels:
    """One colour, or a gradient to another; half of them with a sensor's faint noise."""
    y, x = _grid(rng, side)
    first, second = _tint(rng), _tint(rng)
    match int(rng.integers(4)):
        case 0:
            share = np.zeros((side, side))
        case 1:
            share = np.clip(x, 0, 1)
        case 2:
            share = np.clip(np.hypot(x - 0.5, y - 0.5) * 1.4, 0, 1)
        case _:
            first = np.full(3, rng.choice([0.0, 255.0, rng.uniform(0, 255)]))
            share = np.zeros((side, side))
    deviation = rng.uniform(1, 6) if rng.random() < 0.5 else 0.0
    noise = rng.normal(0, deviation, (side, side, 3))
    return _levels(first + (second - first) * share[..., None] + noise)


def _clouds(rng: _Rng, side: int, steepness: float) -> _Plane:
    """Noise whose amplitude falls as a power of the frequency, (side, side) from 0 to 1."""
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / side)
    phases = np.exp(1j * rng.uniform(0, math.tau, frequency.shape))
    plane: _Plane = np.fft.irfft2(frequency**-steepness * phases, s=(side, side))
    plane -= plane.min()
    plane /= plane.max()
    return plane


def _grid(rng: _Rng, side: int) -> tuple[_Plane, _Plane]:
    """Rows and columns of a randomly rotated square, from 0 to 1."""
    along = (np.arange(side) + 0.5) / side - 0.5
    angle = rng.uniform(0, math.tau)
    y, x = along[:, None], along[None]
    return (
        0.5 + y * math.cos(angle) + x * math.sin(angle),
        0.5 + x * math.cos(angle) - y * math.sin(angle),
    )


def _tint(rng: _Rng) -> _Plane:
    """A colour, (3,) from 0 to 255: anything from fully saturated to grey, like most in photos."""
    tint = rng.uniform(0, 255, 3)
    tint += (tint.mean() - tint) * rng.uniform(0, 1)
    return tint


def _levels(values: npt.NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# Kinds drawn with Pillow.


def _shapes(rng: _Rng, side: int) -> Pixels:
    """Polygons, ellipses, lines and arcs on a plain ground."""
    image, canvas = _sheet(side, _colour(rng))
    for _ in range(int(rng.integers(1, 12))):
        centre, radius = rng.uniform(0, side, 2), side * rng.uniform(0.05, 0.4)
        box = (*(centre - radius).tolist(), *(centre + radius).tolist())
        outline = _colour(rng) if rng.random() < 0.5 else None
        width = max(1, round(side * rng.uniform(0.005, 0.04)))
        match int(rng.integers(5)):
            case 0:
                canvas.ellipse(box, _colour(rng), outline, width)
            case 1:
                circle = (*centre.tolist(), radius)
                corners, turn = int(rng.integers(3, 8)), float(rng.uniform(0, 360))
                canvas.regular_polygon(circle, corners, turn, _colour(rng), outline, width)
            case 2:
                corners_at = rng.uniform(0, side, (int(rng.integers(3, 7)), 2)).tolist()
                canvas.polygon([tuple(at) for at in corners_at], _colour(rng))
            case 3:
                ends = rng.uniform(0, side, (2, 2)).tolist()
                canvas.line([tuple(at) for at in ends], _colour(rng), 2 * width)
            case _:
                canvas.arc(box, 0, float(rng.uniform(90, 360)), _colour(rng), 2 * width)
    return np.asarray(image)


def _text(rng: _Rng, side: int) -> Pixels:
    """A page of lines, or a few large words, sometimes turned."""
    ground, ink = _ground_and_ink(rng)
    image, canvas = _sheet(side, ground)
    size = side * (rng.uniform(0.15, 0.4) if rng.random() < 0.4 else rng.uniform(0.05, 0.12))
    left = side * rng.uniform(0.0, 0.1)
    _lines(rng, canvas, (left, left, side, side), size, ink)
    if rng.random() < 0.4:
        image = image.rotate(
            float(rng.uniform(-30, 30)), Image.Resampling.BILINEAR, fillcolor=ground
        )
    return np.asarray(image)


def _screenshots(rng: _Rng, side: int) -> Pixels:
    """Windows with bars, buttons, side panels, tables and lines of text, light or dark."""
    image, canvas = _sheet(side, _colour(rng))
    if rng.random() < 0.5:
        _window(rng, canvas, (0, 0, side, side))
    else:
        for _ in range(int(rng.integers(2, 4))):
            left, top = rng.uniform(-0.05, 0.4, 2) * side
            right, bottom = np.array([left, top]) + rng.uniform(0.5, 0.8, 2) * side
            _window(rng, canvas, (left, top, float(right), float(bottom)))
    return np.asarray(image)


def _window(rng: _Rng, canvas: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    ground, ink = _ground_and_ink(rng)
    accent = _colour(rng)
    bar = (bottom - top) * rng.uniform(0.06, 0.12)
    canvas.rectangle(box, ground, outline=ink)
    canvas.rectangle((left, top, right, top + bar), accent)
    for i in range(3):
        middle = right - bar * (0.6 + 0.8 * i)
        dot = (middle - 0.2 * bar, top + 0.3 * bar, middle + 0.2 * bar, top + 0.7 * bar)
        canvas.ellipse(dot, _colour(rng))
    inner = top + 1.5 * bar
    if rng.random() < 0.6:  # a panel with entries
        edge = left + (right - left) * rng.uniform(0.2, 0.35)
        canvas.rectangle((left, top + bar, edge, bottom), _between(ground, ink, 0.15))
        for i in range(int(rng.integers(3, 8))):
            at = inner + 1.2 * bar * i
            end = left + (edge - left) * rng.uniform(0.5, 0.9)
            canvas.rectangle((left + 0.3 * bar, at, end, at + 0.35 * bar), ink)
        left = edge
    if rng.random() < 0.5:
        for row in np.arange(inner, bottom, bar):  # a table
            canvas.line((left, row, right, row), _between(ground, ink, 0.3))
        for column in np.linspace(left, right, int(rng.integers(3, 6))):
            canvas.line((column, inner, column, bottom), _between(ground, ink, 0.3))
    _lines(rng, canvas, (left + 0.4 * bar, inner, right, bottom - 2 * bar), 0.7 * bar, ink)
    for i in range(int(rng.integers(0, 3))):
        start = right - 3.4 * bar * (i + 1)
        button = (start, bottom - 1.6 * bar, start + 3 * bar, bottom - 0.5 * bar)
        canvas.rounded_rectangle(button, 0.2 * bar, accent if i == 0 else None, ink)


def _lines(
    rng: _Rng,
    canvas: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    size: float,
    ink: _Colour,
) -> None:
    """Lines of made-up words, from the top of a box down."""
    left, top, right, bottom = box
    font = ImageFont.load_default(max(4.0, size))
    letters = max(2, round(2 * (right - left) / max(4.0, size)))
    while top < bottom:
        words = "".join(rng.choice([*_LETTERS, *" " * 10], letters))
        shown = words[: int(rng.integers(letters // 2, letters + 1))]
        canvas.text((left, top), shown, fill=ink, font=font)
        top += 1.3 * max(4.0, size)


def _drawn(rng: _Rng, side: int) -> Pixels:
    label, index = int(rng.integers(2)), int(rng.integers(2**31))
    image = synthetic.draw(label, index, seed=1)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _sheet(side: int, ground: _Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (side, side), ground)
    return image, ImageDraw.Draw(image)


def _colour(rng: _Rng) -> _Colour:
    red, green, blue = _levels(_tint(rng)).tolist()
    return red, green, blue


def _between(first: Sequence[int], second: Sequence[int], share: float) -> _Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _ground_and_ink(rng: _Rng) -> tuple[_Colour, _Colour]:
    """Two colours that can be told apart: one near white, one near black."""
    light = _between((255, 255, 255), _colour(rng), float(rng.uniform(0, 0.35)))
    dark = _between((0, 0, 0), _colour(rng), float(rng.uniform(0, 0.35)))
    return (light, dark) if rng.random() < 0.7 else (dark, light)


# Kinds made from photos.


def _permuted(rng: _Rng, photo: Pixels, side: int) -> Pixels:
    """A photo cut into 4 x 4 to 8 x 8 squares that changed places."""
    image = Image.fromarray(photo)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    per_side = int(rng.integers(4, 9))
    square = side // per_side
    used = square * per_side
    cut = np.asarray(image)[:used, :used].reshape(per_side, square, per_side, square, 3)
    squares = rng.permutation(cut.swapaxes(1, 2).reshape(-1, square, square, 3))
    whole = squares.reshape(per_side, per_side, square, square, 3).swapaxes(1, 2)
    rest = side - used
    return np.pad(whole.reshape(used, used, 3), ((0, rest), (0, rest), (0, 0)), mode="edge")


KINDS: Mapping[str, Kind] = {
    "shapes": Kind(CHOOSE, _shapes),
    "blank": Kind(REPORT, _blank),
    "noise": Kind(CHOOSE, _noise),
    "textures": Kind(REPORT, _textures),
    "text": Kind(CHOOSE, _text),
    "screenshots": Kind(REPORT, _screenshots),
    "drawn": Kind(CHOOSE, _drawn),
    "permuted": Kind(REPORT, None),
}
