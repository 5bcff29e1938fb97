"""Finalists: the best trials on new seeds, a study of their own; with a stand-in for training."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_training import FakeTrainer
from tiny_study import TABLE, run
from warm_workers import blank_figures, warm_workers

from catdog_search.data.dataset import Dataset
from catdog_search.data.manifest import CALIBRATION
from catdog_search.errors import DataError, RequestError, StateError, StudyFileError
from catdog_search.places import StateFolder
from catdog_search.promotion import finalists
from catdog_search.promotion.expected import expected_s
from catdog_search.promotion.finalists import Plan, best_of, name_of, plan, trained
from catdog_search.search.coordinator import Options, Report
from catdog_search.search.prepare import Prepared
from catdog_search.search.study import schema
from catdog_search.search.study.storage import load_study
from catdog_search.search.study.views import load_view
from catdog_search.space import params_key
from catdog_search.study import studies
from catdog_search.study.config import NAME
from catdog_search.tracking.looked_at import LoggedModels
from catdog_search.tracking.store import Store
from catdog_search.training.result import TrainData

ASIDE = 12


class SeeingTrainer(FakeTrainer):
    """One that notes by their digests which photos it is given to train on."""

    def train(self, job: Any, data: TrainData, *args: Any, **options: Any) -> Any:
        with Path(os.environ["SEEN"]).open("a") as file:
            file.writelines(f"{hashlib.sha256(x.tobytes()).hexdigest()}\n" for x in data.x_train)
        return super().train(job, data, *args, **options)


def prepared(state: StateFolder, pictures: Dataset, **promotion: Any) -> Prepared:
    asked = {"calibration_photos": ASIDE, "finalists": 2, "seeds": 2, **promotion}
    config = studies.parse({**TABLE, "promotion": asked}, "tiny.toml")
    options = Options(trials=3, trainer=FakeTrainer, remake=lambda: pictures)
    return Prepared(config, pictures, state, options)


def plan_of(state: StateFolder, pictures: Dataset, **promotion: Any) -> Plan:
    return plan(load_view(state, "tiny"), prepared(state, pictures, **promotion))


def train(planned: Plan, listener: Callable[[Any], None] = lambda event: None) -> Report:
    with warm_workers(), blank_figures():
        return finalists.train(planned, listener)


def rows_of(state: StateFolder) -> list[tuple[str | None, int, str]]:
    rows = load_view(state, "tiny.finalists").trials
    return [(row.recipe, row.replicate, row.state) for row in rows]


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, pictures: Dataset, empty_mlflow: Path
) -> StateFolder:
    """A study of five trials; the tests leave it as it is."""
    root = tmp_path_factory.mktemp("searched") / "state"
    root.mkdir()
    shutil.copy(empty_mlflow, root / "mlflow.db")
    state = StateFolder.at(str(root))
    run(state, pictures, 5)
    return state


@pytest.fixture
def own(pictures: Dataset, state: StateFolder) -> StateFolder:
    """A study of three trials, to be changed."""
    run(state, pictures, 3)
    return state


@pytest.mark.parametrize("length", [2, 40, 54, 55, 60, 64])
def test_name_is_one_that_a_study_can_have_and_its_own(length: int) -> None:
    names = {name_of("a" * length), name_of("a" * (length - 1) + "b"), name_of("b" * length)}
    assert len(names) == 3
    for name in names:
        assert re.fullmatch(NAME, name)
        # Nobody else's study can have it.
        with pytest.raises(StudyFileError, match=r"not \.finalists at the end"):
            studies.parse({**TABLE, "name": name}, "f.toml")
        with pytest.raises(RequestError, match="holds finalists; promote '"):
            finalists.require_no_finalists(name)
    finalists.require_no_finalists("a" * length)
    assert (name_of("a" * length) == "a" * length + ".finalists") == (length <= 54)


def test_best_trials_are_each_another_set_of_params(searched: StateFolder) -> None:
    view = load_view(searched, "tiny")
    ranked = view.ranked()
    assert best_of(view, 3) == ranked[:3]
    assert best_of(view, 100) == ranked
    twin = dataclasses.replace(ranked[0], number=99, value=ranked[0].value)
    worse = dataclasses.replace(ranked[0], number=98, value=(ranked[0].value or 0) - 0.01)
    twins = dataclasses.replace(view, trials=[*view.trials, worse, twin])
    assert [row.number for row in best_of(twins, 3)] == [row.number for row in ranked[:3]]


@pytest.mark.parametrize(
    ("states", "counts"), [((), "no trial"), (("PRUNED", "FAIL", "PRUNED"), "1 FAIL, 2 PRUNED")]
)
def test_study_without_a_whole_trial_has_no_finalist(
    searched: StateFolder, states: tuple[str, ...], counts: str
) -> None:
    view = load_view(searched, "tiny")
    rows = [
        dataclasses.replace(row, state=ended, value=None)
        for row, ended in zip(view.trials, states, strict=False)
    ]
    with pytest.raises(StateError) as caught:
        best_of(dataclasses.replace(view, trials=rows), 1)
    assert str(caught.value) == f"study 'tiny' has no COMPLETE trial to promote ({counts})"


def test_plan_is_made_of_the_best_and_makes_nothing(
    searched: StateFolder, pictures: Dataset
) -> None:
    view = load_view(searched, "tiny")
    best = view.ranked()[:3]
    found = plan_of(searched, pictures, finalists=3, seeds=4)
    assert (found.study, found.wanted, found.missing, found.left) == ("tiny.finalists", 4, 12, 0)
    assert [each.trial.number for each in found.finalists] == [row.number for row in best]
    assert all(each.seeds == () and not each.begins_alike for each in found.finalists)
    assert all(each.operations > 0 for each in found.finalists)
    assert found.seconds == pytest.approx(4 * sum(row.seconds or 0 for row in best))
    config, options = found.prepared.config, found.prepared.options
    assert config.recipes == {each.name: each.trial.varied for each in found.finalists}
    assert config.seed != TABLE["seed"]
    assert (config.sampler.name, config.pruner.name) == ("random", "none")
    assert (options.trials, options.seeds, config.keep_models) == (12, 4, 1000)
    assert found.calibration == ASIDE
    with pytest.raises(StateError, match=r"no study 'tiny\.finalists'"):
        load_study(searched, found.study)


def test_plan_has_no_more_finalists_than_there_are(
    searched: StateFolder, pictures: Dataset
) -> None:
    found = plan_of(searched, pictures, finalists=9, seeds=1)
    assert (len(found.finalists), found.missing) == (5, 5)
    lost = dataclasses.replace(
        load_view(searched, "tiny"),
        trials=[dataclasses.replace(r, seconds=None) for r in load_view(searched, "tiny").trials],
    )
    assert plan(lost, prepared(searched, pictures)).seconds is None


def test_trials_outside_of_the_space_are_no_finalists(own: StateFolder, pictures: Dataset) -> None:
    first, *others = load_view(own, "tiny").ranked()
    study = load_study(own, "tiny")
    study.set_user_attr(schema.OUTSIDE, {str(first.number): {"filters": 16}})
    planned = plan_of(own, pictures)
    assert [f.trial.number for f in planned.finalists] == [row.number for row in others]
    assert planned.outside == (first.number,)
    study.set_user_attr(
        schema.OUTSIDE, {str(row.number): {"filters": 16} for row in (first, *others)}
    )
    with pytest.raises(StateError, match="are all outside of the space as it is now"):
        plan_of(own, pictures)


def test_train_that_is_too_small_is_told_before_anything_is_trained(
    searched: StateFolder, pictures: Dataset
) -> None:
    with pytest.raises(
        DataError, match=r"300 photos for calibration are more than half of train's"
    ):
        plan_of(searched, pictures, calibration_photos=300)


def test_finalists_are_trained_on_each_seed_and_on_no_photo_that_is_set_aside(
    own: StateFolder, pictures: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    planned = plan_of(own, pictures)
    prepared_so = planned.prepared
    options = dataclasses.replace(prepared_so.options, trainer=SeeingTrainer)
    planned = dataclasses.replace(
        planned, prepared=dataclasses.replace(prepared_so, options=options)
    )
    assert train(planned).end == "done"
    names = [each.name for each in planned.finalists]
    assert Counter(rows_of(own)) == Counter(
        (name, seed, "COMPLETE") for name in names for seed in range(2)
    )
    parent, derived = (load_study(own, name).get_trials() for name in ("tiny", planned.study))
    seeds = [trial.user_attrs["seed"] for trial in (*parent, *derived)]
    assert len(set(seeds)) == len(seeds)
    # Which photos they saw, by their pixels.
    packed = prepared_so.dataset
    x, _ = packed.split("train")
    kept_back, _ = packed.split(CALIBRATION)
    seen = Counter((tmp_path / "seen").read_text().split())
    assert len(kept_back) == ASIDE
    assert set(seen) == {hashlib.sha256(each.tobytes()).hexdigest() for each in x}
    assert not set(seen) & {hashlib.sha256(each.tobytes()).hexdigest() for each in kept_back}
    # And what is recorded of it.
    view = load_view(own, planned.study)
    known = LoggedModels(Store.of(own)).known_photos(view.trials[0].run_id or "")
    assert known is not None
    assert known[CALIBRATION] == packed.manifest.hashes()[CALIBRATION]
    assert not set(known["train"]) & set(known[CALIBRATION])
    whole = trained(planned)
    assert [each.name for each in whole] == names
    for each in whole:
        assert [row.replicate for row in each.seeds] == [0, 1]
        assert each.values == [each.trial.value] * 2  # a stand-in knows no luck
        assert {params_key(row.params) for row in each.seeds} == {params_key(each.trial.params)}
    again = plan_of(own, pictures)
    assert (again.missing, again.left) == (0, 0)
    assert [len(each.seeds) for each in again.finalists] == [2, 2]
    with pytest.raises(StateError, match="was trained with other photos set aside than") as caught:
        plan_of(own, pictures, calibration_photos=ASIDE + 1)
    assert "\n" not in str(caught.value)


def test_more_seeds_and_new_best_trials_are_trained_beside_the_old(
    own: StateFolder, pictures: Dataset
) -> None:
    first = plan_of(own, pictures, finalists=1, seeds=1)
    train(first)
    more = plan_of(own, pictures, finalists=1, seeds=3)
    assert (more.missing, more.prepared.options.trials) == (2, 3)
    train(more)
    old = first.finalists[0].name
    assert sorted(rows_of(own)) == [(old, seed, "COMPLETE") for seed in range(3)]
    # Another trial is better now.
    run(own, pictures, 5)
    third = plan_of(own, pictures, finalists=1, seeds=2)
    new = third.finalists[0].name
    assert new != old
    assert set(third.prepared.config.recipes) == {old, new}
    assert (third.missing, third.prepared.options.trials) == (2, 5)
    train(third)
    assert sorted(rows_of(own)) == sorted(
        [(old, seed, "COMPLETE") for seed in range(3)]
        + [(new, seed, "COMPLETE") for seed in range(2)]
    )
    (found,) = trained(third)
    assert (found.name, len(found.seeds)) == (new, 2)
    # Fewer seeds than there are: the first ones count.
    fewer = plan_of(own, pictures, finalists=1, seeds=1)
    assert [len(each.seeds) for each in trained(fewer)] == [1]


def test_same_params_are_known_again_under_another_trial(
    own: StateFolder, pictures: Dataset
) -> None:
    """As where a recipe was trained on more seeds, and another of them is the best now."""
    first = plan_of(own, pictures, finalists=1, seeds=1)
    train(first)
    view = load_view(own, "tiny")
    best = view.ranked()[0]
    twin = dataclasses.replace(best, number=77, value=(best.value or 0) + 0.01)
    twins = dataclasses.replace(view, trials=[*view.trials, twin])
    again = plan(twins, prepared(own, pictures, finalists=1, seeds=2))
    assert [each.name for each in again.finalists] == [first.finalists[0].name]
    assert again.finalists[0].trial.number == 77
    assert again.missing == 1
    train(again)
    assert len(rows_of(own)) == 2
    assert [row.replicate for row in trained(again)[0].seeds] == [0, 1]


class StoppedError(Exception):
    """What ends a call in a test."""


def test_what_an_earlier_call_left_waiting_is_told(own: StateFolder, pictures: Dataset) -> None:
    wide = plan_of(own, pictures, finalists=3, seeds=2)

    def stop(event: Any) -> None:
        if type(event).__name__ == "TrialEnded":
            raise StoppedError

    with contextlib.suppress(StoppedError):
        train(wide, stop)
    narrow = plan_of(own, pictures, finalists=1, seeds=2)
    done = [row for row in rows_of(own) if row[2] == "COMPLETE"]
    mine = [row for row in done if row[0] == narrow.finalists[0].name]
    assert narrow.missing == 2 - len(mine)
    assert narrow.left == 4 - (len(done) - len(mine))
    train(narrow)
    assert len(trained(narrow)[0].seeds) == 2
    assert plan_of(own, pictures, finalists=3, seeds=2).missing == 0


_KILL_ME = """
import sys
from pathlib import Path
from catdog_search.data.dataset import Dataset
from catdog_search.places import StateFolder
from catdog_search.promotion import finalists
from catdog_search.promotion.expected import expected_s
from test_promotion_finalists import plan_of

