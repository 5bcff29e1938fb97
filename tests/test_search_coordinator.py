"""The coordinator on real Optuna and MLflow stores, with a stand-in for the training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from catdog_search import studies
from catdog_search.data import dataset
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.errors import StateError, StudyLockedError, TrialFailedError
from catdog_search.places import State, file_lock
from catdog_search.search import history
from catdog_search.search.coordinator import Report, run_study
from catdog_search.search.history import StudyView
from catdog_search.search.messages import Event, TrialEnded, TrialStarted
from catdog_search.search.storage import load_study
from catdog_search.tracking.runs import PARENT_TAG
from catdog_search.tracking.store import Store, ensure_mlflow_db

TABLE: dict[str, Any] = {
    "name": "tiny",
    "purpose": "A study for tests.",
    "image_size": 8,
    "metric": "val_accuracy",
    "direction": "maximize",
    "trials": 3,
    "seed": 5,
    "training": {"epochs": 3},
    "sampler": {"n_startup_trials": 2},
    "pruner": {"name": "none"},
    "space": {
        "n_blocks": {"low": 1, "high": 2},
        "filters": {"choices": [4, 8]},
        "dropout": {"low": 0.0, "high": 0.5},
        "dense_units": 0,
    },
    "recipes": {"plain": {"n_blocks": 2, "filters": 4, "dropout": 0.0}},
}


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store made once; making it takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    ensure_mlflow_db(path)
    return path


@pytest.fixture
def state(tmp_path: Path, empty_mlflow: Path) -> State:
    root = tmp_path / "state"
    root.mkdir()
    shutil.copy(empty_mlflow, root / "mlflow.db")
    return State.at(str(root))


@pytest.fixture(scope="session")
def pictures(shared_cache: Path) -> Dataset:
    return dataset.load(SyntheticSource(100), 8, shared_cache, 10**9)


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the n-th training from now on does."""

    def plan(**actions: str) -> None:
        numbered = {key.removeprefix("call_"): action for key, action in actions.items()}
        monkeypatch.setenv("FAKE_CALLS", str(tmp_path / f"calls-{time.monotonic_ns()}"))
        monkeypatch.setenv("FAKE_ACTIONS", json.dumps(numbered))

    return plan


def run(state: State, pictures: Dataset, trials: int, **options: Any) -> Report:
    """Run the study; the test's own keywords go to run_study, `table` changes the study."""
    config = studies.parse({**TABLE, **options.pop("table", {})}, "tiny.toml")
    listener = options.pop("listener", lambda event: None)
    return run_study(
        config, pictures, state, listener, trials=trials, training="fake_training", **options
    )


def proposals(view: StudyView) -> list[Any]:
    return [row.params for row in view.trials]


def mlflow_children(state: State, view: StudyView) -> list[Any]:
    client = Store.of(state).client()
    experiment = client.get_experiment_by_name(view.name)
    query = f"tags.`{PARENT_TAG}` = '{view.parent_run_id}'"
    return list(client.search_runs([experiment.experiment_id], query))


def assert_stores_agree(state: State) -> None:
    """Every finished trial has one run that says the same; every other run is closed."""
    view = history.view(state, "tiny")
    runs = {run.info.run_id: run for run in mlflow_children(state, view)}
    for row in view.trials:
        if row.state in ("COMPLETE", "PRUNED", "FAIL"):
            run = runs.pop(row.run_id or "")
            assert run.data.tags["trial"] == str(row.number)
            assert run.data.tags["trial_state"] == row.state
            assert run.info.status == ("FAILED" if row.state == "FAIL" else "FINISHED")
            if row.value is not None:
                assert run.data.metrics["objective"] == pytest.approx(row.value)
    assert [run.info.status for run in runs.values() if run.info.status != "KILLED"] == []


def test_trials_counts_recipes_and_earlier_calls(state: State, pictures: Dataset) -> None:
    first = run(state, pictures, 2)
    second = run(state, pictures, 4)
    third = run(state, pictures, 4)
    assert [r.view.finished for r in (first, second, third)] == [2, 4, 4]
    assert [row.recipe for row in third.view.trials] == ["plain", None, None, None]
    assert third.view.trials[0].params == {**TABLE["recipes"]["plain"], "dense_units": 0}
    assert len({r.view.parent_run_id for r in (first, second, third)}) == 1
    assert_stores_agree(state)


def test_resumed_study_proposes_what_the_uninterrupted_one_does(
    state: State, pictures: Dataset, tmp_path: Path, empty_mlflow: Path
) -> None:
    whole = run(state, pictures, 7)
    other = State.at(str(tmp_path / "other"))
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


