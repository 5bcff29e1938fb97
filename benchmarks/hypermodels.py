"""Six hypermodels of KerasTuner's searched by us: five short trials each, killed, one promoted.

KerasTuner's own ResNet and Xception, and four as its guides write them (`common_guides.py`). Each
study is killed with SIGKILL in its second trial and called again; the best of all six on val is
promoted. Photos, splits and what counts as test are those of `tuners.py`: nobody's test is read.

    python benchmarks/hypermodels.py --data PHOTOS [--photos 1500] [--epochs 3] [--n 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from tuners import environment, run, unpack

NAMES = ("conditional", "preprocessing", "OwnFit", "OwnLoop", "xception", "resnet")
# Their largest networks take minutes an epoch on two cores: a study file narrows what it searches.
NARROWED = {
    "xception": "{ sep_num_filters = 128, num_residual_blocks = { low = 2, high = 3 } }",
    "resnet": '{ version = { choices = ["v1", "v2"] }, conv3_depth = 4, conv4_depth = 6 }',
}
_MODULE = [sys.executable, "-m", "catdog_search"]


def main() -> None:
    """Search all, promote one, and print."""
    parser = common.parser(__doc__, n=5)
    parser.add_argument("--photos", type=int, default=1500, help="of train; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        counts = unpack(asked, folder / "photos")
        rows = [searched(asked, name, folder) for name in asked.names]
        best = max(rows, key=lambda row: row["best_on_val"])
        promoted = promotion(best["hypermodel"], folder)
    packages = ("keras", "tensorflow", "optuna", "keras-tuner", "mlflow")
    common.report(asked, packages, rows, epochs=asked.epochs, photos=counts, promoted=promoted)


def searched(asked: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """Run one study, killed on the way, and what it says in the end."""
    study = folder / f"{name.lower()}.toml"
    study.write_text(
        f"""name = "{name.lower()}"
purpose = "A benchmark."
family = "hypermodel"
hypermodel = "common_guides:{name}"
metric = "val_accuracy"
direction = "maximize"
trials = {asked.n}
training = {{ epochs = {asked.epochs}, patience = {asked.epochs} }}
promotion = {{ finalists = 1, seeds = 1 }}
space = {NARROWED.get(name, "{}")}
""",
        encoding="utf-8",
    )
    command = [*_MODULE, "run", "--study", str(study), "--data", str(folder / "photos")]
    command += ["--state", str(folder / "state")]
    started = time.perf_counter()
    killed_in = killed(command, folder)
    run(command, folder, cwd=Path(__file__).parent)
    seconds = time.perf_counter() - started
    show = [*_MODULE, "show", "--study", name.lower(), "--state", str(folder / "state"), "--json"]
    said = json.loads(run(show, folder))
    row = {
        "hypermodel": name,
        "best_on_val": said["best"]["value"],
        "trials": said["counts"],
        "killed_in": killed_in,
        "seconds": round(seconds, 1),
        "params": said["best"]["params"],
    }
    print(row, file=sys.stderr, flush=True)
    return row


def killed(command: list[str], folder: Path) -> str:
    """Kill a study in its second trial; the line that it had printed last."""
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parent,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("trial 1 epoch 1"):
            break
    process.kill()
    if process.wait() == 0:
        raise SystemExit(f"{' '.join(command)}: was over before its second trial: {lines[-3:]}")
    return lines[-1]


def promotion(name: str, folder: Path) -> dict[str, Any]:
    """Promote the best trial of a study as it is: its gates, passed or not, and its test number."""
    command = [*_MODULE, "promote", "--study", name.lower(), "--yes", "--json"]
    command += ["--state", str(folder / "state")]
    said = json.loads(run(command, folder, cwd=Path(__file__).parent, refusing=True))
    gates = {gate["name"]: gate["verdict"] for gate in said["gates"]}
    return {"hypermodel": name, "version": said["version"], "test": said["test"]["accuracy"]} | {
        "interval": said["test"]["interval"],
        "n": said["test"]["n"],
        "gates": gates,
    }


if __name__ == "__main__":
    main()
