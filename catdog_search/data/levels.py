"""Levels that don't fit in 8 bits: the range that they use, and 8-bit pictures made from them.

A depth says how many bits a level takes in the file, not how many the picture uses: cameras and
microscopes put 10 or 12 bits into 16, and 32-bit integers and floats have no usual range at all.
So the range is taken from the levels themselves: from 0 to the smallest of 1, 8, 10, 12, 14 and 16
bits that holds the highest one. From 8 bits on each is four times the one before: a true 16-bit
photo whose brightest pixel is darker than a quarter of white (hardly any is, a reflection is
enough) is brightened, and shows the same at another exposure. All other 16-bit photos stay as they
are. Levels that fit none of these ranges, being negative, beyond 16 bits or below a quarter of the
range, are stretched from the lowest to the highest. The header's white level is ignored: writers
put 65535 into a PGM, whatever they write.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Levels = npt.NDArray[Any]

_WHITES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_DARKEST = 0.25
# Resampling overshoots a little: floats from -0.004 to 1.004 are 0 to 1.
_SLACK = 0.01
# Pixels that are converted to numbers at a time, at 8 bytes each.
_STRIP_PIXELS = 1_000_000
# TIFF's tag for what a level means, and the value that swaps black and white; Pillow heeds it only
# up to 8 bits.
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
# TIFF's tags for bits per level and for whether channels are stored in separate planes.
_BITS, _PLANES, _APART = 258, 284, 2
# Pillow keeps unsigned levels of 32 bits as signed ones.
_UNSIGNED_32 = "I;32N"
# Pillow keeps only the high byte of 16-bit levels in several channels; these read the low one.
_LOW_BYTE = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA", "RGBX", "CMYK")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
# Read as four bytes per pixel, 16-bit grey and alpha are the high and low bytes of both.
_GREY_ALPHA, _FOUR_BYTES = "LA;16B", "RGBA"
# High bytes up to here mean levels of up to 14 bits.
_LOW_HIGH_BYTE = 63


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in full-width strips, and where each begins, so that few pixels are held twice."""
    rows = max(_STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def stored_modes(image: Image.Image) -> frozenset[str]:
    """How the file stores its levels: Pillow tells only here, and only until it is loaded."""
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    return frozenset(str(a[0] if isinstance(a, tuple) and a else a) for a in arguments)


def is_deep(image: Image.Image) -> bool:
    """Whether an image's grey levels are kept in more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def is_misread(image: Image.Image) -> bool:
    """Whether Pillow mistakes a TIFF's planes for 8-bit ones; it reads compressed planes right."""
    tags, tiles = getattr(image, "tag_v2", {}), getattr(image, "tile", ())
    is_planar = tags.get(_PLANES) == _APART and any(tile[0] == "raw" for tile in tiles)
    return is_planar and max(tags.get(_BITS, (8,))) > 8  # noqa: PLR2004


def is_grey(image: Image.Image, stored: frozenset[str]) -> bool:
    """Whether an image is of grey levels that Pillow has no 8-bit mode for."""
    return is_deep(image) or _GREY_ALPHA in stored


def to_8_bits(image: Image.Image, stored: frozenset[str]) -> Image.Image:
    """Deep grey levels scaled to 8 bits.

    Args:
        image: Loaded, `is_deep`.
        stored: Its `stored_modes`.

    Returns:
        Mode L, or LA where one level stands for transparency.
    """
    black, white = _range_of(image, stored)
    hidden = image.info.get("transparency")
    scaled = Image.new("L" if hidden is None else "LA", image.size)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        black, white = white, black
    for top, found in _pieces(image, stored):
        strip = Image.fromarray(_scaled(found, black, white))
        if hidden is not None:
            strip.putalpha(Image.fromarray((found != hidden).astype(np.uint8) * 255))
        scaled.paste(strip, (0, top))
    return scaled


def low_byte_mode(image: Image.Image, stored: frozenset[str]) -> str | None:
    """The mode for reading the low bytes; None where the high bytes alone show the picture.

    Args:
        image: Loaded.
        stored: Its `stored_modes`.
    """
    mode = next(iter(stored)) if len(stored) == 1 else ""
    other = _FOUR_BYTES if mode == _GREY_ALPHA else _LOW_BYTE.get(mode)
    if other is None or max(high for _, high in _colours(image)) > _LOW_HIGH_BYTE:
        return None
    return other


def read_as(tile: Any, mode: str) -> Any:
    """Pillow's description of a piece of a file, with another storage mode."""
    arguments = tile.args
    return tile._replace(args=(mode, *arguments[1:]) if isinstance(arguments, tuple) else mode)


def with_8_bit_transparency(image: Image.Image, stored: frozenset[str]) -> Image.Image:
    """The image, with a colour that stands for transparency cut from the file's 16 bits to 8."""
    hidden = image.info.get("transparency")
    if isinstance(hidden, tuple) and stored & set(_LOW_BYTE):
        image.info["transparency"] = tuple(level >> 8 for level in hidden)
    return image


def joined(high: Image.Image, low: Image.Image, stored: frozenset[str]) -> Image.Image:
    """16-bit levels in several channels scaled to 8 bits, by the range that all colours share.

    Args:
        high: Their high bytes.
        low: The same file, read by `low_byte_mode`.
        stored: The file's `stored_modes`.
    """
    if _GREY_ALPHA in stored:
        _, grey, _, alpha = low.split()
        low = Image.merge("RGBA", (grey, grey, grey, alpha))
    n_colours = len(_colours(high))
    most = _highest(_words(high, low), n_colours)
    _, white = _span(0, most[0], is_float=False)
    # An alpha channel of as few bits is opaque at the same level.
    opaque = white if most[1] <= white else _WHITES[-1]
    out = Image.new(high.mode, high.size)
    for top, words in _words(high, low):
        colours = _scaled(words[..., :n_colours], 0, white)
        alphas = _scaled(words[..., n_colours:], 0, opaque)
        out.paste(Image.fromarray(np.concatenate([colours, alphas], -1), high.mode), (0, top))
    return out


def _colours(image: Image.Image) -> list[tuple[int, int]]:
    """The extrema of each channel except alpha."""
    extrema: Any = image.getextrema()
    return list(extrema[:3] if image.mode == "RGBA" else extrema)


def _words(high: Image.Image, low: Image.Image) -> Iterator[tuple[int, Levels]]:
    for (top, upper), (_, lower) in zip(strips(high), strips(low), strict=True):
        yield top, np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)