def test_best_is_the_best_complete_trial(state: State, pictures: Dataset) -> None:
    report = run(state, pictures, 5)
    values = [row.value for row in report.view.trials if row.value is not None]
    assert report.view.best is not None
    assert report.view.best.value == max(values)
    parent = Store.of(state).client().get_run(report.view.parent_run_id)
    assert parent.data.metrics["best_value"] == pytest.approx(max(values))
    assert parent.data.tags["best_trial"] == str(report.view.best.number)
    assert parent.info.status == "FINISHED"


def test_run_records_what_a_trial_was(state: State, pictures: Dataset) -> None:
    report = run(state, pictures, 1, study_file="name = 'tiny'")
    client = Store.of(state).client()
    child = client.get_run(report.view.trials[0].run_id)
    assert child.data.params["filters"] == "4"
    assert child.data.params["learning_rate"] == "0.001"  # a default is recorded too
    assert child.data.tags["dataset_digest"] == pictures.digest
    assert child.data.tags["recipe"] == "plain"
    assert "--data" in child.data.tags["data_notice"]
    assert child.data.metrics["final/val_f1"] == 0.5
    steps = [m.step for m in client.get_metric_history(child.info.run_id, "val_accuracy")]
    assert steps == [0, 1, 2]
    figures = {f.path for f in client.list_artifacts(child.info.run_id, "figures")}
    assert figures == {"figures/learning_curves.png", "figures/confusion_matrix.png"}
    parent = client.get_run(report.view.parent_run_id)
    assert parent.data.tags["device"] == "a stand-in for tensorflow"
    kept = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert {"tiny.toml", "versions.json", "data"} <= kept
    data = {f.path for f in client.list_artifacts(parent.info.run_id, "data")}
    named = ("audit.json", "left_out.json", "train.png", "val.png")
    assert data == {f"data/{name}" for name in named}
    assert parent.inputs.dataset_inputs[0].dataset.digest == pictures.digest[:32]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"space": {**TABLE["space"], "dropout": {"low": 0.0, "high": 0.4}}},
            "space.dropout.high was 0.5, now 0.4",
        ),
        ({"training": {"epochs": 4}}, "training.epochs was 3, now 4"),
        ({"recipes": {"plain": {"n_blocks": 1, "filters": 4, "dropout": 0.0}}}, "n_blocks was 2"),
    ],
)
def test_changed_study_is_refused_with_the_difference(
    state: State, pictures: Dataset, change: dict[str, Any], says: str
) -> None:
    run(state, pictures, 1)
    with pytest.raises(StateError) as caught:
        run(state, pictures, 2, table=change)
    assert says in str(caught.value)
    assert history.view(state, "tiny").finished == 1


def test_changed_photos_are_refused(state: State, pictures: Dataset, shared_cache: Path) -> None:
    run(state, pictures, 1)
    others = dataset.load(SyntheticSource(120), 8, shared_cache, 10**9)
    with pytest.raises(StateError, match="dataset_digest was"):
        run(state, others, 2)


def test_changed_subset_is_refused(state: State, pictures: Dataset) -> None:
    part = dataclasses.replace(pictures, subset=20)
    assert run(state, part, 1).view.finished == 1
    with pytest.raises(StateError, match="subset was 20, now absent"):
        run(state, pictures, 2)


def test_new_recipe_is_tried_next(state: State, pictures: Dataset) -> None:
    run(state, pictures, 2)
    more = {"plain": TABLE["recipes"]["plain"], "wide": {**TABLE["recipes"]["plain"], "filters": 8}}
    report = run(state, pictures, 3, table={"recipes": more})
    assert [row.recipe for row in report.view.trials] == ["plain", None, "wide"]


def test_bug_is_recorded_and_stops_the_study(
    state: State, pictures: Dataset, act: Callable[..., None]
) -> None:
    act(call_2="bug")
    with pytest.raises(TrialFailedError, match=r"trial 1 failed .* ZeroDivisionError") as caught:
        run(state, pictures, 3)
    assert "a bug on demand" in Path(str(caught.value.trace)).read_text()
    assert [row.state for row in history.view(state, "tiny").trials] == ["COMPLETE", "FAIL"]
    assert_stores_agree(state)
    assert run(state, pictures, 3).view.counts == {"COMPLETE": 2, "FAIL": 1}


def test_divergence_is_a_constraint_and_the_study_goes_on(
    state: State, pictures: Dataset, act: Callable[..., None]
) -> None:
    act(call_1="diverge")
    report = run(state, pictures, 2)
    assert report.view.counts == {"PRUNED": 1, "COMPLETE": 1}
    trial = load_study(state, "tiny").get_trials()[0]
    assert trial.constraints == {"diverged": 1.0}
    assert "diverged" in str(report.view.trials[0].error)
    assert_stores_agree(state)


