"""Copies of the stores: made as trials end, and brought back where a store lost what they know."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest
from click.testing import CliRunner
from tiny_study import assert_stores_agree, run

from catdog_search import sqlite
from catdog_search.cli import main
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.events import Event, TrialEnded, TrialStarted
from catdog_search.search.study import schema
from catdog_search.search.study.copies import lost


def delete_trial(state: StateFolder) -> None:
    with closing(sqlite3.connect(state.optuna_db)) as connection, connection:
        connection.execute("delete from trials where number = 1")


def delete_study(state: StateFolder) -> None:
    with closing(sqlite3.connect(state.optuna_db)) as connection, connection:
        for table in ("trials", "studies"):
            connection.execute(f"delete from {table}")


def change_value(state: StateFolder) -> None:
    with closing(sqlite3.connect(state.optuna_db)) as connection, connection:
        connection.execute("update trial_values set value = 0.9999")


def empty(state: StateFolder) -> None:
    state.optuna_db.write_bytes(b"")


def test_every_trial_that_ended_is_in_the_copy_before_the_next_begins(
    state: StateFolder, pictures: Dataset
) -> None:
    known: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialStarted) and event.number:
            with closing(sqlite3.connect(sqlite.kept_copy(state.optuna_db))) as connection:
                done = "select count(*) from trials where state = 'COMPLETE'"
                known.append(connection.execute(done).fetchone()[0])
        assert not isinstance(event, TrialEnded) or sqlite.kept_copy(state.optuna_db).exists()

    run(state, pictures, 3, listener=listen)
    assert known == [1, 2]
    assert sqlite.damage(sqlite.kept_copy(state.mlflow_db), thorough=True) is None


@pytest.mark.parametrize("damage", [delete_trial, delete_study, change_value, empty])
def test_run_refuses_what_lost_trials_and_the_cure_brings_them_back(
    state: StateFolder, pictures: Dataset, damage: Callable[[StateFolder], None]
) -> None:
    before = run(state, pictures, 2).view
    damage(state)
    with pytest.raises(StateError, match="brings back its copy of") as caught:
        run(state, pictures, 3)
    cure = str(caught.value).split("`")[1]
    done = CliRunner().invoke(main, shlex.split(cure)[1:])
    assert done.exit_code == 0, done.output
    assert [p.name for p in state.root.glob("optuna.db.damaged-*-0")] != []
    after = run(state, pictures, 3).view
    assert [row.value for row in after.trials[:2]] == [row.value for row in before.trials]
    assert_stores_agree(state)


def test_row_that_changed_is_for_the_doctor_and_stops_no_run(
    state: StateFolder, pictures: Dataset
) -> None:
    run(state, pictures, 2)
    with closing(sqlite3.connect(state.optuna_db)) as connection, connection:
        connection.execute("delete from trial_user_attributes where key = ?", (schema.SCORES,))
    assert lost(state, "tiny") == []
    (line,) = lost(state, thorough=True)
    assert "trial 0, trial 1 of the copy are not there" in line
    assert run(state, pictures, 3).view.finished == 3


def test_state_without_copies_goes_on(state: StateFolder, pictures: Dataset) -> None:
    run(state, pictures, 1)
    for store in (state.optuna_db, state.mlflow_db):
        sqlite.kept_copy(store).unlink()
    assert run(state, pictures, 2).view.finished == 2
    assert sqlite.kept_copy(state.optuna_db).exists()
