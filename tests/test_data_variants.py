"""Every way in which a photo's levels are stored, against the levels that were put in.

The references are computed with numpy from the array that each file was made of; files that Pillow
can't write are put together byte by byte. Nothing here goes through `decode` but what is tested.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from catdog_search.data.decode import UndecodableError, decode, examine

Levels = npt.NDArray[np.generic]
SIDE = 64

_Y, _X = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
# Shares of white: grey from 0 to 1 with a bright square, and three colours that differ.
GREY = np.clip(0.7 * _X + 0.3 * _Y, 0, 1)
GREY[8:24, 30:50] = 0.9
RGB = np.stack([GREY, GREY[::-1], np.sqrt(GREY.T)], -1)
ALPHA = np.where(_Y < 0.5, 1.0, 0.4)


def levels(shares: npt.NDArray[np.float64], white: float, dtype: str = "u2") -> Levels:
    scaled = shares * white
    return (scaled.round() if np.dtype(dtype).kind in "iu" else scaled).astype(dtype)


def grey_rgb(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.repeat(shares[..., None] * 255, 3, -1)


def over_white(
    shares: npt.NDArray[np.float64], alpha: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    rgb = shares * 255 if shares.ndim == 3 else grey_rgb(shares)
    return rgb * alpha[..., None] + 255 * (1 - alpha[..., None])


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(found: Levels, colour: int, bits: int = 16, extra: bytes = b"") -> bytes:
    """As the specification says; `found` is (height, width[, channels]), `bits` 8 or 16."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = found.reshape(SIDE, -1).astype(">u2" if bits == 16 else "u1")
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, 0)
    transparent = chunk(b"tRNS", extra) if extra else b""
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + transparent + pixels + chunk(b"IEND", b"")


def tiff(
    found: Levels,
    photometric: int = 1,
    order: str = "<",
    extra: int | None = None,
    planes: int = 1,
) -> bytes:
    """Uncompressed, in one strip; the kind of its levels is that of `found`."""
    kind = {"u": 1, "i": 2, "f": 3}[found.dtype.kind]
    channels = 1 if found.ndim == 2 else found.shape[2]
    data = found.astype(found.dtype.newbyteorder(order)).tobytes()
    bits = found.dtype.itemsize * 8
    fields = [
        (256, 4, [SIDE]), (257, 4, [SIDE]), (258, 3, [bits] * channels), (259, 3, [1]),
        (262, 3, [photometric]), (273, 4, [8]), (277, 3, [channels]), (278, 4, [SIDE]),
        (279, 4, [len(data)]), (284, 3, [planes]), (339, 3, [kind] * channels),
    ]  # fmt: skip
    if extra is not None:
        fields.insert(-1, (338, 3, [extra]))
    directory, beside = b"", b""
    start = 8 + len(data) + 2 + 12 * len(fields) + 4
    for tag, size, values in fields:
        packed = struct.pack(f"{order}{len(values)}{'H' if size == 3 else 'I'}", *values)
        if len(packed) > 4:
            where = struct.pack(f"{order}I", start + len(beside))
            beside += packed
            packed = where
        directory += struct.pack(f"{order}HHI", tag, size, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(fields)) + directory + bytes(4) + beside


def pgm(found: Levels, white: int) -> bytes:
    data = found.astype(">u2" if white > 255 else "u1").tobytes()
    return f"P{5 if found.ndim == 2 else 6} {SIDE} {SIDE} {white}\n".encode() + data


def pfm(found: Levels) -> bytes:
    return f"Pf\n{SIDE} {SIDE}\n-1.0\n".encode() + found[::-1].astype("<f4").tobytes()


