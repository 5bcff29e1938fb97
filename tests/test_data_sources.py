"""Sources: where the classes are found, and what is refused."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from catdog_search.data.sources import (
    FolderSource,
    SyntheticSource,
    ZipSource,
    choose_source,
    open_source,
)
from catdog_search.errors import DataError
from catdog_search.study.config import DataConfig


def test_folder_and_zip_of_the_same_photos_read_the_same(
    photo_folder: Path, photo_zip: Path
) -> None:
    folder, packed = open_source(str(photo_folder)), open_source(str(photo_zip))
    assert isinstance(folder, FolderSource)
    assert isinstance(packed, ZipSource)
    assert sorted(folder.labels.values()) == sorted(packed.labels.values())
    assert {folder.read(key) for key in folder.labels} == {packed.read(k) for k in packed.labels}


def test_folder_fingerprint_changes_with_a_file(photo_folder: Path) -> None:
    before = FolderSource(photo_folder).fingerprint()
    assert FolderSource(photo_folder).fingerprint() == before
    photo = next(photo_folder.rglob("*.ppm"))
    os.utime(photo, (1, 1))
    assert FolderSource(photo_folder).fingerprint() != before


def test_zip_fingerprint_survives_a_move(photo_zip: Path, tmp_path: Path) -> None:
    before = ZipSource(photo_zip).fingerprint()
    assert ZipSource(photo_zip.rename(tmp_path / "moved.zip")).fingerprint() == before


def test_zip_leaves_out_what_mac_os_adds(tmp_path: Path) -> None:
    path = tmp_path / "mac.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a/1.jpg", "b/1.jpg", "__MACOSX/a/._1.jpg"):
            file.writestr(name, b"")
    assert set(ZipSource(path).labels) == {"a/1.jpg", "b/1.jpg"}


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_open_source_refuses_a_broken_zip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a usable zip"):
        open_source(str(path))


def test_open_source_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder or zip"):
        open_source(str(tmp_path / "nothing"))


def test_synthetic_is_balanced_and_repeatable() -> None:
    first, second = SyntheticSource(41), SyntheticSource(41)
    assert sorted(first.labels.values()).count(0) == 21
    assert len(first.labels) == 41
    assert all(first.read(key) == second.read(key) for key in list(first.labels)[:3])
    assert first.fingerprint() != SyntheticSource(42).fingerprint()


def test_choose_source_prefers_what_is_nearer(
    photo_folder: Path, photo_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = DataConfig(path=str(photo_zip))
    assert choose_source(DataConfig(), None).kind == "synthetic"
    assert choose_source(photos, None).kind == "zip"
    monkeypatch.setenv("CATDOG_DATA", str(photo_folder))
    assert choose_source(photos, None).kind == "folder"
    assert choose_source(photos, str(photo_zip)).kind == "zip"
    assert choose_source(DataConfig(source="synthetic"), None).kind == "synthetic"
    assert choose_source(DataConfig(source="synthetic"), str(photo_zip)).kind == "zip"
