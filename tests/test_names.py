"""Names that are no plain text go the whole way: audit, picture, page, study, figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny_study import run

from catdog_search import cli
from catdog_search.data import lettering, packing
from catdog_search.data.lettering import in_figure, lettered
from catdog_search.data.sources import SyntheticSource, open_source
from catdog_search.figures.predictions import Photos, Predictions
from catdog_search.figures.trial import trial_figures
from catdog_search.places import StateFolder
from catdog_search.tracking.store import Store

LIMIT = 10**9
NAMES = {
    "bytes": (b"b\xe9b\xe9", b"chien"),
    "another script": ("猫".encode(), "犬".encode()),
    "escapes": (b"red\x1b[31m\nnext", "gpj.\u202egnp".encode()),
    "formula": (b"$cat", b"$dog^{$"),
    "markup": (b"<script>alert(1)<", b"&amp; dog"),
}


def laid_out(names: tuple[bytes, bytes], tmp_path: Path, drawn: SyntheticSource) -> Path:
    root = os.fsencode(tmp_path / "photos")
    for name, label in zip(names, (0, 1), strict=True):
        os.makedirs(root + b"/" + name)
        for key in (k for k, of in drawn.labels.items() if of == label):
            number = os.fsencode(key.split(".")[1])
            with open(
                root + b"/" + name + b"/" + name[:6] + b"-" + number + b"x.ppm", "wb"
            ) as file:
                file.write(drawn.read(key))
    return tmp_path / "photos"


@pytest.fixture(params=NAMES)
def oddly_named(request: pytest.FixtureRequest, tmp_path: Path, drawn: SyntheticSource) -> Path:
    """The drawn pictures in class folders of odd names, with odd names of their own."""
    return laid_out(NAMES[request.param], tmp_path, drawn)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def test_audit_takes_any_name(oddly_named: Path, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    (oddly_named / os.fsdecode(b"n\xf6.jpg")).write_bytes(b"no photo")
    files = ["--picture", str(tmp_path / "audit.png"), "--html", str(page)]
    done = call("data", "audit", str(oddly_named), *files)
    assert done.exit_code == 0, done.output
    assert "100 of 101 files are usable" in done.output
    assert "\x1b" not in done.output
    assert "n\\xf6.jpg: " in done.output
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("data:image/png;base64,") > 20
    assert 'src="http' not in text
    found = json.loads(call("data", "audit", str(oddly_named), *files, "--json").stdout)
    assert found["usable"] == 100
    assert set(found["labels"]["classes"]) == set(found["class_names"])


def test_study_takes_any_name(state: StateFolder, tmp_path: Path, drawn: SyntheticSource) -> None:
    root = laid_out((b"b\xe9$\x1b", "猫".encode()), tmp_path, drawn)
    photos = packing.load(open_source(str(root)), 8, tmp_path / "cache", LIMIT)
    report = run(state, photos, 1, drawn=True)
    assert report.view.counts == {"COMPLETE": 1}
    client = Store.of(state).client()
    assert {f.path for f in client.list_artifacts(report.view.parent_run_id, "data")} >= {
        "data/audit.json",
        "data/left_out.json",
    }


def test_figures_take_any_name(oddly_named: Path, tmp_path: Path) -> None:
    source = open_source(str(oddly_named))
    labels = np.array([0, 1, 0, 1])
    wrong = Predictions(labels, np.array([0.9, 0.1, 0.2, 0.8]))
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    keys = list(source.labels)
    photos = Photos(pixels, [keys[0], keys[-1], keys[1], keys[-2]])
    figures = trial_figures("tiny", [], None, wrong, source.class_names, photos)
    for name, figure in figures.items():
        figure.savefig(tmp_path / name)  # a warning of a missing letter fails
    assert len(figures) == 5


def test_letters_that_no_font_has_are_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts = lettering._fonts()
    monkeypatch.setattr(lettering, "_fonts", lambda: fonts[:1])
    lettered.cache_clear()
    try:
        assert lettered("train: cat 3") == lettering.Lettered("train: cat 3", None)
        assert lettered("кот: 3") == lettering.Lettered("кот: 3", fonts[0])
        assert lettered("猫 é 3") == lettering.Lettered("\\u732b é 3", fonts[0])
    finally:
        lettered.cache_clear()


def test_font_that_has_the_letters_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"plain.ttf": frozenset(map(ord, "abc")), "other.ttf": frozenset(map(ord, "abc猫"))}
    monkeypatch.setattr(lettering, "_fonts", lambda: tuple(known))
    monkeypatch.setattr(lettering, "_letters", known.__getitem__)
    lettered.cache_clear()
    try:
        assert lettered("猫 a") == lettering.Lettered("猫 a", "other.ttf")
    finally:
        lettered.cache_clear()


def test_figures_are_written_in_a_font_that_has_the_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import matplotlib as mpl
    from matplotlib import font_manager

    font = SimpleNamespace(family_name="A Font of Cats")
    monkeypatch.setattr(lettering, "_fonts", lambda: ("plain.ttf", "cats.ttf"))
    monkeypatch.setattr(lettering, "lettered", lambda text: lettering.Lettered(text, "cats.ttf"))
    monkeypatch.setattr(font_manager, "get_font", lambda path: font)
    with mpl.rc_context():
        assert [in_figure("猫"), in_figure("猫")] == ["猫", "猫"]
        assert mpl.rcParams["font.family"].count("A Font of Cats") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data", "audit", "no\udce9where"], "error: no\\xe9where: no such folder"),
        (["data", "audit", "a\x1b[31m\nb"], "error: a\\x1b[31m\\x0ab: no such folder"),
    ],
)
def test_errors_are_one_line_whatever_is_named(arguments: list[str], says: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == 1


def test_names_that_people_take_for_the_same_are_one_class(photo_folder: Path) -> None:
    cats = sorted((photo_folder / "Cat").iterdir())
    for number, name in enumerate(("Bébé", "be\u0301be\u0301", "Bébé")):
        folder = photo_folder / f"train{number}" / name
        folder.mkdir(parents=True)
        for photo in cats[number::3]:
            photo.rename(folder / photo.name)
    assert set(open_source(str(photo_folder)).class_names) == {"Bébé", "Dog"}
