"""A folder that holds modules of somebody's: nothing that we start imports them."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fake_training import FakeTrainer

import catdog_search
from catdog_search.children import safe_environment, starting_safely, trusted_path
from catdog_search.data import decoders
from catdog_search.data.sources import SyntheticSource
from catdog_search.machine import cores
from catdog_search.places import StateFolder
from catdog_search.search.events import Ready
from catdog_search.search.workers.local import LocalWorker
from catdog_search.search.workers.messages import Launch, Start
from catdog_search.web import open_url

# Of the standard library, of what the servers start, of what we import, and what isn't installed.
TRAPS = (
    *("random", "json", "logging", "tempfile", "shutil", "string", "socket", "selectors"),
    *("multiprocessing", "concurrent", "asyncio", "sitecustomize", "usercustomize"),
    *("mlflow", "uvicorn", "gunicorn", "flask", "sqlalchemy", "click", "numpy", "keras", "PIL"),
    *("fake_training", "torch", "cupy", "optree"),
)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, in which every module leaves its name behind when it is imported."""
    folder, sprung = tmp_path / "trap", tmp_path / "sprung"
    folder.mkdir()
    code = f"open({str(sprung)!r}, 'a').write(__name__ + ' ')\n"
    for name in TRAPS:
        (folder / f"{name}.py").write_text(code)
    (folder / "matplotlibrc").write_text("text.usetex: True\nbackend: module://random\n")
    (folder / ".env").write_text("MLFLOW_BACKEND_STORE_URI=sqlite:///stray.db\n")
    before = set(folder.iterdir())
    monkeypatch.chdir(folder)
    yield folder
    assert not sprung.exists(), sprung.read_text()
    assert set(folder.iterdir()) <= before


def outside(folder: Path) -> dict[str, str]:
    """The environment of a shell in which nobody set a path; ours stands in for an installation."""
    path = [entry for entry in sys.path if entry and Path(entry) != folder]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def test_module_that_is_run_imports_nothing_of_its_folder(trap: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "catdog_search", "studies"],
        env=outside(trap),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "quick" in done.stdout, done.stderr


def test_worker_imports_nothing_of_its_folder(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("")  # as an interactive Python has it
    worker = LocalWorker(Launch(trap.parent / "log", "tensorflow", FakeTrainer))
    try:
        worker.send(Start())
        deadline = time.monotonic() + 60
        message = None
        while message is None and time.monotonic() < deadline:
            message = worker.receive()
            time.sleep(0.05)
        assert isinstance(message, Ready), (trap.parent / "log").read_text()
    finally:
        worker.kill()


def test_decoders_import_nothing_of_their_folder(
    trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("")
    monkeypatch.setattr(decoders, "_PER_PROCESS", 10)
    monkeypatch.setattr(cores, "count", lambda: 2)
    task = decoders.Task(SyntheticSource(40), 8, frozenset())
    assert len(list(decoders.examine_all(task))) == 40


def report_path(connection: mp.connection.Connection) -> None:
    connection.send((sys.flags.safe_path, sys.path))


def test_child_has_the_path_without_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    ours, theirs = mp.Pipe()
    process = mp.get_context("spawn").Process(target=report_path, args=(theirs,))
    with starting_safely():
        process.start()
    assert sys.path[0] == ""
    safe, path = ours.recv()
    process.join()
    assert safe
    assert path == trusted_path()
    assert str(tmp_path) not in path
    assert str(Path(__file__).parent) in path  # stand-ins that a test puts there are kept
    assert "PYTHONSAFEPATH" not in os.environ


def test_our_own_package_is_found_from_a_checkout_that_is_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = str(Path(catdog_search.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["", "/usr/lib/python3"])
    assert trusted_path() == ["/usr/lib/python3", own]


def test_environment_names_folders_whatever_folder_it_is_used_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "mine", "/opt/theirs", ""]))
    path = safe_environment()["PYTHONPATH"].split(os.pathsep)
    assert path == [str(tmp_path / "mine"), "/opt/theirs"]


def test_ui_imports_nothing_of_its_folder_and_shows_no_store_to_other_users(
    trap: Path, state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "catdog_search", "ui", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--state", str(state.root)],
        env=outside(trap),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as ui:
        try:
            assert ui.stdout is not None
            assert "holds no study" in ui.stdout.readline()
            assert "MLflow on sqlite" in ui.stdout.readline()
            address = ui.stdout.readline()
            said = f"experiments: http://127.0.0.1:{port}/#/"
            assert address.startswith(said), address + ui.stdout.read()
            with open_url(f"http://127.0.0.1:{port}/health", 5) as answer:
                assert answer.status == 200
            processes = psutil.Process(ui.pid).children(recursive=True)
            assert processes
            assert not any("sqlite:" in word for p in processes for word in p.cmdline())
        finally:
            ui.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                ui.wait(20)
            ui.kill()
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    assert not (trap / "stray.db").exists()
