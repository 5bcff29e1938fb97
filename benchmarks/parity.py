"""Does a champion answer the same everywhere? Seven ways from a file to an answer, side by side.

Photos of val, which the champion's test number doesn't stand on, drawn pictures, and files in odd
formats go through the network as training called it, the exported Keras model, MLflow's pyfunc and
ONNX, all on packed photos; through ONNX on whole photos against Keras on the same; and as files
through `predict` and HTTP. What is compared is the probability of class 1, and the answer.

python benchmarks/parity.py --state STATE [--model catdog] [--data PHOTOS] [--n 500]
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import common_serving as serving
import httpx
import numpy as np
from PIL import Image

from catdog_search.answering.answer import answers_of
from catdog_search.answering.facts import ModelFacts
from catdog_search.answering.photos import packed
from catdog_search.answering.runtime import OnnxModel
from catdog_search.data import synthetic
from catdog_search.data.decode import decode_whole
from catdog_search.exporting.keras_files import read
from catdog_search.exporting.served import content_of
from catdog_search.places import StateFolder
from catdog_search.tracking.looked_at import fetch
from catdog_search.tracking.store import Store

# Of each odd format, and of drawn pictures.
EACH, DRAWN = 6, 40
# What whole photos are scaled down to by a JPEG's decoder, as a promotion's gate does.
WHOLE_SIDE = 2048

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


def main() -> None:
    """Ask everywhere and print."""
    parser = common.parser(__doc__, 500)
    parser.add_argument("--state", required=True, help="state folder with the champion")
    parser.add_argument("--model", default="catdog", help="its name; default: %(default)s")
    asked = parser.parse_args()
    state = StateFolder.at(asked.state)
    client = Store.of(state).client()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fetched = fetch(client, f"{asked.model}@champion", folder)
        content, facts = content_of(fetched), fetched.facts
        (folder / "m.onnx").write_bytes(content)
        files = [*of_val(asked, folder, facts), *odd(folder)]
        ways = answered(asked.model, state, folder, files, facts, read(fetched).model)
    first = ways["network"]
    rows = [row(name, p, first, facts) for name, p in ways.items() if "whole" not in name]
    rows.append(row("ONNX, whole photos", ways["ONNX whole"], ways["Keras whole"], facts))
    common.report(
        asked,
        ("keras", "tensorflow", "mlflow", "onnxruntime", "pillow"),
        rows,
        photos=len(files),
        model={"image_size": facts.image_size, "digest": facts.dataset_digest},
    )


def row(name: str, p: Floats, than: Floats, facts: ModelFacts) -> dict[str, Any]:
    """How far one way is from another."""
    apart = np.abs(p - than)
    texts = [[answer.text for answer in answers_of(facts, each, None)] for each in (p, than)]
    different = sum(a != b for a, b in zip(*texts, strict=True))
    return {
        "way": name,
        "n": len(p),
        "worst": float(apart.max()),
        "mean": float(apart.mean()),
        "different": different,
    }


def answered(
    name: str,
    state: StateFolder,
    folder: Path,
    files: Sequence[Path],
    facts: ModelFacts,
    model: Any,
) -> dict[str, Floats]:
    """Probabilities of class 1 by way, in the order of the files."""
    side = facts.image_size
    photos = np.stack([packed(path.read_bytes(), side) for path in files])
    whole = [decode_whole(path.read_bytes(), WHOLE_SIDE) for path in files]
    onnx = OnnxModel.open(folder / "m.onnx")
    return {
        "network": network(model, photos, facts.temperature),
        "Keras": in_parts(lambda x: model.predict(x, verbose=0), photos),
        "MLflow": in_parts(pyfunc(name, state), photos),
        "ONNX": in_parts(lambda x: onnx.run(x)[0], photos),
        "Keras whole": one_by_one(lambda x: model(x, training=False), whole),
        "ONNX whole": one_by_one(lambda x: onnx.run(x)[0], whole),
        "predict": by_command(folder / "m.onnx", files, facts),
        "HTTP": by_http(folder / "m.onnx", files, facts),
    }


def in_parts(answer: Callable[[Any], Any], photos: Any) -> Floats:
    """Of photos of one size."""
    parts = np.array_split(photos, max(1, len(photos) // 50))
    return np.concatenate([np.ravel(answer(part)) for part in parts])


def one_by_one(answer: Callable[[Any], Any], photos: Sequence[Any]) -> Floats:
    """Of photos of any sizes."""
    return np.array([np.ravel(answer(photo[None]))[0] for photo in photos])


def network(model: Any, photos: Any, temperature: float) -> Floats:
    """What training's networks say, with the temperature that was fitted."""
    import keras

    bodies = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    said = []
    for body in bodies:
        logits = in_parts(lambda x, b=body: b.predict(x.astype(np.float32), verbose=0), photos)
        said.append(1 / (1 + np.exp(-logits.astype(np.float64) / temperature)))
    return np.asarray(np.mean(said, axis=0))


