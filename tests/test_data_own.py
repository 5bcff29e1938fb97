"""What the program writes among photos is never taken for a photo."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from PIL import Image

from catdog_search import cli
from catdog_search.data import packing
from catdog_search.data.own import MARK, is_own_picture, mark
from catdog_search.data.sources import FolderSource, Source, ZipSource
from catdog_search.data.synthetic import draw

LIMIT = 10**9


@pytest.fixture
def audit(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Audits the photos from a folder."""
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))

    def call(folder: Path, *options: str) -> Result:
        monkeypatch.chdir(folder)
        return CliRunner().invoke(cli.main, ["data", "audit", str(photo_folder), *options])

    return call


@pytest.mark.parametrize("at", [".", "Cat", "Cat/figures"])
@pytest.mark.parametrize("name", ["audit.png", "look.png"])
def test_second_audit_finds_the_photos_of_the_first(
    at: str, name: str, audit: Callable[..., Result], photo_folder: Path
) -> None:
    folder = photo_folder / at
    folder.mkdir(exist_ok=True)
    first, second = (audit(folder, "--picture", name) for _ in range(2))
    assert (folder / name).exists()
    assert first.exit_code == second.exit_code == 0, second.output
    told = [line for line in second.output.splitlines() if not line.startswith("passed over")]
    assert told == [line for line in first.output.splitlines() if not line.startswith("packing")]
    assert "passed over: pictures drawn by catdog-search 1" in second.output


def test_audit_says_all_but_the_picture_where_it_cannot_be_written(
    audit: Callable[..., Result], photo_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "audit.png").symlink_to("/nowhere/audit.png")  # fails as a read-only folder does
    done = audit(tmp_path)
    assert done.exit_code == 0
    assert "100 of 100 files are usable" in done.output
    assert "no picture was drawn: --picture audit.png: No such file" in done.output


def assert_nothing_but_photos(source: Source) -> None:
    assert source.class_names == ("Cat", "Dog")
    assert len(source.labels) == 100
    assert source.left_out == ()


def keep_studies_in(folder: Path) -> None:
    """What a state folder holds."""
    figures = folder / "artifacts" / "1" / "figures"
    figures.mkdir(parents=True)
    draw(0, 0).save(figures / "train.png")  # as an earlier version drew it
    (folder / "scratch" / "tiny").mkdir(parents=True)
    for name in ("optuna.db", "mlflow.db", "mlflow.db-wal", "scratch/tiny/worker.log"):
        (folder / name).write_text("x")


def test_state_folder_among_photos_is_passed_over(photo_folder: Path, tmp_path: Path) -> None:
    keep_studies_in(photo_folder / "mlruns")
    keep_studies_in(photo_folder / "Cat" / "studies")
    source = FolderSource(photo_folder)
    assert_nothing_but_photos(source)
    assert "passed over: files of studies 10" in source.notes
    path = Path(shutil.make_archive(str(tmp_path / "all"), "zip", photo_folder))
    assert_nothing_but_photos(ZipSource(path))


def test_photos_in_a_state_folder_are_found_beside_its_own_files(photo_folder: Path) -> None:
    keep_studies_in(photo_folder)
    assert_nothing_but_photos(FolderSource(photo_folder))


def test_cache_among_photos_is_passed_over(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photo_folder / "kept"
    monkeypatch.setenv("CATDOG_CACHE", str(folder))
    first = packing.load(FolderSource(photo_folder), 8, folder, LIMIT)
    source = FolderSource(photo_folder)
    assert_nothing_but_photos(source)
    assert packing.load(source, 8, folder, LIMIT).folder == first.folder


def test_every_drawn_picture_is_known_by_its_mark(tmp_path: Path) -> None:
    figure = Figure()
    figure.savefig(tmp_path / "figure.png", metadata=dict(MARK))
    Image.new("RGB", (9, 9)).save(tmp_path / "picture.png", pnginfo=mark())
    for path in tmp_path.glob("*.png"):
        assert is_own_picture(path.read_bytes()[:512])


def test_picture_of_somebody_else_is_a_photo_whatever_its_name(photo_folder: Path) -> None:
    draw(0, 77).save(photo_folder / "Cat" / "audit.png")
    assert "Cat/audit.png" in FolderSource(photo_folder).labels


def test_drawn_picture_among_many_pictures_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as file:
        for label, name in enumerate(("cat", "dog")):
            for number in range(110):
                picture = tmp_path / "picture.png"
                own = mark() if (label, number) == (0, 5) else None
                draw(label, number).resize((32, 32)).save(picture, pnginfo=own)
                file.write(picture, f"{name}/{number}.png")
    loaded = packing.load(ZipSource(path), 8, tmp_path / "cache", LIMIT).manifest
    assert loaded.left_out == (("cat/5.png", "not a photo: drawn by catdog-search"),)
