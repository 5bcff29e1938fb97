"""How many of 60 trials run out of memory where most of the space does.

Three ways, in the same space, with the same sampler and seeds: told as a constraint, with a model
of what fails before the sampler (what this project does); told as a constraint alone; told as FAIL
(which no sampler sees). The larger a network that fits, the better its value, so that the optimum
lies beside what fails.

    python benchmarks/out_of_memory.py
"""

from __future__ import annotations

import random
import statistics
from typing import Literal, get_args

import common
import optuna
from optuna.trial import TrialState

from catdog_search.search.proposal.propose import SamplingProposer
from catdog_search.search.proposal.sampler import make_sampler
from catdog_search.search.proposal.uniform import UniformDraw
from catdog_search.space import Params, params_key
from catdog_search.study import studies

TRIALS, SEEDS = 60, (1, 2, 3, 4)
LIMIT = 3_000
Told = Literal["constraint, model", "constraint", "FAIL"]
TABLE = {
    "name": "out-of-memory",
    "purpose": "A space in which most trials run out of memory.",
    "image_size": 64,
    "metric": "val_accuracy",
    "direction": "maximize",
    "trials": TRIALS,
    "space": {
        "n_blocks": {"low": 1, "high": 5},
        "filters": {"choices": [8, 16, 32, 64, 128, 256]},
        "batch_size": {"choices": [16, 32, 64, 128, 256]},
        "dropout": {"low": 0.0, "high": 0.6},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    },
}


def load(params: Params) -> float:
    """What a trial asks for, in units of which there are LIMIT."""
    return float(params["filters"]) * float(params["batch_size"]) * float(params["n_blocks"])


def value(params: Params) -> float:
    """Larger is better, up to the limit."""
    return min(load(params) / LIMIT, 1) - abs(float(params["dropout"]) - 0.3)


def failures(seed: int, told: Told) -> int:
    """Run one study without training; how many of its trials ran out."""
    as_constraint = told != "FAIL"
    config = studies.parse({**TABLE, "seed": seed}, "oom")
    sampler = make_sampler(config.sampler, config.space, seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    proposer = SamplingProposer(study, sampler, config.space)
    tried: list[str] = []
    failed: list[Params] = []
    fitted: list[Params] = []
    for _ in range(TRIALS):
        trial = study.ask()
        if told == "constraint, model":
            proposer.learn_risk(failed, fitted)
        params = proposer.propose(trial, tried)
        fits = load(params) <= LIMIT
        (fitted if fits else failed).append(params)
        if fits:
            study.tell(trial, value(params))
        elif as_constraint:
            trial.set_constraint("oom", 1.0)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, state=TrialState.FAIL)
        if fits or as_constraint:
            tried.append(params_key(params))
    return len(failed)


def main() -> None:
    """Print a table, then JSON."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chance, space = UniformDraw(random.Random(0)), studies.parse(TABLE, "oom").space
    share = statistics.fmean(load(space.sample(chance)) > LIMIT for _ in range(20_000))
    asked = common.parser(__doc__, n=len(SEEDS)).parse_args()
    rows = [
        {"told_as": told, "ran_out": [failures(seed, told) for seed in range(1, asked.n + 1)]}
        for told in get_args(Told)
    ]
    facts = {"trials": TRIALS, "share_of_space_that_fails": round(share, 3)}
    common.report(asked, ("optuna", "catdog-search"), rows, **facts)


if __name__ == "__main__":
    main()
