"""From photos in folders to batches: ours against `keras.utils.image_dataset_from_directory`.

The peer as its guide has it: read, cache in memory, prefetch; one epoch is one pass over all
batches. Ours: pack (every file decoded once, its sha256 and perceptual hash, duplicates, split,
pixels on disk), then batches. `warm` has the files in the page cache, `cold` asks the kernel to
drop them first. A start that finds the pack is measured too: the first batch, and a whole pass.
Every measurement is a process of its own.

    python benchmarks/input.py --data PHOTOS.zip [--side 800 --photos 4000] [--n 3]
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import common
from PIL import Image

IMAGE_SIZE = 64

PEER = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, tensorflow as tf
started = time.perf_counter()
batches = keras.utils.image_dataset_from_directory(
    sys.argv[1], image_size=(64, 64), batch_size=64, label_mode="binary", verbose=False
).cache().prefetch(tf.data.AUTOTUNE)
first, n = None, 0
for x, y in batches:
    n += len(y)
    first = first or time.perf_counter() - started
whole = time.perf_counter() - started
again = time.perf_counter()
for x, y in batches:
    pass
print(json.dumps({"photos": n, "first_batch_s": first, "first_pass_s": whole,
                  "next_pass_s": time.perf_counter() - again}))
"""
OURS = """
import json, os, sys, time
from pathlib import Path
from catdog_search.data import dataset
from catdog_search.data.sources import open_source
from catdog_search.training.result import TrainData
os.environ["KERAS_BACKEND"] = sys.argv[3]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from catdog_search.training.batches import TrainBatches
started = time.perf_counter()
packed = dataset.load(open_source(sys.argv[1]), 64, Path(sys.argv[2]), 10**12)
batches = TrainBatches(TrainData.of(packed), 64, seed=1)
batches[0]
first = time.perf_counter() - started
for index in range(len(batches)):
    batches[index]
whole = time.perf_counter() - started
again = time.perf_counter()
for index in range(len(batches)):
    batches[index]
print(json.dumps({"photos": len(packed.manifest.photos), "first_batch_s": first,
                  "first_pass_s": whole, "next_pass_s": time.perf_counter() - again,
                  "pass_photos": len(batches) * 64}))
"""


def call(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def drop(folder: Path) -> None:
    """Ask the kernel to forget the contents of a folder's files."""
    os.sync()
    for path in folder.rglob("*.jpg"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm(folder: Path) -> None:
    """Read every file once."""
    for path in folder.rglob("*.jpg"):
        path.read_bytes()


def _unpack(job: tuple[bytes, str, int | None]) -> None:
    content, path, side = job
    if side is not None:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        larger = image.resize((side, side * image.height // image.width), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        larger.save(buffer, "JPEG", quality=90)
        content = buffer.getvalue()
    Path(path).write_bytes(content)


def unpack(asked: Any, folder: Path) -> int:
    """The photos as folders of classes, upscaled where a side is given; returns how many."""
    photos = common.source(asked)
    keys = sorted(photos.labels)
    random.Random(0).shuffle(keys)
    keys = keys[: asked.photos]
    for name in photos.class_names:
        (folder / name).mkdir(parents=True)

    def jobs() -> Any:
        for number, key in enumerate(keys):
            name = photos.class_names[photos.labels[key]]
            yield photos.read(key), str(folder / name / f"{name}.{number}.jpg"), asked.side

    with ProcessPoolExecutor() as pool:
        list(pool.map(_unpack, jobs(), chunksize=64))
    return len(keys)


def main() -> None:
    """Measure in turns and print."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--photos", type=int, help="only so many; default: all")
    parser.add_argument("--side", type=int, help="upscale the photos to this width first")
    asked = parser.parse_args()
    kinds: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "photos"
        n_photos = unpack(asked, folder)
        for turn in range(asked.n):
            for state, prepare in (("warm", warm), ("cold", drop)):
                prepare(folder)
                peer = call(PEER, str(folder))
                prepare(folder)
                cache = str(Path(work) / f"cache-{turn}-{state}")
                absent = call(OURS, str(folder), cache, "tensorflow")
                present = call(OURS, str(folder), cache, "tensorflow")
                for name, measured in (("peer", peer), ("ours, absent", absent)):
                    kinds.setdefault(f"{name}, {state}", []).append(measured)
                kinds.setdefault("ours, present", []).append(present)
        megabytes = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / 1e6
    rows = []
    for name, measured in kinds.items():
        times = ("first_batch_s", "first_pass_s", "next_pass_s")
        rows.append({"what": name} | {t: common.spread([m[t] for m in measured]) for t in times})
    for state in ("warm", "cold"):
        pairs = [
            [m["first_pass_s"] for m in kinds[f"{w}, {state}"]] for w in ("peer", "ours, absent")
        ]
        rows.append(
            {"what": f"peer's first pass over ours, {state}", "ratio": common.ratio(*pairs)}
        )
    packages = ("keras", "tensorflow", "pillow")
    facts = {"photos": n_photos, "files_mb": round(megabytes, 1), "image_size": IMAGE_SIZE}
    common.report(asked, packages, rows, **facts)


if __name__ == "__main__":
    main()
