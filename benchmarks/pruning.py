"""What pruners would have saved, and lost: replayed on the whole curves of a study.

The study was run with nothing pruned. Its COMPLETE trials are told to a pruner again, in orders of
chance, epoch by epoch; a trial that it stops costs the epochs until then and is lost. Saved is the
share of all epochs that were not trained, lost how far the best trial left is below the best of
all. Optuna's pruners are real, no training is done.

    python benchmarks/pruning.py --study what-matters --state STATE [--n 100]
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any

import common
import optuna
from optuna.trial import TrialState

from catdog_search.places import StateFolder
from catdog_search.search.proposal.pruner import make_pruner, report_epoch
from catdog_search.search.study.storage import load_study
from catdog_search.study.config import PrunerConfig

Curve = list[float]

PRUNERS: dict[str, dict[str, Any]] = {
    "median": {},
    "percentile 25": {"percentile": 25.0},
    "asha": {"min_epochs": 2},
    "hyperband": {"min_epochs": 2},
}
# Epochs before the first decision, in tenths of a whole trial; of those that know such a thing.
WARMUPS = (2, 4, 6)


def settings(epochs: int) -> dict[str, PrunerConfig]:
    """Every pruner that is replayed."""
    found = {}
    for name, options in PRUNERS.items():
        kind = name.split()[0]
        if kind in ("asha", "hyperband"):
            found[name] = PrunerConfig.model_validate({"name": kind, **options})
            continue
        for tenths in WARMUPS:
            warmup = round(tenths / 10 * epochs)
            made = {"name": kind, "n_warmup_epochs": warmup, **options}
            found[f"{name}, from epoch {warmup + 1}"] = PrunerConfig.model_validate(made)
    return found


def replay(curves: Sequence[Curve], config: PrunerConfig) -> tuple[float, float]:
    """Share of the epochs saved, and what the best trial left is below the best of all."""
    epochs = len(curves[0])
    study = optuna.create_study(direction="maximize", pruner=make_pruner(config, epochs))
    trained, left = 0, []
    for curve in curves:
        trial = study.ask()
        for epoch, value in enumerate(curve):
            trained += 1
            if not report_epoch(study, trial, epoch, value) and epoch + 1 < epochs:
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[-1])
            left.append(curve[-1])
    best = max(curve[-1] for curve in curves)
    return 1 - trained / (epochs * len(curves)), best - max(left)


def whole_curves(state: StateFolder, name: str) -> list[Curve]:
    """The metric by epoch of every COMPLETE trial, of those as long as the longest."""
    trials = load_study(state, name).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    curves = [[t.intermediate_values[e] for e in sorted(t.intermediate_values)] for t in trials]
    longest = max(map(len, curves))
    return [curve for curve in curves if len(curve) == longest]


def main() -> None:
    """Replay and print."""
    parser = common.parser(__doc__, n=100)
    parser.add_argument("--study", default="what-matters")
    parser.add_argument("--state", help="state folder of the study")
    asked = parser.parse_args()
    curves = whole_curves(StateFolder.at(asked.state), asked.study)
    rows = []
    for name, config in settings(len(curves[0])).items():
        found = []
        for seed in range(asked.n):
            shuffled = curves.copy()
            random.Random(seed).shuffle(shuffled)
            found.append(replay(shuffled, config))
        saved, lost = zip(*found, strict=True)
        rows.append(
            {
                "pruner": name,
                "saved": common.spread(saved),
                "best_kept_share": round(sum(value == 0 for value in lost) / asked.n, 2),
                "lost": common.spread(lost, 4),
                "lost_mean": round(statistics.mean(lost), 4),
            }
        )
    facts = {"trials": len(curves), "epochs": len(curves[0]), "study": asked.study}
    common.report(asked, ("optuna",), rows, **facts)


if __name__ == "__main__":
    main()
