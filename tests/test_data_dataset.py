"""Packing: whole or not at all, in order, bounded, and the same the second time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog_search.data import cache, dataset
from catdog_search.data.decode import UndecodableError, decode
from catdog_search.data.sources import FolderSource, SyntheticSource
from catdog_search.errors import DataError

LIMIT = 10**9


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_split_holds_each_photo_under_its_label(drawn: SyntheticSource, tmp_path: Path) -> None:
    loaded = dataset.load(drawn, 16, tmp_path, LIMIT)
    for split in ("train", "val", "test"):
        photos = [p for p in loaded.manifest.photos if p.split == split]
        pixels, labels = loaded.split(split)
        expected = np.stack([decode(drawn.read(p.key), 16) for p in photos])
        assert np.array_equal(pixels, expected)
        assert labels.ravel().tolist() == [p.label for p in photos]
        assert (pixels.dtype, labels.dtype, labels.ndim) == (np.uint8, np.float32, 2)


def test_second_load_decodes_nothing(
    drawn: SyntheticSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataset.load(drawn, 16, tmp_path, LIMIT)
    monkeypatch.setattr(SyntheticSource, "read", lambda self, key: pytest.fail("decoded again"))
    second = dataset.load(SyntheticSource(100), 16, tmp_path, LIMIT)
    assert second.digest == first.digest


def test_digest_is_the_same_at_every_image_size(drawn: SyntheticSource, tmp_path: Path) -> None:
    sizes = [dataset.load(drawn, size, tmp_path, LIMIT) for size in (8, 16)]
    assert sizes[0].digest == sizes[1].digest
    assert sizes[0].split("val")[0].shape[1:] == (8, 8, 3)


def test_pack_that_was_cut_short_is_made_again(drawn: SyntheticSource, tmp_path: Path) -> None:
    loaded = dataset.load(drawn, 16, tmp_path, LIMIT)
    before = loaded.split("train")[0]
    pack = next(loaded.folder.glob("*.u8"))
    pack.write_bytes(pack.read_bytes()[:-1])
    assert np.array_equal(dataset.load(drawn, 16, tmp_path, LIMIT).split("train")[0], before)


def test_failed_packing_leaves_no_pack(
    drawn: SyntheticSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "_decode_all", full)
    with pytest.raises(DataError, match="No space left on device"):
        dataset.load(drawn, 16, tmp_path, LIMIT)
    files = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert files == []


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut"])
def test_file_that_is_no_image_is_listed_and_left_out(photo_folder: Path, content: bytes) -> None:
    (photo_folder / "Cat" / "bad.jpg").write_bytes(content)
    loaded = dataset.load(FolderSource(photo_folder), 8, photo_folder.parent / "cache", LIMIT)
    assert [key for key, _ in loaded.manifest.left_out] == ["Cat/bad.jpg"]
    assert len(loaded.manifest.photos) == 100


def test_load_refuses_photos_too_few_to_split(photo_folder: Path) -> None:
    for photo in sorted(photo_folder.rglob("*.ppm"))[4:-4]:
        photo.unlink()
    with pytest.raises(DataError, match="are too few: split"):
        dataset.load(FolderSource(photo_folder), 8, photo_folder.parent / "cache", LIMIT)


def test_progress_ends_at_the_total(drawn: SyntheticSource, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    dataset.load(drawn, 8, tmp_path, LIMIT, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (100, 100)


def test_cache_evicts_the_longest_unused_first(tmp_path: Path) -> None:
    entries = [dataset.load(SyntheticSource(n), 8, tmp_path, LIMIT).folder for n in (80, 90, 100)]
    cache.touch(entries[0])
    one = cache.size_bytes(tmp_path) // 3
    removed = cache.evict(tmp_path, cache.size_bytes(tmp_path) - one // 2, keep=entries[2])
    assert removed == [entries[1]]
    assert entries[0].exists()


def test_cache_never_evicts_what_is_in_use(drawn: SyntheticSource, tmp_path: Path) -> None:
    loaded = dataset.load(drawn, 8, tmp_path, limit=1)
    assert loaded.split("train")[0].shape[0] > 0


def test_decode_turns_a_photo_upright() -> None:
    sideways = Image.new("RGB", (40, 20), "red")
    sideways.paste("blue", (0, 0, 20, 20))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
    pixels = decode(encoded(sideways, exif=exif), 8)
    assert pixels[0, 4].tolist() == [0, 0, 255]
    assert pixels[7, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16", "CMYK"])
def test_decode_makes_rgb_of_every_mode(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    pixels = decode(encoded(Image.new(mode, (30, 20)), kind), 8)
    assert pixels.shape == (8, 8, 3)


def test_decode_refuses_a_bomb_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog_search.data.decode.MAX_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UndecodableError, match="20x20 pixels are too many"):
        decode(encoded(Image.new("RGB", (20, 20))), 8)
