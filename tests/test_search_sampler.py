"""Seeds, samplers and the pruner's view of a resumed trial."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from catdog_search.errors import StateError
from catdog_search.search.proposal.feasibility import failure_risk
from catdog_search.search.proposal.propose import SamplingProposer, _untried, is_exhausted
from catdog_search.search.proposal.pruner import make_pruner, report_epoch
from catdog_search.search.proposal.sampler import PerTrialSampler, make_sampler, trial_seed
from catdog_search.search.proposal.uniform import UniformDraw
from catdog_search.search.study import schema, views
from catdog_search.search.study.schema import FINGERPRINT
from catdog_search.space import Choice, Fixed, Params, Range, Space, params_key
from catdog_search.study.config import PrunerConfig, SamplerConfig

NUMBERS = Space({"x": Range(-1.0, 1.0), "n": Range(0, 3)})
MIXED = Space(
    {
        "block": Choice(("plain", "residual")),
        "filters": Choice((8, 16, 32)),
        "convolutions": Range(2, 3, when={"block": ("residual",)}),
        "batch_size": Fixed(64),
    }
)


def optimize(study: optuna.Study, n: int, space: Space = NUMBERS) -> list[Params]:
    """Propose, and call a value near the middle good; returns all params so far."""
    assert isinstance(study.sampler, PerTrialSampler)
    proposer = SamplingProposer(study, study.sampler, space)
    for _ in range(n):
        done = [t.user_attrs[schema.PARAMS] for t in study.trials if t.state.is_finished()]
        trial = study.ask()
        params = proposer.propose(trial, [params_key(p) for p in done])
        study.tell(trial, sum(abs(v) for v in params.values() if isinstance(v, float)))
    return [t.user_attrs[schema.PARAMS] for t in study.trials]


def study_in(
    storage: optuna.storages.BaseStorage, config: SamplerConfig, space: Space = NUMBERS
) -> optuna.Study:
    """As a new process would open it: with a new sampler."""
    sampler = make_sampler(config, space, seed=3)
    return optuna.create_study(
        study_name="s", storage=storage, sampler=sampler, load_if_exists=True
    )


@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "cmaes"])
def test_sampler_resumed_in_pieces_proposes_the_same(name: str) -> None:
    config = SamplerConfig(name=name, n_startup_trials=5)  # type: ignore[arg-type]
    whole = study_in(optuna.storages.InMemoryStorage(), config)
    points = optimize(whole, 20)
    storage = optuna.storages.InMemoryStorage()
    for n in (1, 6, 13):
        optimize(study_in(storage, config), n)
    pieces = study_in(storage, config)
    assert [t.params for t in pieces.trials] == points
    assert len({p["x"] for p in points}) == 20


def test_trial_seed_differs_by_study_and_number() -> None:
    seeds = {trial_seed(study, number) for study in range(20) for number in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_grid_takes_every_point_once() -> None:
    space = Space({"a": Range(1, 3), "b": Choice((0.1, 0.2)), "c": Fixed(5)})
    study = study_in(optuna.storages.InMemoryStorage(), SamplerConfig(name="grid"), space)
    points = optimize(study, 6, space)
    assert len({params_key(p) for p in points}) == 6
    assert is_exhausted(space, [params_key(p) for p in points])


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_propose_never_repeats_until_the_space_is_exhausted(name: str) -> None:
    config = SamplerConfig(name=name, n_startup_trials=3)  # type: ignore[arg-type]
    study = study_in(optuna.storages.InMemoryStorage(), config, MIXED)
    keys = [params_key(p) for p in optimize(study, 9, MIXED)]
    assert len(set(keys)) == 9
    assert set(keys) == {params_key(p) for p in MIXED.points()}
    assert is_exhausted(MIXED, keys)
    assert not is_exhausted(MIXED, keys[:-1])
    with pytest.raises(LookupError):
        optimize(study, 1, MIXED)


STEPS = Space({"x": Range(0.1, 0.5, 0.1), "n": Fixed(1)})


@pytest.mark.parametrize("name", ["tpe", "random", "grid", "qmc", "gp", "cmaes"])
def test_each_step_is_tried_once_and_then_none_is_left(name: str) -> None:
    if name == "gp":
        pytest.importorskip("torch")
    config = SamplerConfig(name=name, n_startup_trials=2)  # type: ignore[arg-type]
    study = study_in(optuna.storages.InMemoryStorage(), config, STEPS)
    study.enqueue_trial({"x": 0.3})
    points = optimize(study, 5, STEPS)
    assert points[0] == {"x": 0.3, "n": 1}
    assert sorted(p["x"] for p in points) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [t.params["x"] for t in study.trials] == [p["x"] for p in points]  # Optuna's record too
    keys = [params_key(p) for p in points]
    assert is_exhausted(STEPS, keys)
    assert not is_exhausted(STEPS, keys[1:])
    with pytest.raises(LookupError):
        optimize(study, 1, STEPS)


MIRRORED = Space(
    {
        "units": Range(2, 32, 2, log=True),
        "keep": Range(0.01, 1.0, log=True, reverse=True),
        "depth": Range(1, 9, log=True, reverse=True),
    }
)


def test_scales_that_optuna_has_not_are_kept_as_it_knows_them() -> None:
    study = study_in(optuna.storages.InMemoryStorage(), SamplerConfig(n_startup_trials=3), MIRRORED)
    study.set_user_attr(FINGERPRINT, json.dumps({"space": MIRRORED.as_dict()}))
    study.enqueue_trial({"units": 16, "keep": 0.98, "depth": 9})
    points = optimize(study, 12, MIRRORED)
    assert points[0] == {"units": 16, "keep": 0.98, "depth": 9}
    assert all(MIRRORED.contains(point) for point in points)
    assert {point["units"] for point in points} <= {2, 4, 8, 16, 32}
    assert sum(point["keep"] > 0.9 for point in points) > 2  # dense where the range ends
    first = study.trials[0].params
    assert first == {"units": 3, "keep": pytest.approx(0.03), "depth": 1}
    assert views.view_of(study).trials[0].varied == points[0]


def test_last_point_of_a_large_space_is_found() -> None:
    space = Space({"x": Range(0.0, 0.5, 2e-5), "n": Fixed(1)})  # 25,001 points, too many to list
    points = list(space.points())
    keys = {params_key(p) for p in points[:-1]}
    assert _untried(space, keys, random.Random(1)) == points[-1]
    assert is_exhausted(space, {*keys, params_key(points[-1])})


def test_only_points_of_the_space_exhaust_it() -> None:
    keys = [params_key({"x": x, "n": 1}) for x in (0.1, 0.2, 0.4, 0.5, 0.35)]
    assert not is_exhausted(STEPS, keys)


@pytest.mark.parametrize("steps", [0.1, 0.05, 1e-4])
def test_chance_draws_values_of_the_range(steps: float) -> None:
    dimension = Range(-0.5, 0.7, steps)
    uniform = UniformDraw(random.Random(1))
    assert {dimension.suggest("x", uniform) for _ in range(500)} <= set(dimension.values or ())


def test_chance_stays_within_a_logarithmic_range() -> None:
    dimension = Range(1e-5, 1.1e-5, log=True)
    uniform = UniformDraw(random.Random(1))
    sampled = [uniform.suggest_float("x", 1e-5, 1e-5, step=None, log=True) for _ in range(3)]
    assert sampled == [1e-5] * 3
    assert all(dimension.contains(dimension.suggest("x", uniform)) for _ in range(500))


def test_queued_value_of_an_older_version_is_taken_as_its_step() -> None:
    study = study_in(optuna.storages.InMemoryStorage(), SamplerConfig(), STEPS)
    study.enqueue_trial({"x": 0.1 + 0.2})
    assert optimize(study, 1, STEPS) == [{"x": 0.3, "n": 1}]


def test_trials_of_an_older_version_are_known_by_their_step() -> None:
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(FINGERPRINT, json.dumps({"space": STEPS.as_dict()}))
    for number in range(3):
        old = {"x": 0.1 + number * 0.1}
        kept = {schema.PARAMS: {**old, "n": 1}}
        x = optuna.distributions.FloatDistribution(0.1, 0.5, step=0.1)
        study.add_trial(
            optuna.trial.create_trial(
                value=0.5, params=old, distributions={"x": x}, user_attrs=kept
            )
        )
    assert study.trials[2].params["x"] != 0.3
    view = views.view_of(study)
    assert [row.params["x"] for row in view.trials] == [0.1, 0.2, 0.3]
    assert [row.varied["x"] for row in view.trials] == [0.1, 0.2, 0.3]
    assert view.tried == {params_key({"x": x, "n": 1}): i for i, x in enumerate((0.1, 0.2, 0.3))}


def test_propose_stores_what_it_returns_and_returns_what_is_stored() -> None:
    study = study_in(optuna.storages.InMemoryStorage(), SamplerConfig(), MIXED)
    assert isinstance(study.sampler, PerTrialSampler)
    proposer = SamplingProposer(study, study.sampler, MIXED)
    trial = study.ask()
    params = proposer.propose(trial, [])
    assert {**study.trials[0].params, "batch_size": 64} == params
    assert proposer.propose(trial, [params_key(params)]) == params


def test_propose_keeps_a_queued_point_though_it_was_tried() -> None:
    study = study_in(optuna.storages.InMemoryStorage(), SamplerConfig(), MIXED)
    assert isinstance(study.sampler, PerTrialSampler)
    queued = {"block": "plain", "filters": 16}
    study.enqueue_trial(queued)
    whole = MIXED.complete(queued)
    assert (
        SamplingProposer(study, study.sampler, MIXED).propose(study.ask(), [params_key(whole)])
        == whole
    )


def test_propose_draws_again_what_will_probably_fail() -> None:
    study = study_in(optuna.storages.InMemoryStorage(), SamplerConfig(name="random"), NUMBERS)
    assert isinstance(study.sampler, PerTrialSampler)
    proposer = SamplingProposer(study, study.sampler, NUMBERS)
    risk = lambda params: float(params["x"] > -0.5)  # noqa: E731
    proposer.risk = risk
    sampled = [proposer.propose(study.ask(), []) for _ in range(30)]
    assert sum(risk(params) for params in sampled) < 6  # of 22 or so without
    proposer.risk = lambda params: 0.6 + 0.1 * float(params["x"])
    least = proposer.propose(study.ask(), [])
    assert least["x"] < 0  # the best of ten that all look bad


def test_failure_risk_finds_the_product_that_fails() -> None:
    space = Space({"filters": Choice((8, 16, 32, 64)), "batch_size": Range(16, 256, log=True)})
    points = [{"filters": f, "batch_size": b} for f in (8, 16, 32, 64) for b in (16, 64, 256)]
    fails = [p for p in points if p["filters"] * p["batch_size"] > 2000]
    fits = [p for p in points if p["filters"] * p["batch_size"] <= 2000]
    risk = failure_risk(space, fails, fits)
    assert risk is not None
    assert [risk(p) > 0.5 for p in (*fails, *fits)] == [True] * len(fails) + [False] * len(fits)
    assert failure_risk(space, fails[:1], fits) is None
    assert failure_risk(space, fails, []) is None


def test_sampler_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StateError, match="'cmaes' needs the package cmaes"):
        make_sampler(SamplerConfig(name="cmaes"), NUMBERS, 1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("median", "MedianPruner"),
        ("none", "NopPruner"),
        ("percentile", "PercentilePruner"),
        ("asha", "SuccessiveHalvingPruner"),
        ("hyperband", "HyperbandPruner"),
        ("patient", "PatientPruner"),
    ],
)
def test_every_pruner_stops_bad_trials_and_no_good_ones(name: str, kind: str) -> None:
    config = PrunerConfig(name=name, n_startup_trials=2, patience=0, percentile=50.0)  # type: ignore[arg-type]
    pruner = make_pruner(config, epochs=9)
    assert type(pruner).__name__ == kind
    sampler = make_sampler(SamplerConfig(name="random"), NUMBERS, 1)
    study = optuna.create_study(direction="maximize", pruner=pruner, sampler=sampler)
    stopped = []
    for number in range(30):
        trial = study.ask()
        level = 0.9 if number % 3 == 0 else 0.5 - number / 100
        falls = 0.0 if number % 3 == 0 else 0.01  # an epoch; patient waits for that
        went_on = all(report_epoch(study, trial, e, level - falls * e) for e in range(9))
        study.tell(trial, level if went_on else None, state=_over(went_on))
        if not went_on:
            stopped.append(level)
    assert (len(stopped) == 0) == (name == "none")
    assert 0.9 not in stopped


def _over(went_on: bool) -> optuna.trial.TrialState:
    return optuna.trial.TrialState.COMPLETE if went_on else optuna.trial.TrialState.PRUNED


class Recorder(BasePruner):
    """Remembers what it was shown, and prunes at a value below 0.2."""

    def __init__(self) -> None:
        self.shown: list[dict[int, float]] = []

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        self.shown.append(dict(trial.intermediate_values))
        return trial.intermediate_values[trial.last_step or 0] < 0.2


def test_report_epoch_hides_an_earlier_attempts_later_epochs() -> None:
    pruner = Recorder()
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    first_attempt = [report_epoch(study, trial, e, v) for e, v in enumerate((0.5, 0.6, 0.1))]
    second_attempt = [report_epoch(study, trial, e, v) for e, v in enumerate((0.4, 0.5, 0.7))]
    assert first_attempt == [True, True, False]
    assert second_attempt == [True, True, True]
    assert pruner.shown[3:] == [{0: 0.4}, {0: 0.4, 1: 0.5}, {0: 0.4, 1: 0.5, 2: 0.7}]


def test_constraints_beat_failures_in_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    benchmark = importlib.import_module("out_of_memory")
    for seed in benchmark.SEEDS[:2]:  # the others by hand: a study of each kind takes seconds
        as_constraint = benchmark.failures(seed, "constraint, model")
        assert 0 < as_constraint < benchmark.TRIALS / 3
        assert benchmark.failures(seed, "FAIL") > 1.5 * as_constraint
