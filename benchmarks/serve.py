"""Requests a second and latency of the service, of `mlflow models serve`, and of Keras's `predict`.

python benchmarks/serve.py [--data PHOTOS] [--n 3] [--seconds 15] [--clients 4]

The same network, with weights as they begin, in services that are asked in turns, each time in new
processes: ours with the exported file; MLflow's with the logged model and all cores; and the plain
FastAPI that guides show, around `predict`. MLflow takes photos as JSON: they are decoded and
written as that before the clock runs, as they are and, what whoever asks would have to do, at the
network's own size.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import common_serving as serving
import numpy as np
from PIL import Image

from catdog_search.data.decode import resize
from catdog_search.machine import cores

PARAMS = {"n_blocks": 4, "filters": 32, "dense_units": 64}
_SETTINGS = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_STARTING_S = 120
_WARMING = 4

PLAIN = """
import io, os, sys
import keras, numpy as np
from fastapi import FastAPI, File
from PIL import Image
import uvicorn
app = FastAPI()
model = keras.saving.load_model(sys.argv[1], compile=False)
@app.post("/predict")
def predict(photo: bytes = File()):
    pixels = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))
    return {"dog": float(model.predict(pixels[None], verbose=0)[0, 0])}
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


@dataclass(frozen=True)
class Rival:
    """One way to serve the model.

    Attributes:
        name: What it is.
        start: Starts it.
        path: Where it is asked.
        bodies: What it is asked.
        kind: Content type of those.
    """

    name: str
    start: Callable[[], AbstractContextManager[serving.Started]]
    path: str
    bodies: Sequence[bytes]
    kind: str


def build(folder: Path, image_size: int) -> None:
    """Write the model in all three forms; in a process of its own, which takes Keras with it."""
    import keras
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from catdog_search.answering.facts import ModelFacts
    from catdog_search.exporting.onnx_file import to_onnx
    from catdog_search.families.cnn import CnnParams
    from catdog_search.models.cnn import build_cnn
    from catdog_search.models.export import exported_model

    keras.utils.set_random_seed(1)
    body = build_cnn(CnnParams.model_validate(PARAMS), image_size)
    model = exported_model(body, image_size)
    model.save(folder / "model.keras")
    photo = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    probability = TensorSpec(np.dtype(np.float32), (-1, 1))
    signature = ModelSignature(Schema([photo]), Schema([probability]))
    kept = str(folder / "mlflow")
    mlflow.keras.save_model(model, kept, signature=signature, pip_requirements=["keras"])
    facts = ModelFacts(class_names=("cat", "dog"), image_size=image_size)
    (folder / "catdog.onnx").write_bytes(to_onnx(model, None, facts).content)


@contextlib.contextmanager
def at_port(command: Sequence[str]) -> Iterator[serving.Started]:
    """A command that takes the port as its last argument."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **_SETTINGS, "PATH": path}
    with serving.process([*command, str(port)], stdout=subprocess.DEVNULL, env=environment) as (
        began,
        running,
    ):
        yield serving.Started(f"http://127.0.0.1:{port}", running.pid, began)


def rivals(folder: Path, photos: Sequence[bytes], image_size: int) -> list[Rival]:
    """All of them, ours first."""
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "--env-manager"]
    mlflow += ["local", "--model-uri", str(folder / "mlflow"), "--workers", str(cores.count())]
    plain = [sys.executable, "-c", PLAIN, str(folder / "model.keras")]
    form = [_as_form(photo) for photo in photos]

    def by_mlflow(name: str, side: int | None) -> Rival:
        inputs = [_as_inputs(photo, side) for photo in photos]
        start = partial(at_port, [*mlflow, "--port"])
        return Rival(name, start, "/invocations", inputs, "application/json")

    octets = "application/octet-stream"
    return [
        Rival("ours", partial(serving.service, folder / "catdog.onnx"), "/predict", photos, octets),
        by_mlflow("mlflow models serve", None),
        by_mlflow("mlflow models serve, shrunk before", image_size),
        Rival(
            *("FastAPI around predict", partial(at_port, plain), "/predict"),
            *(form, "multipart/form-data; boundary=bound"),
        ),
    ]  # fmt: skip


def _as_inputs(photo: bytes, side: int | None) -> bytes:
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    if side is not None:
        image = resize(image, side)
    return json.dumps({"inputs": np.asarray(image)[None].tolist()}).encode()


def _as_form(photo: bytes) -> bytes:
    head = b'--bound\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
    return head + photo + b"\r\n--bound--\r\n"


def measured(rival: Rival, asked: argparse.Namespace) -> dict[str, Any]:
    """Start one, ask it for a while, and end it."""
    headers = {"Content-Type": rival.kind}
    with rival.start() as started:
        first = started.wait(rival.path, _STARTING_S, content=rival.bodies[0], headers=headers)
        for body in rival.bodies[:_WARMING]:
            started.wait(rival.path, _STARTING_S, content=body, headers=headers)
        load = serving.Load(started.url, rival.path, rival.bodies, asked.clients, rival.kind)
        with serving.Peak(started) as peak, load:
            time.sleep(asked.seconds)
    return {"first_answer_s": round(first, 2), "memory_mb": round(peak.mb, 1), **load.facts()}


def main() -> None:
    """Measure in turns and print."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=15, help="of load, each time")
    parser.add_argument("--clients", type=int, default=4, help="who ask at a time")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = f"import serve; serve.build(serve.Path({name!r}), {asked.image_size})"
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, **_SETTINGS},
            check=True,
        )
        found = rivals(folder, serving.photos(asked), asked.image_size)
        rounds = [{each.name: measured(each, asked) for each in found} for _ in range(asked.n)]
    rows = [{"service": each.name, **_together([r[each.name] for r in rounds])} for each in found]
    ours = [r["ours"]["a_second"] for r in rounds]
    more = {
        each.name: common.ratio(ours, [r[each.name]["a_second"] for r in rounds])
        for each in found[1:]
    }
    common.report(
        asked,
        ("fastapi", "uvicorn", "onnxruntime", "mlflow", "keras", "tensorflow"),
        rows,
        params=PARAMS,
        photos=len(found[0].bodies),
        times_the_requests_a_second=more,
    )


def _together(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counted = ("requests", "failed")
    shown = ("a_second", "p50_ms", "p99_ms", "memory_mb", "first_answer_s")
    return {name: sum(r[name] for r in rounds) for name in counted} | {
        name: common.spread([r[name] for r in rounds]) for name in shown
    }


if __name__ == "__main__":
    main()
