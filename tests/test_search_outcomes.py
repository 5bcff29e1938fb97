"""Every outcome of a trial, through the real coordinator, worker and stores."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_training import FakeTrainer
from mlflow.exceptions import MlflowException
from tiny_study import TABLE, assert_stores_agree, children_of, run

from catdog_search.cli.run import say_report
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError, TrialFailedError
from catdog_search.machine import cgroups
from catdog_search.places import StateFolder
from catdog_search.search import limits
from catdog_search.search.events import Event, Notice, Ready, TrialEnded
from catdog_search.search.study import views
from catdog_search.search.study.record import StudyRecord
from catdog_search.search.study.storage import load_study
from catdog_search.search.workers import local
from catdog_search.search.workers.messages import Launch, Start
from catdog_search.study.config import LimitsConfig
from catdog_search.tracking.store import Store

Act = Callable[..., None]


def assert_constraint(state: StateFolder, pictures: Dataset, ending: str, **options: Any) -> None:
    """Trial 1 of two ends as a constraint of this name, and the study goes on."""
    report = run(state, pictures, 2, **options)
    assert report.view.counts == {"COMPLETE": 1, "PRUNED": 1}
    row = report.view.trials[1]
    assert (row.state, row.ending) == ("PRUNED", ending)
    assert row.error
    trial = load_study(state, "tiny").get_trials()[1]
    assert list(trial.constraints) == [ending]
    assert trial.constraints[ending] > 0
    run_ = Store.of(state).client().get_run(row.run_id)
    assert run_.data.tags["ending"] == ending
    assert run_.data.tags["error"] == row.error
    assert_stores_agree(state)


def test_framework_out_of_memory_is_a_constraint_and_costs_the_worker(
    state: StateFolder, pictures: Dataset, act: Act
) -> None:
    act(call_2="out_of_memory", call_4="nothing")
    assert_constraint(state, pictures, "oom")


def test_kernel_kill_is_told_from_a_crash_by_the_counter(
    state: StateFolder, pictures: Dataset, act: Act, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "cgroup" / "box"
    own.mkdir(parents=True)
    (own / "memory.events").write_text("low 0\noom 0\noom_kill 0\n")
    (tmp_path / "self").write_text("0::/box\n")
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "OWN_CGROUP", tmp_path / "self")
    monkeypatch.setenv("FAKE_OOM_COUNTER", str(own / "memory.events"))
    act(call_2="killed_by_the_kernel")
    assert_constraint(state, pictures, "oom", spawned=True)
    assert "kernel" in str(views.load_view(state, "tiny").trials[1].error)


def test_worker_above_its_own_limit_is_out_of_memory(
    state: StateFolder, pictures: Dataset, act: Act
) -> None:
    act(call_2="hog")
    table = {"limits": {"max_memory_gb": 0.6}}
    assert_constraint(state, pictures, "oom", table=table, spawned=True)
    assert "at most 0.60" in str(views.load_view(state, "tiny").trials[1].error)


def test_divergence_is_a_constraint(state: StateFolder, pictures: Dataset, act: Act) -> None:
    act(call_2="diverge")
    assert_constraint(state, pictures, "diverged")


def test_second_crash_is_a_constraint(state: StateFolder, pictures: Dataset, act: Act) -> None:
    act(call_2="crash", call_3="crash")
    assert_constraint(state, pictures, "crashed")


def test_hang_is_a_crash(state: StateFolder, pictures: Dataset, act: Act) -> None:
    act(call_2="hang", call_3="hang")
    # 9 s: the pictures are packed and the imports done, so nothing else takes so long.
    assert_constraint(state, pictures, "crashed", table={"limits": {"stall_minutes": 0.15}})
    assert "no sign of life" in str(views.load_view(state, "tiny").trials[1].error)


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"max_parameters": 50}, "parameters, at most 50"),
        ({"max_memory_gb": 1e-4}, "GB, at most 0.00"),
        ({"max_trial_minutes": 1e-9}, "minutes, at most 1e-09"),
    ],
)
def test_too_large_trial_is_not_trained(
    state: StateFolder, pictures: Dataset, act: Act, limit: dict[str, float], says: str
) -> None:
    act(call_1="bug")
    report = run(state, pictures, 3, table={"limits": limit})
    assert (report.end, report.view.counts) == ("done", {"PRUNED": 3})
    row = report.view.trials[0]
    assert (row.state, row.ending, row.epochs) == ("PRUNED", "too_large", 0)
    assert says in str(row.error)
    assert load_study(state, "tiny").get_trials()[0].constraints["too_large"] > 0
    assert_stores_agree(state)


def test_crash_is_tried_once_more_as_the_same_trial(
    state: StateFolder, pictures: Dataset, act: Act
) -> None:
    act(call_2="crash")
    notices: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    report = run(state, pictures, 3, listener=listen)
    assert report.view.counts == {"COMPLETE": 3}
    assert any("trial 1: the worker was killed by SIGKILL; once more" in n for n in notices)
    trial = load_study(state, "tiny").get_trials()[1]
    assert trial.user_attrs["attempt"] == 2
    client = Store.of(state).client()
    alive = client.get_run(report.view.trials[1].run_id)
    dead = client.get_run(alive.data.tags["previous_attempt"])
    assert (dead.info.status, dead.data.tags["next_attempt"]) == ("KILLED", alive.info.run_id)
    assert dead.data.tags["seed"] == alive.data.tags["seed"]
    assert dead.data.params == alive.data.params
    assert_stores_agree(state)


def test_crash_beside_a_coordinators_death_is_counted_once(
    state: StateFolder, pictures: Dataset, act: Act
) -> None:
    act(call_1="crash", call_2="ENOSPC", call_3="crash")
    with pytest.raises(StateError, match="No space left"):
        run(state, pictures, 1)
    report = run(state, pictures, 1)
    assert report.view.trials[0].ending == "crashed"


def test_full_disk_stops_the_study_and_keeps_the_trial(
    state: StateFolder, pictures: Dataset, act: Act
) -> None:
    act(call_2="ENOSPC")
    with pytest.raises(StateError, match="trial 1 was stopped from outside"):
        run(state, pictures, 2)
    assert [row.state for row in views.load_view(state, "tiny").trials] == ["COMPLETE", "RUNNING"]
    assert run(state, pictures, 2).view.counts == {"COMPLETE": 2}
    assert_stores_agree(state)


def test_full_disk_of_a_store_is_one_line_from_wherever_it_comes(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: …]")

    with monkeypatch.context() as patched:
        patched.setattr(StudyRecord, "close", full)
        with pytest.raises(StateError) as caught:
            run(state, pictures, 1)
    line = str(caught.value)
    assert line.startswith("the disk is full (No space left on device)")
    assert str(state.root) in line
    assert line.endswith("; once that is fixed, run again to resume")
    assert run(state, pictures, 2).view.counts == {"COMPLETE": 2}
    assert_stores_agree(state)


def test_worker_that_dies_between_trials_costs_nothing(
    state: StateFolder, pictures: Dataset
) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, TrialEnded):
            for pid in workers():
                os.kill(pid, signal.SIGKILL)

    report = run(state, pictures, 2, listener=kill, spawned=True)
    assert report.view.counts == {"COMPLETE": 2}
    trials = load_study(state, "tiny").get_trials()
    assert [t.user_attrs["attempt"] for t in trials] == [1, 1]
    assert_stores_agree(state)


def test_worker_is_recycled_and_a_spare_waits(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SPARE_AFTER_S", 0.0)
    monkeypatch.setenv("FAKE_STEP_S", "0.5")
    seen: list[set[int]] = []

    def look(event: Event) -> None:
        if isinstance(event, TrialEnded):
            seen.append(set(workers()))

    table = {"limits": {"trials_per_worker": 1}}
    report = run(state, pictures, 3, listener=look, table=table, spawned=True)
    assert report.view.counts == {"COMPLETE": 3}
    assert all(len(pids) == 2 for pids in seen)  # one that trained, one that waits
    assert len(set.union(*seen)) == 4
    assert len(seen[0] & seen[1]) == 1  # the spare has become the worker


def test_worker_that_never_starts_is_said(state: StateFolder, pictures: Dataset) -> None:
    with pytest.raises(TrialFailedError, match="before its first trial; its output is in") as e:
        run(state, pictures, 1, training="absent_training")
    assert "no_such_module" in Path(str(e.value.trace)).read_text()


def workers() -> list[int]:
    found = []
    for pid in children_of(os.getpid()):
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and "spawn_main" in command.read_text():
            found.append(pid)
    return found


def test_only_the_best_leave_figures_and_nothing_else_stays(
    state: StateFolder, pictures: Dataset
) -> None:
    table = {"sampler": {"name": "random"}, "keep_models": 3}
    report = run(state, pictures, 30, table=table)
    assert report.view.counts == {"COMPLETE": 30}
    with_figures = {p.parents[2].name for p in state.artifacts.rglob("learning_curves.png")}
    best = {str(row.run_id) for row in report.view.ranked()[:3]}
    assert with_figures == best
    assert [row.number for row in report.view.trials if row.kept] == sorted(
        row.number for row in report.view.ranked()[:3]
    )
    kept_bytes = 0
    for row in report.view.trials:
        files = [p for p in state.artifacts.rglob("*") if p.is_file() and str(row.run_id) in str(p)]
        assert any(p.name == "predictions.npz" for p in files)
        if row.run_id not in best:
            kept_bytes += sum(p.stat().st_size for p in files)
    assert 0 < kept_bytes < 27 * 2_000
    left = [p.name for p in state.scratch("tiny").iterdir()]
    assert sorted(left) == ["coordinator.lock", "worker.log"]


def test_figures_drawn_after_their_trial_was_dropped_go_too(
    state: StateFolder, pictures: Dataset
) -> None:
    def draw_late(event: Event) -> None:
        """As another worker does that was still drawing when the trial lost its rank."""
        if isinstance(event, TrialEnded):
            for predictions in state.artifacts.rglob("predictions.npz"):
                late = predictions.parents[1] / "figures" / "late.png"
                late.parent.mkdir(exist_ok=True)
                late.touch()

    plain = TABLE["recipes"]["plain"]
    recipes = {"first": plain, "better": {**plain, "dropout": 0.3}}
    table = {"keep_models": 1, "recipes": recipes}
    report = run(state, pictures, 2, table=table, listener=draw_late, drawn=True)
    late = {p.parents[2].name for p in state.artifacts.rglob("late.png")}
    trials = load_study(state, "tiny").get_trials()
    dropped = {
        str(row.run_id)
        for row in report.view.trials
        if trials[row.number].user_attrs.get("kept") and not row.kept
    }
    assert dropped
    assert not late & dropped


def test_figures_that_a_kill_left_undrawn_are_drawn_at_the_next_start(
    state: StateFolder, pictures: Dataset
) -> None:
    report = run(state, pictures, 2, drawn=True)
    drawn = sorted(state.artifacts.rglob("figures/*.png"))
    # Those of one trial whole, of the other one but the first.
    kept = next(path for path in drawn if path.name == "confusion_matrix.png")
    for path in drawn:
        if path != kept:
            path.unlink()
    assert run(state, pictures, 2, drawn=True).view == report.view
    again = sorted(state.artifacts.rglob("figures/*.png"))
    assert again == drawn
    # Those of two trials, and of the study.
    assert sum(path.name == "learning_curves.png" for path in again) == 2


def test_no_point_is_tried_twice_and_an_exhausted_space_ends_the_study(
    state: StateFolder, pictures: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {
        "space": {
            "n_blocks": {"low": 1, "high": 3},
            "filters": {"choices": [4, 8]},
            "block": {"choices": ["plain", "residual"]},
            "convolutions": {"choices": [2, 3], "when": {"block": "residual"}},
        },
        "recipes": {},
    }
    report = run(state, pictures, 40, table=table)
    assert report.end == "exhausted"
    say_report(report, 40, state, ("cat", "dog"))
    assert (
        "study tiny is finished: nothing is left to try after 18 trials\n"
        in capsys.readouterr().out
    )
    points = [str(sorted(row.params.items())) for row in report.view.trials]
    assert len(points) == len(set(points)) == 18
    assert report.view.counts == {"COMPLETE": 18}


@pytest.mark.parametrize(
    ("asked", "named"),
    [("--study 'my own.toml'", "--study 'my own.toml'"), ("", "--study tiny")],
)
def test_study_on_drawn_pictures_says_how_to_run_it_on_photos(
    state: StateFolder,
    pictures: Dataset,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    named: str,
) -> None:
    report = run(state, pictures, 1)
    drawn = dataclasses.replace(report.view, name="tiny-drawn")
    say_report(dataclasses.replace(report, view=drawn), 1, state, ("cat", "dog"), asked)
    said = capsys.readouterr().out
    assert f"on photos: catdog-search run {named} --data PATH --state {state.root}\n" in said


def test_replicates_are_the_same_params_on_other_seeds(
    state: StateFolder, pictures: Dataset
) -> None:
    report = run(state, pictures, 4, seeds=3)
    replicates = [row for row in report.view.trials if row.recipe == "plain"]
    assert len(replicates) == 3
    assert len({str(row.params) for row in replicates}) == 1
    trials = load_study(state, "tiny").get_trials()
    assert len({t.user_attrs["seed"] for t in trials}) == 4


def test_replicates_of_a_recipe_whose_space_leaves_no_choice(
    state: StateFolder, pictures: Dataset
) -> None:
    table = {"space": {"n_blocks": 2, "filters": 4}, "recipes": {"only": {}}}
    report = run(state, pictures, 3, table=table, seeds=3)
    assert report.end == "done"
    assert [row.recipe for row in report.view.trials] == ["only"] * 3
    assert report.view.counts == {"COMPLETE": 3}


def test_most_of_a_failing_space_is_avoided(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {
        "n_blocks": {"low": 1, "high": 3},
        "filters": {"choices": [8, 16, 32, 64, 128]},
        "batch_size": {"choices": [16, 32, 64, 128, 256]},
        "dropout": {"low": 0.0, "high": 0.5},
    }
    monkeypatch.setenv("FAKE_LIMIT", "1600")  # a quarter of the space fits
    table = {**TABLE, "space": space, "recipes": {}, "trials": 40, "training": {"epochs": 2}}
    table["sampler"] = {"n_startup_trials": 10}
    report = run(state, pictures, 40, table=table)
    failed = [row for row in report.view.trials if row.ending == "oom"]
    assert 0 < len(failed) < 40 / 3
    assert report.view.finished == 40
    assert len({str(row.params) for row in failed}) == len(failed)
    assert_stores_agree(state)


@pytest.mark.skipif(not Path("/proc").exists(), reason="only Linux tells mapped pages apart")
def test_mapped_files_are_not_memory_that_a_worker_holds(tmp_path: Path) -> None:
    size = 200 * 1024**2
    path = tmp_path / "features"
    with path.open("wb") as file:
        file.truncate(size)
    before = local.held_bytes(os.getpid())
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() == 0  # every page is looked at
    assert local.held_bytes(os.getpid()) - before < size / 4
    copied = np.ones(size, np.uint8)
    assert local.held_bytes(os.getpid()) - before > size * 3 / 4
    assert copied.all()


@pytest.mark.parametrize(
    ("launch", "is_worn"),
    [
        ({}, False),
        ({"memory_bytes": 10**6}, True),  # it holds more than half of that
        ({"trials": 0}, True),
    ],
)
def test_worker_is_worn_by_memory_and_by_trials(
    tmp_path: Path, launch: dict[str, int], is_worn: bool
) -> None:
    worker = local.LocalWorker(Launch(tmp_path / "log", "tensorflow", FakeTrainer, **launch))
    try:
        worker.send(Start())
        while not isinstance(worker.connection.recv(), Ready):
            pass
        assert worker.is_worn() == is_worn
    finally:
        worker.kill()


def test_memory_limit_is_most_of_what_the_cgroup_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "memory" / "box"
    box.mkdir(parents=True)
    (box / "memory.limit_in_bytes").write_text("3000000000\n")
    (box / "memory.usage_in_bytes").write_text("1500000000\n")
    # Files that were read count as used, but make room.
    (box / "memory.stat").write_text("cache 700000000\ntotal_inactive_file 500000000\n")
    (box / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    (tmp_path / "self").write_text("12:cpu:/x\n4:memory:/box\n")
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    monkeypatch.setattr(cgroups, "OWN_CGROUP", tmp_path / "self")
    assert limits.memory_limit(LimitsConfig()) == pytest.approx(0.9 * 2e9)
    assert limits.memory_limit(LimitsConfig(max_memory_gb=1.5)) == int(1.5e9)
    assert cgroups.oom_kills() == 7
    monkeypatch.setattr(cgroups, "OWN_CGROUP", tmp_path / "absent")
    assert cgroups.oom_kills() is None
    assert limits.memory_limit(LimitsConfig()) > 0
