"""KerasTuner's oracles as samplers: what they propose, and that a kill costs them nothing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from tiny_study import SPACE_FILE, TABLE, coordinator_process, proposals, run

from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError, StudyFileError
from catdog_search.kerastuner.hyperband import Rung
from catdog_search.outcomes import Ending
from catdog_search.places import StateFolder
from catdog_search.search.proposal.propose import (
    OracleProposer,
    is_exhausted,
    make_proposer,
    rung_of,
    told_to_oracle,
)
from catdog_search.search.proposal.sampler import PerTrialSampler, make_sampler
from catdog_search.search.study import schema, views
from catdog_search.space import Params, params_key
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig

pytest.importorskip("keras_tuner")

SPACE: dict[str, Any] = {
    "n_blocks": {"low": 1, "high": 3},
    "dropout": {"low": 0.0, "high": 0.6, "step": 0.1},
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "optimizer": {"choices": ["adam", "sgd"]},
    "momentum": {"low": 0.5, "high": 0.9, "when": {"optimizer": "sgd"}},
    "batch_size": 64,
}
NUMBERS: dict[str, Any] = {
    "dropout": {"low": 0.0, "high": 0.9},
    "n_blocks": {"low": 1, "high": 3},
    "batch_size": 64,
}
SMALL: dict[str, Any] = {
    "n_blocks": {"low": 1, "high": 2},
    "optimizer": {"choices": ["adam", "sgd"]},
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1, "when": {"optimizer": "sgd"}},
}


def config_of(name: str, space: dict[str, Any] = SPACE, **options: Any) -> StudyConfig:
    sampler = {"name": name, **options}
    if name == "kt-bayesian":
        sampler.setdefault("num_initial_points", 3)
    return studies.parse({**TABLE, "space": space, "recipes": {}, "sampler": sampler}, "t.toml")


def study_of(config: StudyConfig, storage: Any = None) -> optuna.Study:
    """As a new process would open it."""
    return optuna.create_study(
        study_name="s",
        storage=storage or optuna.storages.InMemoryStorage(),
        sampler=make_sampler(config.sampler, config.space, config.seed),
        direction="maximize",
        load_if_exists=True,
    )


def proposer_of(study: optuna.Study, config: StudyConfig) -> OracleProposer:
    assert isinstance(study.sampler, PerTrialSampler)
    proposer = make_proposer(study, study.sampler, config)
    assert isinstance(proposer, OracleProposer)
    return proposer


def value(params: Params) -> float:
    return 1 - abs(float(params.get("dropout", 0.2)) - 0.3)


def tried_in(study: optuna.Study) -> set[str]:
    return {params_key(t.user_attrs[schema.PARAMS]) for t in study.trials if t.user_attrs}


def optimize(study: optuna.Study, config: StudyConfig, n: int) -> list[Params]:
    proposer = proposer_of(study, config)
    for _ in range(n):
        tried = tried_in(study)
        trial = study.ask()
        study.tell(trial, value(proposer.propose(trial, tried)))
    return [t.user_attrs[schema.PARAMS] for t in study.trials]


@pytest.mark.parametrize("name", ["kt-random", "kt-grid", "kt-bayesian"])
def test_oracle_resumed_in_pieces_proposes_the_same(name: str) -> None:
    config = config_of(name, NUMBERS if name == "kt-bayesian" else SPACE)
    whole = optimize(study_of(config), config, 6)
    storage = optuna.storages.InMemoryStorage()
    for n in (1, 3, 2):
        pieces = optimize(study_of(config, storage), config, n)
    assert pieces == whole
    assert len({params_key(params) for params in whole}) == 6
    assert all(config.space.contains(params) for params in whole)


def test_another_seed_gives_other_proposals() -> None:
    config = config_of("kt-random")
    other = config.model_copy(update={"seed": config.seed + 1})
    assert optimize(study_of(config), config, 3) != optimize(study_of(other), other, 3)


def test_grid_is_kerastuners_from_its_defaults_on() -> None:
    config = config_of("kt-grid", SMALL)
    points = optimize(study_of(config), config, 10)
    assert points[:3] == [
        {"n_blocks": 1, "optimizer": "adam"},
        {"n_blocks": 1, "optimizer": "sgd", "dropout": 0.0},
        {"n_blocks": 1, "optimizer": "sgd", "dropout": 0.1},
    ]
    keys = [params_key(point) for point in points]
    assert is_exhausted(config.space, keys)
    assert sorted(keys) == sorted(map(params_key, config.space.points()))


def test_grid_takes_ten_values_of_what_is_continuous() -> None:
    config = config_of("kt-grid", {"dropout": {"low": 0.0, "high": 0.5}})
    points = optimize(study_of(config), config, 11)
    assert len({p["dropout"] for p in points}) == 11  # its default, the lowest, and ten


@pytest.mark.parametrize("name", ["kt-random", "kt-bayesian"])
def test_oracle_never_repeats_until_the_space_is_exhausted(name: str) -> None:
    space = {"n_blocks": {"low": 1, "high": 2}, "optimizer": {"choices": ["adam", "sgd"]}}
    config = config_of(name, space)
    study = study_of(config)
    keys = [params_key(params) for params in optimize(study, config, 4)]
    assert is_exhausted(config.space, keys)
    with pytest.raises(LookupError):
        optimize(study, config, 1)


def test_bayesian_learns_from_the_scores() -> None:
    space = {"dropout": {"low": 0.0, "high": 0.9}}
    config = config_of("kt-bayesian", space)
    points = optimize(study_of(config), config, 8)
    assert min(abs(float(p["dropout"]) - 0.3) for p in points[4:]) < 0.03


def end(study: optuna.Study, trial: optuna.Trial, params: Params, ending: Ending) -> None:
    trial.set_user_attr(schema.PARAMS, params)
    if ending is Ending.PRUNED:
        trial.report(0.4, 0)
    if ending is not Ending.INTERRUPTED:
        trial.set_user_attr(schema.ENDING, ending.value)
        assert ending.state is not None
        done = 0.9 if ending is Ending.FINISHED else None
        study.tell(trial, done, TrialState[ending.state])


def test_oracle_is_told_honestly_how_trials_ended() -> None:
    study = optuna.create_study(direction="maximize")
    endings = (
        Ending.FINISHED,
        Ending.PRUNED,
        Ending.OOM,
        Ending.DIVERGED,
        Ending.BUG,
        Ending.INTERRUPTED,
    )
    for number, ending in enumerate(endings):
        end(study, study.ask(), {"n": number}, ending)
    asked = study.ask()
    told = told_to_oracle(study, asked.number)
    assert [(t.status, t.score) for t in told] == [
        ("COMPLETED", 0.9),
        ("COMPLETED", 0.4),  # stopped early is no failure
        ("FAILED", None),
        ("FAILED", None),
        ("FAILED", None),
        ("RUNNING", None),
    ]


def test_workers_at_once_get_different_proposals() -> None:
    config = config_of("kt-bayesian", {"dropout": {"low": 0.0, "high": 0.9}})
    study = study_of(config)
    optimize(study, config, 5)
    proposer = proposer_of(study, config)
    running = [proposer.propose(study.ask(), tried_in(study)) for _ in range(2)]
    values = sorted(float(params["dropout"]) for params in running)
    assert all(b - a > 0.01 for a, b in itertools.pairwise(values))


def test_recipes_are_told_too_and_not_proposed_again() -> None:
    config = config_of("kt-grid", SMALL)
    study = study_of(config)
    study.enqueue_trial({"n_blocks": 1, "optimizer": "sgd", "dropout": 0.0})
    points = optimize(study, config, 3)
    assert points[0] == {"n_blocks": 1, "optimizer": "sgd", "dropout": 0.0}
    assert points[1] == {"n_blocks": 1, "optimizer": "adam"}
    assert points[2] == {"n_blocks": 1, "optimizer": "sgd", "dropout": 0.1}


def test_missing_package_is_one_line_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = config_of("kt-random")
    with pytest.raises(StateError) as refused:
        make_sampler(config.sampler, config.space, 1)
    assert str(refused.value) == (
        "sampler 'kt-random' needs the package keras-tuner, which is not installed; "
        "pip install 'catdog-search[tuner]'"
    )


@pytest.mark.parametrize(
    ("sampler", "says"),
    [
        ({"name": "kt-bayes"}, "[sampler] name: 'kt-bayes' is not allowed; it must be one of"),
        ({"name": "kt-bayesian", "alpha": 0}, "[sampler] alpha: 0 is not allowed"),
        ({"name": "kt-bayesian", "beta": -1.0}, "[sampler] beta: -1.0 is not allowed"),
        ({"name": "kt-bayesian", "num_initial_points": 0}, "[sampler] num_initial_points: 0 is"),
        ({"name": "kt-bayesian", "gamma": 1}, "[sampler] gamma: unknown"),
    ],
)
def test_oracles_options_are_checked(sampler: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError) as refused:
        studies.parse({**TABLE, "sampler": sampler}, "t.toml")
    assert says in str(refused.value)


def test_fingerprint_has_the_options_that_bear_on_it() -> None:
    tpe = studies.parse(TABLE, "t.toml").fingerprint()
    assert set(tpe["sampler"]) == {"name", "n_startup_trials"}  # as earlier studies remember it
    assert config_of("kt-bayesian").fingerprint()["sampler"]["beta"] == 2.6


def test_studies_with_optunas_samplers_do_not_import_kerastuner(
    in_fresh_python: Callable[[str], str],
) -> None:
    code = (
        "import sys; import catdog_search.search.prepare, catdog_search.cli.look\n"
        "import optuna\n"
        "from catdog_search.search.proposal.propose import make_proposer\n"
        "from catdog_search.search.proposal.sampler import make_sampler\n"
        "from catdog_search.study import studies\n"
        "config = studies.load('quick')\n"
        "for name in ('tpe', 'kt-bayesian'):\n"
        "    sampler = config.sampler.model_copy(update={'name': name})\n"
        "    config = config.model_copy(update={'sampler': sampler})\n"
        "    own = make_sampler(sampler, config.space, 1)\n"
        "    study = optuna.create_study(direction='maximize', sampler=own)\n"
        "    proposer = make_proposer(study, own, config)\n"
        "    if name == 'tpe': proposer.propose(study.ask(), ())\n"
        "print([m for m in ('keras', 'keras_tuner', 'tensorflow') if m in sys.modules])"
    )
    assert in_fresh_python(code).splitlines()[-1] == "[]"


HYPERBAND: dict[str, Any] = {
    "sampler": {"name": "kt-hyperband", "factor": 2},
    "pruner": {"name": "none"},
    "training": {"epochs": 4},
    "recipes": {},
}


BRACKETS = {(0, 0): 4, (0, 1): 2, (0, 2): 1, (1, 0): 3, (1, 1): 2, (2, 0): 3}


def rungs_of(state: StateFolder) -> list[Rung]:
    found = [rung_of(trial) for trial in views.load_study(state, "tiny").trials]
    return [rung for rung in found if rung is not None]


def test_hyperband_goes_on_with_the_better_trials_from_their_checkpoints(
    state: StateFolder, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = state.root / "notes.txt"
    monkeypatch.setenv("FAKE_CHECKPOINTS", str(notes))
    report = run(state, pictures, 60, table=HYPERBAND)
    assert report.end == "exhausted"  # with its brackets
    rows, rungs = report.view.trials, rungs_of(state)
    # As KerasTuner's own oracle counts them: of 4, 2 go on, then 1; of 3, 2; and 3.
    assert Counter((rung.bracket, rung.round) for rung in rungs) == BRACKETS
    for row, rung in zip(rows, rungs, strict=True):
        assert row.epochs == rung.epochs
        if rung.past is not None:
            assert row.params == rows[rung.past].params
            rivals = [r for r, other in zip(rows, rungs, strict=True) if is_rival(other, rung)]
            beaten = sum((r.value or 0) <= (rows[rung.past].value or 0) for r in rivals)
            assert beaten >= len(rivals) - BRACKETS[rung.bracket, rung.round] + 1
    trained = notes.read_text().splitlines()
    assert len(set(trained)) == len(trained)  # no epoch twice, under the same seed
    assert len(trained) == sum(
        rung.epochs - (0 if rung.past is None else rungs[rung.past].epochs) for rung in rungs
    )
    assert list(state.scratch("tiny").glob("*.checkpoint.*")) == []


def test_hyperband_waits_for_what_trains_elsewhere(state: StateFolder, pictures: Dataset) -> None:
    report = run(state, pictures, 60, table=HYPERBAND, concurrency=2)
    assert report.end == "exhausted"
    assert Counter((rung.bracket, rung.round) for rung in rungs_of(state)) == BRACKETS
    assert {row.state for row in report.view.trials} == {"COMPLETE"}


def is_rival(other: Rung, rung: Rung) -> bool:
    return (other.bracket, other.round) == (rung.bracket, rung.round - 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pruner": {"name": "median"}}, "[pruner] name must be \"none\", not 'median'"),
        ({"space": {**TABLE["space"], "epochs": 3}}, "leave epochs out of [space]"),
    ],
)
def test_hyperband_alone_says_how_long_a_trial_trains(change: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError) as refused:
        studies.parse({**TABLE, **HYPERBAND, **change}, "t.toml")
    assert says in str(refused.value)


def test_check_of_an_oracles_study_does_not_import_kerastuner(
    tmp_path: Path, in_fresh_python: Callable[[str], str]
) -> None:
    file = tmp_path / "kt.toml"
    file.write_text(
        'name = "kt"\npurpose = "p"\nimage_size = 8\nmetric = "val_accuracy"\n'
        'direction = "maximize"\ntrials = 2\n[sampler]\nname = "kt-bayesian"\nbeta = 1.5\n'
        + SPACE_FILE
    )
    code = (
        "import sys; from catdog_search.cli import main\n"
        f"main(['check', {str(file)!r}], standalone_mode=False)\n"
        "print([m for m in ('keras_tuner', 'keras', 'tensorflow') if m in sys.modules])"
    )
    printed = in_fresh_python(code)
    assert "sampler kt-bayesian" in printed
    assert printed.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["kt-random", "kt-grid", "kt-bayesian", "kt-hyperband"])
def test_killed_study_goes_on_to_the_trials_it_would_have_had(
    state: StateFolder, pictures: Dataset, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sampler = {"name": name, **({"num_initial_points": 3} if name == "kt-bayesian" else {})}
    change = HYPERBAND if name == "kt-hyperband" else {"sampler": sampler}
    with coordinator_process(state, pictures, 6, table={**TABLE, **change}) as process:
        assert process.stdout is not None
        for _ in range(10):  # in the midst of the third trial
            process.stdout.readline()
        process.kill()
        process.wait()
    resumed = run(state, pictures, 6, table=change)
    whole = StateFolder.at(str(tmp_path_factory.mktemp("whole")))
    reference = run(whole, pictures, 6, table=change)
    assert proposals(resumed.view) == proposals(reference.view)
    assert [row.value for row in resumed.view.trials] == [
        row.value for row in reference.view.trials
    ]
    assert resumed.end == "done"
