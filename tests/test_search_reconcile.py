"""Stores that were made to disagree: what doctor says, and what it mends."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest
from click.testing import CliRunner
from tiny_study import assert_stores_agree, mlflow_children, run

from catdog_search.cli import main
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StudyLockedError
from catdog_search.places import State, file_lock
from catdog_search.search import history
from catdog_search.search.history import StudyView
from catdog_search.search.reconcile import reconcile
from catdog_search.tracking.store import Store


def reopen(state: State, view: StudyView) -> str:
    Store.of(state).client().update_run(view.trials[1].run_id, status="RUNNING")
    return "its run"


def delete_run(state: State, view: StudyView) -> str:
    Store.of(state).client().delete_run(view.trials[1].run_id)
    return "trial 1 is COMPLETE in Optuna, and its run"


def lose_run(state: State, view: StudyView) -> str:
    with closing(sqlite3.connect(state.mlflow_db)) as connection, connection:
        connection.execute(
            "update tags set value = 'other' where key = ? and run_uuid = ?",
            ("mlflow.parentRunId", view.trials[1].run_id),
        )
    return "trial 1 is COMPLETE in Optuna and has no run in MLflow"


def trash_experiment(state: State, view: StudyView) -> str:
    client = Store.of(state).client()
    client.delete_experiment(client.get_run(view.parent_run_id).info.experiment_id)
    return "is in MLflow's trash"


def change_value(state: State, view: StudyView) -> str:
    client = Store.of(state).client()
    client.log_metric(view.trials[1].run_id, "objective", 0.123, step=7)
    return "has the value"


def add_stranger(state: State, view: StudyView) -> str:
    client = Store.of(state).client()
    parent = client.get_run(view.parent_run_id)
    tags = {"mlflow.parentRunId": parent.info.run_id, "trial": "9"}
    client.create_run(parent.info.experiment_id, tags=tags)
    return "of trial 9 is RUNNING"


def lose_everything(state: State, view: StudyView) -> str:
    with closing(sqlite3.connect(state.mlflow_db)) as connection, connection:
        connection.execute("update runs set lifecycle_stage = 'deleted'")
    return f"run {view.parent_run_id} of the study is in MLflow's trash"


def lose_the_study(state: State, view: StudyView) -> str:
    with closing(sqlite3.connect(state.mlflow_db)) as connection, connection:
        connection.execute("update tags set value = 'other' where key = 'study_uid'")
    return "2 trials in Optuna, and no run in"


def leave_checkpoint(state: State, view: StudyView) -> str:
    (state.scratch("tiny") / "trial-0001.checkpoint.npz").write_bytes(b"x")
    return "trial-0001.checkpoint.npz is of a trial that is over"


def forget_model(state: State, view: StudyView) -> str:
    shutil.rmtree(state.root / "copies")  # or the new row would be told as damage
    study = history.load_study(state, "tiny")
    with closing(sqlite3.connect(state.optuna_db)) as connection, connection:
        connection.execute(
            "insert into trial_user_attributes (trial_id, key, value_json) values (?, ?, ?)",
            (study.get_trials()[1]._trial_id, history.MODEL_ID, '"m-gone"'),
        )
    return "trial 1 should keep the model m-gone, which is gone"


@pytest.mark.parametrize(
    "damage",
    [
        reopen,
        delete_run,
        lose_run,
        trash_experiment,
        lose_the_study,
        change_value,
        add_stranger,
        lose_everything,
        leave_checkpoint,
        forget_model,
    ],
)
def test_damage_is_said_left_alone_and_mended_on_request(
    state: State, pictures: Dataset, damage: Callable[[State, StudyView], str]
) -> None:
    view = run(state, pictures, 2).view
    assert reconcile(state, "tiny", repair=False) == []
    says = damage(state, view)
    runner = CliRunner()
    looked = runner.invoke(main, ["doctor", "--state", str(state.root)])
    assert looked.exit_code == 1
    assert "differs" in looked.output
    assert says in looked.output
    assert "mend: " in looked.output
    (finding,) = reconcile(state, "tiny", repair=False)
    mended = runner.invoke(main, ["doctor", "--repair", "--json", "--state", str(state.root)])
    assert mended.exit_code == 0, mended.output
    assert json.loads(mended.output)["findings"][0]["text"].endswith(finding.text)
    again = runner.invoke(main, ["doctor", "--state", str(state.root)])
    assert "ok    stores: Optuna and MLflow agree" in again.output
    assert_stores_agree(state)
    assert len(mlflow_children(state, history.view(state, "tiny"))) >= 2


def test_repaired_study_goes_on(state: State, pictures: Dataset) -> None:
    view = run(state, pictures, 2).view
    lose_everything(state, view)
    reconcile(state, "tiny", repair=True)
    after = run(state, pictures, 3).view
    assert after.counts == {"COMPLETE": 3}
    assert after.best is not None
    assert [row.value for row in after.trials[:2]] == [row.value for row in view.trials]
    assert_stores_agree(state)


def test_running_study_is_left_alone(state: State, pictures: Dataset) -> None:
    run(state, pictures, 1)
    with (
        file_lock(state.scratch("tiny") / "coordinator.lock"),
        pytest.raises(StudyLockedError, match="is running"),
    ):
        reconcile(state, "tiny", repair=True)
