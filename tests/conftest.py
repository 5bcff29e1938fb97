"""Fixtures shared by the tests. Nothing of the user's own folders or settings reaches them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from catdog_search import doctor
from catdog_search.cli import pulse
from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.decode import decode
from catdog_search.data.sources import SyntheticSource
from catdog_search.places import StateFolder
from catdog_search.tracking.store import ensure_mlflow_db
from catdog_search.training.result import TrainData

os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND", "tensorflow")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

REAL_PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "dogs-vs-cats-20k.zip"


# What takes longest comes first, or one process would be left with it when the others are done.
_FIRST = ("test_search_storm.py", "test_earlier_state.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _FIRST)


@pytest.fixture(autouse=True)
def no_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a busy machine makes slow says nothing besides, where lines are counted."""
    monkeypatch.setattr(pulse, "LONGEST_SILENCE_S", 3600.0)


@pytest.fixture(autouse=True)
def no_backend_started(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` starts none, which takes seconds, but for the tests that are marked for it."""
    if "starts_backend" not in request.keywords:
        monkeypatch.setattr(doctor, "_device", lambda: "not looked at")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    """No setting of the machine counts; packed pictures are kept between tests."""
    for name in ("CATDOG_DATA", "CATDOG_STATE", "MLFLOW_TRACKING_URI", "CATDOG_CACHE_LIMIT_GB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CATDOG_CACHE", str(shared_cache))


@pytest.fixture(scope="session")
def drawn() -> SyntheticSource:
    """A hundred drawn pictures."""
    return SyntheticSource(100)


@pytest.fixture(scope="module")
def data(drawn: SyntheticSource) -> TrainData:
    """Two dozen drawn pictures to train on, half of them val too."""
    keys = [*list(drawn.labels)[:12], *list(drawn.labels)[-12:]]
    x = np.stack([decode(drawn.read(key), 16) for key in keys])
    y = np.array([[drawn.labels[key]] for key in keys], np.float32)
    return TrainData(x, y, x[::2], y[::2], ("cat", "dog"))


@pytest.fixture
def photo_folder(tmp_path: Path, drawn: SyntheticSource) -> Path:
    """The drawn pictures as two class folders."""
    root = tmp_path / "photos"
    for key, label in drawn.labels.items():
        folder = root / ("Cat", "Dog")[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{key.split('.')[1]}.ppm").write_bytes(drawn.read(key))
    return root


@pytest.fixture
def photo_zip(tmp_path: Path, drawn: SyntheticSource) -> Path:
    """The drawn pictures as a zip with names like cat.1.ppm."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as file:
        for key in drawn.labels:
            file.writestr(f"train/{key}", drawn.read(key))
    return path


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """The 20,000 photos, where this machine has them."""
    if not REAL_PHOTOS.exists():
        pytest.skip(f"the real photos are not at {REAL_PHOTOS}")
    return REAL_PHOTOS


STUDY = """\
name = "tiny"
purpose = "A study for tests."
family = "cnn"
image_size = 16
metric = "val_accuracy"
direction = "maximize"
trials = 3
seed = 5

[data]
source = "synthetic"
synthetic_n = 100

[training]
epochs = 2

[sampler]
n_startup_trials = 2

[space]
n_blocks = { low = 1, high = 2 }
filters = { choices = [4, 8] }
dense_units = 0
dropout = { low = 0.0, high = 0.5 }
learning_rate = { low = 1e-4, high = 1e-2, log = true }
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small study; keyword arguments replace its text."""

    def write(name: str = "tiny", **replace: str) -> Path:
        text = STUDY.replace('name = "tiny"', f'name = "{name}"', 1)
        for old, new in replace.pop("swap", {}).items():  # type: ignore[attr-defined]
            assert old in text, f"{old!r} is not in the study"
            text = text.replace(old, new)
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def in_fresh_python() -> Callable[[str], str]:
    """Runs code in a new interpreter and returns what it prints."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[str]:
    """A real MLflow server that serves artifacts itself."""
    root = tmp_path_factory.mktemp("server")
    shutil.copy(empty_mlflow, root / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(root / "artifacts")]
    off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = (root / "log").open("w")
    process = subprocess.Popen(
        command, env={**os.environ, **off}, stdout=log, stderr=log, start_new_session=True
    )
    try:
        uri = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, (root / "log").read_text()
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        log.close()


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store made once for all processes that test together; making it takes seconds."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "empty"
    folder.mkdir(exist_ok=True)
    ensure_mlflow_db(folder / "mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def state(tmp_path: Path, empty_mlflow: Path) -> StateFolder:
    root = tmp_path / "state"
    root.mkdir()
    shutil.copy(empty_mlflow, root / "mlflow.db")
    return StateFolder.at(str(root))


@pytest.fixture(scope="session")
def pictures(shared_cache: Path) -> Dataset:
    return packing.load(SyntheticSource(100), 8, shared_cache, 10**9)


@pytest.fixture(scope="session")
def done(
    tmp_path_factory: pytest.TempPathFactory, pictures: Dataset, empty_mlflow: Path
) -> StateFolder:
    """A study of two trials, each with a model; the tests leave it as it is."""
    from tiny_study import make_done  # for the few tests that need it

    root = tmp_path_factory.mktemp("done") / "a"
    root.mkdir()
    shutil.copy(empty_mlflow, root / "mlflow.db")
    return make_done(root, pictures)


@pytest.fixture
def home(done: StateFolder, tmp_path: Path) -> StateFolder:
    """A state of its own like `done`, to be changed."""
    from catdog_search.search.study.relocate import relocate

    shutil.copytree(done.root, tmp_path / "home")
    state = StateFolder.at(str(tmp_path / "home"))
    relocate(state)
    return state


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the n-th training from now on does."""

    def plan(**actions: str) -> None:
        numbered = {key.removeprefix("call_"): action for key, action in actions.items()}
        monkeypatch.setenv("FAKE_CALLS", str(tmp_path / f"calls-{time.monotonic_ns()}"))
        monkeypatch.setenv("FAKE_ACTIONS", json.dumps(numbered))

    return plan
