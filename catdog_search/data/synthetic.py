"""Drawn pictures of cats and dogs, for trying the project out without any photos.

Every picture is made from scratch by :func:`draw` from its label, index and seed. The two kinds
share their colours, fur patterns, sizes, poses, backgrounds and disturbances, and each single
trait (pricked ears, whiskers, a tongue) turns up in both now and then, so that telling them
apart takes shape: the ears, the muzzle and the eyes together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE = 96
"""Width and height of a drawn picture, in pixels."""

DRAWING_VERSION = 1
"""Part of the key of every cache of drawn pictures: bump it when any pixel changes."""

CAT, DOG = 0, 1

# How hard the pictures are. Chosen so that a small, well set up convolutional network learns the
# task from about a thousand pictures, while a badly set up one does not.
SITTING_SHARE = 0.15
HEAD_RADIUS = (26.0, 34.0)
SITTING_HEAD_RADIUS = (17.0, 20.0)
HEAD_TILT = 0.22
CLUTTER = 2
OCCLUDED_SHARE = 0.2
NOISE = 14
BLUR = 1.0
ODD_TRAIT = 0.06
"""Probability of each trait that is more typical of the other kind."""

SUPERSAMPLE = 3
CANVAS = SIDE * SUPERSAMPLE

Colour = tuple[int, int, int]
Point = tuple[float, float]
Points = Sequence[Point] | NDArray[np.float64]

FURS: tuple[Colour, ...] = (
    (52, 48, 50), (96, 98, 108), (150, 150, 156), (236, 230, 220), (222, 148, 72),
    (176, 110, 58), (112, 74, 48), (232, 202, 150), (130, 112, 92), (200, 172, 136),
)  # fmt: skip
EYES: tuple[Colour, ...] = (
    (150, 190, 70), (222, 178, 50), (110, 170, 210), (120, 72, 36), (186, 120, 50),
)  # fmt: skip
PINK: Colour = (232, 140, 150)
DARK: Colour = (36, 30, 32)

_CIRCLE = np.stack([np.cos(np.arange(26) * np.pi / 13), np.sin(np.arange(26) * np.pi / 13)], axis=1)
_STEPS = np.linspace(0, 1, 5, endpoint=False)[:, None] ** np.arange(4)
_CATMULL_ROM = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
_SPLINE = _STEPS @ _CATMULL_ROM


@dataclass(frozen=True)
class Pen:
    """Draws shapes given in units of the head's radius, x to the right and y down.

    Attributes:
        canvas: Picture that is drawn on, ``CANVAS`` pixels on each side.
        origin: Point (0, 0) on the canvas, shape (2,), in canvas pixels.
        axes: Rows are the unit steps along x and y, shape (2, 2), in canvas pixels.
        outline: Colour of the outlines.
    """

    canvas: ImageDraw.ImageDraw
    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    outline: Colour

    def moved(self, x: float, y: float, angle: float = 0.0) -> Pen:
        """Returns a pen whose (0, 0) is this one's (x, y), turned by ``angle`` radians."""
        return replace(
            self,
            origin=self.origin + np.array([x, y]) @ self.axes,
            axes=_turn(angle) @ self.axes,
        )

    def polygon(self, points: Points, fill: Colour, outlined: bool = False) -> None:
        """Fills the polygon with these corners, (n, 2)."""
        placed = self._place(points)
        self.canvas.polygon(placed, fill=fill)
        if outlined:
            self.canvas.line([*placed, placed[0]], fill=self.outline, width=3)

    def curve(self, corners: Points, fill: Colour, outlined: bool = True) -> None:
        """Fills the smooth closed curve through these points, (n, 2)."""
        nodes = np.asarray(corners, dtype=np.float64)
        spans = np.stack([np.roll(nodes, shift, axis=0) for shift in (1, 0, -1, -2)])
        self.polygon(np.einsum("sk,knc->nsc", _SPLINE, spans).reshape(-1, 2), fill, outlined)

    def oval(
        self,
        centre: Point,
        radii: Point,
        fill: Colour,
        angle: float = 0.0,
        outlined: bool = False,
    ) -> None:
        """Fills an ellipse, turned by ``angle`` radians."""
        self.polygon(_CIRCLE * radii @ _turn(angle) + centre, fill, outlined)

    def line(self, points: Points, fill: Colour, width: float) -> None:
        """Draws an open line through these points; ``width`` is in head radii."""
        pixels = max(1, round(width * math.hypot(*self.axes[0])))
        self.canvas.line(self._place(points), fill=fill, width=pixels, joint="curve")

    def _place(self, points: Points) -> list[tuple[float, float]]:
        # Whole pixels keep the last bits of the arithmetic, which may differ between processors,
        # out of the picture.
        placed = np.rint(np.asarray(points) @ self.axes + self.origin)
        return [(x, y) for x, y in placed.tolist()]


