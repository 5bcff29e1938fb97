"""The whole way with the real command line and real stores: run, kill, resume, promote, load."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image
from tiny_study import call, register_best

from catdog_search.exporting import onnx_file
from catdog_search.places import StateFolder
from catdog_search.search.study import views
from catdog_search.tracking.store import Store

COMMAND = [sys.executable, "-m", "catdog_search"]


# What a command may say nothing for, with a little for a machine that is busy.
LONGEST_SILENCE_S = 15


def call_outside(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As people do, who are never left in silence; `call` is the same in this process."""
    said: list[float] = [time.monotonic()]
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:

        def read(stream: IO[str], lines: list[str]) -> None:
            for line in stream:
                said.append(time.monotonic())
                lines.append(line)

        assert process.stdout is not None
        assert process.stderr is not None
        out: list[str] = []
        err: list[str] = []
        readers = [
            threading.Thread(target=read, args=(process.stdout, out)),
            threading.Thread(target=read, args=(process.stderr, err)),
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    said.append(time.monotonic())
    done = subprocess.CompletedProcess(arguments, process.wait(), "".join(out), "".join(err))
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(b - a for a, b in pairwise(said)) < LONGEST_SILENCE_S, done.stdout + done.stderr
    return done


def stop_at(arguments: list[str], text: str, number: signal.Signals) -> tuple[int, str]:
    """Signal the process group, as a terminal does, once the output says `text`.

    Returns the exit code and the output.
    """
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if text in line:
                os.killpg(process.pid, number)
        return process.wait(), "".join(lines)


# Loads the champion where this package can't be imported, and prints its answers.
STRANGER = """
import json, sys

class NoCatdog:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "catdog_search":
            raise ImportError("this process has never heard of it")

sys.meta_path.insert(0, NoCatdog())
import mlflow
import numpy as np

uri, pictures = sys.argv[1], np.load(sys.argv[2])
mlflow.set_tracking_uri(uri)
model = mlflow.keras.load_model("models:/catdog@champion")
native = model.predict(pictures, verbose=0)
flavour = mlflow.pyfunc.load_model("models:/catdog@champion")
print(json.dumps({
    "native": native.ravel().tolist(),
    "pyfunc": np.ravel(flavour.predict(pictures)).tolist(),
    "large": model.predict(np.zeros((1, 150, 90, 3), np.uint8), verbose=0).ravel().tolist(),
    "classes": flavour.metadata.metadata["class_names"],
    "known": "catdog_search" in sys.modules,
}))
"""


# Too small for a linear probe, which these photos are no trouble to, and learned in no time.
LEARNS = {
    "image_size = 16": "image_size = 12",
    "epochs = 2": "epochs = 4",
    "learning_rate = { low = 1e-4, high = 1e-2, log = true }": "learning_rate = 1e-2",
    "[space]": "[promotion]\nfinalists = 1\nseeds = 1\n\n[space]",
}


@pytest.fixture(scope="module")
def easy_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reddish cats and bluish dogs, of noise, so that no two look alike."""
    root = tmp_path_factory.mktemp("easy")
    chance = np.random.default_rng(1)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir()
        for number in range(120):
            noise = chance.integers(0, 160, (20, 20, 3), np.uint8)
            noise[:, :, 2 * label] += 90
            Image.fromarray(noise).save(root / name / f"{number}.png")
    return root


def test_run_kill_resume_promote_load(
    study_file: Callable[..., Path], easy_photos: Path, tmp_path: Path
) -> None:
    state = StateFolder.at(str(tmp_path / "state"))
    study, where = str(study_file(swap=LEARNS)), ["--state", str(state.root)]
    arguments = ["run", "--study", study, "--data", str(easy_photos), *where]

    code, said = stop_at(arguments, "trial 1 epoch 1", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert f"data: {easy_photos}" in said.splitlines()[:3]
    before = views.load_view(state, "tiny")
    assert before.trials[0].state == "COMPLETE"

    code, said = stop_at(arguments, "trial 1 epoch 1", signal.SIGINT)
    assert code == 130, said
    assert "interrupted" in said

    done = call_outside(*arguments, "--json")
    report = json.loads(done.stdout)
    view = views.load_view(state, "tiny")
    assert report["counts"] == {"COMPLETE": 3}
    assert view.best is not None
    best = {"number", "value", "params", "run_id"}
    assert set(report["best"]) == best
    assert report["best"]["run_id"] == view.best.run_id
    assert set(report) == {
        "study",
        "best",
        "counts",
        "seconds",
        "dataset_digest",
        "tracking_uri",
        "parent_run_id",
    }
    assert view.trials[1].params == {**before.trials[1].params}

    again = call(*arguments)
    assert "study tiny is finished: 3 of 3 trials" in again.stdout
    assert f"best: trial {view.best.number}" in again.stdout

    shown = call("show", "--study", "tiny", *where)
    assert "3 COMPLETE" in shown.stdout

    assert_only_kept_models_are_on_disk(state, kept=3)
    # Where the study file and the photos are, its own run says.
    promoted = call("promote", "--study", "tiny", *where)
    assert promoted.stdout.splitlines()[-1] == "models:/catdog@champion"
    repeated = json.loads(call("promote", "--study", "tiny", *where, "--json").stdout)
    assert (repeated["version"], repeated["created"], repeated["previous"]) == (1, False, None)
    assert repeated["trial"] == view.best.number
    assert len(repeated["looks"]["known"]) == 1
    assert_model_loads_elsewhere(state, tmp_path)
    assert len(list(state.artifacts.rglob("model.keras"))) == 3 + 1
    assert_mlflow_serves_it(state, easy_photos, tmp_path)


def assert_mlflow_serves_it(state: StateFolder, easy_photos: Path, tmp_path: Path) -> None:
    """A photo's bytes, decoded, through MLflow's own server: what `predict` says of the file."""
    path = easy_photos / "dog" / "7.png"
    port = free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), "models", "serve"]
    options = ["-m", "models:/catdog@champion", "--env-manager", "local", "-p", str(port)]
    # It starts uvicorn by its name.
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": Store.of(state).uri,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    with (
        open(tmp_path / "serve.log", "wb") as log,
        subprocess.Popen(
            [*command, *options],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            body = json.dumps({"inputs": pixels[None].tolist()}).encode()
            said = json.loads(answer_of(f"http://127.0.0.1:{port}/invocations", body, process))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    told = call("predict", "catdog", str(path), "--json", "--state", str(state.root)).stdout
    expected = json.loads(told)["probabilities"]["dog"]
    # Packed photos are whole levels, and the exported model's are not.
    assert said["predictions"] == [[pytest.approx(expected, abs=0.02)]]


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def answer_of(url: str, body: bytes, server: subprocess.Popen[bytes]) -> bytes:
    """What a server says, which may still be starting."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                return bytes(found.read())
        except urllib.error.URLError as error:
            is_starting = isinstance(error.reason, ConnectionRefusedError)
            if not is_starting or server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.3)


