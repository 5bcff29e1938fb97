"""Workers as processes on this machine, each watched for memory and signs of life."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import shutil
import signal
import time
from collections.abc import Collection, Iterable
from multiprocessing import connection
from pathlib import Path
from typing import NoReturn

import psutil

from catdog_search import clock
from catdog_search.children import starting_safely
from catdog_search.machine.cgroups import oom_kills
from catdog_search.outcomes import Ending
from catdog_search.search.scratch import checkpoint_path, checkpoints_of
from catdog_search.search.workers.backend import Incoming, Worker, WorkerDiedError
from catdog_search.search.workers.messages import (
    Decision,
    Launch,
    Outcome,
    Recording,
    Shutdown,
    Start,
    Stop,
    TrialSpec,
)
from catdog_search.search.workers.worker import serve

_POLL_S = 0.2
_MEMORY_EVERY_S = 1.0
# Starting a spare earlier would take CPU time from short studies, which never need one.
SPARE_AFTER_S = 60.0
# A worker that holds more than this share of its limit between trials gives way to a fresh one.
_RECYCLE_SHARE = 0.5


def held_bytes(pid: int | None) -> int:
    """Memory that a process frees only when it ends, in bytes; 0 if it is gone.

    Pages of mapped files don't count where the system tells them apart (Linux): cached features are
    read that way, and the kernel reclaims such pages whenever it needs to.
    """
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss) - int(getattr(info, "shared", 0))


class LocalWorker:
    """A worker process, which imports libraries right away and trains once it gets Start.

    Args:
        launch: Settings that it is launched with.

    Attributes:
        connection: Connection to the process.
        started: Time of its launch, in s of the monotonic clock.
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
        # Ctrl-C reaches the whole process group; the coordinator decides what it means. A signal
        # ignored here is ignored in the worker from its first moment.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        with starting_safely():
            self._process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()  # so that the pipe ends when the worker dies
        self.started = self._looked = time.monotonic()
        self._heard = clock.now()
        self._recording_s = 0.0  # s of silence allowed while it calls MLflow; else 0
        self._trials = 0
        self._full = False

    def send(self, message: Start | TrialSpec | Decision | Stop) -> None:
        """Send a message; if the worker is gone, `receive` says so."""
        if isinstance(message, TrialSpec):
            self._trials += 1
            self._oom_kills = oom_kills()  # earlier kills have nothing to do with this trial
        self._heard = clock.now()  # its silence counts from now
        with contextlib.suppress(OSError):  # it may have said why before it ended
            self.connection.send(message)

    def receive(self) -> Incoming | None:
        """The next message; None if there is none yet.

        Raises:
            WorkerDiedError: The worker is gone, too large, or silent for too long.
        """
        self._watch_memory()
        try:
            if self.connection.poll():
                message: Incoming = self.connection.recv()
                self._heard = clock.now()
                self._recording_s = message.seconds if isinstance(message, Recording) else 0.0
                if isinstance(message, Outcome):
                    self._full = message.ending is Ending.OOM
                return message
        except (EOFError, OSError):
            raise self._died() from None
        # Not wall time: while this process was suspended, so was the worker.
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
        # A worker without a trial yet has only imported, which the study's limits don't cover.
        if not self._trials or now - self._looked < _MEMORY_EVERY_S:
            return
        self._looked = now
        used, most = self.memory_bytes(), self._launch.memory_bytes
        if used > most:
            self.kill()
            text = f"out of memory: the worker held {used / 1e9:.2f} GB, at most {most / 1e9:.2f}"
            raise WorkerDiedError(Ending.OOM, text)

    def memory_bytes(self) -> int:
        """Memory that the process holds, in bytes; 0 if it is gone."""
        return held_bytes(self._process.pid)

    def is_worn(self) -> bool:
        """Whether the next trial should get a fresh worker."""
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
        """End the worker immediately."""
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


class LocalWorkers:
    """Worker processes on this machine: those in use, and a spare that has only imported.

    Args:
        launch: Settings that they are launched with.
        capacity: Number of workers that may be in use concurrently, from 1.

    Attributes:
        capacity: Number of workers that may be in use concurrently, from 1.
        log: File that takes what workers and their libraries print.
    """

    def __init__(self, launch: Launch, capacity: int) -> None:
        self.capacity = capacity
        self.log = launch.log
        self._launch = launch
        self._spare: LocalWorker | None = None
        self._in_use: list[LocalWorker] = []

    def warm_up(self) -> None:
        """Let the first worker import Keras while the stores open."""
        self._spare = LocalWorker(self._launch)

    def start(self) -> LocalWorker:
        """Put a worker into use."""
        fresh, self._spare = self._spare, None
        if fresh is None or not fresh.is_alive():
            if fresh is not None:
                fresh.kill()
            fresh = LocalWorker(self._launch)
        self._in_use.append(fresh)
        fresh.send(Start())
        return fresh

    def wait(self, workers: Iterable[Worker]) -> None:
        """Wait until one of them has something to say, or for a moment."""
        awaited = {id(worker) for worker in workers}
        waiting = [mine.connection for mine in self._in_use if id(mine) in awaited]
        connection.wait(waiting, _POLL_S)

    def retire(self, worker: Worker) -> None:
        """End a worker in use."""
        mine = next(each for each in self._in_use if each is worker)
        self._in_use.remove(mine)
        mine.shutdown()

    def keep_spare(self) -> None:
        """Start a spare once a worker in use has run for a while."""
        now = time.monotonic()
        if self._spare is None and any(now - w.started > SPARE_AFTER_S for w in self._in_use):
            self._spare = LocalWorker(self._launch)

    def stop(self, timeout: float) -> None:
        """End all workers."""
        if self._spare is not None:
            self._spare.shutdown(0)
        for worker in self._in_use:
            worker.shutdown(timeout)
        self._in_use, self._spare = [], None

    def checkpoint(self, number: int) -> Path:
        """Where a worker saves the training of a trial: beside its log."""
        return checkpoint_path(self.log.parent, number)

    def has_checkpoint(self, number: int) -> bool:
        """Whether there is a checkpoint of a trial."""
        return self.checkpoint(number).exists()

    def take_over_checkpoint(self, number: int, other: int) -> None:
        """Copy the checkpoint atomically."""
        earlier, own = self.checkpoint(number), self.checkpoint(other)
        if earlier.exists() and not own.exists():
            fresh = own.with_suffix(".new")
            shutil.copyfile(earlier, fresh)
            fresh.replace(own)

    def forget_checkpoints(self, numbers: Collection[int]) -> None:
        """Remove checkpoints of trials that are over, half-written ones included."""
        for path in checkpoints_of(self.log.parent, numbers):
            path.unlink(missing_ok=True)
