"""Photos that lack their tail, or are damaged in what is no picture: used, flagged, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from catdog_search.data.decode import UndecodableError, decode, examine
from catdog_search.data.synthetic import draw

PHOTO = draw(1, 3).resize((300, 240), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * (1 - share))]


BASELINE = encoded(PHOTO, "JPEG", quality=90)
PROGRESSIVE = encoded(PHOTO, "JPEG", quality=90, progressive=True)
GREY_JPEG = encoded(PHOTO.convert("L"), "JPEG", quality=90)
CMYK_JPEG = encoded(PHOTO.convert("CMYK"), "JPEG", quality=90)
PNG = encoded(PHOTO, "PNG")
SEE_THROUGH = encoded(PHOTO.convert("P"), "GIF", transparency=0)
ROWS = {
    "png": PNG,
    "png rgba": encoded(PHOTO.convert("RGBA"), "PNG"),
    "png 16": encoded(
        Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257), "PNG"
    ),
    "gif": encoded(PHOTO, "GIF"),
    "see-through gif": SEE_THROUGH,
    "bmp": encoded(PHOTO, "BMP"),
    "tiff": encoded(PHOTO, "TIFF"),
    "ppm": encoded(PHOTO, "PPM"),
}
WHOLE = {
    **ROWS,
    "jpeg": BASELINE,
    "progressive jpeg": PROGRESSIVE,
    "grey jpeg": GREY_JPEG,
    "cmyk jpeg": CMYK_JPEG,
    "webp": encoded(PHOTO, "WEBP"),
    "lossless webp": encoded(PHOTO, "WEBP", lossless=True),
    "avif": encoded(PHOTO, "AVIF"),
    "jpeg 2000": encoded(PHOTO, "JPEG2000"),
    "bare jpeg 2000": encoded(PHOTO, "JPEG2000", no_jp2=True),
}


def difference(found: bytes, whole: bytes) -> float:
    """Of what 64 px show, in levels of 255, on average."""
    return float(np.abs(decode(found, 64).astype(int) - decode(whole, 64)).mean())


@pytest.mark.parametrize("n_bytes", [1, 2])
@pytest.mark.parametrize("name", [name for name in WHOLE if name != "avif"])
def test_photo_without_its_last_bytes_is_shown_whole(name: str, n_bytes: int) -> None:
    if "jpeg 2000" in name:
        n_bytes = 2
    assert difference(WHOLE[name][:-n_bytes], WHOLE[name]) < 0.3


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "cmyk jpeg", "webp", "bmp"])
def test_photo_without_its_last_bytes_is_flagged(name: str) -> None:
    assert "damaged" in examine(WHOLE[name][:-2], "a", 32).flags
    assert "damaged" not in examine(WHOLE[name], "a", 32).flags


@pytest.mark.parametrize("name", [*ROWS, "jpeg", "grey jpeg", "cmyk jpeg", "webp", "lossless webp"])
@pytest.mark.parametrize("share", [0.02, 0.04])
def test_nearly_whole_photo_is_filled_up(name: str, share: float) -> None:
    found = cut(WHOLE[name], share)
    assert "damaged" in examine(found, "a", 64).flags
    assert difference(found, WHOLE[name]) < 120 * share


@pytest.mark.parametrize("name", [*ROWS, "jpeg", "grey jpeg", "cmyk jpeg", "webp", "avif"])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_half_a_photo_is_left_out_as_truncated(name: str, share: float) -> None:
    with pytest.raises(UndecodableError, match=r"^truncated: ") as caught:
        examine(cut(WHOLE[name], share), "a", 64)
    assert caught.value.kind == "truncated"
    if name in ROWS or "jpeg" in name:
        assert "of the picture is missing, at most 10% may be" in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_progressive_jpeg_is_used_once_its_brightness_was_refined(share: float) -> None:
    found = cut(PROGRESSIVE, share)
    assert "damaged" in examine(found, "a", 64).flags
    assert difference(found, PROGRESSIVE) < 6


@pytest.mark.parametrize("share", [0.85, 0.95])
def test_progressive_jpeg_of_means_alone_is_left_out(share: float) -> None:
    with pytest.raises(UndecodableError, match=r"^truncated: "):
        examine(cut(PROGRESSIVE, share), "a", 64)


@pytest.mark.parametrize("kind", ["tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_without_its_directory_is_truncated_and_no_other_kind_of_file(kind: str) -> None:
    with pytest.raises(UndecodableError, match=r"^truncated: begins as TIFF does"):
        examine(encoded(PHOTO, "TIFF", compression=kind)[:-300], "a", 64)


def test_white_margin_is_not_taken_for_missing() -> None:
    framed = Image.new("RGB", (300, 400), "white")
    framed.paste(PHOTO, (0, 0))
    for kind in ("JPEG", "BMP", "PNG", "PPM"):
        content = encoded(framed, kind)
        assert difference(content[:-2], content) < 0.3


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + data)
    checksum = right if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunk(added: bytes, *, at_end: bool = False) -> bytes:
    """The PNG with one more chunk, before its pixels or behind them."""
    start = PNG.rindex(b"IEND") - 4 if at_end else PNG.index(b"IDAT") - 4
    return PNG[:start] + added + PNG[start:]


LARGE = zlib.compress(bytes(3 * 2**20))


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "added",
    [
        chunk(b"zTXt", b"Comment\0\0" + LARGE),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
        chunk(b"iCCP", b"profile\0\0" + LARGE),
        chunk(b"iCCP", b"profile\0\7" + b"of no known compression"),
        chunk(b"tEXt", b"Comment\0 with a wrong checksum", 7),
        chunk(b"tIME", b"\0", 7),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"acTL", b"\0\0"),
        chunk(b"eXIf", b"nonsense", 7),
        chunk(b"tRNS", b"\0", 7),
        chunk(b"sRGB", b"", 7) * 40,
        b"".join(chunk(b"tEXt", b"Comment\0" + bytes(2**20)) for _ in range(70)),
    ],
)
def test_picture_is_not_lost_to_what_is_beside_it(added: bytes, at_end: bool) -> None:
    content = with_chunk(added, at_end=at_end)
    assert np.array_equal(decode(content, 64), decode(PNG, 64))
    # Where Pillow stumbles over it, that is noticed.
    is_read = True
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (ValueError, SyntaxError, OSError, struct.error, IndexError):
        is_read = False
    assert ("damaged" in examine(content, "a.png", 64).flags) == (not is_read)


def test_metadata_that_is_wanted_survives_the_repair() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(PHOTO, "PNG", exif=exif)
    start = content.index(b"IDAT") - 4
    broken = content[:start] + chunk(b"tEXt", b"Comment\0", 7) + content[start:]
    assert np.array_equal(decode(broken, 64), decode(content, 64))
    assert examine(broken, "a.png", 64).flags == ("damaged", "rotated")
    jpeg = encoded(PHOTO, "JPEG", exif=exif)
    assert examine(jpeg[:-2], "a.jpg", 64).flags == ("damaged", "rotated")


@pytest.mark.parametrize(
    "segment",
    [b"\xff\xee\0\x03A", b"\xff\xee\0\x02", b"\xff\xe0\0\x05JF\0", b"\xff\xed\0\x10Photo"],
)
def test_jpeg_is_not_lost_to_a_segment_of_an_application(segment: bytes) -> None:
    length = int.from_bytes(segment[2:4], "big")
    added = segment[: length + 2].ljust(length + 2, b"\0")
    content = BASELINE[:2] + added + BASELINE[2:]
    assert np.array_equal(decode(content, 64), decode(BASELINE, 64))


def test_pixels_behind_a_wrong_checksum_are_not_believed() -> None:
    wrong = bytearray(PNG)
    middle = PNG.index(b"IDAT") + (len(PNG) - PNG.index(b"IDAT")) // 2
    wrong[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    with pytest.raises(UndecodableError, match=r"^corrupt: "):
        examine(bytes(wrong), "a.png", 64)


def test_nobody_else_s_setting_is_touched() -> None:
    contents = [BASELINE[:-2], cut(PNG, 0.05), with_chunk(chunk(b"zTXt", b"a\0\0" + LARGE))]
    alone = [decode(content, 32) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda content: decode(content, 32), contents * 10))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 10, together, strict=True))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(OSError, match="truncated"), Image.open(io.BytesIO(BASELINE[:-2])) as image:
        image.load()
