"""What the benchmarks of the service have in common: a service as a process, and its memory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil


@dataclass(frozen=True)
class Started:
    """A process that answers over HTTP.

    Attributes:
        url: Its address.
        pid: Its process.
        began: When it was started, on `time.perf_counter`.
    """

    url: str
    pid: int
    began: float

    def memory_mb(self) -> float:
        """What it and all that it has started hold, in MB."""
        process = psutil.Process(self.pid)
        found = 0
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += each.memory_info().rss
        return found / 1e6

    def wait(self, path: str, seconds: float) -> None:
        """Wait until a path is answered with 200.

        Raises:
            TimeoutError: It isn't.
        """
        end = self.began + seconds
        while time.perf_counter() < end:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}{path}", timeout=5).status_code == httpx.codes.OK:
                    return
            time.sleep(0.01)
        raise TimeoutError(f"{self.url}{path} isn't answered within {seconds:g} s")


@contextlib.contextmanager
def service(model: Path, *more: str) -> Iterator[Started]:
    """Our service with a file, on any port that is free."""
    command = [sys.executable, "-m", "catdog_search", "serve", str(model), "--port", "0", *more]
    with process(command, stdout=subprocess.PIPE) as (began, running):
        assert running.stdout
        url = running.stdout.readline().decode().strip()
        yield Started(url, running.pid, began)


@contextlib.contextmanager
def process(
    command: Sequence[str], **more: object
) -> Iterator[tuple[float, subprocess.Popen[bytes]]]:
    """A process with all that it starts, and when it began; ended with the context."""
    began = time.perf_counter()
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, **more)  # type: ignore[call-overload]
    try:
        yield began, running
    finally:
        family = psutil.Process(running.pid).children(recursive=True)
        running.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(10)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        running.kill()
        running.communicate()


class Peak:
    """The most memory that a process has held while the context lasted, in MB."""

    def __init__(self, of: Started) -> None:
        self._of = of
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.mb = 0.0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.mb = max(self.mb, self._of.memory_mb())
            if self._over.wait(0.1):
                return
