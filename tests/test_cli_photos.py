"""What `run`, `show` and `compare` say of the photos, with a stand-in for training."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_training import FakeTrainer
from warm_workers import blank_figures, warm_workers

from catdog_search import cli
from catdog_search.places import StateFolder
from catdog_search.search import coordinator


@pytest.fixture
def call(
    state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Calls a command on one state, one cache, and a stand-in for training."""
    real = coordinator.run_study

    def run_study(*study: Any) -> Any:
        *others, options = study
        return real(*others, dataclasses.replace(options, trainer=FakeTrainer))

    monkeypatch.setattr(coordinator, "run_study", run_study)
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CATDOG_STATE", str(state.root))
    monkeypatch.chdir(tmp_path)
    with warm_workers(), blank_figures():
        yield lambda *arguments: CliRunner().invoke(cli.main, [str(each) for each in arguments])


@pytest.fixture
def few_dogs(photo_folder: Path) -> Path:
    for path in sorted((photo_folder / "Dog").glob("*.ppm"))[12:]:
        path.unlink()
    return photo_folder


def test_study_goes_on_with_its_choices_and_splits_and_shows_the_floor(
    call: Callable[..., Result], few_dogs: Path, study_file: Callable[..., Path]
) -> None:
    metric = {'metric = "val_accuracy"': 'metric = "val_balanced_accuracy"'}
    run = ["run", "--study", study_file(swap=metric), "--data", few_dogs]
    first = call(*run, "--trials", 1, "--duplicates", "exact")
    assert first.exit_code == 0, first.output
    assert " on val; always 'Cat' scores 0.5000\n" in first.output

    gc.collect()  # the call's objects hold its photos; a process of its own would have ended
    assert "removed 1 datasets" in call("data", "cache", "--clear").output
    second = call(*run, "--trials", 2)
    assert second.exit_code == 0, second.output
    assert "duplicates: exact, as the study began" in second.output
    refused = call(*run, "--trials", 3, "--duplicates", "near")
    assert refused.exit_code == 1
    assert 'data.duplicates was "exact", now "near"' in refused.output

    assert "floor: always 'Cat' scores 0.5000" in call("show", "--study", "tiny").output
    one = call("show", "--study", "tiny", "--trial", 0).output
    assert "(always 'Cat' scores 0.5000)" in one
    assert "majority class: always 'Cat'" in call("compare").output


def test_corrupt_photos_are_said_and_left_out(
    call: Callable[..., Result], photo_folder: Path, study_file: Callable[..., Path]
) -> None:
    (photo_folder / "Dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    path = study_file(swap={"trials = 3": "trials = 1", "epochs = 2": "epochs = 1"})
    done = call("run", "--study", path, "--data", photo_folder)
    assert done.exit_code == 0, done.output
    assert "left out: Dog/broken.jpg: " in done.stdout
    assert "dataset: 100 Cat and Dog: " in done.stdout
    assert "drawn pictures" not in done.stdout
