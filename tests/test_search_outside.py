"""Causes outside in the middle of a study: it waits where that helps, and no trial is lost."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_training import FakeTrainer, wait_less_for_locks
from tiny_study import assert_stores_agree, mlflow_children, run

from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.events import EpochDone, Event, Notice
from catdog_search.search.study import schema, storage, views
from catdog_search.search.study.reconcile import reconcile
from catdog_search.search.workers.backend import WorkerDiedError
from catdog_search.search.workers.local import LocalWorker
from catdog_search.search.workers.messages import Launch, Start, Unready
from catdog_search.tracking.store import Store

Act = Callable[..., None]
# Of trying again: more than any lock here is held, and less than one that isn't let go.
PATIENT, HASTY = {"retry_minutes": 1}, {"retry_minutes": 0.02}


def in_epoch(number: int, do: Callable[[], object], said: list[str]) -> Callable[[Event], None]:
    """A listener that does something after an epoch of trial 1, once, and notes what is told."""
    waiting = [do]

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)
        if isinstance(event, EpochDone) and (event.number, event.epoch) == (1, number) and waiting:
            waiting.pop()()

    return listen


def assert_goes_on(state: StateFolder, pictures: Dataset, attempts: int = 2) -> None:
    """Trial 1 was left to be taken up; the next call does, and both stores agree."""
    before = views.load_view(state, "tiny")
    assert [row.state for row in before.trials] == ["COMPLETE", "RUNNING"]
    report = run(state, pictures, 2)
    assert report.view.counts == {"COMPLETE": 2}
    trial = storage.load_study(state, "tiny").get_trials()[1]
    assert trial.user_attrs["attempt"] == attempts
    assert_stores_agree(state)
    assert reconcile(state, "tiny", repair=False) == []


def test_cause_outside_leaves_the_trial_whatever_it_is(
    state: StateFolder, pictures: Dataset, act: Act
) -> None:
    act(call_2="EIO", call_3="ESTALE", call_4="EMFILE")
    for says in ("disk fails", "network file system", "ulimit -n"):
        with pytest.raises(StateError, match=f"trial 1 was stopped from .*{says}") as caught:
            run(state, pictures, 2)
        assert "\n" not in str(caught.value)
    assert_goes_on(state, pictures, attempts=4)


@pytest.fixture
def short_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow and Optuna wait little for locks, here and in workers."""
    monkeypatch.setenv("FAKE_BUSY_MS", "100")
    monkeypatch.setattr(storage, "_WAIT_S", 0.1)
    with wait_less_for_locks("100"):
        yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("begin immediate")
    try:
        yield
    finally:
        holder.close()


def lock_for(path: Path, seconds: float) -> None:
    """Hold a database as another program does."""
    held = contextlib.ExitStack()
    held.enter_context(locked(path))
    threading.Timer(seconds, held.close).start()


@pytest.mark.usefixtures("short_locks")
@pytest.mark.parametrize("name", ["mlflow.db", "optuna.db"])
def test_lock_of_another_program_is_waited_for(
    state: StateFolder, pictures: Dataset, name: str
) -> None:
    said: list[str] = []
    listen = in_epoch(0, lambda: lock_for(state.root / name, 3), said)
    report = run(state, pictures, 2, listener=listen, table={"limits": PATIENT})
    assert report.view.counts == {"COMPLETE": 2}
    told = [line for line in said if "is locked by another program" in line]
    assert told
    assert all(f"{state.root / name}" in line for line in told)
    assert all(line.endswith("; trying again for up to 60 s") for line in told)
    assert [row.error for row in report.view.trials] == [None, None]
    assert_stores_agree(state)


@pytest.mark.usefixtures("short_locks")
@pytest.mark.parametrize("name", ["mlflow.db", "optuna.db"])
def test_lock_that_is_not_let_go_leaves_the_trial(
    state: StateFolder, pictures: Dataset, name: str
) -> None:
    with contextlib.ExitStack() as held:
        listen = in_epoch(0, lambda: held.enter_context(locked(state.root / name)), [])
        with pytest.raises(StateError, match="is locked by another program") as caught:
            run(state, pictures, 2, listener=listen, table={"limits": HASTY})
        assert "\n" not in str(caught.value)
        assert str(state.root / name) in str(caught.value)
    assert_goes_on(state, pictures)