@dataclass(frozen=True)
class Coat:
    """Colours of an animal: its fur, the pattern on it, muzzle and chest, inner ears, eyes."""

    fur: Colour
    mark: Colour
    light: Colour
    ear: Colour
    eye: Colour
    pattern: int


def draw(label: int, index: int, seed: int = 0) -> Image.Image:
    """Draws one picture of a cat or a dog.

    The same arguments give the same picture in every process.

    Args:
        label: 0 for a cat, 1 for a dog.
        index: Number of the picture among those of its kind, from 0.
        seed: Seed of the collection of pictures, 0 or more.

    Returns:
        An RGB image, ``SIDE`` x ``SIDE`` pixels.

    Raises:
        ValueError: If ``label`` is neither 0 nor 1, or ``index`` or ``seed`` is negative.
    """
    if label not in (CAT, DOG):
        raise ValueError(f"label must be {CAT} (cat) or {DOG} (dog), not {label!r}")
    rng = np.random.default_rng([seed, label, index])
    image = _background(rng)
    canvas = ImageDraw.Draw(image)
    _clutter(rng, canvas, int(rng.integers(0, CLUTTER + 1)))
    coat = _coat(rng)
    sitting = bool(rng.random() < SITTING_SHARE)
    pen = _pose(rng, canvas, sitting, _shade(coat.fur, 0.45))
    if sitting:
        _body(rng, pen, coat, label)
        pen = pen.moved(0, 0, rng.uniform(-HEAD_TILT, HEAD_TILT))
    _head(rng, pen, coat, label)
    if rng.random() < OCCLUDED_SHARE:
        _occlude(rng, canvas)
    return _degrade(rng, image.reduce(SUPERSAMPLE))


def _turn(angle: float) -> NDArray[np.float64]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    return _mix(colours[int(rng.integers(len(colours)))], _any_colour(rng), 0.1)


def _any_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.integers(30, 236, size=3).tolist()
    return red, green, blue


def _mirrored(top: float, half: Sequence[Point], bottom: float) -> list[Point]:
    left = [(-x, y) for x, y in reversed(half)]
    return [(0.0, top), *half, (0.0, bottom), *left]


def _background(rng: np.random.Generator) -> Image.Image:
    kind = int(rng.integers(5))
    colour = _any_colour(rng)
    if kind == 0:
        return Image.new("RGB", (CANVAS, CANVAS), colour)
    if kind == 1:
        return _stripes(rng, colour)
    # A few random colours, blown up: a gradient, soft blobs or a fine texture.
    cells, spread = ((2, 120), (5, 70), (24, 45))[kind - 2]
    offsets = rng.integers(-spread, spread + 1, size=(cells, cells, 3))
    small = np.clip(np.array(colour) + offsets, 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)


