"""The one resize: from the bytes of an image file to square uint8 RGB pixels.

A photo is stretched to the square (aspect not kept) with a triangle filter whose support grows
with the reduction, on pixel centres: Pillow's `BILINEAR`, and what Keras's `Resizing` does with
`interpolation="bilinear", antialias=True`. The exported model resizes with the latter, so it sees
what training saw, up to rounding to whole levels.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Pixels = npt.NDArray[np.uint8]

# Larger ones are refused before decoding: 178 million pixels are half a gigabyte of RGB.
MAX_PIXELS = 178_000_000


class UndecodableError(ValueError):
    """The bytes are not an image that can be used."""


def decode(content: bytes, image_size: int) -> Pixels:
    """Decode, turn upright as EXIF says, convert to RGB and resize.

    Args:
        content: Bytes of an image file, any format that Pillow reads.
        image_size: Side of the result in pixels.

    Returns:
        uint8 RGB, (image_size, image_size, 3).

    Raises:
        UndecodableError: Not an image, truncated, or larger than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's own limit warns where ours refuses; metadata warnings don't touch pixels.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UndecodableError(f"{image.width}x{image.height} pixels are too many")
                upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(resize(upright, image_size))
    except UndecodableError:
        raise
    # Pillow's decoders raise many kinds, SyntaxError and struct.error among them.
    except Exception as error:
        raise UndecodableError(f"{type(error).__name__}: {error}") from None


def resize(image: Image.Image, image_size: int) -> Image.Image:
    """Stretch to the square; see the module's text."""
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR)
