"""The champion's file in the state folder: replaced whole, by what was tried, or left as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_onnx

from catdog_search.answering.facts import ModelFacts, ScoreOnTest
from catdog_search.answering.runtime import OnnxModel
from catdog_search.errors import StateError
from catdog_search.exporting import served, watch
from catdog_search.exporting.served import refresh, why_not_served, write_whole
from catdog_search.places import StateFolder
from catdog_search.tracking.looked_at import Fetched
from catdog_search.tracking.models import ONNX_FILE

SCORE = ScoreOnTest(accuracy=0.9, low=0.88, high=0.92, n=900, looks=1)


class Registry:
    """Stands in for MLflow's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.state = StateFolder.at(str(folder / "state"))
        self.store: Any = SimpleNamespace(client=lambda: None)
        self.asked: list[str] = []
        self.downloaded: list[str] = []
        monkeypatch.setattr(served, "fetch", self._fetch)

    def promote(self, version: int, content: bytes | None = None, **facts: Any) -> None:
        self._path = self._folder / f"{version}.onnx"
        self._path.write_bytes(tiny_onnx.content() if content is None else content)
        said = {"name": "pets", "version": version, "model_id": f"m-{version}", "test": SCORE}
        self._facts = tiny_onnx.facts(**{**said, **facts})

    def _fetch(self, client: Any, name: str, folder: Path) -> Fetched:
        self.asked.append(name)

        def find(file: str) -> Path | None:
            self.downloaded.append(file)
            return self._path if file == ONNX_FILE and self._path.exists() else None

        return Fetched(name, f"models:/{name}", "r", "m", self._facts, find)

    def facts(self) -> ModelFacts:
        return OnnxModel.open(self.state.served("pets")).facts


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return Registry(tmp_path, monkeypatch)


def test_champion_is_put_where_it_is_served_from(registry: Registry) -> None:
    registry.promote(3)
    assert refresh(registry.state, registry.store, "pets") is True
    assert registry.asked == ["pets@champion"]
    facts = registry.facts()
    assert (facts.version, facts.test, len(facts.examples)) == (3, SCORE, 3)


def test_one_that_is_there_is_left(registry: Registry) -> None:
    registry.promote(3)
    refresh(registry.state, registry.store, "pets")
    before = registry.state.served("pets").stat()
    registry.downloaded.clear()
    assert refresh(registry.state, registry.store, "pets") is False
    assert registry.state.served("pets").stat().st_ino == before.st_ino
    assert registry.downloaded == []  # whoever watches asks every few seconds


@pytest.mark.parametrize("left", [b"", b"half", tiny_onnx.content()[:-9]])
def test_file_that_is_damaged_is_replaced(left: bytes, registry: Registry) -> None:
    registry.promote(3)
    refresh(registry.state, registry.store, "pets")
    registry.state.served("pets").write_bytes(left)
    assert refresh(registry.state, registry.store, "pets") is True
    assert registry.facts().version == 3


def test_other_champion_takes_its_place(registry: Registry) -> None:
    for version in (3, 4, 3):
        registry.promote(version)
        assert refresh(registry.state, registry.store, "pets") is True
        assert registry.facts().version == version


def test_one_that_fails_its_examples_stays_out(registry: Registry) -> None:
    registry.promote(3)
    refresh(registry.state, registry.store, "pets")
    (example, *_) = OnnxModel(tiny_onnx.content(), "tiny").facts.examples
    wrong = (example.model_copy(update={"probability": 0.5}),)
    registry.promote(4, tiny_onnx.content(examples=wrong))
    with pytest.raises(StateError, match=r"m-4: says 0\.5 else of its example 0"):
        refresh(registry.state, registry.store, "pets")
    assert registry.facts().version == 3


def test_one_without_onnx_is_only_converted_where_that_is_wanted(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote(3)
    registry._path.unlink()
    why = why_not_served(registry.state, registry.store, "pets")
    assert why == "version 3 of 'pets' has no ONNX file"
    made = served.OnnxFile(tiny_onnx.content(version=3), None)  # type: ignore[arg-type]
    monkeypatch.setattr(served, "convert", lambda fetched: made)
    assert refresh(registry.state, registry.store, "pets") is True
    assert registry.facts().version == 3


def test_promotion_that_cannot_serve_says_why(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote(3)
    assert why_not_served(registry.state, registry.store, "pets") is None
    (registry.state.root / "served" / "pets.onnx").unlink()
    (registry.state.root / "served").rmdir()
    (registry.state.root / "served").write_text("no folder")
    why = why_not_served(registry.state, registry.store, "pets")
    assert why is not None
    assert "can't be written: " in why


def test_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a" / "m.onnx"
    write_whole(path, b"first")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(served.os, "fsync", full)
    with pytest.raises(StateError, match="No space left on device"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert [each.name for each in path.parent.iterdir()] == ["m.onnx"]


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".m.onnx.{gone.pid}.partial"
    others = [
        tmp_path / f".m.onnx.{os.getppid()}.partial",
        tmp_path / f".x.onnx.{gone.pid}.partial",
    ]
    for path in (left, *others):
        path.write_bytes(b"half")
    write_whole(tmp_path / "m.onnx", b"whole")
    assert {*tmp_path.iterdir()} == {tmp_path / "m.onnx", *others}


@pytest.mark.parametrize("name", ["catdog", "my pets", "ä" * 200, ".."])
def test_every_name_has_a_file_in_the_folder(name: str, tmp_path: Path) -> None:
    state = StateFolder.at(str(tmp_path))
    path = state.served(name)
    assert path.parent == state.root / "served"
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


def test_watcher_says_what_changes_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = iter([True, False, False, StateError("gone"), StateError("gone"), True])

    def step(*_: object) -> bool:
        outcome = next(outcomes, None)
        if outcome is None:
            raise KeyboardInterrupt
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(watch, "refresh", step)
    with pytest.raises(KeyboardInterrupt):
        watch.watch(StateFolder.at(str(tmp_path)), "pets", every=0)
    assert capsys.readouterr().err.splitlines() == [
        "champion of pets: put in its place",
        "champion of pets: gone",
        "champion of pets: put in its place",
    ]


def test_watcher_ends_with_who_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "catdog_search.exporting.watch", "--model", "pets"]
    with subprocess.Popen(
        [*command, "--state", str(tmp_path), "--every", "0.1"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert b"champion of pets: no state in " in process.stderr.readline()
        process.stdin.close()
        assert process.wait(20) == 0
