"""Stores that were made to disagree: what doctor says, and what it mends."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_study import assert_stores_agree, call, listing, mlflow_children, register_best, run

from catdog_search import identity
from catdog_search.cli import main
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError, StudyLockedError
from catdog_search.places import StateFolder, file_lock
from catdog_search.search.study import schema, views
from catdog_search.search.study.reconcile import reconcile
from catdog_search.search.study.views import StudyView
from catdog_search.tracking.store import Store


def reopen(state: StateFolder, view: StudyView) -> str:
    Store.of(state).client().update_run(view.trials[1].run_id, status="RUNNING")
    return "its run"


def delete_run(state: StateFolder, view: StudyView) -> str:
    Store.of(state).client().delete_run(view.trials[1].run_id)
    return "trial 1 is COMPLETE in Optuna, and its run"


def lose_run(state: StateFolder, view: StudyView) -> str:
    with closing(sqlite3.connect(state.mlflow_db)) as connection, connection:
        connection.execute(
            "update tags set value = 'other' where key = ? and run_uuid = ?",
            ("mlflow.parentRunId", view.trials[1].run_id),
        )
    return "trial 1 is COMPLETE in Optuna and has no run in MLflow"


def trash_experiment(state: StateFolder, view: StudyView) -> str:
    client = Store.of(state).client()
    client.delete_experiment(client.get_run(view.parent_run_id).info.experiment_id)
    return "is in MLflow's trash"


def change_value(state: StateFolder, view: StudyView) -> str:
    client = Store.of(state).client()
    client.log_metric(view.trials[1].run_id, "objective", 0.123, step=7)
    return "has the value"


def add_stranger(state: StateFolder, view: StudyView) -> str:
    client = Store.of(state).client()
    parent = client.get_run(view.parent_run_id)
    tags = {"mlflow.parentRunId": parent.info.run_id, "trial": "9"}
    client.create_run(parent.info.experiment_id, "stranger", tags)
    return "of trial 9 is RUNNING"


def lose_everything(state: StateFolder, view: StudyView) -> str:
    with closing(sqlite3.connect(state.mlflow_db)) as connection, connection:
        connection.execute("update runs set lifecycle_stage = 'deleted'")
    return f"run {view.parent_run_id} of the study is in MLflow's trash"


def lose_the_study(state: StateFolder, view: StudyView) -> str:
    with closing(sqlite3.connect(state.mlflow_db)) as connection, connection:
        connection.execute("update tags set value = 'other' where key = 'study_uid'")
    return "2 trials in Optuna, and no run of the study in"


def leave_checkpoint(state: StateFolder, view: StudyView) -> str:
    (state.scratch("tiny") / "trial-0001.checkpoint.npz").write_bytes(b"x")
    return "trial-0001.checkpoint.npz is of a trial that is over"


def forget_model(state: StateFolder, view: StudyView) -> str:
    shutil.rmtree(state.root / "copies")  # or the new row would be told as damage
    study = views.load_study(state, "tiny")
    with closing(sqlite3.connect(state.optuna_db)) as connection, connection:
        connection.execute(
            "insert into trial_user_attributes (trial_id, key, value_json) values (?, ?, ?)",
            (study.get_trials()[1]._trial_id, schema.MODEL_ID, '"m-gone"'),
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
    state: StateFolder, pictures: Dataset, damage: Callable[[StateFolder, StudyView], str]
) -> None:
    view = run(state, pictures, 2).view
    assert reconcile(state, "tiny", repair=False) == []
    says = damage(state, view)
    runner = CliRunner()
    looked = runner.invoke(main, ["doctor", "--state", str(state.root)])
    assert looked.exit_code == 1
    assert "differs" in looked.output
    assert says in looked.output
    assert "repair: " in looked.output
    (finding,) = reconcile(state, "tiny", repair=False)
    mended = runner.invoke(main, ["doctor", "--repair", "--json", "--state", str(state.root)])
    assert mended.exit_code == 0, mended.output
    assert json.loads(mended.output)["findings"][0]["text"].endswith(finding.text)
    again = runner.invoke(main, ["doctor", "--state", str(state.root)])
    assert "ok    stores: Optuna and MLflow agree" in again.output
    assert_stores_agree(state)
    assert len(mlflow_children(state, views.load_view(state, "tiny"))) >= 2


def test_repaired_study_goes_on(state: StateFolder, pictures: Dataset) -> None:
    view = run(state, pictures, 2).view
    lose_everything(state, view)
    reconcile(state, "tiny", repair=True)
    after = run(state, pictures, 3).view
    assert after.counts == {"COMPLETE": 3}
    assert after.best is not None
    assert [row.value for row in after.trials[:2]] == [row.value for row in view.trials]
    assert_stores_agree(state)


def test_running_study_is_left_alone(state: StateFolder, pictures: Dataset) -> None:
    run(state, pictures, 1)
    with (
        file_lock(state.scratch("tiny") / "coordinator.lock"),
        pytest.raises(StudyLockedError, match="is running"),
    ):
        reconcile(state, "tiny", repair=True)


def best_of(state: StateFolder) -> tuple[int, str, Path]:
    """Number, model and the model's folder of the best trial."""
    view = views.load_view(state, "tiny")
    assert view.best is not None
    row = view.trials[view.best.number]
    model_id = row.model_id or ""
    return row.number, model_id, state.artifacts / "tiny" / "models" / model_id / "artifacts"