def test_pruned_trial_is_finished_in_mlflow_and_never_best(state: State, pictures: Dataset) -> None:
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


def test_dead_worker_leaves_the_trial_resumable(
    state: State, pictures: Dataset, act: Callable[..., None]
) -> None:
    act(call_2="crash")
    with pytest.raises(TrialFailedError, match="killed by SIGKILL in trial 1"):
        run(state, pictures, 3)
    before = history.view(state, "tiny").trials[1]
    assert before.state == "RUNNING"
    dead = Store.of(state).client().get_run(before.run_id)
    assert dead.info.status == "KILLED"
    after = run(state, pictures, 3).view.trials[1]
    assert (after.state, after.params) == ("COMPLETE", before.params)
    again = Store.of(state).client().get_run(after.run_id)
    assert again.data.tags["previous_attempt"] == before.run_id
    assert again.data.tags["attempt"] == "2"
    assert_stores_agree(state)


def test_worker_that_dies_between_trials_is_said(state: State, pictures: Dataset) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, TrialEnded):
            for pid in children_of(os.getpid()):
                if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)

    with pytest.raises(TrialFailedError, match="was killed by SIGKILL in trial 1"):
        run(state, pictures, 2, listener=kill)
    assert run(state, pictures, 2).view.counts == {"COMPLETE": 2}
    assert_stores_agree(state)


def test_second_coordinator_is_refused(state: State, pictures: Dataset) -> None:
    with (
        file_lock(state.scratch("tiny") / "coordinator.lock"),
        pytest.raises(StudyLockedError, match="is being run by another process"),
    ):
        run(state, pictures, 1)


def test_signal_stops_the_trial_and_keeps_it_resumable(
    state: State, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
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
    resumed = run(state, pictures, 2)
    assert resumed.view.counts == {"COMPLETE": 2}
    assert resumed.view.trials[0].params == report.view.trials[0].params


def test_timeout_stops_in_time_and_counts_this_call(
    state: State, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "1000")
    monkeypatch.setenv("FAKE_STEP_S", "0.01")
    report = run(state, pictures, 2, timeout=8)
    assert report.end == "timeout"
    assert report.view.finished == 0
    assert report.seconds < 8 + 4
    assert_stores_agree(state)


_KILL_ME = """
import json, sys
from pathlib import Path
from catdog_search import studies
from catdog_search.data.dataset import Dataset
from catdog_search.places import State
from catdog_search.search.coordinator import run_study
from catdog_search.search.messages import EpochDone, TrialStarted

def say(event):
    if isinstance(event, (TrialStarted, EpochDone)):
        print(type(event).__name__, flush=True)

if __name__ == "__main__":
    table, folder, digest, state = json.loads(sys.argv[1])
    run_study(studies.parse(table, "t"), Dataset(Path(folder), digest, 8), State.at(state), say,
              trials=4, training="fake_training")
"""


@contextlib.contextmanager
def coordinator_process(state: State, pictures: Dataset) -> Iterator[subprocess.Popen[str]]:
    arguments = json.dumps([TABLE, str(pictures.folder), pictures.digest, str(state.root)])
    script = state.root / "coordinator.py"
    script.write_text(_KILL_ME)
    tests = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, str(script), arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kill_after", [1, 3, 7])
def test_killed_coordinator_is_resumed_and_takes_its_worker_along(
    state: State, pictures: Dataset, monkeypatch: pytest.MonkeyPatch, kill_after: int
) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "0.1")
    with coordinator_process(state, pictures) as process:
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
    before = history.view(state, "tiny")
    report = run(state, pictures, 4)
    assert report.view.counts == {"COMPLETE": 4}
    known = [row.params for row in before.trials if row.params]
    assert proposals(report.view)[: len(known)] == known
    assert_stores_agree(state)


def test_ended_event_counts_up_to_the_budget(state: State, pictures: Dataset) -> None:
    ended: list[TrialEnded] = []
    run(
        state,
        pictures,
        2,
        listener=lambda e: ended.append(e) if isinstance(e, TrialEnded) else None,
    )
    assert [(e.number, e.state, e.epochs) for e in ended] == [
        (0, "COMPLETE", 3),
        (1, "COMPLETE", 3),
    ]


def test_stores_are_two_files(state: State, pictures: Dataset) -> None:
    run(state, pictures, 1)
    assert state.mlflow_db.exists()
    assert state.optuna_db.exists()
    assert optuna.get_all_study_names(f"sqlite:///{state.optuna_db}") == ["tiny"]