def assert_model_loads_elsewhere(state: StateFolder, tmp_path: Path) -> None:
    import keras

    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    uri = Store.of(state).uri
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, uri, str(tmp_path / "pictures.npy")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shown = json.loads(call("models", "catdog", "--json", "--state", str(state.root)).stdout)
    model_id = shown["model_id"]
    files = list(state.artifacts.rglob(f"{model_id}/**/model.keras"))
    assert len(files) == 1
    example = json.loads((files[0].parents[1] / "input_example.json").read_text())
    assert np.asarray(example).shape[-1] == 3
    required = (files[0].parents[1] / "requirements.txt").read_text().split()
    assert any(line.startswith("keras==") for line in required)
    here = keras.saving.load_model(files[0]).predict(pictures, verbose=0).ravel()
    assert answers["native"] == pytest.approx(here.tolist(), abs=1e-5)
    assert answers["pyfunc"] == pytest.approx(here.tolist(), abs=1e-5)
    assert 0 <= answers["large"][0] <= 1
    assert answers["classes"] == ["cat", "dog"]
    assert not answers["known"]


def assert_only_kept_models_are_on_disk(state: StateFolder, kept: int) -> None:
    assert len(list(state.artifacts.rglob("*.keras"))) == kept
    # Nothing lands in MLflow's default experiment or beside the state folder.
    assert {p.name for p in state.artifacts.iterdir()} == {"tiny"}


def test_only_the_best_models_are_kept(study_file: Callable[..., Path], state: StateFolder) -> None:
    path = study_file(
        swap={"trials = 3": "trials = 3\nkeep_models = 1", "epochs = 2": "epochs = 1"}
    )
    said = call("run", "--study", str(path), "--state", str(state.root)).output
    first_lines = said.splitlines()[:3]
    assert any("drawn pictures" in line and "--data" in line for line in first_lines)
    assert_only_kept_models_are_on_disk(state, kept=1)
    view = views.load_view(state, "tiny")
    assert view.best is not None
    assert [row.number for row in view.trials if row.model_id] == [view.best.number]
    assert register_best(state).created


def test_whole_way_through_a_server(
    server: str,
    study_file: Callable[..., Path],
    easy_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    state = StateFolder.at(str(tmp_path / "state"))
    path = study_file("served", swap={**LEARNS, "trials = 3": "trials = 2\nkeep_models = 1"})
    where = ["--state", str(state.root), "--json"]
    done = call_outside("run", "--study", str(path), "--data", str(easy_photos), *where)
    report = json.loads(done.stdout)
    assert (report["counts"], report["tracking_uri"]) == ({"COMPLETE": 2}, server)
    client = Store.of(state).client()
    child = client.get_run(report["best"]["run_id"])
    assert child.info.status == "FINISHED"
    assert child.data.metrics["objective"] == pytest.approx(report["best"]["value"])
    figures = {f.path for f in client.list_artifacts(child.info.run_id, "figures")}
    assert "figures/learning_curves.png" in figures
    promoted = call_outside("promote", "--study", "served", *where)
    assert json.loads(promoted.stdout)["uri"] == "models:/catdog@champion"
    import mlflow

    model = mlflow.keras.load_model("models:/catdog@champion")
    assert model.predict(np.zeros((1, 9, 9, 3), np.uint8), verbose=0).shape == (1, 1)
    # The state folder holds Optuna's side alone, and whose it is.
    own = {"optuna.db", "optuna.lock", "copies", "scratch", "state.json"}
    own |= {"state.lock", "registry.lock", "looks"}
    if onnx_file.missing() is None:
        own.add("served")  # its champion, for who serves it on this machine
    assert {p.name for p in state.root.iterdir()} == own
    shown = json.loads(call("models", "catdog", "--json", "--state", str(state.root)).stdout)
    assert (shown["aliases"], shown["image_size"], shown["gone"]) == (["champion"], 12, [])
    assert server in call("ui", "--state", str(state.root)).stdout
