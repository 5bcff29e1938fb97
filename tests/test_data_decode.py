"""Every kind of file that people have among their photos, and a thousand that nobody should."""

from __future__ import annotations

import io
import os
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from catdog_search.data import decode as module
from catdog_search.data.decode import UndecodableError, decode, examine
from catdog_search.data.synthetic import draw


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half_and_half(mode: str, low: object, high: object) -> Image.Image:
    image = Image.new(mode, (40, 40), low)  # type: ignore[arg-type]
    image.paste(high, (0, 20, 40, 40))  # type: ignore[arg-type]
    return image


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(draw(0, 1), "JPEG", exif=exif)


PHOTO = draw(0, 0)
SIXTEEN = Image.fromarray(np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16))
GIF = encoded(draw(0, 1), "GIF", save_all=True, append_images=[draw(1, 1)])


@pytest.mark.parametrize(
    ("content", "key", "flags"),
    [
        (encoded(PHOTO, "JPEG"), "a.jpg", ()),
        (encoded(PHOTO, "JPEG"), "a.JPEG", ()),
        (encoded(PHOTO, "PNG"), "a.jpg", ("lying extension",)),
        (encoded(PHOTO.convert("L"), "JPEG"), "a.jpg", ("grey",)),
        (encoded(PHOTO.convert("1")), "a.png", ("grey",)),
        (encoded(PHOTO.convert("CMYK"), "JPEG"), "a.jpg", ("cmyk",)),
        (encoded(PHOTO.convert("P")), "a.png", ("palette",)),
        (encoded(PHOTO.convert("RGBA")), "a.png", ("transparent",)),
        (encoded(SIXTEEN), "a.png", ("16-bit", "grey")),
        (GIF, "a.gif", ("animated", "palette")),
        (rotated_jpeg(), "a.jpg", ("rotated",)),
        (encoded(PHOTO.resize((20, 90))), "a.png", ("tiny",)),
        (encoded(PHOTO.resize((5200, 5000)), "JPEG"), "a.jpg", ("huge",)),
        (encoded(PHOTO, "WEBP"), "a.webp", ()),
        (encoded(PHOTO, "TIFF"), "a.tif", ()),
        (encoded(PHOTO, "BMP"), "a.bmp", ()),
        # Digits of a size are no depth.
        (encoded(PHOTO.resize((160, 120))), "a.png", ()),
        (encoded(PHOTO.resize((160, 116)), "TIFF"), "a.tiff", ()),
        (encoded(PHOTO.resize((1600, 16)), "TIFF", compression="tiff_lzw"), "a.tif", ("tiny",)),
        (encoded(PHOTO, "AVIF"), "a.avif", ()),
        (encoded(PHOTO, "JPEG2000"), "a.jp2", ()),
        (encoded(PHOTO, "PPM"), "a.pnm", ()),
        (encoded(PHOTO, "JPEG"), "no suffix", ()),
    ],
)
def test_examine_takes_every_kind_and_notes_it(
    content: bytes, key: str, flags: tuple[str, ...]
) -> None:
    found = examine(content, key, 16)
    assert found.flags == flags
    assert (found.pixels.shape, found.pixels.dtype) == ((16, 16, 3), np.uint8)
    assert np.array_equal(found.pixels, decode(content, 16))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not an image"),
        (b"<html></html>", "not an image"),
        (encoded(PHOTO, "JPEG")[:1500], "truncated"),
        (encoded(PHOTO, "PNG")[:2000], "truncated"),
        (b"\xff\xd8\xff\xe0 cut", "corrupt"),
        (encoded(Image.new("RGB", (7, 300))), "too small"),
        (encoded(Image.new("RGB", (40, 40), "red")), "blank"),
        (encoded(Image.new("L", (900, 900), 3), "JPEG"), "blank"),
        (encoded(Image.new("RGBA", (40, 40))), "blank"),
    ],
)
def test_examine_refuses_what_cannot_be_used_by_kind(content: bytes, kind: str) -> None:
    with pytest.raises(UndecodableError) as caught:
        examine(content, "a.jpg", 16)
    assert caught.value.kind == kind
    assert str(caught.value).startswith(kind)


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
0 0 moveto 40 40 lineto stroke showpage
"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (EPS, "PostScript is a program, which is not run"),
        (b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + bytes(24) + EPS, "PostScript"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\xd7\xcd\xc6\x9a" + bytes(100), "not an image"),  # a Windows metafile
        (encoded(PHOTO.convert("RGBA"), "ICNS"), "not an image"),
    ],
)
def test_no_file_chooses_what_decodes_it(
    content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "gs"
    shim.write_text(f"#!/bin/sh\necho $0 $@ >> {tmp_path}/started\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    with pytest.raises(UndecodableError, match=words) as caught:
        examine(content, "cat.jpg", 16)
    assert caught.value.kind == "not an image"
    assert not (tmp_path / "started").exists()


def test_decode_refuses_a_bomb_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    # 30,000 x 30,000 pixels in a few kilobytes: the header alone is read.
    header = encoded(Image.new("1", (8, 8)))
    bomb = header[:16] + (30_000).to_bytes(4, "big") * 2 + header[24:]
    crc = __import__("zlib").crc32(bomb[12:29]).to_bytes(4, "big")
    bomb = bomb[:29] + crc + bomb[33:]
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UndecodableError, match=r"too large: .*900000000 pixels"):
        decode(bomb, 8)


def test_nearly_blank_photo_is_used_and_flagged() -> None:
    noise = np.random.default_rng(0).integers(0, 12, (200, 200, 3), np.uint8)
    assert examine(encoded(Image.fromarray(noise)), "a.png", 16).flags == ("blank",)
    # As bright everywhere, but of two colours.
    coloured = half_and_half("RGB", (130, 0, 0), (0, 66, 0))
    assert examine(encoded(coloured), "a.png", 16).flags == ()
    # One pixel is enough not to be nothing.
    dot = Image.new("L", (900, 900))
    dot.putpixel((450, 450), 1)
    assert examine(encoded(dot), "a.png", 16).flags == ("blank", "grey")


def test_alpha_that_hides_everything_is_passed_over() -> None:
    hidden = PHOTO.convert("RGBA")
    hidden.putalpha(0)
    assert np.array_equal(decode(encoded(hidden), 16), decode(encoded(PHOTO), 16))


def test_decode_turns_a_photo_upright() -> None:
    sideways = Image.new("RGB", (40, 20), "red")
    sideways.paste("blue", (0, 0, 20, 20))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
    pixels = decode(encoded(sideways, exif=exif), 8)
    assert pixels[0, 4].tolist() == [0, 0, 255]
    assert pixels[7, 4].tolist() == [255, 0, 0]


def test_decode_keeps_a_photo_whose_exif_is_broken() -> None:
    good = encoded(PHOTO, "JPEG", quality=95)
    broken = encoded(PHOTO, "JPEG", quality=95, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    assert np.array_equal(decode(broken, 16), decode(good, 16))


def test_decode_shows_transparency_over_white() -> None:
    hidden = half_and_half("RGBA", (255, 0, 0, 0), (0, 0, 255, 255))
    pixels = decode(encoded(hidden), 8)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[7, 7].tolist() == [0, 0, 255]


def test_decode_scales_16_bit_levels_and_does_not_cut_them_off() -> None:
    pixels = decode(encoded(SIXTEEN), 8)[..., 0].astype(int)
    assert pixels[0].max() < 40
    assert 110 < pixels[4].mean() < 160
    assert pixels[7].min() > 220


def test_decode_inverts_no_cmyk() -> None:
    red = encoded(Image.new("RGB", (40, 40), (200, 30, 30)).convert("CMYK"), "JPEG")
    assert np.abs(decode(red, 8).astype(int) - [200, 30, 30]).max() < 12


def test_decode_takes_the_first_frame() -> None:
    assert np.abs(decode(GIF, 24).astype(int) - decode(encoded(draw(0, 1)), 24)).mean() < 12


@pytest.mark.parametrize("image_size", [16, 64, 100])
def test_decode_of_a_scaled_jpeg_stays_near_the_whole_one(image_size: int) -> None:
    large = encoded(draw(1, 7).resize((960, 960), Image.Resampling.BICUBIC), "JPEG", quality=90)
    with Image.open(io.BytesIO(large)) as image:
        whole = np.asarray(module.resize(image.convert("RGB"), image_size)).astype(int)
    difference = np.abs(decode(large, image_size).astype(int) - whole)
    assert difference.mean() < 0.6
    assert np.percentile(difference, 99) < 4


def test_what_is_hashed_is_the_same_at_every_image_size() -> None:
    large = encoded(draw(1, 7).resize((960, 960), Image.Resampling.BICUBIC), "JPEG")
    greys = [examine(large, "a.jpg", size).grey for size in (16, 64, 160, 512)]
    assert greys[0].shape == (32, 32)
    assert all(np.array_equal(grey, greys[0]) for grey in greys)


def mutated(content: bytes, other: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(rng.choice((1, 5, 50, 500))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 2:
        cut = rng.randrange(4, 64)
        return other[:cut] + content[cut:]
    start = rng.randrange(len(content))
    return content[:start] + rng.randbytes(rng.randrange(400)) + content[start:]


def test_a_thousand_mutated_files_raise_one_kind_of_error() -> None:
    rng = random.Random(7)
    kinds = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
    valid = [encoded(draw(i % 2, i), kind) for i, kind in enumerate(kinds)] + [rotated_jpeg(), GIF]
    started, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, used = [], []
    for _ in range(1000):
        content = mutated(rng.choice(valid), rng.choice(valid), rng)
        try:
            used.append(examine(content, "a.jpg", 16).pixels.shape)
        except UndecodableError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert len(used) > 100
    assert set(used) == {(16, 16, 3)}
    assert all("\n" not in line for line in refused)
    assert time.monotonic() - started < 60
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 1_000_000  # kilobytes


def test_mutated_real_photos_raise_one_kind_of_error(real_photos: Path) -> None:
    import zipfile

    rng = random.Random(8)
    with zipfile.ZipFile(real_photos) as file:
        valid = [file.read(name) for name in file.namelist()[::400]]
    kinds = set()
    for _ in range(500):
        try:
            examine(mutated(rng.choice(valid), rng.choice(valid), rng), "a.jpg", 16)
        except UndecodableError as error:
            kinds.add(error.kind)
    assert kinds <= {
        "empty", "not an image", "truncated", "corrupt", "blank", "too large", "too small",
    }  # fmt: skip
    assert "truncated" in kinds
