"""Time and memory of packing photos: the first start, and those after it.

    python benchmarks/pack.py PHOTOS.zip --image-size 64 --image-size 160 -n 3

Each start is a process of its own with a cache of its own; a second finds what the first left.
The file is in the page cache: it is read once before. Prints a table and one line of JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import common

START = """
import json, resource, sys, time
from pathlib import Path
started = time.perf_counter()
from catdog_search.data import dataset
from catdog_search.data.sources import open_source
imported = time.perf_counter()
loaded = dataset.load(open_source(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), 10**12)
ready = time.perf_counter()
x, y = loaded.split("val")
print(json.dumps({
    "import_s": imported - started,
    "load_s": ready - imported,
    "val_s": time.perf_counter() - ready,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    "largest_child_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000,
    "photos": len(loaded.manifest.photos),
    "digest": loaded.digest,
}))
"""


def start(photos: str, image_size: int, folder: str) -> dict[str, Any]:
    """One start in a fresh process."""
    command = [sys.executable, "-c", START, photos, str(image_size), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@click.command()
@click.argument("photos", type=click.Path(exists=True))
@click.option("--image-size", "sizes", type=int, multiple=True, default=(64, 160))
@click.option("-n", "runs", type=int, default=3, help="First starts, each with a second one.")
def main(photos: str, sizes: tuple[int, ...], runs: int) -> None:
    """Measure, print a table, then JSON."""
    if Path(photos).is_file():
        Path(photos).read_bytes()
    rows = []
    for _ in range(runs):  # sizes in turn, so that a drift of the machine meets all of them
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                for which in ("first", "second"):
                    rows.append({"size": size, "start": which, **start(photos, size, folder)})
    results = []
    for size in sizes:
        for which in ("first", "second"):
            chosen = [r for r in rows if (r["size"], r["start"]) == (size, which)]
            keys = ("load_s", "val_s", "peak_mb", "largest_child_mb")
            measured = {key: common.spread([r[key] for r in chosen]) for key in keys}
            results.append({"image_size": size, "start": which, **measured})
            load, peak = measured["load_s"], measured["peak_mb"]
            click.echo(
                f"{size:4d} px  {which:6s}  load {load['median']:7.2f} s "
                f"({load['min']:.2f} to {load['max']:.2f})  peak {peak['median']:6.0f} MB"
            )
    versions = {name: importlib.metadata.version(name) for name in ("pillow", "numpy")}
    facts = {
        "command": " ".join(["python", *sys.argv[:1], Path(photos).name, *sys.argv[2:]]),
        "hardware": common.hardware(),
        "python": platform.python_version(),
        "versions": versions,
        "n": runs,
        "photos": rows[0]["photos"],
        "digest": rows[0]["digest"],
        "results": results,
    }
    click.echo(json.dumps(facts))


if __name__ == "__main__":
    main()
