"""From the bytes of an image file to square uint8 RGB pixels: the one resize, and what was seen.

A photo is stretched to the square (aspect not kept) with a triangle filter whose support grows
with the reduction, on pixel centres: Pillow's `BILINEAR`, and what Keras's `Resizing` does with
`interpolation="bilinear", antialias=True`. The exported model resizes with the latter, so it sees
what training saw, up to rounding to whole levels.

Nothing is decoded before its header has been examined: which format it is, how many pixels it has,
and how much memory they take.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from catdog_search.data import formats, levels, phash, repair
from catdog_search.data.budget import Reserve, unlimited

Pixels = npt.NDArray[np.uint8]
_T = TypeVar("_T")

# Limit as decoded: 100 million pixels are 0.4 GB in Pillow, and most formats take twice that.
MAX_PIXELS = 100_000_000
# Limit as stored, which a JPEG's decoder can scale down: twice the pixels of the largest phones.
MAX_CODED_PIXELS = 400_000_000
MIN_SIDE = 8
HUGE_PIXELS = 25_000_000
TINY_SIDE = 32
# Pillow's own limit would refuse photos from large phones; ours counts what is decoded of them.
Image.MAX_IMAGE_PIXELS = MAX_CODED_PIXELS

# A JPEG much larger than the target is scaled while it is decoded, as long as that leaves this
# many times the target's side.
# Difference from full decoding, at twice the target or more: 0.35 of 255 levels on average, 2.8 at
# the 99.9th percentile (100 photos at 800 and 1,600 px, targets 64 to 224); at 1.6 times, 0.7 and
# 5.8.
DRAFT_FACTOR = 2
_SCALES = (1, 2, 4, 8)
# The perceptual hash sees the photo at this side or more, whatever the target is.
_HASH_DRAFT = 128
_ORIENTATION = 0x0112
# EXIF's orientations other than upright, and what turns each upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Below this standard deviation in every channel, shrunk to 32 x 32, next to nothing can be seen;
# the flattest of 20,000 real photos has 13.
BLANK_STD = 4.0

IMAGE_SUFFIXES = frozenset(formats.SUFFIXES)


class UndecodableError(ValueError):
    """The bytes are not a usable image.

    Attributes:
        kind: `empty`, `not an image`, `unsupported`, `truncated`, `corrupt`, `blank`, `too large`
            or `too small`; or `too little memory`, which says nothing about the file.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


@dataclass(frozen=True)
class Decoded:
    """What one file gave.

    Attributes:
        pixels: uint8 RGB (image_size, image_size, 3).
        grey: Grey levels that its perceptual hash is made from, uint8 (32, 32).
        flags: What was noticed, sorted: `16-bit`, `animated`, `blank` (next to nothing to see),
            `cmyk`, `damaged` (in its tail or its metadata, yet used), `grey`, `huge`, `lying
            extension`, `palette`, `rotated`, `tiny`, `transparent`.
    """

    pixels: Pixels
    grey: Pixels
    flags: tuple[str, ...]


@dataclass(frozen=True)
class _Photo:
    """What a viewer would show: the first frame, upright, over white where it is transparent.

    Attributes:
        image: Mode RGB or L.
        format: Format that it was stored in.
        flags: Names of what was noticed on the way, see `Decoded`.
        is_for_hash: Whether it has the size that the hash is made from.
    """

    image: Image.Image
    format: str
    flags: set[str]
    is_for_hash: bool


