"""The coordinator's end of its workers: one that trains, and a spare that has only imported."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import signal
import time
from collections.abc import Iterable
from multiprocessing import connection
from pathlib import Path
from typing import NoReturn

import psutil

from catdog_search import clock
from catdog_search.children import starting_safely
from catdog_search.errors import TrialFailedError
from catdog_search.outcomes import Ending
from catdog_search.search.limits import oom_kills
from catdog_search.search.messages import (
    Decision,
    Event,
    Launch,
    Outcome,
    Recording,
    Shutdown,
    Start,
    Stop,
    TrialSpec,
    Unready,
)
from catdog_search.search.worker import serve

_POLL_S = 0.2
_MEMORY_EVERY_S = 1.0
# A spare's import takes processor time from short studies, which never need it.
SPARE_AFTER_S = 60.0
# A worker that holds more than this share of its limit between trials gives way to a fresh one.
_RECYCLE_SHARE = 0.5


class WorkerDiedError(Exception):
    """A worker is gone.

    Attributes:
        ending: OOM where memory ran out, BLOCKED where it waited for something else, else CRASHED.
        text: What happened, for people: `was killed by SIGKILL`.
        from_outside: Whether something else ended it, so that another may fare better.
    """

    def __init__(self, ending: Ending, text: str, *, from_outside: bool = True) -> None:
        super().__init__(text)
        self.ending = ending
        self.text = text
        self.from_outside = from_outside


def held_bytes(pid: int | None) -> int:
    """Memory that only the end of a process gives back; 0 where there is none.

    Pages of mapped files don't count where the system tells them apart (Linux): cached features are
    read that way, and the kernel takes such pages back whenever it needs them.
    """
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss) - int(getattr(info, "shared", 0))


class Worker:
    """One worker process. It imports at once, and trains once it is started.

    Args:
        launch: How.

    Attributes:
        connection: To it.
        started: When, by the monotonic clock.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._oom_kills = oom_kills()
        context = mp.get_context("spawn")  # a fork would copy threads and locks half-way
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve,
            args=(theirs, launch),
            name="worker",
            daemon=True,
        )
        # Ctrl-C reaches the whole group; the coordinator decides what it means. A signal that is
        # ignored here is ignored in the worker from its first moment on.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        with starting_safely():
            self._process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()  # so that a dead worker is the end of the pipe
        self.started = self._looked = time.monotonic()
        self._heard = clock.now()
        self._recording_s = 0.0  # that it may be silent for; 0 where it doesn't speak to MLflow
        self._trials = 0
        self._full = False

    def send(self, message: Start | TrialSpec | Decision | Stop) -> None:
        """Send a message.

        Raises:
            WorkerDiedError: The worker is gone.
        """
        if isinstance(message, TrialSpec):
            self._trials += 1
            self._oom_kills = oom_kills()  # what was killed before has nothing to do with this
        self._heard = clock.now()  # from now on it has something to say
        try:
            self.connection.send(message)
        except OSError:
            raise self._died() from None

    def receive(self) -> Event | Outcome | Unready | Recording | None:
        """The next message; None where there is none for a moment.

        Raises:
            WorkerDiedError: The worker is gone, too large, or silent for too long.
        """
        self._watch_memory()
        try:
            if self.connection.poll():
                message: Event | Outcome | Unready | Recording = self.connection.recv()
                self._heard = clock.now()
                self._recording_s = message.seconds if isinstance(message, Recording) else 0.0
                if isinstance(message, Outcome):
                    self._full = message.ending is Ending.OOM
                return message
        except (EOFError, OSError):
            raise self._died() from None
        # Not by the time that passed: where this process was stopped, so was the worker.
        if clock.now() - self._heard > max(self._launch.stall_s, self._recording_s):
            self._stalled()
        return None

    def _stalled(self) -> NoReturn:
        self.kill()
        if self._recording_s:
            text = f"MLflow's store, or its disk, has not answered for {self._recording_s:g} s"
            raise WorkerDiedError(Ending.BLOCKED, text)
        raise WorkerDiedError(
            Ending.CRASHED, f"gave no sign of life for {self._launch.stall_s:g} s"
        )

    def _watch_memory(self) -> None:
        now = time.monotonic()
        # One that has no trial yet has only imported, which no limit of the study is about.
        if not self._trials or now - self._looked < _MEMORY_EVERY_S:
            return
        self._looked = now
        used, most = self.memory_bytes(), self._launch.memory_bytes
        if used > most:
            self.kill()
            text = f"out of memory: the worker held {used / 1e9:.2f} GB, at most {most / 1e9:.2f}"
            raise WorkerDiedError(Ending.OOM, text)

    def memory_bytes(self) -> int:
        """What the process holds in memory; 0 where it is gone."""
        return held_bytes(self._process.pid)

    def is_worn(self) -> bool:
        """Whether the next trial had better have a fresh one."""
        large = self.memory_bytes() > self._launch.memory_bytes * _RECYCLE_SHARE
        return self._full or large or self._trials >= self._launch.trials

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def shutdown(self, timeout: float = 5) -> None:
        """End the worker, by force if it doesn't end by itself."""
        with contextlib.suppress(OSError):  # it may be gone
            self.connection.send(Shutdown())
        self._process.join(timeout)
        self.kill()

    def kill(self) -> None:
        """End the worker at once."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.connection.close()

    def _died(self) -> WorkerDiedError:
        self._process.join(5)
        code = self._process.exitcode
        self.kill()
        if code is None or code >= 0:
            return WorkerDiedError(Ending.CRASHED, f"exited with {code}", from_outside=False)
        if -code == signal.SIGKILL and oom_kills() != self._oom_kills:
            return WorkerDiedError(Ending.OOM, "out of memory: the kernel killed the worker")
        return WorkerDiedError(Ending.CRASHED, f"was killed by {signal.Signals(-code).name}")


class Pool:
    """The workers in use and a spare.

    Args:
        launch: How workers are started.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._spare: Worker | None = Worker(launch)
        self._in_use: list[Worker] = []

    def begin(self) -> Worker:
        """Put a worker into use; its Ready is the next thing it says."""
        fresh, self._spare = self._spare, None
        if fresh is None or not fresh.is_alive():
            if fresh is not None:
                fresh.kill()
            fresh = Worker(self._launch)
        self._in_use.append(fresh)
        fresh.send(Start())
        return fresh

    def retire(self, worker: Worker) -> None:
        """End a worker in use."""
        self._in_use.remove(worker)
        worker.shutdown()

    def keep_spare(self) -> None:
        """Start a spare, once a worker in use has been there for a while."""
        now = time.monotonic()
        if self._spare is None and any(now - w.started > SPARE_AFTER_S for w in self._in_use):
            self._spare = Worker(self._launch)

    def close(self, timeout: float) -> None:
        """End all workers."""
        if self._spare is not None:
            self._spare.shutdown(0)
        for worker in self._in_use:
            worker.shutdown(timeout)
        self._in_use, self._spare = [], None


def wait_for(workers: Iterable[Worker]) -> None:
    """Wait until one of them has something to say, or for a moment."""
    connection.wait([worker.connection for worker in workers], _POLL_S)


def start_failed(log: Path, died: WorkerDiedError) -> TrialFailedError:
    """Workers don't even start: there is nothing to learn from that."""
    return TrialFailedError(
        f"the worker {died.text} before its first trial; its output is in {log}", trace=str(log)
    )
