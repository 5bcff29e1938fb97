"""The coordinator on real Optuna and MLflow stores, with a stand-in for the training."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from tiny_study import (
    TABLE,
    assert_stores_agree,
    children_of,
    coordinator_process,
    is_alive,
    mlflow_children,
    proposals,
    run,
)

from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.errors import StateError, StudyLockedError, TrialFailedError
from catdog_search.places import StateFolder, file_lock
from catdog_search.search.events import Event, Notice, Planned, TrialEnded, TrialStarted
from catdog_search.search.study import record, views
from catdog_search.search.study.storage import load_study
from catdog_search.tracking.store import Store

Act = Callable[..., None]


def test_trials_counts_recipes_and_earlier_calls(state: StateFolder, pictures: Dataset) -> None:
    first = run(state, pictures, 2)
    second = run(state, pictures, 4)
    third = run(state, pictures, 4)
    assert [r.view.finished for r in (first, second, third)] == [2, 4, 4]
    assert [row.recipe for row in third.view.trials] == ["plain", None, None, None]
    assert third.view.trials[0].params == {**TABLE["recipes"]["plain"], "dense_units": 0}
    assert len({r.view.parent_run_id for r in (first, second, third)}) == 1
    assert_stores_agree(state)


def test_resumed_study_proposes_what_the_uninterrupted_one_does(
    state: StateFolder, pictures: Dataset, tmp_path: Path, empty_mlflow: Path
) -> None:
    whole = run(state, pictures, 7)
    other = StateFolder.at(str(tmp_path / "other"))
    other.create()
    shutil.copy(empty_mlflow, other.mlflow_db)
    for trials in (1, 4, 7):
        parts = run(other, pictures, trials)
    assert proposals(parts.view) == proposals(whole.view)
    assert len({str(params) for params in proposals(whole.view)}) > 3
    seeds = [
        [t.user_attrs["seed"] for t in load_study(s, "tiny").get_trials()] for s in (state, other)
    ]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 7


def test_best_is_the_best_complete_trial(state: StateFolder, pictures: Dataset) -> None:
    report = run(state, pictures, 5)
    values = [row.value for row in report.view.trials if row.value is not None]
    assert report.view.best is not None
    assert report.view.best.value == max(values)
    parent = Store.of(state).client().get_run(report.view.parent_run_id)
    assert parent.data.metrics["best_value"] == pytest.approx(max(values))
    assert parent.data.tags["best_trial"] == str(report.view.best.number)
    assert parent.info.status == "FINISHED"


def test_run_records_what_a_trial_was(state: StateFolder, pictures: Dataset) -> None:
    report = run(state, pictures, 1, study_file="name = 'tiny'", drawn=True)
    client = Store.of(state).client()
    child = client.get_run(report.view.trials[0].run_id)
    assert child.data.params["filters"] == "4"
    assert child.data.params["learning_rate"] == "0.001"  # a default is recorded too
    # What is left to the study is recorded as what it says.
    assert (child.data.params["image_size"], child.data.params["epochs"]) == ("8", "3")
    assert child.data.tags["dataset_digest"] == pictures.digest
    assert child.data.tags["recipe"] == "plain"
    assert "--data" in child.data.tags["data_notice"]
    assert child.data.metrics["final_val_f1"] == 0.5
    steps = [m.step for m in client.get_metric_history(child.info.run_id, "val_accuracy")]
    assert steps == [1, 2, 3]
    assert child.data.metrics["best_epoch"] == 3  # as the figure marks it
    figures = {f.path for f in client.list_artifacts(child.info.run_id, "figures")}
    drawn = ("learning_curves", "confusion_matrix", "roc_pr", "reliability", "most_wrong")
    assert figures == {f"figures/{name}.png" for name in drawn}
    parent = client.get_run(report.view.parent_run_id)
    assert parent.data.tags["device"] == "a stand-in for tensorflow"
    kept = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert {"tiny.toml", "versions.json", "data"} <= kept
    data = {f.path for f in client.list_artifacts(parent.info.run_id, "data")}
    named = ("audit.json", "left_out.json", "splits.json", "train.png", "val.png")
    assert data == {f"data/{name}" for name in named}
    assert parent.inputs.dataset_inputs[0].dataset.digest == pictures.digest[:32]


def test_changed_photos_are_refused(
    state: StateFolder, pictures: Dataset, shared_cache: Path
) -> None:
    run(state, pictures, 1)
    others = packing.load(SyntheticSource(120), 8, shared_cache, 10**9)
    was = "photos were 100 drawn pictures, now 120 drawn pictures.* can't be compared"
    with pytest.raises(StateError, match=was):
        run(state, others, 2)


def test_changed_subset_is_refused(state: StateFolder, pictures: Dataset) -> None:
    part = dataclasses.replace(pictures, subset=20)
    assert run(state, part, 1).view.finished == 1
    with pytest.raises(StateError, match="subset was 20, now not set"):
        run(state, pictures, 2)


def test_new_recipe_is_tried_next(state: StateFolder, pictures: Dataset) -> None:
    run(state, pictures, 2)
    more = {"plain": TABLE["recipes"]["plain"], "wide": {**TABLE["recipes"]["plain"], "filters": 8}}
    report = run(state, pictures, 3, table={"recipes": more})
    assert [row.recipe for row in report.view.trials] == ["plain", None, "wide"]


STEPPED: dict[str, Any] = {
    "space": {
        "n_blocks": 1,
        "filters": 4,
        "dropout": {"low": 0.1, "high": 0.5, "step": 0.1},
        "dense_units": 0,
    },
    "recipes": {"a": {"dropout": 0.3}, "b": {"dropout": 0.1 + 0.2}},
}


def test_steps_are_tried_once_and_equal_recipes_named(
    state: StateFolder, pictures: Dataset
) -> None:
    said: list[Event] = []
    table = {**STEPPED, "sampler": {"name": "grid"}}
    run(state, pictures, 1, table=table, listener=said.append)
    report = run(state, pictures, 9, table=table, listener=said.append)
    assert report.end == "exhausted"
    assert sorted(row.params["dropout"] for row in report.view.trials) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert report.view.trials[0].recipe == "a"
    notices = [event.text for event in said if isinstance(event, Notice)]
    assert notices == [
        "recipe b has the same params as recipe a, which is queued",
        "recipe b has the same params as recipe a, which is trial 0",
        "every point of the space has been tried",
    ]
    runs = mlflow_children(state, report.view)
    assert {run.data.params["dropout"] for run in runs} == {"0.1", "0.2", "0.3", "0.4", "0.5"}


def test_study_that_spelled_a_step_as_a_sum_is_resumed(
    state: StateFolder, pictures: Dataset
) -> None:
    run(state, pictures, 1, table=STEPPED)
    # As the version that added floats up left it.
    with sqlite3.connect(state.optuna_db) as connection:
        for table, column in (
            ("trial_user_attributes", "value_json"),
            ("study_user_attributes", "value_json"),
            ("trial_params", "param_value"),
        ):
            old = f"update {table} set {column} = replace({column}, '0.3', '0.30000000000000004')"
            connection.execute(old)
    connection.close()
    report = run(state, pictures, 9, table=STEPPED)
    assert report.view.trials[0].params["dropout"] == 0.3
    assert sorted(row.params["dropout"] for row in report.view.trials) == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_seeds_of_equal_recipes_are_trained_once(state: StateFolder, pictures: Dataset) -> None:
    report = run(state, pictures, 2, table=STEPPED, seeds=2)
    assert [row.recipe for row in report.view.trials] == ["a", "a"]


def test_bug_is_recorded_and_stops_the_study(
    state: StateFolder, pictures: Dataset, act: Callable[..., None]
) -> None:
    act(call_2="bug")
    with pytest.raises(TrialFailedError, match=r"trial 1 failed .* ZeroDivisionError") as caught:
        run(state, pictures, 3)
    assert "a bug on demand" in Path(str(caught.value.trace)).read_text()
    assert [row.state for row in views.load_view(state, "tiny").trials] == ["COMPLETE", "FAIL"]
    assert_stores_agree(state)
    assert run(state, pictures, 3).view.counts == {"COMPLETE": 2, "FAIL": 1}


def test_divergence_is_a_constraint_and_the_study_goes_on(
    state: StateFolder, pictures: Dataset, act: Callable[..., None]
) -> None:
    act(call_1="diverge")
    report = run(state, pictures, 2)
    assert report.view.counts == {"PRUNED": 1, "COMPLETE": 1}
    trial = load_study(state, "tiny").get_trials()[0]
    assert trial.constraints == {"diverged": 1.0}
    assert "diverged" in str(report.view.trials[0].error)
    assert_stores_agree(state)


def test_pruned_trial_is_finished_in_mlflow_and_never_best(
    state: StateFolder, pictures: Dataset
) -> None:
    table = {
        "pruner": {"name": "median", "n_startup_trials": 1, "n_warmup_epochs": 0},
        "sampler": {"name": "random"},
    }
    report = run(state, pictures, 8, table=table)
    assert report.view.counts["PRUNED"] > 0
    pruned = [row for row in report.view.trials if row.state == "PRUNED"]
    assert all(row.epochs < 3 for row in pruned)
    assert report.view.best is not None
    assert report.view.best.number not in [row.number for row in pruned]
    assert_stores_agree(state)


def test_second_coordinator_is_refused(state: StateFolder, pictures: Dataset) -> None:
    with (
        file_lock(state.scratch("tiny") / "coordinator.lock"),
        pytest.raises(StudyLockedError, match="is being run by another process"),
    ):
        run(state, pictures, 1)


def test_signal_stops_the_trial_and_keeps_it_resumable(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "1000")
    monkeypatch.setenv("FAKE_STEP_S", "0.01")

    def interrupt(event: Event) -> None:
        if isinstance(event, TrialStarted):
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    report = run(state, pictures, 2, listener=interrupt)
    assert report.end == "interrupt"
    assert report.view.counts == {"RUNNING": 1}
    parent = Store.of(state).client().get_run(report.view.parent_run_id)
    assert parent.info.status == "KILLED"
    assert_stores_agree(state)
    monkeypatch.setenv("FAKE_STEPS", "1")
    time.sleep(2)
    resumed = run(state, pictures, 2)
    assert resumed.view.counts == {"COMPLETE": 2}
    assert resumed.view.trials[0].params == report.view.trials[0].params
    # The half second before the signal counts, the pause doesn't.
    trial = load_study(state, "tiny").trials[0]
    worked = resumed.view.trials[0].seconds
    assert trial.duration is not None
    assert worked is not None
    assert 0.5 <= worked <= trial.duration.total_seconds() - 2


def test_timeout_stops_in_time_and_counts_this_call(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "1000")
    monkeypatch.setenv("FAKE_STEP_S", "0.01")
    report = run(state, pictures, 2, timeout=8)
    assert report.end == "timeout"
    assert report.view.finished == 0
    assert report.seconds < 8 + 4
    assert_stores_agree(state)


@pytest.mark.parametrize("kill_after", [1, 3, 7])
def test_killed_coordinator_is_resumed_and_takes_its_worker_along(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch, kill_after: int
) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "0.1")
    with coordinator_process(state, pictures, 4) as process:
        assert process.stdout is not None
        for _ in range(kill_after):
            assert process.stdout.readline()
        workers = children_of(process.pid)
        process.kill()
    assert workers
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
    before = views.load_view(state, "tiny")
    report = run(state, pictures, 4)
    assert report.view.counts == {"COMPLETE": 4}
    known = [row.params for row in before.trials if row.params]
    assert proposals(report.view)[: len(known)] == known
    assert_stores_agree(state)


def test_ended_event_counts_up_to_the_budget(state: StateFolder, pictures: Dataset) -> None:
    ended: list[TrialEnded] = []
    run(
        state,
        pictures,
        2,
        listener=lambda e: ended.append(e) if isinstance(e, TrialEnded) else None,
    )
    assert [(e.number, e.ending.state, e.epochs) for e in ended] == [
        (0, "COMPLETE", 3),
        (1, "COMPLETE", 3),
    ]


def test_stores_are_two_files(state: StateFolder, pictures: Dataset) -> None:
    run(state, pictures, 1)
    assert state.mlflow_db.exists()
    assert state.optuna_db.exists()
    assert optuna.get_all_study_names(f"sqlite:///{state.optuna_db}") == ["tiny"]


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_second_signal_stops_at_once_and_the_next_start_is_consistent(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "20")  # a batch that takes longer than anybody waits
    with coordinator_process(state, pictures, 3) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "TrialStarted\n"
        signalled = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
        process.send_signal(signal.SIGINT if pause else signal.SIGTERM)
        process.wait(timeout=15)
    assert time.monotonic() - signalled < 10
    assert process.returncode != 0
    monkeypatch.setenv("FAKE_STEP_S", "0")
    report = run(state, pictures, 3)
    assert report.view.counts == {"COMPLETE": 3}
    assert_stores_agree(state)


def test_trials_that_share_a_device_train_at_once(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "0.3")
    events: list[Event] = []
    report = run(state, pictures, 6, concurrency=2, listener=events.append)
    assert report.view.counts == {"COMPLETE": 6}
    training, most = set[int](), 0
    for event in events:
        if isinstance(event, TrialStarted):
            training.add(event.number)
        elif isinstance(event, TrialEnded):
            training.remove(event.number)
        most = max(most, len(training))
    assert most == 2
    assert len({str(params) for params in proposals(report.view)}) == 6
    plans = [event for event in events if isinstance(event, Planned)]
    assert [plan.concurrency for plan in plans] == [2]
    alone = [event for event in recorded(state, pictures) if isinstance(event, Planned)]
    assert plans[0].memory_bytes == pytest.approx(alone[0].memory_bytes / 2, rel=0.2)
    assert_stores_agree(state)


def recorded(state: StateFolder, pictures: Dataset) -> list[Event]:
    """The events of one more trial, alone."""
    events: list[Event] = []
    run(state, pictures, 7, listener=events.append)
    return events


def test_trials_at_once_are_all_taken_up_after_a_kill(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "0.5")
    with coordinator_process(state, pictures, 4, concurrency=2) as process:
        assert process.stdout is not None
        started = 0
        while started < 2:
            started += process.stdout.readline().startswith("TrialStarted")
        process.kill()
        process.wait()
    left = views.load_view(state, "tiny")
    assert left.counts["RUNNING"] == 2
    report = run(state, pictures, 4, concurrency=2)
    assert report.view.counts == {"COMPLETE": 4}
    assert [row.params for row in report.view.trials[:2]] == [t.params for t in left.trials[:2]]
    assert_stores_agree(state)


def test_bug_beside_another_trial_leaves_that_one_to_be_taken_up(
    state: StateFolder, pictures: Dataset, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "0.5")
    act(call_1="bug")
    with pytest.raises(TrialFailedError):
        run(state, pictures, 4, concurrency=2)
    assert views.load_view(state, "tiny").counts == {"FAIL": 1, "RUNNING": 1}
    assert run(state, pictures, 4).view.counts == {"FAIL": 1, "COMPLETE": 3}
    assert_stores_agree(state)


def test_run_names_the_commit_of_the_code_where_that_is_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "repository" / "catdog_search"
    package.mkdir(parents=True)
    monkeypatch.setattr("catdog_search.__file__", str(package / "__init__.py"))
    assert record._commit() == "none"

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(package.parent), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (package / "__init__.py").touch()
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert record._commit() == git("rev-parse", "HEAD")
    (package / "new.py").touch()
    assert record._commit() == git("rev-parse", "HEAD") + "+changes"
