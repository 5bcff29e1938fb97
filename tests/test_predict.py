"""`predict`: any files in, a row each out; what can't be used is said and hides nothing else."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from click.testing import CliRunner, Result
from PIL import Image
from tiny_onnx import BLUE, GREY, RED, SIDE, WHITE

from catdog_search.answering import stream
from catdog_search.answering.photos import Given, PhotoError, Unusable, given, packed
from catdog_search.answering.runtime import OnnxModel
from catdog_search.answering.stream import answers
from catdog_search.cli import main
from catdog_search.data import packing, synthetic
from catdog_search.data.sources import open_source

LIMIT = 10**9


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny_onnx.content())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a photo for each answer, below each other, and what is none."""
    root = tmp_path / "photos"
    (root / "deep" / "er").mkdir(parents=True)
    Image.fromarray(RED).save(root / "a red.png")
    Image.fromarray(BLUE).save(root / "deep" / "blue.png")
    Image.fromarray(GREY).save(root / "deep" / "er" / "grey.png")
    Image.fromarray(WHITE).save(root / "white.bmp")
    (root / "README.txt").write_text("words")
    return root


ANSWERS = {
    "a red.png": "dog",
    "deep/blue.png": "cat",
    "deep/er/grey.png": "not sure",
    "white.bmp": "neither",
}


def predict(model: Path, *arguments: str | Path, code: int = 0, stdin: bytes = b"") -> Result:
    words = ["predict", str(model), *map(str, arguments)]
    done = CliRunner().invoke(main, words, input=stdin)
    assert done.exit_code == code, done.output
    return done


def rows(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def said(done: Result, root: object) -> dict[str, str]:
    return {row["path"].removeprefix(f"{root}/"): row["answer"] for row in rows(done)}


def test_folder_is_answered_by_name(model_file: Path, photos: Path) -> None:
    done = predict(model_file, photos, "--json")
    assert said(done, photos) == ANSWERS
    assert list(said(done, photos)) == sorted(ANSWERS)
    assert "4 files: 1 dog, 1 cat, 1 not sure, 1 neither; 0 can't be used" in done.stderr
    (red,) = [row for row in rows(done) if row["path"].endswith("red.png")]
    assert red["verdict"] == "answered"
    assert red["probabilities"]["dog"] == red["probability"] > 0.99


def test_zip_is_answered_as_the_folder(model_file: Path, photos: Path, tmp_path: Path) -> None:
    path = shutil.make_archive(str(tmp_path / "zipped"), "zip", photos)
    assert said(predict(model_file, path, "--json"), path) == ANSWERS


def test_table_is_a_line_a_photo(model_file: Path, photos: Path) -> None:
    lines = predict(model_file, photos / "a red.png", photos / "white.bmp").stdout.splitlines()
    assert lines[0].split() == ["dog", "dog", "100.0%", *str(photos / "a red.png").split()]
    assert lines[1].startswith("neither ")


def test_csv_can_be_read(model_file: Path, photos: Path) -> None:
    done = predict(model_file, photos, "/absent,\n\x1b.jpg", "--csv")
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["answer"] for row in found] == ["dog", "cat", "not sure", "neither", ""]
    assert float(found[0]["p(dog)"]) == pytest.approx(1 - float(found[0]["p(cat)"]), abs=1e-6)
    assert found[-1]["path"] == "/absent,\\x0a\\x1b.jpg"
    assert found[-1]["error"] == "unreadable: No such file or directory"


def test_standard_input_is_a_photo_or_paths(model_file: Path, photos: Path) -> None:
    content = (photos / "a red.png").read_bytes()
    assert rows(predict(model_file, "-", "--json", stdin=content))[0]["answer"] == "dog"
    names = "".join(f"{photos / name}\n" for name in ANSWERS).encode() + b"\n"
    assert said(predict(model_file, "-", "--json", stdin=names), photos) == ANSWERS
    assert "can't be used" in predict(model_file, "-", stdin=b"", code=1).stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"words", "not an image: text"),
        (b"\xff\xd8\xff\xe0 no more", "corrupt|truncated"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"PK\x03\x04 no more", "not a usable zip"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC|HEIF|corrupt"),
    ],
)
def test_bad_file_is_a_row_with_its_reason(
    content: bytes, reason: str, model_file: Path, photos: Path
) -> None:
    bad = photos.parent / "bad.jpg"
    bad.write_bytes(content)
    done = predict(model_file, bad, photos / "a red.png", "--json")
    first, second = rows(done)
    assert first.keys() == {"path", "error"}
    assert any(first["error"].startswith(each) for each in reason.split("|")), first
    assert second["answer"] == "dog"
    predict(model_file, bad, photos / "a red.png", "--strict", code=1)
    predict(model_file, bad, code=1)


