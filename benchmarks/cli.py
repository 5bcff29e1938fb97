"""How long the command line takes to say something, beside its peers.

python benchmarks/cli.py [--n 7]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import common

BIN = Path(sys.executable).parent
COMMANDS = (
    ("catdog-search", "--help"),
    ("catdog-search", "studies"),
    ("mlflow", "--help"),
    ("optuna", "--help"),
)


def seconds(command: tuple[str, ...]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    subprocess.run([BIN / command[0], *command[1:]], capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure in turns, after a call each that isn't counted, and print."""
    asked = common.parser(__doc__, n=7).parse_args()
    times: dict[tuple[str, ...], list[float]] = {command: [] for command in COMMANDS}
    for turn in range(asked.n + 1):
        for command, values in times.items():
            took = seconds(command)
            if turn:
                values.append(took)
    rows = [{"command": " ".join(c), "seconds": common.spread(v)} for c, v in times.items()]
    common.report(asked, ("click", "mlflow", "optuna"), rows)


if __name__ == "__main__":
    main()
