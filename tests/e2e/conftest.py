"""A real browser, a server, and what is held of every page: it stays at home, and is quiet."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import tiny_onnx
from opened import Opened
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright
from stand_in import StandIn

# A machine that does something else too is slow.
expect.set_options(timeout=20_000)

NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
}
TEST_NUMBER = {"accuracy": 0.9712, "low": 0.9655, "high": 0.976, "n": 3600, "looks": 2}
# Counted before the page does anything.
WATCH = """
window.watched = {made: 0, revoked: 0, violations: []};
const {createObjectURL, revokeObjectURL} = URL;
URL.createObjectURL = (o) => { watched.made += 1; return createObjectURL.call(URL, o); };
URL.revokeObjectURL = (u) => { watched.revoked += 1; revokeObjectURL.call(URL, u); };
addEventListener("securitypolicyviolation", (e) =>
  watched.violations.push(`${e.violatedDirective}: ${e.blockedURI}`));
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.exit(f"no {' or '.join(NAMES)} here: apt-get install -y chromium", returncode=1)
    with sync_playwright() as playwright:
        # Chromium's sandbox doesn't start for root, as which containers run.
        yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def content() -> bytes:
    """A model file: red is a dog, blue a cat, grey nothing sure, white neither."""
    return tiny_onnx.content(
        **{"name": "pets", "version": 3, "registered_at": "2026-11-26T08:00:00+00:00"},
        **{"trained_on": "20,000 photos of cats and dogs", "dataset_digest": "295f901fa0e2" * 5},
        test=TEST_NUMBER,
    )


@pytest.fixture(scope="session")
def service(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the service answers, as a person starts it; a person's way goes through it."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "pets.onnx").write_bytes(content)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "catdog_search", "serve", str(folder / "pets.onnx")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/"
            _wait_for(f"{url}ready", folder / "log")
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):  # what is not there yet, and what is not ready
            urlopen(url).close()
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture
def stand_in(content: bytes) -> Iterator[StandIn]:
    """A server that fails when it is told to."""
    with StandIn(content) as stand_in:
        yield stand_in


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Opens a page; afterwards it must have asked nobody else, and complained of nothing.

    `faults` allows for what Chromium itself says of an answer that is no 200.
    """
    contexts: list[BrowserContext] = []
    pages: list[tuple[Opened, str, bool]] = []

    def open_page(
        url: str, size: str = "desktop", scheme: str = "light", *, faults: bool = False, **more: Any
    ) -> Opened:
        context = browser.new_context(**SIZES[size], color_scheme=scheme, **more)
        contexts.append(context)
        context.set_default_timeout(30_000)
        context.add_init_script(WATCH)
        opened = Opened(context.new_page())
        opened.page.on("console", opened.hear)
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("request", lambda request: opened.asked.append(request.url))
        pages.append((opened, url, faults))
        opened.page.goto(url)
        return opened

    yield open_page
    violations = [opened.page.evaluate("watched.violations") for opened, *_ in pages]
    for context in contexts:
        context.close()
    for (opened, url, faults), found in zip(pages, violations, strict=True):
        assert found == []
        assert {each for each in opened.asked if not _is_at_home(each, url)} == set()
        said = [line for line in opened.complaints if not (faults and "Failed to load" in line)]
        assert said == []


def _is_at_home(asked: str, url: str) -> bool:
    return asked.startswith((url, "data:", f"blob:{url}"))


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("CATDOG_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