def eight(shares: npt.NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(levels(shares, 255, "u1"))


def lab() -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    found = ImageCms.profileToProfile(eight(RGB), *profiles, outputMode="LAB")
    assert found is not None
    return found


G, C = grey_rgb(GREY), RGB * 255
HALF = GREY * 0.5  # of a photo that is dark in parts alone
DARK = GREY * 0.2  # as dark as hardly a photo is
RGBA = np.concatenate([RGB, ALPHA[..., None]], -1)
LA = np.stack([GREY, ALPHA], -1)
BITS = np.round(GREY)
HOLES = np.where(_X < 0.3, np.nan, GREY)
INFINITE = np.where(_X > 0.9, np.inf, GREY * 0.95)

VARIANTS: dict[str, tuple[Callable[[], bytes], npt.NDArray[np.float64], float]] = {
    # 16 bits of grey: all of them, and fewer in the same place.
    "png 16": (lambda: png(levels(GREY, 65535), 0), G, 1),
    "png 14 in 16": (lambda: png(levels(GREY, 16383), 0), G, 1),
    "png 12 in 16": (lambda: png(levels(GREY, 4095), 0), G, 1),
    "png 10 in 16": (lambda: png(levels(GREY, 1023), 0), G, 1),
    "png 8 in 16": (lambda: png(levels(GREY, 255), 0), G, 1),
    "png 1 in 16": (lambda: png(levels(BITS, 1), 0), grey_rgb(BITS), 1),
    "png 16, half as bright": (lambda: png(levels(HALF, 65535), 0), grey_rgb(HALF), 1),
    "png 16, a fifth as bright": (lambda: png(levels(DARK, 65535), 0), grey_rgb(DARK) * 4, 1),
    "tiff 16": (lambda: tiff(levels(GREY, 65535)), G, 1),
    "tiff 16 big-endian": (lambda: tiff(levels(GREY, 65535), order=">"), G, 1),
    "tiff 12 in 16": (lambda: tiff(levels(GREY, 4095)), G, 1),
    "tiff 10 in 16 big-endian": (lambda: tiff(levels(GREY, 1023), order=">"), G, 1),
    "tiff 16 white is zero": (lambda: tiff(levels(1 - GREY, 65535), 0), G, 1),
    "tiff 16 lzw": (
        lambda: saved(Image.fromarray(levels(GREY, 65535)), "TIFF", compression="tiff_lzw"), G, 1
    ),
    "tiff 12 in 16 deflate": (
        lambda: saved(Image.fromarray(levels(GREY, 4095)), "TIFF", compression="tiff_deflate"),
        G, 1,
    ),
    "tiff signed 16": (lambda: tiff(levels(GREY, 32767, "i2")), G * 32767 / 65535, 1),
    "tiff signed 16, negative": (lambda: tiff(levels(GREY * 2 - 1, 30000, "i2")), G, 1),
    "tiff signed 16 big-endian, negative": (
        lambda: tiff(levels(GREY * 2 - 1, 900, "i2"), order=">"), G, 1
    ),
    "pgm 16": (lambda: pgm(levels(GREY, 65535), 65535), G, 1),
    "pgm 12": (lambda: pgm(levels(GREY, 4095), 4095), G, 1),
    "pgm 12 in 16": (lambda: pgm(levels(GREY, 4095), 65535), G, 1),
    "ppm 10": (lambda: pgm(levels(RGB, 1023), 1023), C, 1),
    "jpeg 2000 16": (lambda: saved(Image.fromarray(levels(GREY, 65535)), "JPEG2000"), G, 2),
    "jpeg 2000 12 in 16": (lambda: saved(Image.fromarray(levels(GREY, 4095)), "JPEG2000"), G, 2),
    # 32 bits.
    "tiff int32 to 255": (lambda: tiff(levels(GREY, 255, "i4")), G, 1),
    "tiff int32 to 4095": (lambda: tiff(levels(GREY, 4095, "i4")), G, 1),
    "tiff int32 to 65535": (lambda: tiff(levels(GREY, 65535, "i4")), G, 1),
    "tiff int32 to a million": (lambda: tiff(levels(GREY, 1e6, "i4")), G, 1),
    "tiff int32 to the end": (lambda: tiff(levels(GREY, 2**31 - 1, "i4")), G, 1),
    "tiff int32 to 40": (lambda: tiff(levels(GREY, 40, "i4")), G, 4),
    "tiff int32, negative": (lambda: tiff(levels(GREY - 0.5, 70000, "i4")), G, 1),
    "tiff int32 big-endian": (lambda: tiff(levels(GREY, 1e6, "i4"), order=">"), G, 1),
    "tiff uint32 to the end": (lambda: tiff(levels(GREY, 2**32 - 1, "u4")), G, 1),
    # Floats.
    "tiff float to 1": (lambda: tiff(levels(GREY, 1, "f4")), G, 1),
    "tiff float to 255": (lambda: tiff(levels(GREY, 255, "f4")), G, 1),
    "tiff float to 65535": (lambda: tiff(levels(GREY, 65535, "f4")), G, 1),
    "tiff float to 3.7": (lambda: tiff(levels(GREY, 3.7, "f4")), G, 1),
    "tiff float to 0.01": (lambda: tiff(levels(GREY, 0.01, "f4")), G, 1),
    "tiff float to 1e30": (lambda: tiff(levels(GREY, 1e30, "f4")), G, 1),
    "tiff float, negative": (lambda: tiff(levels(GREY - 0.3, 5, "f4")), G, 1),
    "tiff float, half as bright": (lambda: tiff(levels(HALF, 1, "f4")), grey_rgb(HALF), 1),
    "tiff float that overshoots": (lambda: tiff(levels(GREY * 1.01 - 0.005, 1, "f4")), G, 3),
    "tiff float with holes": (
        lambda: tiff(levels(HOLES, 1, "f4")), grey_rgb(np.nan_to_num(HOLES)), 1
    ),
    "tiff float with infinities": (
        lambda: tiff(levels(INFINITE, 1, "f4")), grey_rgb(np.minimum(INFINITE, 1)), 1
    ),
    "tiff float big-endian": (lambda: tiff(levels(GREY, 1, "f4"), order=">"), G, 1),
    "tiff float white is zero": (lambda: tiff(levels(1 - GREY, 1, "f4"), 0), G, 1),
    "pfm": (lambda: pfm(levels(GREY, 1, "f4")), G, 1),
    # 16 bits of colour, with alpha and without.
    "png rgb 16": (lambda: png(levels(RGB, 65535), 2), C, 1),
    "png rgb 12 in 16": (lambda: png(levels(RGB, 4095), 2), C, 1),
    "png rgb 10 in 16": (lambda: png(levels(RGB, 1023), 2), C, 1),
    "png rgba 16": (lambda: png(levels(RGBA, 65535), 6), over_white(RGB, ALPHA), 2),
    "png rgba 12 in 16": (lambda: png(levels(RGBA, 4095), 6), over_white(RGB, ALPHA), 2),
    "png rgb 12 in 16, alpha of 16": (
        lambda: png(np.dstack([levels(RGB, 4095), levels(ALPHA, 65535)]), 6),
        over_white(RGB, ALPHA), 2,
    ),
    "png grey and alpha 16": (lambda: png(levels(LA, 65535), 4), over_white(GREY, ALPHA), 2),
    "png grey and alpha 12 in 16": (lambda: png(levels(LA, 4095), 4), over_white(GREY, ALPHA), 2),
    "tiff rgb 16": (lambda: tiff(levels(RGB, 65535), 2), C, 1),
    "tiff rgb 12 in 16": (lambda: tiff(levels(RGB, 4095), 2), C, 1),
    "tiff rgb 12 in 16 big-endian": (lambda: tiff(levels(RGB, 4095), 2, ">"), C, 1),
    "tiff rgba 12 in 16": (
        lambda: tiff(levels(RGBA, 4095), 2, extra=2), over_white(RGB, ALPHA), 2
    ),
    "tiff rgb 16 and something": (lambda: tiff(levels(RGBA, 1023), 2, extra=0), C, 1),
    # 8 bits and fewer.
    "png 8": (lambda: saved(eight(GREY), "PNG"), G, 1),
    "png 1": (lambda: saved(eight(BITS).convert("1"), "PNG"), grey_rgb(BITS), 0),
    "png 4": (
        lambda: saved(Image.fromarray(levels(GREY, 15, "u1") * 17), "PNG", bits=4),
        grey_rgb(levels(GREY, 15) / 15), 0,
    ),
    "png grey and alpha": (
        lambda: png(levels(LA, 255, "u1"), 4, 8), over_white(GREY, ALPHA), 2
    ),
    "png rgba": (lambda: png(levels(RGBA, 255, "u1"), 6, 8), over_white(RGB, ALPHA), 2),
    "png grey, one level transparent": (
        lambda: png(levels(BITS, 255, "u1"), 0, 8, struct.pack(">H", 0)), np.full_like(G, 255), 0
    ),
    "png 16, one level transparent": (
        lambda: png(levels(GREY, 65535), 0, 16, struct.pack(">H", round(0.9 * 65535))),
        over_white(GREY, (levels(GREY, 65535) != round(0.9 * 65535)).astype(float)), 1,
    ),
    "png rgb 16, one colour transparent": (
        lambda: png(levels(np.where(GREY[..., None] == 0.9, 0.5, RGB), 65535), 2, 16,
                    struct.pack(">3H", *[round(0.5 * 65535)] * 3)),
        over_white(RGB, (GREY != 0.9).astype(float)), 1,
    ),
    "palette": (
        lambda: saved(eight(GREY).convert("P"), "PNG"), G, 1
    ),
    "palette, transparent": (
        lambda: saved(eight(BITS * 0.5 + 0.25).convert("P"), "PNG", transparency=64),
        over_white(BITS * 0.5 + 0.25, BITS), 1,
    ),
    "gif": (lambda: saved(eight(GREY), "GIF"), G, 1),
    "bmp": (lambda: saved(eight(RGB), "BMP"), C, 1),
    "tga-like bmp 32": (lambda: saved(eight(RGB).convert("RGBA"), "BMP"), C, 1),
    "tiff palette": (lambda: saved(eight(GREY).convert("P"), "TIFF"), G, 1),
    "tiff 8 white is zero": (lambda: tiff(levels(1 - GREY, 255, "u1"), 0), G, 1),
    "tiff grey, premultiplied": (
        lambda: tiff(levels(np.stack([GREY * ALPHA, ALPHA], -1), 255, "u1"), 1, extra=1),
        over_white(GREY, ALPHA), 3,
    ),
    "tiff lab": (lambda: saved(lab(), "TIFF"), C, 12),
    "webp": (lambda: saved(eight(RGB), "WEBP", lossless=True), C, 1),
    "webp, transparent": (
        lambda: saved(Image.fromarray(levels(RGBA, 255, "u1"), "RGBA"), "WEBP", lossless=True),
        over_white(RGB, ALPHA), 2,
    ),
    "avif": (lambda: saved(eight(RGB), "AVIF", quality=100, subsampling="4:4:4"), C, 4),
    "jpeg 2000": (lambda: saved(eight(RGB), "JPEG2000"), C, 1),
    "jpeg": (lambda: saved(eight(RGB), "JPEG", quality=100, subsampling=0), C, 4),
    "jpeg grey": (lambda: saved(eight(GREY), "JPEG", quality=100), G, 4),
    "jpeg cmyk": (
        lambda: saved(eight(RGB).convert("CMYK"), "JPEG", quality=100, subsampling=0), C, 6
    ),
    "tiff cmyk": (lambda: tiff(levels(np.dstack([1 - RGB, 0 * GREY]), 255, "u1"), 5), C, 1),
    "tiff cmyk 12 in 16": (lambda: tiff(levels(np.dstack([1 - RGB, 0 * GREY]), 4095), 5), C, 1),
}  # fmt: skip
"""By name: how the file is made, RGB levels (height, width, 3), and by how much they may differ."""


@pytest.mark.parametrize("name", VARIANTS)
def test_pixels_are_those_that_were_stored(name: str) -> None:
    make, expected, within = VARIANTS[name]
    found = decode(make(), SIDE).astype(float)
    assert np.abs(found - expected.clip(0, 255)).max() <= within + 0.5


@pytest.mark.parametrize("name", [name for name in VARIANTS if " 16" in name or "int32" in name])
def test_deep_variants_are_flagged(name: str) -> None:
    made = VARIANTS[name][0]()
    if name.startswith("jpeg 2000"):
        return
    assert "16-bit" in examine(made, "a", SIDE).flags


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiff(np.full((SIDE, SIDE), np.nan, "f4")),
        lambda: tiff(np.full((SIDE, SIDE), np.inf, "f4")),
        lambda: tiff(np.full((SIDE, SIDE), 70000, "i4")),
        lambda: png(np.full((SIDE, SIDE), 300, "u2"), 0),
        lambda: png(np.full((SIDE, SIDE, 3), 300, "u2"), 2),
    ],
)
def test_what_holds_one_level_holds_nothing(make: Callable[[], bytes]) -> None:
    with pytest.raises(UndecodableError, match=r"^blank: every pixel is "):
        examine(make(), "a.tif", 16)


def test_planes_that_would_be_misread_are_refused() -> None:
    with pytest.raises(UndecodableError, match=r"^unsupported: uncompressed planes of 16 bits"):
        decode(tiff(levels(RGB, 65535), 2, planes=2), 16)


def test_levels_in_strips_are_those_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [VARIANTS[name][0]() for name in ("png 12 in 16", "png rgba 12 in 16", "png rgba")]
    whole = [decode(content, SIDE) for content in contents]
    monkeypatch.setattr("catdog_search.data.levels._STRIP_PIXELS", 5 * SIDE)
    for content, expected in zip(contents, whole, strict=True):
        assert np.array_equal(decode(content, SIDE), expected)
