"""What the benchmarks have in common: where the photos come from, and what is printed."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.utils import resample

from catdog_search import places
from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import Source, SyntheticSource, open_source
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig

if TYPE_CHECKING:
    from catdog_search.search.prepare import Prepared

_DRAWN = 2000
_RESAMPLES = 2000


def parser(description: str | None, n: int) -> argparse.ArgumentParser:
    """The options of every benchmark: `--data`, `--n`, `--save`."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--data", help=f"folder or zip of photos; default: {_DRAWN} drawn pictures")
    made.add_argument("--n", type=int, default=n, help="measurements of each; default: %(default)s")
    made.add_argument("--save", type=Path, help="also write the JSON to this file")
    return made


def source(asked: argparse.Namespace) -> Source:
    """The photos asked for."""
    return open_source(asked.data) if asked.data else SyntheticSource(_DRAWN)


def packed(asked: argparse.Namespace, image_size: int, subset: int | None = None) -> Dataset:
    """The photos asked for, packed; `subset` of train where it is given."""
    return packing.load(source(asked), image_size, places.cache_folder(), 10**11, subset=subset)


def prepared(asked: argparse.Namespace, config: StudyConfig, folder: str, **more: Any) -> Prepared:
    """A study on the photos asked for, in a state of its own; `more` as `Request` has it."""
    # Not above: processes that stand for others' programs import this module, and are measured.
    from catdog_search.places import StateFolder
    from catdog_search.search.prepare import Request, prepare

    request = Request(config, StateFolder(Path(folder)), data=asked.data, **more)
    return prepare(request, lambda line: None)


def study(name: str, image_size: int, epochs: int, **more: Any) -> StudyConfig:
    """A study for a benchmark: all of its epochs are trained, and no trial is stopped."""
    table = {
        "name": name,
        "purpose": "A benchmark.",
        "image_size": image_size,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": 1,
        "training": {"epochs": epochs, "patience": epochs},
        "pruner": {"name": "none"},
        "space": {"dropout": 0.5},
        "data": {"source": "synthetic", "synthetic_n": _DRAWN},  # where --data is absent
    }
    return studies.parse({**table, **more}, name)


def untuned(x: Any, y: Any, batch_size: int, *, shuffle: bool) -> Any:
    """Arrays as a `tf.data.Dataset` that is not tuned while it runs."""
    import tensorflow as tf

    photos = tf.data.Dataset.from_tensor_slices((x, y))
    photos = photos.shuffle(len(y)) if shuffle else photos
    options = tf.data.Options()
    options.autotune.enabled = False
    return photos.batch(batch_size).prefetch(2).with_options(options)


def hardware() -> str:
    """Cores and processor of this machine, and its NVIDIA GPUs."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    named = f"{len(os.sched_getaffinity(0))} cores, {model or platform.processor()}"
    return ", ".join([named, *gpus()])


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs, as their driver says; none where there is no driver."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.splitlines()


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, least and most."""
    named = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in named.items()}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The median of the ratios of paired measurements, with a 95 % bootstrap interval."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    medians = sorted(
        statistics.median(resample(ratios, random_state=seed)) for seed in range(_RESAMPLES)
    )
    low, high = medians[math.floor(0.025 * _RESAMPLES)], medians[math.ceil(0.975 * _RESAMPLES) - 1]
    return {"median": round(statistics.median(ratios), 4), "low": round(low, 4)} | {
        "high": round(high, 4)
    }


def report(
    asked: argparse.Namespace,
    packages: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    **facts: Any,
) -> None:
    """Print a table and one line of JSON: command, hardware, versions, n, results."""
    unsaved = [a for a in sys.argv[1:] if a not in ("--save", str(asked.save))]
    arguments = [Path(a).name if Path(a).exists() else a for a in unsaved]
    whole = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments]),
        "hardware": hardware(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "n": asked.n,
        **facts,
        "results": list(rows),
    }
    for row in rows:
        shown = {k: v for k, v in row.items() if not k.startswith("curve")}
        print("  ".join(f"{name} {_short(value)}" for name, value in shown.items()))
    text = json.dumps(whole)
    print(text)
    if asked.save:
        asked.save.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "median" in value:
        rest = [v for k, v in value.items() if k != "median"]
        return f"{value['median']:g} ({rest[0]:g} to {rest[-1]:g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
