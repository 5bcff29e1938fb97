"""MLflow's store: made safely, quiet, and the same through a server."""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.streams import stderr_aside
from catdog_search.tracking.recorded import recorded
from catdog_search.tracking.runs import StudyRuns
from catdog_search.tracking.store import Store, ensure_mlflow_db
from catdog_search.tracking.trial_log import log_metrics
from catdog_search.tracking.ui import page, study_page


def is_whole(path: Path) -> bool:
    """Whether MLflow can use the file as it is."""
    Store(f"sqlite:///{path}", None).client().search_experiments()
    with sqlite3.connect(path) as connection:
        return bool(connection.execute("pragma journal_mode").fetchone()[0] == "wal")


def test_ensure_mlflow_db_is_safe_against_four_cold_processes(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    path = tmp_path / "mlflow.db"
    processes = [context.Process(target=ensure_mlflow_db, args=(path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert is_whole(path)


def test_ensure_mlflow_db_survives_a_kill_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    process = mp.get_context("spawn").Process(target=ensure_mlflow_db, args=(path,))
    process.start()
    fresh = tmp_path / "mlflow.new"
    deadline = time.monotonic() + 60
    while not (fresh.exists() and fresh.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not path.exists(), "the kill came too late for the test to tell"
    ensure_mlflow_db(path)
    assert is_whole(path)


def test_store_turns_telemetry_and_pickles_off(
    tmp_path: Path, in_fresh_python: Callable[[str], str]
) -> None:
    code = f"""
from catdog_search.places import StateFolder
from catdog_search.tracking.store import Store
state = StateFolder.at({str(tmp_path)!r})
Store.of(state).client(make=True)
from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION
from mlflow.telemetry.utils import is_telemetry_disabled
print(MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get(), is_telemetry_disabled())
"""
    assert in_fresh_python(code) == "False True"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://127.0.0.1:9", "no answer"),
        ("file:///tmp/x", "MLflow store file:///tmp/x"),
        ("nonsense://x", "MLflow store nonsense://x"),
    ],
)
def test_store_that_does_not_open_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, says: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StateError) as caught:
        Store.of(StateFolder.at(str(tmp_path))).client()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_store_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"not a database, but long enough to look like one " * 100)
    with pytest.raises(StateError, match="MLflow store sqlite"):
        Store(f"sqlite:///{path}", tmp_path).client()


def test_runs_refuses_an_experiment_in_the_trash(tmp_path: Path) -> None:
    store = Store.of(StateFolder.at(str(tmp_path)))
    runs = StudyRuns.open(store, "s", "uid")
    runs._client.delete_experiment(runs._experiment_id)
    with pytest.raises(StateError, match="in MLflow's trash; `catdog-search doctor"):
        StudyRuns.open(store, "s", "uid")
    runs._client.restore_experiment(runs._experiment_id)
    # The same parent for the same study, another one for a new study of the same name.
    assert StudyRuns.open(store, "s", "uid").parent_id == runs.parent_id
    assert StudyRuns.open(store, "s", "other").parent_id != runs.parent_id


@pytest.mark.parametrize(("first_step", "best_epoch"), [(0, 1), (1, 2)])
def test_kept_epoch_is_read_by_its_step_from_earlier_versions_too(
    tmp_path: Path, empty_mlflow: Path, first_step: int, best_epoch: int
) -> None:
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    client = Store(f"sqlite:///{tmp_path / 'mlflow.db'}", None).client()
    run_id = client.create_run("0", run_name="r", tags={}).info.run_id
    for step, loss in enumerate((0.3, 0.1, 0.2), first_step):
        log_metrics(client, run_id, {"loss": loss}, step)
    log_metrics(client, run_id, {"best_epoch": best_epoch}, 0)
    found = recorded(client, run_id)
    assert found.best_epoch is not None
    assert found.history[found.best_epoch] == {"loss": 0.1}


def test_page_opens_in_model_training_mode() -> None:
    assert page("http://h:1/") == "http://h:1/#/experiments?workflowType=machine_learning"
    assert "/#/experiments/7/runs?workflowType" in study_page("http://h:1", "7")


def test_client_of_one_state_leaves_no_trace_for_the_next(tmp_path: Path) -> None:
    first, second = (StateFolder(tmp_path / name) for name in ("a", "b"))
    Store.of(first).client(make=True)
    assert Store.of(second).uri == f"sqlite:///{second.mlflow_db}"
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_what_a_failed_import_printed_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with stderr_aside():
        os.write(2, b"chatter\n")

    def fail() -> None:
        os.write(2, b"the reason\n")
        raise ImportError

    with pytest.raises(ImportError), stderr_aside():
        fail()
    assert capfd.readouterr().err == "the reason\n"