@dataclass(frozen=True)
class _Gist:
    """What doesn't depend on the target's size.

    Attributes:
        grey: uint8 (32, 32).
        is_blank: Whether next to nothing can be seen.
    """

    grey: Pixels
    is_blank: bool


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height according to a file's header; nothing is decoded.

    Raises:
        UndecodableError: Not even the header can be read.
    """
    if not content:
        raise UndecodableError("empty", "")
    with _told(content), _opened(content) as image:
        return image.size


def decode(content: bytes, image_size: int, reserve: Reserve = unlimited) -> Pixels:
    """Decode, turn upright as EXIF says, convert to RGB and resize.

    Args:
        content: Bytes of an image file, of one of `formats.FORMATS`.
        image_size: Side of the result in pixels.
        reserve: Reserves bytes of memory while they are needed.

    Returns:
        uint8 RGB, (image_size, image_size, 3).

    Raises:
        UndecodableError: Not an image, broken, or of no usable size.
    """
    return _seen(
        content,
        DRAFT_FACTOR * image_size,
        reserve,
        lambda photo: _pixels(photo.image, image_size),
    )


def decode_whole(content: bytes, side: int) -> Pixels:
    """Decode as `decode` does, without the resize.

    Args:
        content: Bytes of an image file.
        side: Pixels per side down to which a JPEG's decoder may scale it.

    Returns:
        uint8 RGB, (height, width, 3).

    Raises:
        UndecodableError: As `decode`.
    """
    return _seen(content, side, unlimited, lambda photo: np.asarray(photo.image.convert("RGB")))


def examine(content: bytes, key: str, image_size: int, reserve: Reserve = unlimited) -> Decoded:
    """Decode as `decode` does, and note what kind of file it is.

    Args:
        content: Bytes of an image file.
        key: Its path, whose extension may be wrong.
        image_size: Side of the result in pixels.
        reserve: Reserves bytes of memory while they are needed.

    Raises:
        UndecodableError: Not an image, broken, or of no usable size; or every pixel is the same.
    """

    def look(photo: _Photo) -> tuple[Pixels, set[str], _Gist | None]:
        suffix = PurePosixPath(key).suffix.lower()
        expected = formats.SUFFIXES.get(suffix) or formats.PLUGIN_SUFFIXES.get(suffix)
        lies = {"lying extension"} if suffix and expected != photo.format else set()
        gist = _gist(photo.image) if photo.is_for_hash else None
        return _pixels(photo.image, image_size), photo.flags | lies, gist

    pixels, flags, gist = _seen(content, DRAFT_FACTOR * image_size, reserve, look)
    # The hash must not depend on the target's size, or groups and splits would.
    if gist is None:
        gist = _seen(content, _HASH_DRAFT, reserve, lambda photo: _gist(photo.image))
    if gist.is_blank:
        flags.add("blank")
    return Decoded(pixels, gist.grey, tuple(sorted(flags)))


def resize(image: Image.Image, image_size: int) -> Image.Image:
    """Stretch to the square; see the module's docstring."""
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR)


def _pixels(image: Image.Image, image_size: int) -> Pixels:
    return np.asarray(resize(image, image_size).convert("RGB"))


def _gist(image: Image.Image) -> _Gist:
    """Shrink a photo for its hash.

    Raises:
        UndecodableError: Every pixel is the same.
    """
    side = (phash.SIDE, phash.SIDE)
    grey = np.asarray(image.convert("L").resize(side, Image.Resampling.BOX))
    if grey.std() >= BLANK_STD:
        return _Gist(grey, is_blank=False)
    extrema = np.reshape(image.getextrema(), (-1, 2))
    if (extrema[:, 0] == extrema[:, 1]).all():
        raise UndecodableError("blank", f"every pixel is {extrema[:, 0].tolist()}")
    shrunk = np.asarray(image.resize(side, Image.Resampling.BOX)).reshape(phash.SIDE**2, -1)
    return _Gist(grey, is_blank=bool((shrunk.std(axis=0) < BLANK_STD).all()))


def _seen(content: bytes, side: int, reserve: Reserve, use: Callable[[_Photo], _T]) -> _T:
    """What `use` makes of a photo, repaired where it has to be.

    Args:
        content: The file.
        side: The decoder may scale it down as long as it keeps this many pixels per side.
        reserve: Reserves memory for as long as the photo is used.
        use: Must not keep the photo.
    """
    if not content:
        raise UndecodableError("empty", "")
    try:
        return _seen_once(content, side, reserve, use, is_mended=False)
    except UndecodableError as error:
        better = repair.mended(content) if error.kind in ("truncated", "corrupt") else None
        if better is None:
            raise
        first = error
    try:
        return _seen_once(better, side, reserve, use, is_mended=True)
    except UndecodableError as error:
        # Report the fault of the original file, unless the fault is how much of it is lost.
        raise (first if error.kind == "corrupt" else error) from None


def _seen_once(
    content: bytes, side: int, reserve: Reserve, use: Callable[[_Photo], _T], *, is_mended: bool
) -> _T:
    with contextlib.ExitStack() as held:
        with _told(content), _opened(content) as image:
            _check(image)
            flags = _flags(image)
            scale = _draft_scale(image, side)
            is_for_hash = scale == _draft_scale(image, _HASH_DRAFT)
            needed = formats.decoding_bytes(image, scale)
            _draft(image, scale)
            held.enter_context(reserve(needed))
            shown = _shown(image, content, flags, is_mended=is_mended)
        return use(_Photo(shown, formats.format_of(image), flags, is_for_hash))


def _shown(
    image: ImageFile.ImageFile, content: bytes, flags: set[str], *, is_mended: bool
) -> Image.Image:
    """Load an image and turn it into what a viewer shows, in mode RGB or L; adds to the flags."""
    stored = levels.stored_modes(image)
    # A TIFF is turned while it is loaded, and doesn't say so afterwards.
    is_turned = image.format == "TIFF" and _orientation(image) != 1
    loaded = repair.load(image, _opened, content)
    if is_mended and formats.format_of(image) == "JPEG":
        repair.fill_tail(loaded)
    if is_mended or loaded is not image:
        flags.add("damaged")
    orientation = _orientation(loaded)
    if is_turned or orientation != 1:
        flags.add("rotated")
    upright = _turned(_in_8_bits(loaded, stored, content), orientation)
    return _over_white(upright)


def _opened(content: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(content), formats=formats.openable())


