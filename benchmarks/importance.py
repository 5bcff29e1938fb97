"""How far measures of importance agree on one study, and what fANOVA costs as a study grows.

The COMPLETE trials of a study are given to Optuna's PED-ANOVA with several shares of trials that
count as good (its default is a tenth), and to fANOVA on seeds 1 to n. Its time is that for trials
with the study's params and values of chance.

    python benchmarks/importance.py --study what-matters --state STATE [--n 5] [--trials 30 100 300]
"""

from __future__ import annotations

import random
import time
from typing import Any

import common
import optuna
from optuna.importance import (
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)

from catdog_search.places import StateFolder
from catdog_search.search.study.storage import load_study
from catdog_search.space import Space
from catdog_search.study import studies

QUANTILES = (0.1, 0.2, 0.33, 0.5)


def shares(study: optuna.Study, evaluator: Any) -> dict[str, float]:
    """Of each param."""
    found = get_param_importances(study, evaluator=evaluator)
    return {name: round(float(share), 3) for name, share in found.items()}


def seconds(space: Space, trials: int) -> float:
    """That fANOVA takes for so many."""
    study, probe, chance = optuna.create_study(), optuna.create_study(), random.Random(trials)
    for _ in range(trials):
        asked = probe.ask()
        space.sample(asked)
        params = {"params": asked.params, "distributions": asked.distributions}
        study.add_trial(optuna.trial.create_trial(value=chance.random(), **params))
    started = time.perf_counter()
    get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = common.parser(__doc__, n=5)
    parser.add_argument("--study", default="what-matters")
    parser.add_argument("--state", help="state folder of the study")
    parser.add_argument("--trials", type=int, nargs="+", default=[30, 100, 300])
    asked = parser.parse_args()
    study = load_study(StateFolder.at(asked.state), asked.study)
    rows: list[dict[str, Any]] = [
        {"measure": f"PED-ANOVA, best {quantile:.0%}"}
        | {"shares": shares(study, PedAnovaImportanceEvaluator(target_quantile=quantile))}
        for quantile in QUANTILES
    ]
    by_seed = [
        shares(study, FanovaImportanceEvaluator(seed=seed)) for seed in range(1, asked.n + 1)
    ]
    spreads = {name: common.spread([found[name] for found in by_seed]) for name in by_seed[0]}
    rows.append({"measure": "fANOVA", "shares": spreads})
    space = studies.load(asked.study).space
    for trials in asked.trials:
        times = [seconds(space, trials) for _ in range(asked.n)]
        rows.append({"trials": trials, "fanova_s": common.spread(times)})
    common.report(asked, ("optuna", "scikit-learn"), rows, study=asked.study)


if __name__ == "__main__":
    main()
