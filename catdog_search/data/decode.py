"""From the bytes of an image file to square uint8 RGB pixels: the one resize, and what was seen.

A photo is stretched to the square (aspect not kept) with a triangle filter whose support grows
with the reduction, on pixel centres: Pillow's `BILINEAR`, and what Keras's `Resizing` does with
`interpolation="bilinear", antialias=True`. The exported model resizes with the latter, so it sees
what training saw, up to rounding to whole levels.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from catdog_search.data import phash

Pixels = npt.NDArray[np.uint8]

# Larger ones are refused before decoding: 100 million pixels are 0.3 GB of RGB, in every thread.
MAX_PIXELS = 100_000_000
MIN_SIDE = 8
HUGE_PIXELS = 25_000_000
TINY_SIDE = 32

# A JPEG much larger than the target is scaled while it is decoded, as long as that leaves this
# many times the target's side.
# Against decoding whole, at twice the target or more: 0.35 of 255 levels on average, 2.8 at the
# 99.9th percentile (100 photos at 800 and 1,600 px, targets 64 to 224); at 1.6 times it is 0.7
# and 5.8.
DRAFT_FACTOR = 2
# The perceptual hash sees the photo at this side or more, whatever the target is.
_HASH_DRAFT = 128
_ORIENTATION = 0x0112

_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
}
IMAGE_SUFFIXES = frozenset(_FORMATS)


class UndecodableError(ValueError):
    """The bytes are not an image that can be used.

    Attributes:
        kind: `empty`, `not an image`, `truncated`, `corrupt`, `too large` or `too small`.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


@dataclass(frozen=True)
class Decoded:
    """What one file gave.

    Attributes:
        pixels: uint8 RGB (image_size, image_size, 3).
        grey: What its perceptual hash is made of, uint8 (32, 32).
        flags: What was noticed, sorted: `16-bit`, `animated`, `cmyk`, `grey`, `huge`, `lying
            extension`, `palette`, `rotated`, `tiny`, `transparent`.
    """

    pixels: Pixels
    grey: Pixels
    flags: tuple[str, ...]


def decode(content: bytes, image_size: int) -> Pixels:
    """Decode, turn upright as EXIF says, convert to RGB and resize.

    Args:
        content: Bytes of an image file, any format that Pillow reads.
        image_size: Side of the result in pixels.

    Returns:
        uint8 RGB, (image_size, image_size, 3).

    Raises:
        UndecodableError: Not an image, broken, or of a size that can't be used.
    """
    with _opened(content) as image:
        _draft(image, DRAFT_FACTOR * image_size)
        return np.asarray(resize(_upright_rgb(image), image_size))


def examine(content: bytes, key: str, image_size: int) -> Decoded:
    """Decode as `decode` does, and look at what the file is.

    Args:
        content: Bytes of an image file.
        key: Its path, whose extension may lie.
        image_size: Side of the pixels.

    Raises:
        UndecodableError: As `decode`.
    """
    with _opened(content) as image:
        flags = _flags(image, key)
        # The hash must not depend on the target, or groups and splits would.
        scale = _draft_scale(image, _HASH_DRAFT)
        same = _draft_scale(image, DRAFT_FACTOR * image_size) == scale
        _draft(image, DRAFT_FACTOR * image_size)
        rgb = _upright_rgb(image)
        pixels = np.asarray(resize(rgb, image_size))
        if same:
            return Decoded(pixels, _grey(rgb), flags)
    with _opened(content) as image:
        _draft(image, _HASH_DRAFT)
        return Decoded(pixels, _grey(_upright_rgb(image)), flags)


def resize(image: Image.Image, image_size: int) -> Image.Image:
    """Stretch to the square; see the module's text."""
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image, refusing by its header what can't be used; all errors are Undecodable."""
    if not content:
        raise UndecodableError("empty", "")
    try:
        with warnings.catch_warnings():
            # Pillow's own limit warns where ours refuses; metadata warnings don't touch pixels.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                _check_size(image)
                yield image
    except UndecodableError:
        raise
    except UnidentifiedImageError:
        raise UndecodableError("not an image", "") from None
    except Image.DecompressionBombError as error:
        raise UndecodableError("too large", str(error)) from None
    # Pillow's decoders raise errors of any kind on broken files, SyntaxError and struct.error
    # among them; a broken photo is data, not a bug.
    except Exception as error:
        kind = "truncated" if "truncated" in str(error) else "corrupt"
        raise UndecodableError(kind, f"{type(error).__name__}: {error}") from None


def _check_size(image: Image.Image) -> None:
    size = f"{image.width}x{image.height} pixels"
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableError("too large", size)
    if min(image.size) < MIN_SIDE:
        raise UndecodableError("too small", size)


def _draft_scale(image: Image.Image, side: int) -> int:
    """By how much a JPEG can be scaled down while it is decoded and keep `side` pixels a side."""
    room = min(image.size) // side if image.format == "JPEG" else 1
    return next((scale for scale in (8, 4, 2) if room >= scale), 1)


def _draft(image: Image.Image, side: int) -> None:
    if (scale := _draft_scale(image, side)) > 1:
        image.draft(None, (image.width // scale, image.height // scale))


def _upright_rgb(image: Image.Image) -> Image.Image:
    """What a viewer would show: first frame, turned as EXIF says, over white where see-through."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    upright = _turned(image)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _turned(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        image.load()
        return image
    return ImageOps.exif_transpose(image)


def _orientation(image: Image.Image) -> int:
    """As EXIF says, 1 to 8; a photo is none the worse for broken EXIF, so that counts as 1."""
    # Pillow's readers of EXIF raise whatever the broken bytes lead to.
    with contextlib.suppress(Exception):
        found = image.getexif().get(_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    return 1


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey levels beyond 8 bits, which Pillow's own conversion would cut off at 255."""
    levels = np.asarray(image).astype(np.float64)
    top = 65535 if levels.max() > 255 else 255 if levels.max() > 1 else 1  # noqa: PLR2004
    scaled = Image.fromarray((levels.clip(0, top) * (255 / top)).round().astype(np.uint8))
    scaled.info = dict(image.info)
    return scaled


def _flags(image: Image.Image, key: str) -> tuple[str, ...]:
    expected = _FORMATS.get(PurePosixPath(key).suffix.lower())
    found = {
        "16-bit": image.mode.startswith(("I", "F"))
        or any("16" in str(t) for t in getattr(image, "tile", ())),
        "animated": getattr(image, "is_animated", False) and image.format != "MPO",
        "cmyk": image.mode == "CMYK",
        "grey": image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F"),
        "huge": image.width * image.height > HUGE_PIXELS,
        # An MPO is a JPEG with further pictures behind it, as some cameras write.
        "lying extension": expected != {"MPO": "JPEG"}.get(str(image.format), image.format),
        "palette": image.mode == "P",
        "rotated": _orientation(image) != 1,
        "tiny": min(image.size) < TINY_SIDE,
        "transparent": image.has_transparency_data,
    }
    return tuple(sorted(name for name, is_so in found.items() if is_so))


def _raw_modes(image: Image.Image) -> str:
    """How the file stores its levels: Pillow reads 16-bit RGB as 8-bit, and tells it here alone."""
    return " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))


def _grey(rgb: Image.Image) -> Pixels:
    grey = rgb.convert("L").resize((phash.SIDE, phash.SIDE), Image.Resampling.BOX)
    return np.asarray(grey)
