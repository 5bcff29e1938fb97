"""What a study's bookkeeping costs as it grows: ask, tell and `show` at N finished trials.

The trials are written straight into the storage, each with the params of custom-cnn, 12 reported
epochs and a value. Then a trial is asked for and told as the coordinator does it: view, risk of
failure, proposal by the sampler, storing the params; one report an epoch; the value; the view.

    python benchmarks/scale.py [--trials 10 1000 10000] [--n 5]
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import optuna
from optuna.trial import TrialState

from catdog_search import places
from catdog_search.data import packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.outcomes import Ending
from catdog_search.places import StateFolder
from catdog_search.search.proposal.propose import SamplingProposer
from catdog_search.search.proposal.pruner import make_pruner, report_epoch
from catdog_search.search.proposal.sampler import make_sampler
from catdog_search.search.study import schema
from catdog_search.search.study.storage import open_study
from catdog_search.search.study.views import view_of
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig

EPOCHS = 12
PACKAGES = ("optuna", "sqlalchemy", "scikit-learn")


def fill(study: optuna.Study, config: StudyConfig, trials: int) -> None:
    """Finished trials with invented values, one in ten out of memory."""
    chance = random.Random(trials)
    probe = optuna.create_study()
    for number in range(trials):
        trial = probe.ask()
        params = config.space.sample(trial)
        too_large = chance.random() < 0.1
        values = {epoch: 0.5 + 0.4 * chance.random() for epoch in range(EPOCHS)}
        attrs = {
            schema.PARAMS: params,
            schema.RUN_ID: f"{number:032x}",
            schema.ENDING: Ending.OOM.value if too_large else Ending.FINISHED.value,
            schema.SCORES: {} if too_large else {"val_accuracy": values[EPOCHS - 1]},
        }
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if too_large else TrialState.COMPLETE,
                value=values[EPOCHS - 1],
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=attrs,
                intermediate_values=values,
            )
        )


def ask_and_tell(study: optuna.Study, proposer: SamplingProposer) -> dict[str, float]:
    """Seconds that one trial costs between its training."""
    started = time.perf_counter()
    view = view_of(study)
    trial = study.ask()
    proposer.observe(view)
    proposer.propose(trial, view.tried)
    asked = time.perf_counter()
    for epoch in range(EPOCHS):
        report_epoch(study, trial, epoch, 0.9)  # good enough not to be pruned
    reported = time.perf_counter()
    trial.set_user_attr(schema.ENDING, Ending.FINISHED.value)
    study.tell(trial, 0.9)
    view_of(study).ranked()
    done = time.perf_counter()
    return {"ask_s": asked - started, "epochs_s": reported - asked, "tell_s": done - reported}


def show(state: StateFolder, name: str) -> float:
    """Seconds of the command, its start included."""
    command = [sys.executable, "-m", "catdog_search", "show", "--study", name]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--json", "--state", str(state.root)], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - started
    json.loads(done.stdout)
    return seconds


def measure(trials: int, n: int, config: StudyConfig, pictures: Dataset) -> dict[str, Any]:
    """One size of study."""
    with tempfile.TemporaryDirectory() as folder:
        state = StateFolder(Path(folder))
        state.create()
        sampler = make_sampler(config.sampler, config.space, config.seed)
        study = open_study(
            state, config, pictures, sampler, make_pruner(config.pruner, config.training.epochs)
        )
        fill(study, config, trials)
        proposer = SamplingProposer(study, sampler, config.space)
        ask_and_tell(study, proposer)  # reads what is there, which a start does once
        parts = [ask_and_tell(study, proposer) for _ in range(n)]
        shown = [show(state, config.name) for _ in range(n)]
    whole = [part["ask_s"] + part["tell_s"] for part in parts]
    return {
        "finished_trials": trials,
        "ask_and_tell_s": common.spread(whole),
        **{name: common.spread([part[name] for part in parts]) for name in parts[0]},
        "share_of_a_minute": round(sorted(whole)[n // 2] / 60, 5),
        "show_s": common.spread(shown),
    }


def main() -> None:
    """Measure and print."""
    parser = common.parser(__doc__, n=5)
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 1000, 10000])
    asked = parser.parse_args()
    config = studies.load("custom-cnn")
    pictures = packing.load(SyntheticSource(100), 16, places.cache_folder(), 10**11)
    rows = [measure(trials, asked.n, config, pictures) for trials in asked.trials]
    common.report(asked, PACKAGES, rows, sampler=config.sampler.name, epochs=EPOCHS)


if __name__ == "__main__":
    main()
