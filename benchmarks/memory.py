"""Most memory that coordinator and worker hold in a study of one short trial.

python benchmarks/memory.py [--data PHOTOS] [--image-size 128]
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import common
import psutil

from catdog_search.machine.backends import choose_backend
from catdog_search.search.coordinator import run_study
from catdog_search.search.events import EpochDone, Event, TrialEnded
from catdog_search.training.execution import ForcedExecution

# Little arithmetic: what counts is what photos, libraries and stores take.
PARAMS = {"n_blocks": 3, "filters": 4, "dense_units": 0, "batch_size": 64, "head": "average"}


def peak(pid: int) -> float:
    """Most that a process has held, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def workers() -> list[int]:
    """Python processes that this one has started."""
    children = psutil.Process().children()
    return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]


def main() -> None:
    """Measure and print."""
    parser = common.parser(__doc__, n=1)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--pixels", choices=["stream", "device"], default="stream")
    asked = parser.parse_args()
    backend = choose_backend()
    space = {**PARAMS, "activation": {"choices": ["relu", "elu"]}}
    config = common.study("memory", asked.image_size, 1, space=space)
    seen: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, EpochDone | TrialEnded):
            seen["worker_mb"] = max([seen.get("worker_mb", 0.0), *map(peak, workers())])

    with tempfile.TemporaryDirectory() as folder:
        ready = common.prepared(asked, config, folder, forced=ForcedExecution(pixels=asked.pixels))
        run_study(ready.config, ready.dataset, ready.state, listen, ready.options)
    seen["coordinator_mb"] = peak(os.getpid())
    packed = ready.dataset
    photos = len(packed.rows("train")) + len(packed.rows("val"))
    seen["pixels_mb"] = photos * asked.image_size**2 * 3 / 1e6
    common.report(
        asked,
        ("keras", backend, "mlflow", "optuna"),
        [{name: round(value, 1) for name, value in seen.items()}],
        image_size=asked.image_size,
        photos=len(packed.manifest.photos),
    )


if __name__ == "__main__":
    main()
