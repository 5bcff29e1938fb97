"""Choices about photos: given, remembered by a study, or said by its file."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from tiny_study import TABLE

from catdog_search import studies
from catdog_search.config import DataConfig
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.places import State
from catdog_search.search.storage import open_study, remembered_data


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


def test_study_remembers_its_choices_and_refuses_others(pictures: Dataset, state: State) -> None:
    def opened(data: DataConfig) -> None:
        config = studies.parse(TABLE, "t").model_copy(update={"data": data})
        study = open_study(state, config, pictures, RandomSampler(), NopPruner())
        assert study.study_name == "tiny"

    assert remembered_data(state, "tiny") is None
    opened(DataConfig(duplicates="exact"))
    assert remembered_data(state, "tiny") == {"duplicates": "exact"}
    opened(DataConfig().chosen({"duplicates": None}, remembered_data(state, "tiny")))
    with pytest.raises(StateError, match=r'data was \{"duplicates": "exact"\}, now absent'):
        opened(DataConfig())
