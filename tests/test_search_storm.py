"""Kills at random moments, over coordinator and workers: nothing is lost, doubled or left open.

By hand, with as many kills as wanted and real training:

    python tests/test_search_storm.py --kills 20 --trials 12 --real --at-once 2
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_study import (
    TABLE,
    assert_stores_agree,
    children_of,
    coordinator_process,
    mlflow_children,
    proposals,
    run,
)

from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.places import StateFolder
from catdog_search.search.events import BatchDone, EpochDone, Event
from catdog_search.search.study import views
from catdog_search.search.study.reconcile import reconcile
from catdog_search.tracking.store import Store

# Real networks, and pictures that are no larger than they must be.
REAL = {**TABLE, "image_size": 16, "space": {**TABLE["space"], "batch_size": 4}}


def storm(
    state: StateFolder,
    pictures: Dataset,
    table: dict[str, Any],
    trials: int,
    kills: int,
    training: str,
    seed: int,
    longest_s: float,
    at_once: int = 1,
) -> Counter[str]:
    """Kill `kills` times, then let the study end; returns what was killed how often."""
    chance = random.Random(seed)
    killed: Counter[str] = Counter()
    while killed.total() < kills:
        with coordinator_process(state, pictures, trials, table, training, at_once) as process:
            while killed.total() < kills and process.poll() is None:
                time.sleep(chance.uniform(0, longest_s))
                if chance.random() < 0.3:
                    process.kill()
                    killed["coordinator"] += 1
                    break
                if victims := workers_of(process):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(chance.choice(victims), signal.SIGKILL)
                        killed["worker"] += 1
        if process.returncode == 0:
            break  # the study outran the storm, which the caller sees by the count
    with coordinator_process(state, pictures, trials, table, training, at_once) as process:
        assert process.stdout is not None
        process.stdout.read()
        assert process.wait() == 0
    return killed


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    try:
        children = children_of(process.pid)
    except OSError:
        return []
    return [pid for pid in children if "spawn_main" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def assert_whole(state: StateFolder, trials: int) -> None:
    """Exactly the asked trials, none twice, none open, both stores of one mind."""
    view = views.load_view(state, "tiny")
    assert len(view.trials) == view.finished == trials
    assert set(view.counts) <= {"COMPLETE", "PRUNED"}
    assert {row.ending for row in view.trials} <= {"finished", "crashed"}
    assert len({str(params) for params in proposals(view)}) == trials
    assert_stores_agree(state)
    assert reconcile(state, "tiny", repair=False) == []
    runs = mlflow_children(state, view)
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    finished = [run.data.tags["trial"] for run in runs if run.info.status == "FINISHED"]
    assert sorted(map(int, finished)) == list(range(trials))
    left = {p.name for p in state.scratch("tiny").iterdir()}
    assert left == {"coordinator.lock", "worker.log"}


def test_storm_of_30_kills_leaves_a_whole_study(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "0.25")
    table = {**TABLE, "trials": 26}
    killed = storm(state, pictures, table, 26, 30, "fake_training", seed=1, longest_s=2.2)
    assert killed.total() == 30
    assert min(killed["worker"], killed["coordinator"]) >= 5
    assert_whole(state, 26)


def test_storm_over_real_training_leaves_a_whole_study(
    state: StateFolder, shared_cache: Path
) -> None:
    pictures = packing.load(SyntheticSource(200), 16, shared_cache, 10**9)
    killed = storm(state, pictures, REAL, 4, 5, "keras", seed=3, longest_s=12)
    assert killed.total() >= 3
    assert_whole(state, 4)


def test_real_training_goes_on_from_its_last_whole_epoch(
    state: StateFolder, shared_cache: Path
) -> None:
    pictures = packing.load(SyntheticSource(200), 16, shared_cache, 10**9)
    with coordinator_process(state, pictures, 1, REAL, "keras") as process:
        assert process.stdout is not None
        heard = [process.stdout.readline().strip() for _ in range(3)]
        process.kill()
    assert heard == ["TrialStarted", "EpochDone", "EpochDone"]
    trained: list[int] = []
    reported: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, BatchDone):
            trained.append(event.epoch)
        if isinstance(event, EpochDone):
            reported.append(event.epoch)

    report = run(state, pictures, 1, table=REAL, training="keras", listener=listen)
    assert report.view.counts == {"COMPLETE": 1}
    assert reported == [0, 1, 2]  # the new run has the whole curve
    assert min(trained) >= 1  # and the first epoch was not trained again
    client = Store.of(state).client()
    curve = client.get_metric_history(report.view.trials[0].run_id, "val_loss")
    assert [metric.step for metric in curve] == [1, 2, 3]


def main() -> None:
    """A storm by hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--at-once", type=int, default=1, help="trials that train at once")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    state = StateFolder.at(str(folder / "state"))
    state.create()
    started = time.monotonic()
    if asked.real:
        pictures = packing.load(SyntheticSource(400), 16, folder, 10**9)
        facts = (REAL, asked.trials, asked.kills, "keras", asked.seed, 14)
    else:
        os.environ["FAKE_STEP_S"] = "0.3"
        pictures = packing.load(SyntheticSource(100), 8, folder, 10**9)
        facts = (TABLE, asked.trials, asked.kills, "fake_training", asked.seed, 3)
    killed = storm(state, pictures, *facts, at_once=asked.at_once)
    assert_whole(state, asked.trials)
    view = views.load_view(state, "tiny")
    attempts = len(mlflow_children(state, view))
    print(f"killed {dict(killed)}; trials {view.counts}; {attempts} attempts; whole")
    print(f"{time.monotonic() - started:.0f} s")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
