"""The service alone, as the Dockerfile installs it: nothing else of the package is needed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tiny_onnx
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from serving import BLUE, RED, laid

ROOT = Path(__file__).parents[1]
WANTED = [
    line
    for line in (ROOT / "requirements-serve.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def with_what_they_need(names: list[str]) -> set[str]:
    found: set[str] = set()
    while names:
        name = canonicalize_name(names.pop())
        if name in found:
            continue
        found.add(name)
        needed = map(Requirement, importlib.metadata.requires(name) or ())
        names += [
            each.name for each in needed if not each.marker or each.marker.evaluate({"extra": ""})
        ]
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from that holds these packages, ours, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "catdog_search").symlink_to(ROOT / "catdog_search")
    for name in with_what_they_need(list(WANTED)):
        found = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            place = Path(str(found.locate_file(top)))
            if place.exists() and not (folder / top).exists():
                (folder / top).symlink_to(place)
    return folder


@pytest.fixture
def url(alone: Path, tmp_path: Path) -> Iterator[str]:
    model = laid(tmp_path / "catdog.onnx", tiny_onnx.content(name="catdog", version=3))
    command = [sys.executable, "-S", "-m", "catdog_search", "serve", str(model), "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(alone), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline().strip()
        assert line, process.communicate()[1]
        yield line
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert "Traceback" not in said
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_service_needs_nothing_beyond_its_requirements(url: str) -> None:
    with httpx.Client(base_url=url) as asking:
        assert asking.post("/predict", content=RED).json()["photos"][0]["answer"] == "dog"
        # What only a broken photo, or a form, takes.
        broken = [("a", ("a.png", BLUE[: len(BLUE) - 20])), ("b", ("b.png", BLUE))]
        assert asking.post("/predict", files=broken).status_code == 200
        assert asking.post("/explain", content=RED).status_code == 200
        for path in ("/", "/health", "/ready", "/model", "/metrics", "/openapi.json"):
            assert asking.get(path).status_code == 200


def test_folder_of_the_test_before_lacks_the_rest(alone: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('keras', 'mlflow') if u.find_spec(n)])"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(alone)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_requirements_of_the_service_are_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert with_what_they_need(list(WANTED)) - pinned == set()


def test_dockerfile_copies_what_is_there_and_runs_as_nobody() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [line.split()[1:-1] for line in text.splitlines() if re.match(r"COPY [^-]", line)]
    names = [name for line in copied for name in line]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"requirements-serve.txt", "constraints.txt", "catdog_search"} <= set(names)
    assert [name for name in names if not (ROOT / name).exists()] == []
    assert [name for name in names if f"!{name}" not in ignored] == []
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*", last, re.MULTILINE)
    assert "--no-deps" in text
