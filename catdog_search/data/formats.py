"""The formats that photos come in, and the memory that decoding one takes."""

from __future__ import annotations

import functools
import importlib
import importlib.util

from PIL import Image

# Those that Pillow's own code or the codecs it is built with decode. Listed, so that no file can
# choose another: an EPS named cat.jpg would make Pillow start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "DIB")
# Those that are opened only after importing a package that registers them with Pillow.
PLUGIN_FORMATS = ("HEIF",)

SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "JPEG",
    ".png": "PNG",
    ".apng": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "DIB",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".pfm": "PPM",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".jpf": "JPEG2000",
    ".jpx": "JPEG2000",
}
# The suffixes of their file names.
PLUGIN_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF"}
# What a file of each format begins with, as far as needed to tell that one is broken.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
# What is not opened, in words for whoever wonders why.
_OTHERS = (
    (b"%!PS", "PostScript is a program, which is not run"),
    (b"\xc5\xd0\xd3\xc6", "PostScript is a program, which is not run"),
    (b"%PDF", "a PDF"),
)

# Peak bytes per pixel on top of the picture itself; measured with 20 million pixels on Pillow 13
# and rounded up (AVIF 5 with 8 bits, WebP 12, JPEG 2000 with 3 channels 16, TIFF in one compressed
# strip 3 for 8-bit RGB).
_DECODER_BYTES = {"AVIF": 12, "HEIF": 12, "WEBP": 12, "JPEG2000": 20, "TIFF": 8, "PPM": 8}
# Bytes per pixel of a picture in Pillow; 4 in all modes not listed here.
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
# A progressive JPEG is kept as coefficients of 2 bytes until its last scan; 3 channels, not
# subsampled.
_COEFFICIENT_BYTES = 6


@functools.cache
def reads_heic() -> bool:
    """Whether HEIC can be decoded here; registers it with Pillow where it can."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True


def openable() -> list[str]:
    """The formats that may be opened in this process; registers plugins on the way."""
    reads_heic()
    return [*FORMATS, *(name for name in PLUGIN_FORMATS if name in Image.OPEN)]


def format_of(image: Image.Image) -> str:
    """An image's format; an MPO is a JPEG with further pictures behind it, as cameras write."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def signed(content: bytes) -> str | None:
    """The format whose signature a file bears; None where it bears none."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    return next((name for start, name in _SIGNATURES if content.startswith(start)), None)


def other(content: bytes) -> str:
    """What a file that can't be opened is instead; empty where that isn't known."""
    return next((words for start, words in _OTHERS if content.startswith(start)), "")


def decoding_bytes(image: Image.Image, scale: int) -> int:
    """Peak memory from an opened file to its upright 8-bit picture, judged by its header.

    Args:
        image: Opened but not yet loaded.
        scale: Divisor of width and height while it is decoded, at least 1.
    """
    coded = image.width * image.height
    each = _PIXEL_BYTES.get(image.mode, 4)
    a_pixel = _DECODER_BYTES.get(format_of(image), 0) + 2 * each
    if image.mode not in ("L", "RGB"):
        a_pixel += 4
    whole = _COEFFICIENT_BYTES * coded if image.info.get("progressive") else 0
    return whole + a_pixel * -(-coded // scale**2)
