"""Optuna's storage: made safely, refused in one line, and what differs between two settings."""

from __future__ import annotations

import multiprocessing as mp
from pathlib import Path
from typing import Any

import optuna
import pytest

from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.study.settings import differences
from catdog_search.search.study.storage import existing_studies, load_study, open_storage


def open_and_use(root: str) -> None:
    storage = open_storage(StateFolder.at(root))
    optuna.create_study(storage=storage, study_name="s", load_if_exists=True)


def test_open_storage_is_safe_against_four_cold_processes(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    processes = [context.Process(target=open_and_use, args=(str(tmp_path),)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert existing_studies(StateFolder.at(str(tmp_path))) == ["s"]


def test_storage_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_bytes(b"not a database, though long enough " * 100)
    with pytest.raises(StateError, match=r"optuna.db: file is not a database; no copy") as caught:
        open_storage(StateFolder.at(str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_load_study_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"no study 's': no state in "):
        load_study(StateFolder.at(str(tmp_path)), "s")
    assert list(tmp_path.iterdir()) == []


def test_load_study_names_the_near_one(tmp_path: Path) -> None:
    open_and_use(str(tmp_path))
    with pytest.raises(StateError, match="did you mean 's'"):
        load_study(StateFolder.at(str(tmp_path)), "ss")


@pytest.mark.parametrize(
    ("then", "now", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a was 1, now 2"]),
        ({"space": {"x": {"low": 1}}}, {"space": {"x": {"low": 2}}}, ["space.x.low was 1, now 2"]),
        ({"space": {"x": 1}}, {"space": {}}, ["space.x was 1, now not set"]),
        ({"space": {}}, {"space": {"x": 1}}, ["space.x was not set, now 1"]),
        ({"recipes": {}}, {"recipes": {"r": {"x": 1}}}, []),
        ({"recipes": {"r": {"x": 1}}}, {"recipes": {}}, ['recipes.r was {"x": 1}, now not set']),
        (
            {"recipes": {"r": {"x": 1}}},
            {"recipes": {"r": {"x": 2}}},
            ["recipes.r.x was 1, now 2"],
        ),
    ],
)
def test_differences_names_every_leaf_that_changed(
    then: dict[str, Any], now: dict[str, Any], lines: list[str]
) -> None:
    assert list(map(str, differences(then, now))) == lines
