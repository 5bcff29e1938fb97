"""From what a call asks for to what a study runs with, below the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fake_training import FakeTrainer
from tiny_study import TABLE

from catdog_search.errors import (
    BackendError,
    CatdogError,
    DataError,
    RequestError,
    StateError,
    StudyFileError,
)
from catdog_search.places import StateFolder
from catdog_search.search.coordinator import run_study
from catdog_search.search.prepare import Prepared, Request, prepare
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig
from catdog_search.training.execution import ForcedExecution

DRAWN = {"source": "synthetic", "synthetic_n": 100}
FILED = """name = "filed"
purpose = "A study with a file."
image_size = 8
metric = "val_accuracy"
direction = "maximize"
trials = 1
training = { epochs = 2 }
space = { filters = { choices = [4, 8] }, n_blocks = 1, dense_units = 0 }
"""


def tiny(**more: Any) -> StudyConfig:
    return studies.parse({**TABLE, "data": DRAWN, **more}, "tiny.toml")


def silently(state: StateFolder, study: StudyConfig | None = None, **asked: Any) -> Prepared:
    return prepare(Request(study or tiny(), state, **asked), lambda line: None)


def run(prepared: Prepared) -> None:
    options = dataclasses.replace(prepared.options, trainer=FakeTrainer)
    run_study(prepared.config, prepared.dataset, prepared.state, lambda event: None, options)


def test_prepare_packs_every_size_and_says_what_it_found(state: StateFolder) -> None:
    space = {**TABLE["space"], "image_size": {"choices": [8, 12]}}
    recipe = {**TABLE["recipes"]["plain"], "image_size": 8}
    said: list[str] = []
    study = tiny(space=space, recipes={"plain": recipe})
    prepared = prepare(Request(study, state), said.append)
    assert prepared.state.root.is_dir()
    assert (prepared.dataset.image_size, len(prepared.dataset.manifest.photos)) == (8, 100)
    assert dataclasses.replace(prepared.dataset, image_size=12).is_there()
    assert said[0] == "study tiny: A study for tests."
    assert said[1].startswith("data: built-in drawn pictures")
    assert said[-1] == f"state: {state.root}"
    assert any(line.startswith("dataset: 100 cat and dog: train 70") for line in said)


@pytest.mark.parametrize(
    ("asked", "wanted"), [({}, 3), ({"seeds": 3}, 5), ({"trials": 2, "seeds": 3}, 2)]
)
def test_wanted_trials_count_every_seed_of_a_recipe(
    state: StateFolder, asked: dict[str, int], wanted: int
) -> None:
    assert silently(state, **asked).wanted == wanted


def test_study_goes_on_with_the_choices_that_it_began_with(state: StateFolder) -> None:
    run(silently(state, duplicates="exact", trials=1))
    said: list[str] = []
    prepared = prepare(Request(tiny(), state), said.append)
    assert prepared.config.data.duplicates == "exact"
    assert "duplicates: exact, as the study began" in said
    run(prepared)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('duplicates = "off"', 'data.duplicates was "near", now "off"'),
        ('duplicates = "exact"', 'data.duplicates was "near", now "exact"'),
    ],
)
def test_choice_of_photos_that_has_changed_in_the_file_is_refused(
    state: StateFolder, tmp_path: Path, line: str, told: str
) -> None:
    path = tmp_path / "filed.toml"

    def go_on(data: str, **options: Any) -> None:
        path.write_text(f'{FILED}[data]\nsource = "synthetic"\nsynthetic_n = 60\n{data}\n')
        run(prepare(Request(str(path), state, **options), lambda line: None))

    go_on("")
    with pytest.raises(StateError, match="other choices make other splits") as caught:
        go_on(line)
    assert told in str(caught.value)
    # An option of the first call counts more than what the file has said all along.
    go_on("", trials=2)


def test_photos_are_made_again_as_they_were_prepared(state: StateFolder) -> None:
    prepared = silently(state, subset=20)
    assert prepared.options.remake is not None
    again = prepared.options.remake()
    assert (again.digest, again.subset) == (prepared.dataset.digest, 20)


def test_study_file_is_kept_as_it_was_read(state: StateFolder, study_file: Any) -> None:
    path = study_file()
    said: list[str] = []
    prepared = prepare(Request(str(path), state), said.append)
    assert prepared.options.study_file == path.read_text(encoding="utf-8")
    assert said[0] == f"study tiny ({path}): A study for tests."


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"study": "no-such"}, StudyFileError, "no study named 'no-such'"),
        ({"weights": "imagenet"}, RequestError, "cnn, which starts random; only resnet50 and any"),
        ({"study": tiny(family="any", image_size=32, space={"network": "resnet50"}, recipes={}),
          "weights": "no.h5"}, DataError, "no such file"),
        ({"data": "no-such-folder"}, DataError, "no such folder or zip"),
        ({"forced": ForcedExecution(steps_per_call=4)}, BackendError, "one step a call on PyTorch"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_before_anything_is_packed(
    asked: dict[str, Any],
    error: type[CatdogError],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("catdog_search.search.prepare.choose_backend", lambda: "torch")
    said: list[str] = []
    with pytest.raises(error, match=says):
        prepare(Request(**{"study": tiny(), "state": StateFolder.at(str(tmp_path / "s")), **asked}),
                said.append)  # fmt: skip
    assert not any(line.startswith("packing") for line in said)
    assert not (tmp_path / "s").exists()