def doctor(state: StateFolder, *options: str, code: int) -> str:
    return call("doctor", *options, "--state", str(state.root), code=code).output


def sql(path: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount


def delete_row(state: StateFolder, model_id: str) -> None:
    sql(state.mlflow_db, "delete from logged_models where model_id = ?", model_id)


def put_into_the_trash(state: StateFolder, model_id: str) -> None:
    Store.of(state).client().delete_logged_model(model_id)


def say_elsewhere(state: StateFolder, model_id: str) -> None:
    change = "update logged_models set artifact_location = '/gone/x' where model_id = ?"
    sql(state.mlflow_db, change, model_id)


@pytest.mark.parametrize("damage", [delete_row, put_into_the_trash, say_elsewhere])
def test_model_whose_files_are_there_is_entered_again(
    home: StateFolder, damage: Callable[[StateFolder, str], None]
) -> None:
    _, model_id, folder = best_of(home)
    damage(home, model_id)
    assert "MLflow doesn't say so" in doctor(home, code=1)
    doctor(home, "--repair", code=0)
    assert "Optuna and MLflow agree" in doctor(home, code=0)
    assert best_of(home)[1] == model_id
    model = Store.of(home).client().get_logged_model(model_id)
    assert model.artifact_location == folder.as_uri()
    assert register_best(home, "again").created


def forget_origins(state: StateFolder) -> None:
    """As if nobody knew of what it is a copy."""
    table = json.loads((state.root / identity.FILE).read_text())
    (state.root / identity.FILE).write_text(json.dumps({**table, "origins": []}))


def test_model_without_files_is_forgotten(home: StateFolder) -> None:
    number, model_id, folder = best_of(home)
    shutil.rmtree(folder)
    # It is a copy, and nothing is gone as long as the original has it.
    assert "its files are outside of this state" in doctor(home, code=1)
    forget_origins(home)
    assert f"trial {number} should keep the model {model_id}, which is gone" in doctor(home, code=1)
    doctor(home, "--repair", code=0)
    assert views.load_view(home, "tiny").trials[number].model_id is None


def take_artifacts_away(state: StateFolder, folder: Path, patch: pytest.MonkeyPatch) -> None:
    state.artifacts.rename(state.root / "aside")


def forbid_reading(state: StateFolder, folder: Path, patch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if folder in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **options)

    patch.setattr(Path, "stat", stat)


def lead_out(state: StateFolder, folder: Path, patch: pytest.MonkeyPatch) -> None:
    folder.parent.rename(state.root / "aside")
    folder.parent.symlink_to(state.root / "aside")


def lead_nowhere(state: StateFolder, folder: Path, patch: pytest.MonkeyPatch) -> None:
    lead_out(state, folder, patch)
    (state.root / "aside").rename(state.root / "unmounted")


def move_outside(state: StateFolder, folder: Path, patch: pytest.MonkeyPatch) -> None:
    folder.rename(state.root / "aside")
    sql(
        state.mlflow_db,
        "update logged_models set artifact_location = ? where artifact_location = ?",
        (state.root / "aside").as_uri(),
        folder.as_uri(),
    )


@pytest.mark.parametrize(
    ("hide", "cure"),
    [
        (take_artifacts_away, "`mkdir -p "),
        (forbid_reading, "`chmod -R u+rwX "),
        (lead_out, "`cp -aL "),
        (lead_nowhere, "`rm "),
        (move_outside, "`mkdir -p "),
    ],
)
def test_model_that_cannot_be_looked_at_is_not_forgotten(
    home: StateFolder,
    hide: Callable[[StateFolder, Path, pytest.MonkeyPatch], None],
    cure: str,
) -> None:
    number, model_id, folder = best_of(home)
    with pytest.MonkeyPatch.context() as patch:
        hide(home, folder, patch)
        said = doctor(home, "--repair", code=1)
    (line,) = [line for line in said.splitlines() if f"trial {number} should keep" in line]
    assert "can't be seen" in line
    assert cure in said
    assert views.load_view(home, "tiny").trials[number].model_id == model_id


@pytest.mark.parametrize("hide", [lead_out, move_outside])
def test_cure_of_a_model_that_lies_outside_works_as_it_is_printed(
    home: StateFolder, hide: Callable[[StateFolder, Path, pytest.MonkeyPatch], None]
) -> None:
    _, model_id, folder = best_of(home)
    hide(home, folder, pytest.MonkeyPatch())
    said = doctor(home, code=1)
    assert "doctor --repair` mends" not in said
    (cure,) = {part for part in said.split("`")[1::2] if part.startswith(("cp ", "mkdir "))}
    assert os.system(cure) == 0
    doctor(home, "--repair", code=0)
    assert "Optuna and MLflow agree" in doctor(home, code=0)
    assert best_of(home)[1] == model_id


def test_model_that_another_store_may_have_is_not_forgotten(
    home: StateFolder, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_origins(home)
    shutil.copy(empty_mlflow, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    number, model_id, _ = best_of(home)
    shutil.rmtree(home.artifacts)
    home.artifacts.mkdir()
    said = doctor(home, "--repair", code=1)
    assert "repaired  study tiny: 2 trials in Optuna, and no run of the study in" in said
    assert f"repair: look there: MLFLOW_TRACKING_URI=sqlite:///{home.mlflow_db}" in said
    assert views.load_view(home, "tiny").trials[number].model_id == model_id


def test_models_of_a_store_of_earlier_calls_are_not_forgotten(
    home: StateFolder, pictures: Dataset, tmp_path: Path, empty_mlflow: Path
) -> None:
    forget_origins(home)
    number, model_id, folder = best_of(home)
    shutil.copy(empty_mlflow, tmp_path / "other.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
        run(home, pictures, 2)
        shutil.rmtree(folder)
        doctor(home, "--repair", code=1)
        said = doctor(home, "--repair", code=1)
    assert "the study was tracked at" in said
    assert views.load_view(home, "tiny").trials[number].model_id == model_id


def test_run_that_ended_and_that_optuna_lost_keeps_its_files(home: StateFolder) -> None:
    shutil.rmtree(home.root / "copies")  # or the lost trial would be brought back
    number, _, _ = best_of(home)
    run_id = views.load_view(home, "tiny").trials[number].run_id or ""
    study = views.load_study(home, "tiny")
    sql(
        home.optuna_db,
        "update trials set state = 'RUNNING' where trial_id = ?",
        str(study.get_trials()[number]._trial_id),
    )
    before = listing(home.artifacts)
    said = doctor(home, "--repair", code=0)
    assert f"run {run_id} of trial {number} is FINISHED, and Optuna knows of no trial" in said
    assert listing(home.artifacts) == before
    assert Store.of(home).client().get_run(run_id).info.status == "KILLED"


@pytest.mark.parametrize("table", ["runs", "experiments"])
def test_place_that_is_said_to_lie_outside_is_put_right(
    home: StateFolder, pictures: Dataset, table: str
) -> None:
    column = {"runs": "artifact_uri", "experiments": "artifact_location"}[table]
    sql(home.mlflow_db, f"update {table} set {column} = replace({column}, 'tiny', '../../x')")
    before = listing(home.root)
    with pytest.raises(StateError, match="catdog-search doctor --repair --state") as caught:
        run(home, pictures, 2)
    cure = shlex.split(str(caught.value).split("`")[1])
    assert {p for p in listing(home.root) if p.startswith("x")} == set()
    assert len(listing(home.artifacts)) == sum(p.startswith("artifacts/") for p in before)
    call(*cure[1:])
    assert "Optuna and MLflow agree" in doctor(home, code=0)
    run(home, pictures, 2, table={"keep_models": 1})
