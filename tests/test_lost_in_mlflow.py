"""Runs and experiments that people deleted, renamed or lost in MLflow, while Optuna knows them."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.entities import ViewType
from tiny_study import assert_stores_agree, call, mlflow_children, run

from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.events import EpochDone, Event, Notice
from catdog_search.search.study import views
from catdog_search.search.study.views import StudyView
from catdog_search.tracking.promotions import PromotionRun
from catdog_search.tracking.store import Store, disconnect

Loss = Callable[[StateFolder, StudyView], None]


def collect(state: StateFolder, *run_ids: str | None) -> None:
    """Delete runs for good, as `mlflow gc` does."""
    with closing(sqlite3.connect(state.mlflow_db)) as connection, connection:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            for run_id in run_ids:
                connection.execute(f"delete from {table} where run_uuid = ?", (run_id,))


def experiment_of(state: StateFolder, view: StudyView) -> str:
    client = Store.of(state).client()
    return str(client.get_run(view.parent_run_id).info.experiment_id)


def lose_a_trial(state: StateFolder, view: StudyView) -> None:
    collect(state, view.trials[0].run_id)


def lose_the_parent(state: StateFolder, view: StudyView) -> None:
    collect(state, view.parent_run_id)


def lose_all_runs(state: StateFolder, view: StudyView) -> None:
    collect(state, view.parent_run_id, *(row.run_id for row in view.trials))


def lose_the_experiment(state: StateFolder, view: StudyView) -> None:
    experiment = experiment_of(state, view)
    lose_all_runs(state, view)
    with closing(sqlite3.connect(state.mlflow_db)) as connection, connection:
        for table in ("logged_models", "experiments"):
            connection.execute(f"delete from {table} where experiment_id = ?", (experiment,))


def trash_the_experiment(state: StateFolder, view: StudyView) -> None:
    Store.of(state).client().delete_experiment(experiment_of(state, view))


def rename(state: StateFolder, view: StudyView) -> None:
    Store.of(state).client().rename_experiment(experiment_of(state, view), "mine")


def rename_and_trash(state: StateFolder, view: StudyView) -> None:
    rename(state, view)
    trash_the_experiment(state, view)


def lose_the_store(state: StateFolder, view: StudyView) -> None:
    disconnect()
    for path in state.root.glob("mlflow.db*"):
        path.unlink()


def lose_the_store_and_its_copy(state: StateFolder, view: StudyView) -> None:
    lose_the_store(state, view)
    shutil.rmtree(state.root / "copies")


LOSSES = [
    *(lose_a_trial, lose_the_experiment, trash_the_experiment, rename, rename_and_trash),
    *(lose_the_store, lose_the_store_and_its_copy),
]
HARMLESS = (lose_a_trial, rename)


def own_experiments(state: StateFolder) -> list[str]:
    found = Store.of(state).client().search_experiments(view_type=ViewType.ALL)
    return [each.name for each in found if each.name != "Default"]


@pytest.mark.parametrize("loss", LOSSES)
def test_what_mlflow_lost_is_told_in_a_line_and_the_cure_works_as_printed(
    home: StateFolder, pictures: Dataset, tmp_path: Path, loss: Loss
) -> None:
    view = views.load_view(home, "tiny")
    loss(home, view)
    where = ["--state", str(home.root)]
    assert "trial 0" in call("show", "--study", "tiny", "--trial", "0", *where).output
    assert "tiny: plain" in call("compare", *where).output
    if loss not in HARMLESS:
        with pytest.raises(StateError, match="catdog-search doctor --repair") as caught:
            run(home, pictures, 3)
        cure = shlex.split(str(caught.value).split("`")[1])
        call(*cure[1:])
    call("doctor", "--repair", *where)
    call("show", "--study", "tiny", "--trial", "0", "--figures", str(tmp_path / "f"), *where)
    call("compare", "--html", str(tmp_path / "page.html"), *where)
    after = run(home, pictures, 3).view
    assert [row.value for row in after.trials[:2]] == [row.value for row in view.trials]
    assert_stores_agree(home)
    assert len(mlflow_children(home, after)) == 3
    assert own_experiments(home) == ["mine" if loss in (rename, rename_and_trash) else "tiny"]
    assert "Optuna and MLflow agree" in call("doctor", *where).output


@pytest.mark.parametrize("loss", [lose_a_trial, lose_all_runs, lose_the_store_and_its_copy])
def test_reading_commands_say_what_mlflow_lost(home: StateFolder, loss: Loss) -> None:
    view = views.load_view(home, "tiny")
    loss(home, view)
    cure = f"`catdog-search doctor --repair --state {home.root}`"
    where = ["--state", str(home.root)]
    assert cure in call("compare", *where).output
    drawing = ["show", "--study", "tiny", "--trial", "0", "--figures", str(home.root / "f")]
    said = call(*drawing, *where, code=1).output
    assert cure in said
    assert len(said.splitlines()) == 1


def test_runs_that_are_made_anew_hold_what_optuna_knows_and_say_so(home: StateFolder) -> None:
    view = views.load_view(home, "tiny")
    lose_the_store_and_its_copy(home, view)
    call("doctor", "--repair", "--state", str(home.root))
    after = views.load_view(home, "tiny")
    client = Store.of(home).client()
    for row in after.trials:
        found = client.get_run(row.run_id)
        said = {name: str(value) for name, value in row.params.items()}
        assert said.items() <= found.data.params.items()
        assert found.data.metrics["objective"] == row.value
        assert len(client.get_metric_history(row.run_id, "val_accuracy")) == row.epochs
        tags = {"recreated": "true", "dataset_digest": view.dataset_digest, "network": "cnn"}
        assert tags.items() <= found.data.tags.items()
        assert found.data.tags.get("recipe") == row.recipe
        assert "seed" in found.data.tags
        assert "rank" in found.data.tags
    parent = client.get_run(after.parent_run_id).data
    assert {"recreated": "true", "best_trial": "0"}.items() <= parent.tags.items()
    assert {"family": "cnn", "metric": "val_accuracy", "seed": "5"}.items() <= parent.params.items()


def test_runs_that_are_there_are_taken_in_where_the_study_lost_its_own(home: StateFolder) -> None:
    view = views.load_view(home, "tiny")
    lose_the_parent(home, view)
    Store.of(home).client().delete_run(view.trials[1].run_id)
    call("doctor", "--repair", "--state", str(home.root))
    after = views.load_view(home, "tiny")
    assert [row.run_id for row in after.trials] == [row.run_id for row in view.trials]
    assert len(mlflow_children(home, after)) == 2


def test_renamed_experiment_is_named_and_promoted_into(
    home: StateFolder, pictures: Dataset
) -> None:
    view = views.load_view(home, "tiny")
    rename(home, view)
    heard: list[Event] = []
    run(home, pictures, 2, listener=heard.append)
    text = "MLflow's experiment of this study is called 'mine' now"
    assert Notice(text) in heard
    store = Store.of(home)
    made = PromotionRun.open(store, "tiny", view.uid or "", "key", {}, "answering")
    alike = PromotionRun.alike(store, "tiny", view.uid or "", "answering")
    assert [found.run_id for found in alike] == [made.run_id]


def test_run_that_is_deleted_while_its_trial_trains_is_told_and_gone_on_with(
    state: StateFolder, pictures: Dataset
) -> None:
    def listener(event: Event) -> None:
        if isinstance(event, EpochDone) and not deleted:
            run_id = views.load_view(state, "tiny").trials[0].run_id or ""
            deleted.append(run_id)
            Store.of(state).client().delete_run(run_id)

    deleted: list[str] = []
    with pytest.raises(StateError, match=r"was deleted in MLflow; .*run again") as caught:
        run(state, pictures, 2, listener=listener)
    assert deleted[0] in str(caught.value)
    assert run(state, pictures, 2).view.counts == {"COMPLETE": 2}
    assert_stores_agree(state)
