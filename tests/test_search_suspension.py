"""Time in which the coordinator stood still is neither work nor a worker's silence."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STOPPED_S = 2.5

# Looks at a worker that has nothing to say, as the coordinator does, until it takes it for dead.
_WATCH = """
import json, sys, time
from multiprocessing.connection import wait
from pathlib import Path
from fake_training import FakeTrainer
from catdog_search import clock
from catdog_search.search.workers import local
from catdog_search.search.interrupt import StopRequest
from catdog_search.search.events import Ready
from catdog_search.search.workers.messages import Launch, Start

if __name__ == "__main__":
    worker = local.LocalWorker(Launch(Path(sys.argv[1]), "tensorflow", FakeTrainer, stall_s=2.0))
    worker.send(Start())
    while not isinstance(worker.connection.recv(), Ready):
        pass
    worker._heard = clock.now()
    began, wall, stop = clock.now(), time.monotonic(), StopRequest(1.0)
    facts, timed_out = {}, None
    print(worker._process.pid, flush=True)
    try:
        while True:
            wait([worker.connection], 0.2)
            if timed_out is None and stop.cause:
                timed_out = time.monotonic() - wall
            worker.receive()
    except local.WorkerDiedError as died:
        facts = {"text": died.text, "ran": clock.now() - began, "wall": time.monotonic() - wall}
    print(json.dumps({**facts, "timed_out": timed_out}), flush=True)
"""


@contextlib.contextmanager
def watcher(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A coordinator's end of a worker, and the worker, in a process group of their own."""
    script = folder / "watch.py"
    script.write_text(_WATCH)
    tests = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "log")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def worker_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_suspensions_of_the_group_count_neither_alone_nor_together(tmp_path: Path) -> None:
    with watcher(tmp_path) as process:
        worker_of(process)
        for _ in range(3):
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(STOPPED_S)  # longer than the worker may be silent
            os.killpg(process.pid, signal.SIGCONT)
            time.sleep(0.2)
        found = outcome(process)
    assert "no sign of life for 2 s" in found["text"]
    assert 2 <= found["ran"] < 2 + STOPPED_S  # it was silent while somebody looked
    assert found["wall"] > 2 + 2 * STOPPED_S
    assert found["timed_out"] > 1 + 2 * STOPPED_S  # nor does a time limit count them


def test_worker_that_alone_is_suspended_is_silent(tmp_path: Path) -> None:
    with watcher(tmp_path) as process:
        os.kill(worker_of(process), signal.SIGSTOP)
        found = outcome(process)
    assert "no sign of life for 2 s" in found["text"]
    assert found["wall"] < 2 + STOPPED_S


def test_interpreter_that_is_held_by_work_is_not_suspended(in_fresh_python: Any) -> None:
    code = """
import re, time
from catdog_search import clock
began, wall = clock.now(), time.monotonic()
while time.monotonic() - wall < 1.5:
    re.match("(a+)+$", "a" * 22 + "b")  # holds the interpreter's lock
print(clock.now() - began > 1.4)
"""
    assert in_fresh_python(code) == "True"
