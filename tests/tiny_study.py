"""A tiny study on real stores, in this process or in one of its own, and what must hold of it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_training import AbsentTrainer, FakeTrainer
from warm_workers import blank_figures, warm_workers

from catdog_search.cli import main
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.identity import local_path
from catdog_search.places import StateFolder
from catdog_search.search.coordinator import Options, Report, run_study
from catdog_search.search.study import schema, views
from catdog_search.search.study.views import StudyView
from catdog_search.search.workers.trainer import MakeTrainer
from catdog_search.study import studies
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.registry import Registered, register_champion
from catdog_search.tracking.store import Store
from catdog_search.training.trainer import KerasTrainer

# By the name that tests, and scripts in processes of their own, know them by.
TRAINERS: dict[str, MakeTrainer] = {
    "fake_training": FakeTrainer,
    "absent_training": AbsentTrainer,
    "keras": KerasTrainer,
}

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


# The space and the recipe of TABLE, as a study file has them.
SPACE_FILE = """
[space]
n_blocks = { low = 1, high = 2 }
filters = { choices = [4, 8] }
dropout = { low = 0.0, high = 0.5 }
dense_units = 0

[recipes.plain]
n_blocks = 2
filters = 4
dropout = 0.0
"""


def run(state: StateFolder, pictures: Dataset, trials: int, **options: Any) -> Report:
    """Run the study; the test's own keywords go to run_study, `table` changes the study.

    With `spawned`, workers start from nothing, as everybody's do; with `drawn`, the figures are
    those that everybody gets.
    """
    config = studies.parse({**TABLE, **options.pop("table", {})}, "tiny.toml")
    listener = options.pop("listener", lambda event: None)
    training = options.pop("training", "fake_training")
    real = training != "fake_training"
    with contextlib.ExitStack() as stack:
        if not options.pop("spawned", real):
            stack.enter_context(warm_workers())
        if not options.pop("drawn", real):
            stack.enter_context(blank_figures())
        chosen = Options(trials=trials, trainer=TRAINERS[training], **options)
        return run_study(config, pictures, state, listener, chosen)


def call(*arguments: str, code: int = 0) -> Result:
    """Call the command line in this process."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


def listing(root: Path) -> dict[str, bytes]:
    """Every file of a state; what sqlite makes when a store is only read doesn't count."""
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {
        p: t for p, t in found.items() if not (p.endswith("-shm") or (p.endswith("-wal") and not t))
    }


def add_model(state: StateFolder, view: StudyView, number: int) -> str:
    """Give a trial a model that looks like one of ours, without Keras."""
    from mlflow.models import Model

    client = Store.of(state).client()
    run_id = view.trials[number].run_id or ""
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, name="model", source_run_id=run_id)
    folder = local_path(model.artifact_location)
    assert folder is not None
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "model.keras").write_bytes(b"weights")
    said = {"class_names": ["cat", "dog"], "image_size": 8}
    ids = {"run_id": run_id, "model_id": model.model_id}
    made = Model(artifact_path=model.artifact_location, metadata=said, **ids)
    made.add_flavor("keras", data="data")
    made.save(str(folder / "MLmodel"))
    client.finalize_logged_model(model.model_id, "READY")
    trial = views.load_study(state, "tiny").get_trials()[number]
    with contextlib.closing(sqlite3.connect(state.optuna_db)) as connection, connection:
        connection.execute(
            "insert into trial_user_attributes (trial_id, key, value_json) values (?, ?, ?)",
            (trial._trial_id, schema.MODEL_ID, json.dumps(model.model_id)),
        )
    return str(model.model_id)


def settle(state: StateFolder) -> None:
    """Let the databases' files hold all, so that whoever only reads changes none."""
    for store in (state.mlflow_db, state.optuna_db):
        with contextlib.closing(sqlite3.connect(store)) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")


def register_best(state: StateFolder, name: str = "catdog", study: str = "tiny") -> Registered:
    """Let the best trial's model be champion: what a promotion ends with, and nothing before it."""
    view = views.load_view(state, study)
    assert view.best is not None
    model_id = view.trials[view.best.number].model_id
    if model_id is None:
        raise StateError(f"trial {view.best.number} of study {study!r} kept no model")
    tags = {
        words.STUDY: study,
        words.TRIAL: str(view.best.number),
        words.RUN_ID: view.best.run_id,
        words.METRIC: view.metric or "",
        words.OBJECTIVE: f"{view.best.value:.6g}",
        words.DATASET_DIGEST: view.dataset_digest or "",
    }
    store = Store.of(state)
    with state.registering():
        registered = register_champion(store, name, model_id, tags)
        store.keep_copy()
    return registered


def make_done(root: Path, pictures: Dataset) -> StateFolder:
    """A study of two trials, each with a model, the better one promoted."""
    state = StateFolder.at(str(root))
    view = run(state, pictures, 2).view
    for row in view.trials:
        add_model(state, view, row.number)
    register_best(state)
    settle(state)  # or the last of this process's connections to close would, at any later time
    return state


def proposals(view: StudyView) -> list[Any]:
    return [row.params for row in view.trials]


def mlflow_children(state: StateFolder, view: StudyView) -> list[Any]:
    client = Store.of(state).client()
    experiment_id = client.get_run(view.parent_run_id).info.experiment_id
    query = f"tags.`{words.PARENT}` = '{view.parent_run_id}'"
    return list(client.search_runs([experiment_id], query))


def assert_stores_agree(state: StateFolder) -> None:
    """Every finished trial has one run that says the same; every other run is closed."""
    view = views.load_view(state, "tiny")
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


_KILL_ME = """
import json, sys
from pathlib import Path
from catdog_search.study import studies
from catdog_search.data.dataset import Dataset
from catdog_search.places import StateFolder
from catdog_search.search.coordinator import Options, run_study
from catdog_search.search.events import EpochDone, TrialStarted
from tiny_study import TRAINERS

def say(event):
    if isinstance(event, (TrialStarted, EpochDone)):
        print(type(event).__name__, flush=True)

if __name__ == "__main__":
    table, folder, digest, state, trials, training, at_once = json.loads(sys.argv[1])
    options = Options(trials=trials, trainer=TRAINERS[training], concurrency=at_once)
    run_study(studies.parse(table, "t"), Dataset(Path(folder), digest, table["image_size"]),
              StateFolder.at(state), say, options)
"""


@contextlib.contextmanager
def coordinator_process(
    state: StateFolder,
    pictures: Dataset,
    trials: int,
    table: dict[str, Any] | None = None,
    training: str = "fake_training",
    concurrency: int = 1,
) -> Iterator[subprocess.Popen[str]]:
    facts = [table or TABLE, str(pictures.folder), pictures.digest, str(state.root)]
    arguments = json.dumps([*facts, trials, training, concurrency])
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