def pyfunc(name: str, state: StateFolder) -> Callable[[Any], Any]:
    """The champion as MLflow loads it."""
    import mlflow

    mlflow.set_tracking_uri(Store.of(state).uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    return loaded.predict  # type: ignore[no-any-return]


def by_command(model: Path, files: Sequence[Path], facts: ModelFacts) -> Floats:
    """What `catdog-search predict` prints."""
    command = [sys.executable, "-m", "catdog_search", "predict", str(model), "-", "--json"]
    names = "".join(f"{path}\n" for path in files)
    done = subprocess.run(command, input=names, capture_output=True, text=True, check=True)
    return np.array([of_row(json.loads(line), facts) for line in done.stdout.splitlines()])


def by_http(model: Path, files: Sequence[Path], facts: ModelFacts) -> Floats:
    """What `catdog-search serve` answers to the files' bytes."""
    with serving.service(model) as started, httpx.Client(base_url=started.url) as client:
        started.wait("/ready", 60)
        said = [client.post("/predict", content=path.read_bytes()) for path in files]
    return np.array([of_row(each.raise_for_status().json()["photos"][0], facts) for each in said])


def of_row(said: dict[str, Any], facts: ModelFacts) -> float:
    """Probability of class 1."""
    return float(said["probabilities"][facts.class_names[1]])


def of_val(asked: Any, folder: Path, facts: ModelFacts) -> Iterator[Path]:
    """Files of photos of val; of drawn pictures where no photos are given."""
    source = common.source(asked)
    dataset = common.packed(asked, facts.image_size)
    rows = dataset.rows("val")[: asked.n]
    for number, index in enumerate(rows):
        key = dataset.manifest.photos[index].key
        path = folder / f"val-{number}{Path(key).suffix}"
        path.write_bytes(source.read(key))
        yield path


def odd(folder: Path) -> Iterator[Path]:
    """Drawn pictures, as they are and in formats that people have."""
    for number in range(DRAWN):
        path = folder / f"drawn-{number}.png"
        synthetic.draw(number % 2, number).save(path)
        yield path
    for number in range(EACH):
        drawn = synthetic.draw(number % 2, 1000 + number).resize((333 + number, 250))
        for name, content in formats(drawn):
            path = folder / f"{number}-{name}"
            path.write_bytes(content)
            yield path


def formats(drawn: Image.Image) -> Iterator[tuple[str, bytes]]:
    """One picture in ten formats."""
    turned = Image.Exif()
    turned[0x0112] = 6
    grey = np.asarray(drawn.convert("L"))
    see_through = drawn.convert("RGBA")
    see_through.putalpha(Image.fromarray(np.maximum(grey, 90)))
    ways: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("plain.jpg", drawn, {"quality": 90}),
        ("progressive.jpg", drawn, {"progressive": True}),
        ("cmyk.jpg", drawn.convert("CMYK"), {}),
        ("turned.jpg", drawn, {"exif": turned}),
        ("large.jpg", drawn.resize((2600, 1900)), {}),
        ("grey.png", drawn.convert("L"), {}),
        ("deep.png", Image.fromarray(grey.astype(np.uint16) * 257), {}),
        ("see-through.webp", see_through, {"lossless": True}),
        ("palette.gif", drawn.convert("P"), {}),
        ("tiff.tiff", drawn, {"compression": "tiff_lzw"}),
    ]
    for name, image, options in ways:
        content = io.BytesIO()
        kind = {"jpg": "JPEG"}.get(name.split(".")[-1], name.split(".")[-1].upper())
        image.save(content, format=kind, **options)
        yield name, content.getvalue()


if __name__ == "__main__":
    main()
