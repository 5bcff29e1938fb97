"""Commands that read, called where no state is: they make nothing, and say where they looked."""

from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tiny_study import SPACE_FILE, call

from catdog_search import identity
from catdog_search.places import StateFolder

READING = [
    ["models", "catdog"],
    ["show", "--study", "tiny"],
    ["compare"],
    ["compare", "tiny"],
    ["ui"],
    ["evaluate", "catdog", "--split", "val"],
    ["evaluate", "run:abc", "--split", "val"],
    ["predict", "catdog", "photo.jpg"],
    ["model", "export", "catdog", "--to", "x.onnx"],
    ["promote", "--study", "tiny", "--yes"],
    ["rollback", "--reason", "worse"],
    ["relocate"],
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder whose state holds a study, as far as its neighbours can see."""
    folder = tmp_path / "a project" / identity.DEFAULT_NAME
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / identity.OPTUNA_DB)) as connection:
        connection.execute("create table t (x)")
    return folder.parent


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_command_in_the_wrong_folder_makes_nothing_and_says_so(
    command: list[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = project / "src"
    here.mkdir()
    monkeypatch.chdir(here)
    said = call(*command, code=1).output
    assert list(here.iterdir()) == []
    assert "bug" not in said
    assert str(here / identity.DEFAULT_NAME) in said
    assert f"--state {shlex.quote(str(project / identity.DEFAULT_NAME))}" in said


def test_models_and_doctor_in_the_wrong_folder_say_so_and_make_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.parent)
    for command in ("models", "doctor"):
        assert f"--state '{project / identity.DEFAULT_NAME}'" in call(command).output
    assert list(project.parent.iterdir()) == [project]


def test_store_that_somebody_else_names_is_not_made_by_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none' / 'at.db'}")
    for command in (["ui"], ["predict", "catdog", "x.jpg"], ["evaluate", "m", "--split", "val"]):
        assert "isn't there; MLFLOW_TRACKING_URI names it" in call(*command, code=1).output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("at", "state"),
    [
        ("a/b/mlruns", "mlruns"),  # above
        ("mlruns", "a/mlruns"),  # below
        ("mlruns", "old"),  # beside, under another name
        ("a", "a/mlruns"),  # in the folder that was named
        ("a/mlruns", "a"),  # asked for within the state
    ],
)
def test_state_nearby_is_found(tmp_path: Path, at: str, state: str) -> None:
    (tmp_path / state).mkdir(parents=True)
    (tmp_path / state / identity.OPTUNA_DB).touch()
    assert identity.nearby(tmp_path / at)[0] == tmp_path / state
    assert str(tmp_path / state) in StateFolder(tmp_path / at).nothing


def test_state_without_studies_and_the_folder_itself_are_not_nearby(tmp_path: Path) -> None:
    for name, file in (("mlruns", identity.OPTUNA_DB), ("b", identity.MLFLOW_DB)):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    found = identity.nearby(tmp_path / "mlruns")
    assert [path for path in found if path.is_relative_to(tmp_path)] == []


def test_copies_of_a_states_databases_are_no_state(project: Path) -> None:
    state = project / identity.DEFAULT_NAME
    copies = state / "copies"
    copies.mkdir()
    (copies / identity.OPTUNA_DB).write_bytes((state / identity.OPTUNA_DB).read_bytes())
    assert copies not in identity.nearby(state / "artifacts")
    for command in (["study", "list"], ["show", "tiny"], ["run", "quick"]):
        said = call(*command, "--state", str(copies), code=1).output
        assert f"which is the folder above: --state {shlex.quote(str(state))}" in said
    assert [path.name for path in copies.iterdir()] == [identity.OPTUNA_DB]


@pytest.mark.parametrize(
    ("data", "environment", "says"),
    [
        (
            'path = "nope.zip"',
            "",
            "error: [data] path: nope.zip: no such folder or zip of photos in ",
        ),
        ("", "nope", "error: CATDOG_DATA: nope: no such folder or zip of photos in "),
    ],
)
def test_photos_that_are_not_there_are_told_with_who_named_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, environment: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CATDOG_DATA", environment)
    head = 'name = "t"\npurpose = "p"\nimage_size = 16\nmetric = "val_accuracy"\n'
    tables = f"direction = 'maximize'\ntrials = 1\n{SPACE_FILE}\n[data]\n{data}\n"
    (tmp_path / "t.toml").write_text(head + tables)
    said = call("run", "t.toml", code=1).output
    assert said.splitlines()[-1] == f"{says}{tmp_path}"