def test_bad_files_of_folders_are_rows_too(model_file: Path, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (photos / "film.heic").write_bytes(b"\x00\x00\x00\x18ftypcrx heic")
    found = rows(predict(model_file, photos, "--json"))
    assert len(found) == 6
    assert {Path(row["path"]).name for row in found if "error" in row} == {
        "broken.jpg",
        "film.heic",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "--csv"], "give one of them"),
        (["--link"], "--link says how --sort-into puts photos"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], words: str, model_file: Path, photos: Path
) -> None:
    assert words in predict(model_file, photos, *arguments, code=2).stderr


def test_absent_model_is_said(tmp_path: Path, photos: Path) -> None:
    done = predict(tmp_path / "absent.onnx", photos, code=1)
    assert done.stderr.startswith("error: model ") or "No such file" in done.stderr


def listed(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


SORTED = {
    "dog/a red.png",
    "cat/deep/blue.png",
    "not sure/deep/er/grey.png",
    "neither/white.bmp",
}


def test_model_of_drawn_pictures_says_so(model_file: Path, photos: Path, tmp_path: Path) -> None:
    assert "drawn pictures" not in predict(model_file, photos).stderr
    path = tmp_path / "drawn.onnx"
    path.write_bytes(tiny_onnx.content(is_drawn=True))
    said = predict(path, photos).stderr
    assert "learned from drawn pictures; what it says of photos means nothing" in said


def test_paths_are_told_as_they_are_and_may_end_in_a_nul(model_file: Path, photos: Path) -> None:
    path = photos / "new\nline.png"
    (photos / "a red.png").rename(path)
    names = f"{path}\0{photos / 'white.bmp'}\0".encode()
    found = rows(predict(model_file, "-", "--json", stdin=names))
    assert [(row["path"], row["answer"]) for row in found] == [
        (str(path), "dog"),
        (str(photos / "white.bmp"), "neither"),
    ]


def test_folder_without_photos_is_said(model_file: Path, tmp_path: Path) -> None:
    assert "no photo was found" in predict(model_file, tmp_path, code=1).stderr


def test_keras_file_is_no_model_to_answer_with(tmp_path: Path, photos: Path) -> None:
    done = predict(tmp_path / "m.keras", photos, code=2)
    assert "takes FILE.onnx, or the name of a registered model" in done.stderr


@pytest.mark.parametrize("linking", [False, True])
def test_photos_are_sorted_by_answer(
    model_file: Path, photos: Path, tmp_path: Path, *, linking: bool
) -> None:
    target = tmp_path / "sorted"
    options = ["--sort-into", str(target), *(["--link"] if linking else [])]
    for _ in range(2):  # the second call finds all there
        predict(model_file, photos, *options)
        assert listed(target) == SORTED
    done = predict(model_file, photos, *options)
    assert f"{'linked' if linking else 'copied'} into {target}: 4" in done.stderr
    assert (target / "dog/a red.png").is_symlink() is linking
    assert (target / "dog/a red.png").read_bytes() == (photos / "a red.png").read_bytes()


def test_other_photos_of_the_same_name_are_kept_beside(
    model_file: Path, photos: Path, tmp_path: Path
) -> None:
    target = tmp_path / "sorted"
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(RED[:20]).save(other / "a red.png")
    for _ in range(2):
        predict(model_file, photos, other, "--sort-into", target)
    assert listed(target) == {*SORTED, "dog/a red-1.png"}
    assert (target / "dog/a red-1.png").read_bytes() == (other / "a red.png").read_bytes()


def test_photos_of_a_zip_are_copied_not_linked(
    model_file: Path, photos: Path, tmp_path: Path
) -> None:
    path = shutil.make_archive(str(tmp_path / "zipped"), "zip", photos)
    predict(model_file, path, "--sort-into", tmp_path / "sorted")
    assert listed(tmp_path / "sorted") == SORTED
    done = predict(model_file, path, "--sort-into", tmp_path / "links", "--link", code=1)
    assert "is no file of its own; leave --link out" in done.stderr


def test_sorting_into_what_is_sorted_is_refused(model_file: Path, photos: Path) -> None:
    for target in (photos, photos / "sorted"):
        done = predict(model_file, photos, "--sort-into", target, code=1)
        assert "lies in" in done.stderr
    assert listed(photos) == {*ANSWERS, "README.txt"}


def test_class_that_is_no_name_of_a_folder_stays_inside(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx.content(class_names=("..", "a/../../b")))
    predict(path, photos, "--sort-into", tmp_path / "in" / "sorted")
    assert listed(tmp_path / "in") == {
        "sorted/_/deep/blue.png",
        "sorted/a_.._.._b/a red.png",
        "sorted/neither/white.bmp",
        "sorted/not sure/deep/er/grey.png",
    }


def test_full_disk_is_said_and_nothing_half_written(
    model_file: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    done = predict(model_file, photos, "--sort-into", tmp_path / "sorted", code=1)
    assert "No space left on device" in done.stderr
    assert not {name for name in listed(tmp_path / "sorted") if not name.endswith(".partial")}


def odd(folder: Path) -> Iterator[Path]:
    """Photos in the formats that people have."""
    drawn = synthetic.draw(0, 5).resize((301, 203))
    ways: dict[str, dict[str, Any]] = {
        "plain.jpg": {"quality": 92},
        "cmyk.jpg": {"mode": "CMYK"},
        "grey.png": {"mode": "L"},
        "palette.gif": {"mode": "P"},
        "alpha.webp": {"mode": "RGBA"},
        "bits.tiff": {},
        "deep.png": {"mode": "I;16"},
    }
    for name, options in ways.items():
        mode = options.pop("mode", "RGB")
        image = drawn.convert("I") if mode == "I;16" else drawn.convert(mode)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(drawn.convert("L")).astype(np.uint16) * 257)
        image.save(folder / name, **options)
        yield folder / name
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn.save(folder / "turned.jpg", exif=exif)
    yield folder / "turned.jpg"
    big = drawn.resize((3000, 2200))
    big.save(folder / "phone.jpg")
    yield folder / "phone.jpg"


def test_answers_are_those_of_the_packed_photos(model_file: Path, tmp_path: Path) -> None:
    """What training's packer makes of a file is what is answered, to the last level."""
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number, path in enumerate(odd(tmp_path / "data" / label)):
            image = path.read_bytes() + bytes([number, len(label)])
            path.write_bytes(image)
    dataset = packing.load(
        open_source(str(tmp_path / "data")), SIDE, tmp_path / "cache", LIMIT, duplicates="off"
    )
    model = OnnxModel.open(model_file)
    keys = {photo.key: row for row, photo in enumerate(dataset.manifest.photos)}
    answered = list(answers(model, given([str(tmp_path / "data")])))
    assert len(answered) == len(keys) == 18
    for row in answered:
        assert isinstance(row.file, Given)
        pixels = dataset.read(np.array([keys[row.file.below]]))
        (expected,) = model.answer(pixels)
        assert row.answer == expected
        assert np.array_equal(packed(row.file.read(), SIDE), pixels[0])


def test_thousands_are_answered_in_order_with_a_few_held(model_file: Path) -> None:
    held, most = 0, 0
    lock = threading.Lock()
    content = io.BytesIO()
    Image.fromarray(RED).save(content, format="PNG")

    def files() -> Iterator[Given | Unusable]:
        nonlocal held, most
        for n in range(1000):
            with lock:
                held += 1
                most = max(most, held)
            name = f"{n}.png"
            if n % 100 == 99:
                yield Unusable(name, "absent")
            else:
                yield Given(name, name, content.getvalue, None, 100)

    names = []
    for row in answers(OnnxModel.open(model_file), files()):
        with lock:
            held -= 1
        names.append(row.file.name)
        assert (row.answer is None) == (row.reason == "absent")
    assert names == [f"{n}.png" for n in range(1000)]
    assert most <= stream._AHEAD + 1


def test_photo_too_large_for_memory_is_a_row(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = Given("huge.jpg", "huge.jpg", lambda: pytest.fail("read"), None, 10**15)
    (row,) = answers(OnnxModel.open(model_file), [huge])
    assert row.reason is not None
    assert row.reason.startswith("too little memory: ")


def test_file_that_goes_away_is_a_row(model_file: Path, photos: Path) -> None:
    found = list(given([str(photos)]))
    (photos / "a red.png").unlink()
    first, *others = answers(OnnxModel.open(model_file), found)
    assert first.reason == "unreadable: No such file or directory"
    assert all(row.answer for row in others)


def test_folder_that_cannot_be_read_is_a_row(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(root: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("catdog_search.answering.photos.in_folder", denied)
    assert list(given([str(photos)])) == [Unusable(str(photos), "unreadable: Permission denied")]


@pytest.mark.parametrize("entry", [b"", b"\x89PNG\r\n\x1a\n broken"])
def test_bad_entry_of_a_zip_is_a_row(entry: bytes, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    good = io.BytesIO()
    Image.fromarray(RED).save(good, format="PNG")
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a/bad.png", entry)
        zipped.writestr("a/good.png", good.getvalue())
    bad, fine = rows(predict(model_file, path, "--json"))
    assert "error" in bad
    assert fine["answer"] == "dog"


def test_damaged_zip_entry_raises_what_is_told(tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a.png", os.urandom(3000))
    raw = bytearray(path.read_bytes())
    raw[400:440] = bytes(40)
    path.write_bytes(raw)
    (file,) = given([str(path)])
    assert isinstance(file, Given)
    with pytest.raises(PhotoError, match="unreadable: "):
        file.read()


def test_onnx_file_is_answered_without_keras(model_file: Path, photos: Path) -> None:
    code = (
        "import sys\nfrom catdog_search.cli import main\n"
        f"main(['predict', {str(model_file)!r}, {str(photos)!r}], standalone_mode=False)\n"
        "print([n for n in ('keras', 'tensorflow', 'mlflow', 'optuna', 'sklearn', 'onnx')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
