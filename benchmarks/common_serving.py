"""What the benchmarks of services have in common: the process, its load and its memory."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import common
import httpx
import numpy as np
import psutil
from PIL import Image

_PHOTOS = 32
# As photos from the web are; drawn pictures are smaller.
_SIDE = (500, 375)


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

    def wait(self, path: str, seconds: float, **body: Any) -> float:
        """Wait until a path is answered with 200; returns the seconds since the start.

        Args:
            path: Path.
            seconds: At most so many from the start.
            body: `content` and `headers`, see httpx; none for GET.

        Raises:
            TimeoutError: It isn't.
        """
        end = self.began + seconds
        method = "POST" if body else "GET"
        while time.perf_counter() < end:
            with contextlib.suppress(httpx.HTTPError):
                got = httpx.request(method, f"{self.url}{path}", timeout=60, **body)
                if got.status_code == httpx.codes.OK:
                    return time.perf_counter() - self.began
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


def photos(asked: argparse.Namespace) -> list[bytes]:
    """Some of the photos asked for; drawn ones as JPEG of the size that photos have."""
    source = common.source(asked)
    keys = list(source.labels)
    some = [source.read(key) for key in keys[:: max(len(keys) // _PHOTOS, 1)][:_PHOTOS]]
    return some if asked.data else [_as_jpeg(each) for each in some]


def _as_jpeg(content: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").resize(_SIDE).save(out, "JPEG", quality=90)
    return out.getvalue()


class Load:
    """Clients that ask as long as the context lasts, each as soon as it was answered.

    Args:
        url: Address of the service.
        path: Where they post.
        bodies: What they post, in turns.
        clients: Number of them.
        kind: Content type of the bodies.
    """

    def __init__(
        self,
        url: str,
        path: str,
        bodies: Sequence[bytes],
        clients: int,
        kind: str = "application/octet-stream",
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), parts.port
        self._path, self._bodies, self._kind = path, bodies, kind
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]
        self._began = self._took = 0.0
        self.latencies: list[float] = []
        self.outcomes: Counter[str] = Counter()

    def __enter__(self) -> Load:
        self._began = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._took = time.perf_counter() - self._began

    def facts(self) -> dict[str, Any]:
        """Requests a second, how long they took in ms, and how many failed."""
        ms = 1000 * np.array(self.latencies or [float("nan")])
        failed = {each: n for each, n in self.outcomes.items() if each != "200"}
        return {
            "requests": self.outcomes.total(),
            "failed": sum(failed.values()),
            **({"failures": failed} if failed else {}),
            "a_second": round(self.outcomes["200"] / self._took, 2),
            "p50_ms": round(float(np.percentile(ms, 50)), 1),
            "p99_ms": round(float(np.percentile(ms, 99)), 1),
        }

    def _ask(self, first: int) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=60)
        bodies = itertools.islice(itertools.cycle(self._bodies), first, None)
        headers = {"Content-Type": self._kind}
        while not self._over.is_set():
            began = time.perf_counter()
            try:
                connection.request("POST", self._path, next(bodies), headers)
                answer = connection.getresponse()
                answer.read()
                outcome = str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
                connection.close()
            self.outcomes[outcome] += 1
            if outcome == "200":
                self.latencies.append(time.perf_counter() - began)
        connection.close()