if __name__ == "__main__":
    state, folder, digest = sys.argv[1:]
    planned = plan_of(StateFolder.at(state), Dataset(Path(folder), digest, 8))
    finalists.train(planned, lambda event: print(type(event).__name__, flush=True))
"""


@contextlib.contextmanager
def training_process(state: StateFolder, pictures: Dataset) -> Iterator[subprocess.Popen[str]]:
    script = state.root / "finalists.py"
    script.write_text(_KILL_ME)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "FAKE_BLANK_FIGURES": "1"}
    command = [sys.executable, str(script), str(state.root), str(pictures.folder), pictures.digest]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_killed_training_of_finalists_goes_on(own: StateFolder, pictures: Dataset) -> None:
    with training_process(own, pictures) as process:
        assert process.stdout is not None
        events = Counter[str]()
        for line in process.stdout:
            events[line.strip()] += 1
            if events["TrialStarted"] == 2:
                process.kill()
        assert process.wait() == -signal.SIGKILL
    left = plan_of(own, pictures)
    assert 0 < left.missing < 4
    assert left.left == 0
    assert train(left).end == "done"
    names = [each.name for each in left.finalists]
    assert Counter(rows_of(own)) == Counter(
        (name, seed, "COMPLETE") for name in names for seed in range(2)
    )


def test_finalists_that_all_fail_are_told_and_one_that_does_is_left_out(
    own: StateFolder, pictures: Dataset, act: Callable[..., None]
) -> None:
    act(call_1="diverge")
    one = plan_of(own, pictures, finalists=1, seeds=1)
    train(one)
    with pytest.raises(
        StateError, match=r"study 'tiny\.finalists': no finalist was trained to"
    ) as e:
        trained(one)
    assert "\n" not in str(e.value)
    act()
    two = plan_of(own, pictures, finalists=2, seeds=1)
    assert two.missing == 1
    train(two)
    assert [each.name for each in trained(two)] == [two.finalists[1].name]


def test_features_that_the_first_trial_computed_are_expected_once(searched: StateFolder) -> None:
    config = studies.load("transfer")
    some = load_view(searched, "tiny").ranked()[0]
    params = config.space.complete(config.recipes["plain-head"])
    rows = [
        dataclasses.replace(some, number=number, seconds=seconds, params=params)
        for number, seconds in enumerate((1200.0, 30.0, 40.0, 50.0))
    ]
    # The best trial is the one that computed the features, on two seeds; the others of its kind
    # took 40 s.
    assert expected_s(config, rows, [rows[0], rows[0], rows[3]], []) == 1160 + 40 + 40 + 50
    assert expected_s(config, rows, [rows[0], rows[3]], [rows[1]]) == 40 + 50
    assert expected_s(config, rows[:1], [rows[0]], []) == 1200
    assert expected_s(config, rows, [rows[0], None], []) is None
    cnn = studies.parse(TABLE, "tiny.toml")
    slow = [dataclasses.replace(some, number=n, seconds=s) for n, s in ((0, 90.0), (1, 30.0))]
    assert expected_s(cnn, slow, [slow[0]], []) == 90


def test_study_of_finalists_is_not_promoted_itself() -> None:
    with pytest.raises(RequestError) as caught:
        finalists.require_no_finalists("tiny.finalists")
    assert str(caught.value) == (
        "study 'tiny.finalists' holds finalists; promote 'tiny', whose they are"
    )