def test_run_that_somebody_deletes_costs_an_attempt_and_no_trial(
    state: StateFolder, pictures: Dataset
) -> None:
    def delete() -> None:
        row = views.load_view(state, "tiny").trials[1]
        Store.of(state).client().delete_run(row.run_id)

    with pytest.raises(StateError, match="was deleted in MLflow; the next call makes a new one"):
        run(state, pictures, 2, listener=in_epoch(0, delete, []))
    assert_goes_on(state, pictures)


def test_folder_for_temporary_files_that_vanishes_is_named(
    state: StateFolder, pictures: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with pytest.raises(StateError, match=r"\(TMPDIR\) is gone") as caught:
        run(state, pictures, 2, listener=in_epoch(1, lambda: shutil.rmtree(temporary), []))
    assert str(temporary) in str(caught.value)
    assert tempfile.gettempdir() != str(temporary)  # of this process
    monkeypatch.delenv("TMPDIR")
    assert_goes_on(state, pictures)


def test_worker_that_can_not_write_its_log_is_told_in_a_line(
    state: StateFolder, pictures: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    log = state.scratch("tiny") / "worker.log"
    log.mkdir(parents=True)
    with pytest.raises(StateError, match=r"a worker can't start: .*is a folder") as caught:
        run(state, pictures, 1)
    assert f"{log} (--state)" in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
    log.rmdir()
    assert run(state, pictures, 1).view.counts == {"COMPLETE": 1}


def test_figures_that_fail_beside_a_training_are_drawn_in_the_end(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NO_FIGURES", "1")
    said: list[str] = []
    report = run(state, pictures, 2, listener=in_epoch(0, lambda: None, said), drawn=True)
    assert report.view.counts == {"COMPLETE": 2}
    assert any("trial 0: its figures were not drawn: too many files are open" in s for s in said)
    for row in report.view.trials:
        drawn = list(state.artifacts.rglob(f"{row.run_id}/artifacts/figures/*.png"))
        assert len(drawn) > 1


class Gateway(ThreadingHTTPServer):
    """What stands between a study and MLflow's server, and has moods.

    Args:
        upstream: Port of the server; None for no server.

    Attributes:
        mood: Status, type and body of every answer; None lets requests pass.
        until: When the mood is over, by the monotonic clock.
        loses: Path of the request whose first answer is lost on the way.
    """

    daemon_threads = True

    def __init__(self, upstream: int | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.mood: tuple[int, str, bytes] | None = None
        self.until = float("inf")
        self.loses = ""

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def be(self, status: int, body: bytes, seconds: float = float("inf")) -> None:
        kind = "application/json" if body.startswith(b"{") else "text/html"
        self.mood, self.until = (status, kind, body), time.monotonic() + seconds


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def answer(self) -> None:
        body = self.body()
        gateway = self.server
        if gateway.mood and time.monotonic() < gateway.until:
            status, kind, text = gateway.mood
        else:
            status, kind, text = self.passed_on(body)
        if gateway.loses and gateway.loses in self.path:
            gateway.loses = ""
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def passed_on(self, body: bytes) -> tuple[int, str, bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOPS}
        upstream.request(self.command, self.path, body or None, headers)
        answer = upstream.getresponse()
        found = answer.status, answer.headers.get("Content-Type", ""), answer.read()
        upstream.close()
        return found

    def log_message(self, *args: Any) -> None:
        pass


_HOPS = ("host", "accept-encoding", "connection", "content-length", "transfer-encoding")


@contextlib.contextmanager
def open_gateway(upstream: int | None) -> Iterator[Gateway]:
    gateway = Gateway(upstream)
    threading.Thread(target=gateway.serve_forever, daemon=True).start()
    try:
        yield gateway
    finally:
        gateway.shutdown()
        gateway.server_close()


ANSWERS = {
    "login wanted": (401, b"<html>log in</html>", "doesn't know who we are (HTTP 401)"),
    "login wanted, in JSON": (401, b'{"message": "Unauthorized"}', "not as MLflow does"),
    "forbidden": (403, b"no", "doesn't let us in (HTTP 403)"),
    "login page": (200, b"<!doctype html><html>log in</html>", "whether it wants a login"),
    "redirection": (302, b"", "(HTTP 302)"),
    "something else": (404, b"<html>nothing here</html>", "is no MLflow server"),
    "other JSON": (200, b'{"status": "ok"}', "not as MLflow does"),
    "no JSON": (200, b"hello", "not as MLflow does"),
    "out of order": (503, b"later", "doesn't serve us at the moment (HTTP 503)"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_server_that_is_no_store_is_told_before_anything_starts(answer: str) -> None:
    status, body, says = ANSWERS[answer]
    with open_gateway(None) as gateway:
        gateway.be(status, body)
        with pytest.raises(StateError) as caught:
            Store(gateway.uri, None).client()
    assert says in str(caught.value)
    assert gateway.uri in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def gateway(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A study's way to a real server."""
    with open_gateway(int(server.rsplit(":", 1)[1])) as gateway:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
        yield gateway


def test_server_that_restarts_is_waited_for(
    state: StateFolder, pictures: Dataset, gateway: Gateway
) -> None:
    said: list[str] = []
    listen = in_epoch(0, lambda: gateway.be(503, b"restarting", seconds=3), said)
    report = run(state, pictures, 2, listener=listen, table={"limits": PATIENT})
    assert report.view.counts == {"COMPLETE": 2}
    assert any(
        f"{gateway.uri} doesn't serve us at the moment (HTTP 503)" in line
        and line.endswith("trying again for up to 60 s")
        for line in said
    )
    assert_stores_agree(state)


def test_server_that_wants_a_login_in_the_middle_leaves_the_trial(
    state: StateFolder, pictures: Dataset, gateway: Gateway
) -> None:
    listen = in_epoch(0, lambda: gateway.be(401, b"<html>log in</html>"), [])
    with pytest.raises(StateError, match=r"trial 1 was stopped from outside: .* \(HTTP 401\)"):
        run(state, pictures, 2, listener=listen)
    with pytest.raises(StateError, match=r"\(HTTP 401\)"):  # found before a trial begins
        run(state, pictures, 2)
    gateway.mood = None
    assert_goes_on(state, pictures)


def test_answer_that_is_lost_makes_no_second_run(
    state: StateFolder, pictures: Dataset, gateway: Gateway
) -> None:
    gateway.loses = "/runs/create"  # of the study's own run
    lost = []

    def lose(event: Event) -> None:
        if isinstance(event, EpochDone) and not lost:
            lost.append(gateway.loses)
            gateway.loses = "/runs/create"  # of the second trial's

    report = run(state, pictures, 2, listener=lose)
    assert lost == [""]
    assert gateway.loses == ""
    assert report.view.counts == {"COMPLETE": 2}
    assert len(mlflow_children(state, report.view)) == 2
    client = Store.of(state).client()
    experiment = client.get_experiment_by_name("tiny")
    uid = storage.load_study(state, "tiny").user_attrs[schema.UID]
    assert len(client.search_runs([experiment.experiment_id], f"tags.study_uid = '{uid}'")) == 1


def test_worker_that_ended_before_it_was_started_has_said_why(tmp_path: Path) -> None:
    log = tmp_path / "gone" / "scratch" / "tiny" / "worker.log"  # a state that isn't there
    worker = LocalWorker(Launch(log, "tensorflow", FakeTrainer))
    try:
        worker._process.join(60)
        worker.send(Start())
        assert isinstance(worker.receive(), Unready)
        with pytest.raises(WorkerDiedError, match="exited with 0"):
            worker.receive()
    finally:
        worker.kill()