def _highest(pieces: Iterator[tuple[int, Levels]], n_colours: int) -> tuple[int, int]:
    """The highest level of the colours, and of alpha."""
    found = [
        (int(words[..., :n_colours].max()), int(words[..., n_colours:].max(initial=0)))
        for _, words in pieces
    ]
    return max(colour for colour, _ in found), max(alpha for _, alpha in found)


def _pieces(image: Image.Image, stored: frozenset[str]) -> Iterator[tuple[int, Levels]]:
    for top, strip in strips(image):
        levels = np.asarray(strip)
        yield top, levels.view(np.uint32) if _UNSIGNED_32 in stored else levels


def _range_of(image: Image.Image, stored: frozenset[str]) -> tuple[float, float]:
    """The levels that are black and white."""
    low, high = math.inf, -math.inf
    for _, levels in _pieces(image, stored):
        known = levels[np.isfinite(levels)] if image.mode == "F" else levels
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
    return _span(low, high, is_float=image.mode == "F")


def _span(low: float, high: float, *, is_float: bool) -> tuple[float, float]:
    """The levels of black and white, from the lowest and highest one; see the module."""
    slack = _SLACK if is_float else 0.0
    for white in _WHITES:
        if high <= white * (1 + slack):
            if low >= -white * slack and high >= white * _DARKEST:
                return 0.0, white
            break
    return low, high


def _scaled(levels: Levels, black: float, white: float) -> npt.NDArray[np.uint8]:
    """Levels scaled to 0 to 255; NaN becomes black."""
    if not abs(white - black) > 0 or not math.isfinite(white - black):
        return np.zeros(levels.shape, np.uint8)
    shares = (levels.astype(np.float64) - black) * (255 / (white - black))
    return np.nan_to_num(shares, nan=0.0).clip(0, 255).round().astype(np.uint8)
