"""Choices about photos: given, remembered by a study, or said by its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from tiny_study import TABLE

from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError, StudyFileError
from catdog_search.places import StateFolder
from catdog_search.search.study.storage import open_study, remembered_data
from catdog_search.study import studies
from catdog_search.study.config import DataConfig


@pytest.mark.parametrize(
    ("in_file", "option", "remembered", "expected"),
    [
        ("near", None, None, "near"),
        ("exact", None, None, "exact"),
        ("exact", "off", None, "off"),
        ("near", None, {"duplicates": "exact"}, "exact"),
        ("exact", None, {}, "near"),
        ("near", "off", {"duplicates": "exact"}, "off"),
    ],
)
def test_option_goes_before_what_the_study_remembers_and_that_before_its_file(
    in_file: Any, option: str | None, remembered: dict[str, Any] | None, expected: str
) -> None:
    config = DataConfig(duplicates=in_file)
    assert config.chosen({"duplicates": option}, remembered).duplicates == expected


def test_only_choices_that_are_not_the_default_are_remembered() -> None:
    assert DataConfig().remembered() == {}
    assert DataConfig(duplicates="off").remembered() == {"duplicates": "off"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"classes": "cats=cat, dogs = dog"}, {"classes": "dogs=dog,cats=cat"}),
        ({"classes": "cats,dogs"}, {"classes": "dogs=dogs,cats"}),
        ({"labels": "labels.csv"}, {"labels": str(Path("labels.csv").absolute())}),
    ],
)
def test_choices_that_mean_the_same_are_the_same(one: Any, other: Any) -> None:
    assert DataConfig(**one) == DataConfig(**other)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"classes": "cats"}, "[data] classes: 'cats' is not allowed; it must be a text: which"),
        ({"classes": "cats=,dogs"}, "[data] classes: 'cats=,dogs' is not allowed"),
        ({"labels": ""}, "[data] labels: '' is not allowed; it must be a text: what labels are"),
        ({"keep_splits": 1}, "[data] keep_splits: 1 is not allowed; it must be true or false"),
        ({"keep_split": True}, "[data] keep_split: unknown; did you mean 'keep_splits'?"),
    ],
)
def test_choices_in_a_study_file_are_checked(data: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError) as refused:
        studies.parse({**TABLE, "data": data}, "t")
    assert says in str(refused.value)


def open_with(data: DataConfig, pictures: Dataset, state: StateFolder) -> None:
    config = studies.parse(TABLE, "t").model_copy(update={"data": data})
    open_study(state, config, pictures, RandomSampler(), NopPruner())


@pytest.mark.parametrize(
    "data",
    [
        DataConfig(labels="names"),
        DataConfig(labels="labels.csv"),
        DataConfig(classes="cats=cat,dogs=dog"),
        DataConfig(keep_splits=True),
        DataConfig(labels="folders", classes="cats,dogs", keep_splits=True),
    ],
)
def test_resume_without_options_keeps_every_choice(
    data: DataConfig, pictures: Dataset, state: StateFolder
) -> None:
    open_with(data, pictures, state)
    nothing = dict.fromkeys(DataConfig.REMEMBERED)
    again = DataConfig().chosen(nothing, remembered_data(state, "tiny"))
    assert again == data
    open_with(again, pictures, state)
    with pytest.raises(StateError, match="could not be compared"):
        open_with(DataConfig(classes="a=x,b=y"), pictures, state)


def test_study_made_without_choices_refuses_them_by_name(
    pictures: Dataset, state: StateFolder
) -> None:
    open_with(DataConfig(), pictures, state)
    with pytest.raises(StateError, match=r'data\.labels was not set, now "names"'):
        open_with(DataConfig(labels="names"), pictures, state)


def test_file_of_labels_may_move(pictures: Dataset, state: StateFolder) -> None:
    """What it says is part of the dataset's digest."""
    open_with(DataConfig(labels="labels.csv"), pictures, state)
    open_with(DataConfig(labels="moved/labels.csv"), pictures, state)
    moved = {"labels": str(Path("moved/labels.csv").absolute())}
    assert remembered_data(state, "tiny") == moved
    with pytest.raises(StateError, match=r"data\.labels was .*csv\", now \"names\""):
        open_with(DataConfig(labels="names"), pictures, state)


def test_study_remembers_its_choices_and_refuses_others(
    pictures: Dataset, state: StateFolder
) -> None:
    def opened(data: DataConfig) -> None:
        config = studies.parse(TABLE, "t").model_copy(update={"data": data})
        study = open_study(state, config, pictures, RandomSampler(), NopPruner())
        assert study.study_name == "tiny"

    assert remembered_data(state, "tiny") is None
    opened(DataConfig(duplicates="exact"))
    assert remembered_data(state, "tiny") == {"duplicates": "exact"}
    opened(DataConfig().chosen({"duplicates": None}, remembered_data(state, "tiny")))
    with pytest.raises(StateError, match=r'data\.duplicates was "exact", now "near"'):
        opened(DataConfig())