@contextlib.contextmanager
def _told(content: bytes) -> Iterator[None]:
    """Turn every error of decoding into an UndecodableError."""
    try:
        with warnings.catch_warnings():
            # Pillow's own limit warns where ours refuses; metadata warnings don't touch pixels.
            warnings.simplefilter("ignore")
            yield
    except UndecodableError:
        raise
    except MemoryError as error:  # our budget's, or the system's
        raise UndecodableError("too little memory", str(error)) from None
    except repair.TooMuchMissingError as error:
        # Damage in the middle of a file hides what follows too.
        is_cut = error.__cause__ is None or "truncated" in str(error.__cause__)
        raise UndecodableError("truncated" if is_cut else "corrupt", str(error)) from None
    except UnidentifiedImageError:
        raise _unidentified(content) from None
    except Image.DecompressionBombError as error:
        raise UndecodableError("too large", str(error)) from None
    # Pillow's decoders raise errors of any kind on broken files, SyntaxError and struct.error
    # among them; a broken photo is data, not a bug.
    except Exception as error:
        kind = "truncated" if "truncated" in str(error) or _is_cut(content) else "corrupt"
        raise UndecodableError(kind, f"{type(error).__name__}: {error}") from None


def _unidentified(content: bytes) -> UndecodableError:
    name = formats.signed(content)
    if name is None:
        return UndecodableError("not an image", formats.other(content))
    detail = f"begins as {name} does, but can't be read"
    return UndecodableError("truncated" if _is_cut(content) else "corrupt", detail)


def _is_cut(content: bytes) -> bool:
    return (repair.declared_bytes(content) or 0) > len(content)


def _check(image: Image.Image) -> None:
    size = f"{image.width}x{image.height} pixels"
    coded = image.width * image.height
    if coded > MAX_CODED_PIXELS or coded > MAX_PIXELS * _most_scale(image) ** 2:
        raise UndecodableError("too large", size)
    if min(image.size) < MIN_SIDE:
        raise UndecodableError("too small", size)
    if levels.is_misread(image):
        raise UndecodableError("unsupported", "uncompressed planes of 16 bits each")


def _most_scale(image: Image.Image) -> int:
    return _SCALES[-1] if formats.format_of(image) == "JPEG" else 1


def _draft_scale(image: Image.Image, side: int) -> int:
    """By how much a photo is scaled down while it is decoded.

    A JPEG as far as that leaves `side` pixels per side; and as far as `MAX_PIXELS` requires.
    """
    room = min(image.size) // side if image.format == "JPEG" else 1
    coded = image.width * image.height
    return next(
        scale
        for scale in _SCALES
        if (2 * scale > room or scale == _SCALES[-1]) and coded <= MAX_PIXELS * scale**2
    )


def _draft(image: ImageFile.ImageFile, scale: int) -> None:
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))


def _in_8_bits(image: Image.Image, stored: frozenset[str], content: bytes) -> Image.Image:
    if levels.is_deep(image):
        return levels.to_8_bits(image, stored)
    mode = levels.low_byte_mode(image, stored)
    if mode is None:
        return levels.with_8_bit_transparency(image, stored)
    low = _opened(content)
    low.tile = [levels.read_as(tile, mode) for tile in low.tile]
    low.load()
    return levels.joined(image, low, stored)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; broken EXIF doesn't harm a photo, so it counts as 1."""
    # Pillow's EXIF readers can raise anything on broken bytes.
    with contextlib.suppress(Exception):
        found = image.getexif().get(_ORIENTATION, 1)
        return found if found in _TURNS else 1
    return 1


def _over_white(image: Image.Image) -> Image.Image:
    """Over white, in mode RGB or L; an alpha channel that hides everything is ignored."""
    if not image.has_transparency_data:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    is_seen = any(_rgba(strip).getchannel("A").getextrema()[1] for _, strip in levels.strips(image))
    shown = Image.new("RGB", image.size, "white")
    for top, strip in levels.strips(image):
        rgba = _rgba(strip)
        if is_seen:
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        shown.paste(rgba.convert("RGB"), (0, top))
    return shown


def _rgba(image: Image.Image) -> Image.Image:
    # Pillow converts premultiplied grey to LA alone.
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _flags(image: Image.Image) -> set[str]:
    """What the header of a file shows."""
    stored = levels.stored_modes(image)
    found = {
        "16-bit": levels.is_deep(image) or any(";16" in mode for mode in stored),
        "animated": getattr(image, "is_animated", False) and image.format != "MPO",
        "cmyk": image.mode == "CMYK",
        "grey": image.mode in ("1", "L", "LA", "La") or levels.is_grey(image, stored),
        "huge": image.width * image.height > HUGE_PIXELS,
        "palette": image.mode == "P",
        "tiny": min(image.size) < TINY_SIDE,
        "transparent": image.has_transparency_data,
    }
    return {name for name, is_so in found.items() if is_so}