def _stripes(rng: np.random.Generator, colour: Colour) -> Image.Image:
    image = Image.new("RGB", (CANVAS, CANVAS), colour)
    canvas = ImageDraw.Draw(image)
    other = _mix(colour, _any_colour(rng), 0.6)
    slope = int(rng.integers(-CANVAS // 2, CANVAS // 2))
    width = int(rng.integers(12, 45))
    for start in range(-CANVAS, 2 * CANVAS, 2 * width):
        line = (start, 0, start + slope, CANVAS)
        if slope % 2:
            line = (0, start, CANVAS, start + slope)
        canvas.line(line, fill=other, width=width)
    return image


def _clutter(rng: np.random.Generator, canvas: ImageDraw.ImageDraw, count: int) -> None:
    """Scatters triangles and ovals that look like ears and noses on their own."""
    for _ in range(count):
        origin = rng.uniform(0, CANVAS, size=2)
        axes = _turn(rng.uniform(0, math.tau)) * rng.uniform(10, 45)
        pen = Pen(canvas, origin, axes, DARK)
        colour = _pick(rng, FURS) if rng.random() < 0.6 else _any_colour(rng)
        if rng.random() < 0.5:
            pen.polygon([(-0.7, 0.6), (0.7, 0.6), (rng.uniform(-0.4, 0.4), -0.9)], colour)
        else:
            pen.oval((0, 0), (rng.uniform(0.4, 1.0), 1.0), colour)


def _coat(rng: np.random.Generator) -> Coat:
    fur, mark = _pick(rng, FURS), _pick(rng, FURS)
    pale = rng.random() < 0.6
    light = _mix(fur, (250, 244, 236), rng.uniform(0.4, 0.9)) if pale else _shade(fur, 1.1)
    ear = _mix(PINK, fur, rng.uniform(0.1, 0.7))
    eye = EYES[int(rng.integers(len(EYES)))]
    return Coat(fur, mark, light, ear, eye, int(rng.integers(5)))


def _pose(
    rng: np.random.Generator, canvas: ImageDraw.ImageDraw, sitting: bool, outline: Colour
) -> Pen:
    radius = rng.uniform(*(SITTING_HEAD_RADIUS if sitting else HEAD_RADIUS)) * SUPERSAMPLE
    tilt = rng.uniform(-HEAD_TILT, HEAD_TILT) * (0.4 if sitting else 1.0)
    mirror = np.array([[rng.choice([-1.0, 1.0])], [1.0]])
    # Space left between the head and the edge; ears and chin may be cut off a little.
    room = 0.6 * max(0.0, CANVAS / 2 - 1.05 * radius)
    x, y = CANVAS / 2 + rng.uniform(-room, room, size=2)
    if sitting:
        x, y = 0.5 * x + 0.25 * CANVAS, CANVAS * rng.uniform(0.24, 0.42)
    return Pen(canvas, np.array([x, y]), _turn(tilt) * mirror * radius, outline)


def _odd(rng: np.random.Generator, usual: bool) -> bool:
    """Returns ``usual``, or now and then the opposite."""
    return usual != (rng.random() < ODD_TRAIT)


def _body(rng: np.random.Generator, pen: Pen, coat: Coat, label: int) -> None:
    _tail(rng, pen, coat, label)
    wide = rng.uniform(0.85, 1.15)
    shoulder, hip = (0.62, 1.05) if label == CAT else (0.8, 0.95)
    half = [
        (shoulder * wide * 0.8, 0.7),
        (shoulder * wide, 1.4),
        (hip * wide, 2.3),
        (hip * wide * 0.9, 2.95),
    ]
    pen.curve(_mirrored(0.3, half, 3.1), coat.fur)
    if coat.pattern in (1, 2):
        for side in (-1, 1):
            pen.oval((side * 0.62 * wide, 2.2), (0.18, 0.4), coat.mark, -0.3 * side)
    pen.oval((0, 1.3), (0.4, 0.65), coat.light)
    leg = rng.uniform(0.17, 0.25)
    for side in (-1, 1):
        pen.oval((side * 0.3, 2.35), (leg, 0.75), _shade(coat.fur, 0.92), outlined=True)
        pen.oval((side * 0.34, 3.05), (leg * 1.3, 0.17), coat.light, outlined=True)
    if rng.random() < 0.4:
        pen.oval((0, 0.85), (0.62, 0.16), _any_colour(rng))


def _tail(rng: np.random.Generator, pen: Pen, coat: Coat, label: int) -> None:
    long_tail = _odd(rng, label == CAT)
    reach, thick = (rng.uniform(1.5, 2.1), 0.24) if long_tail else (rng.uniform(0.8, 1.4), 0.34)
    steps = np.linspace(0, 1, 9)
    bend = rng.uniform(-0.5, 0.7)
    xs = 0.7 + reach * 0.6 * np.sin(steps * 2.2)
    ys = 2.7 - reach * steps + bend * np.sin(steps * 5)
    points = np.stack([xs, ys], axis=1)
    pen.line(points, pen.outline, thick + 0.1)
    pen.line(points, coat.fur, thick)
    pen.oval((xs[-1], ys[-1]), (thick / 2, thick / 2), coat.mark)


def _head(rng: np.random.Generator, pen: Pen, coat: Coat, label: int) -> None:
    wide, high = rng.uniform(0.9, 1.1, size=2)
    pen = replace(pen, axes=pen.axes * np.array([[wide], [high]]))
    hanging = label == DOG and rng.random() > 0.15
    folded = label == CAT and rng.random() < ODD_TRAIT
    if not hanging:
        _pricked_ears(rng, pen, coat, label, folded)
    if label == CAT:
        half = [(0.52, -0.74), (0.93, -0.28), (1.0, 0.2), (0.62, 0.66)]
        pen.curve(_mirrored(-0.82, half, 0.8), coat.fur)
    else:
        half = [(0.52, -0.78), (0.86, -0.38), (0.84, 0.12), (0.6, 0.62)]
        pen.curve(_mirrored(-0.86, half, 0.9), coat.fur)
    _markings(rng, pen, coat)
    if hanging:
        _hanging_ears(rng, pen, coat)
    # Features slide sideways and up or down together: the head turns and nods.
    face = pen.moved(rng.uniform(-0.2, 0.2), rng.uniform(-0.1, 0.1))
    (_cat_face if label == CAT else _dog_face)(rng, face, coat)


def _pricked_ears(rng: np.random.Generator, pen: Pen, coat: Coat, label: int, folded: bool) -> None:
    tall = rng.uniform(0.55, 0.8) if label == CAT else rng.uniform(0.6, 0.95)
    spread = rng.uniform(0.68, 0.9)
    fur = coat.mark if coat.pattern == 3 else coat.fur
    for side in (-1, 1):
        ear = pen.moved(side * 0.56, -0.52)
        lean = side * (spread - 0.56)
        tip = (lean, -0.35 if folded else -0.15 - tall)
        base = [(-side * 0.36, -0.1), (side * 0.36, 0.25)]
        if label == CAT:
            ear.polygon([base[0], tip, base[1]], fur, outlined=True)
        else:
            ear.curve([base[0], (lean - 0.12 * side, tip[1] + 0.12), tip, base[1]], fur)
        inner = [(0.6 * x, 0.6 * y) for x, y in (base[0], tip, base[1])]
        ear.polygon(inner, coat.ear)


def _hanging_ears(rng: np.random.Generator, pen: Pen, coat: Coat) -> None:
    fur = coat.mark if coat.pattern in (1, 3) else _shade(coat.fur, rng.uniform(0.7, 0.95))
    drop, swing, thick = rng.uniform(0.7, 1.25), rng.uniform(-0.1, 0.5), rng.uniform(0.2, 0.3)
    for side in (-1, 1):
        ear = pen.moved(side * 0.62, -0.62)
        end = 0.28 + swing * 0.8
        corners = [
            (-0.1, 0.0), (0.22, -0.1), (end + thick, 0.55 * drop), (end + thick * 0.8, drop),
            (end - thick * 0.6, drop), (end - thick, 0.5 * drop),
        ]  # fmt: skip
        ear.curve([(side * x, y) for x, y in corners], fur)


def _markings(rng: np.random.Generator, pen: Pen, coat: Coat) -> None:
    if coat.pattern == 1:  # a patch around one eye
        pen.oval((0.42, -0.12), (0.34, 0.4), coat.mark, rng.uniform(-0.4, 0.4))
    elif coat.pattern == 2:  # stripes on the forehead and the cheeks
        for x in (-0.25, 0.0, 0.25):
            pen.line([(x, -0.72), (x * 0.7, -0.38)], coat.mark, 0.1)
        for side in (-1, 1):
            pen.line([(side * 0.86, 0.15), (side * 0.6, 0.2)], coat.mark, 0.09)
    elif coat.pattern == 3:  # a blaze
        pen.curve(_mirrored(-0.75, [(0.12, -0.5), (0.2, 0.2)], 0.5), coat.light, outlined=False)


def _eyes(rng: np.random.Generator, face: Pen, coat: Coat, radii: Point, slit: bool) -> None:
    apart = rng.uniform(0.36, 0.46)
    pupil = rng.uniform(0.2, 0.45) if slit else rng.uniform(0.6, 0.85)
    slant = rng.uniform(-0.1, 0.35)
    for side in (-1, 1):
        eye = face.moved(side * apart, -0.14, -side * slant)
        eye.oval((0, 0), radii, coat.eye, outlined=True)
        eye.oval((0, 0), (radii[0] * pupil, radii[1] * (0.95 if slit else pupil)), DARK)
        eye.oval((0.06, -0.07), (0.045, 0.045), (250, 250, 250))


def _whiskers(rng: np.random.Generator, face: Pen, length: float) -> None:
    colour = (245, 245, 245) if rng.random() < 0.6 else DARK
    for side in (-1, 1):
        for rise in (-0.16, 0.02, 0.2):
            end = (side * (0.3 + length), 0.38 + rise * 1.8 + rng.uniform(-0.06, 0.06))
            face.line([(side * 0.26, 0.38 + rise * 0.5), end], colour, 0.03)


def _cat_face(rng: np.random.Generator, face: Pen, coat: Coat) -> None:
    size = rng.uniform(0.19, 0.26)
    _eyes(rng, face, coat, (size, size * rng.uniform(0.75, 1.0)), _odd(rng, True))
    for side in (-1, 1):
        face.oval((side * 0.17, 0.4), (0.23, 0.19), coat.light)
    nose = _mix(PINK, DARK, rng.choice([0.0, 0.25, 0.9]))
    wide = rng.uniform(0.1, 0.15)
    face.polygon([(-wide, 0.2), (wide, 0.2), (0, 0.33)], nose)
    _mouth(face, 0.32, 0.22, 0.5)
    if rng.random() < ODD_TRAIT / 2:
        face.oval((0, 0.56), (0.09, 0.12), PINK)
    if _odd(rng, True):
        _whiskers(rng, face, rng.uniform(0.6, 0.95))


def _dog_face(rng: np.random.Generator, face: Pen, coat: Coat) -> None:
    size = rng.uniform(0.14, 0.2)
    _eyes(rng, face, coat, (size, size * rng.uniform(0.85, 1.1)), _odd(rng, False))
    wide, long = rng.uniform(0.38, 0.52), rng.uniform(0.4, 0.52)
    if rng.random() < 0.4:
        face.oval((0, 0.5 + long), (0.17, rng.uniform(0.16, 0.3)), PINK, outlined=True)
    face.curve(_mirrored(0.0, [(wide * 0.6, 0.08), (wide, 0.5)], 0.45 + long), coat.light)
    nose = _mix(DARK, PINK, rng.choice([0.0, 0.1, 0.6]))
    face.oval((0, 0.22), (rng.uniform(0.17, 0.24), rng.uniform(0.12, 0.16)), nose)
    _mouth(face, 0.34, wide * 0.6, 0.68)
    if _odd(rng, False):
        _whiskers(rng, face, rng.uniform(0.4, 0.7))


def _mouth(face: Pen, top: float, wide: float, low: float) -> None:
    middle = (0.0, low - 0.05)
    face.line([(0.0, top), middle], DARK, 0.045)
    for side in (-1, 1):
        face.line([middle, (side * wide * 0.5, low), (side * wide, low - 0.07)], DARK, 0.045)


def _occlude(rng: np.random.Generator, canvas: ImageDraw.ImageDraw) -> None:
    colour = _any_colour(rng)
    if rng.random() < 0.5:
        start, gap, width = int(rng.integers(0, 60)), int(rng.integers(70, 120)), 14
        lean = int(rng.integers(-40, 41))
        upright = rng.random() < 0.7
        for at in range(start, CANVAS, gap):
            ends = ((at, 0), (at + lean, CANVAS))
            canvas.line([(x, y) if upright else (y, x) for x, y in ends], colour, width)
    else:
        for x, y in rng.uniform(0.15, 0.85, size=(2, 2)) * CANVAS:
            pen = Pen(canvas, np.array([x, y]), np.eye(2) * rng.uniform(14, 34), DARK)
            pen.oval((0, 0), (1.0, rng.uniform(0.6, 1.4)), colour)


def _degrade(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, BLUR)))
    noise = int(rng.integers(1, NOISE + 1))
    pixels = np.asarray(image, dtype=np.int16)
    pixels = pixels + rng.integers(-noise, noise + 1, size=pixels.shape, dtype=np.int16)
    gain = int(rng.integers(60, 116))
    shift = int(rng.integers(-25, 26))
    pixels = (pixels - np.int16(128)) * np.int32(gain) // 100 + 128 + shift
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
