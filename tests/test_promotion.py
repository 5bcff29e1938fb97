"""The way of a champion, on real networks and real stores: finalists, one look, gates, the move."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import mlflow
import numpy as np
import pytest
import tiny_onnx
from click.testing import CliRunner
from mlflow import MlflowClient
from tiny_study import call, listing, register_best, settle

from catdog_search.answering.photos import packed
from catdog_search.answering.runtime import OnnxModel
from catdog_search.cli import main
from catdog_search.evaluation.calibration import mean_probabilities
from catdog_search.exporting import onnx_file
from catdog_search.exporting.onnx_file import OnnxFile
from catdog_search.exporting.proof import Proof
from catdog_search.exporting.round_trip import RoundTrip
from catdog_search.places import StateFolder
from catdog_search.promotion import checks
from catdog_search.promotion import promote as promoting
from catdog_search.search.study import views
from catdog_search.search.study.relocate import relocate
from catdog_search.search.study.storage import existing_studies
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.ledger import Ledger
from catdog_search.tracking.own import Client
from catdog_search.tracking.promotions import PromotionRun
from catdog_search.tracking.registry import Registry
from catdog_search.tracking.store import Store

needs_onnx = pytest.mark.skipif(onnx_file.missing() is not None, reason=str(onnx_file.missing()))

N = 1500
STUDY = """\
name = "{name}"
purpose = "A study of dark and light squares."
image_size = 8
metric = "val_accuracy"
direction = "maximize"
trials = 2
seed = 5

[training]
epochs = {epochs}

[pruner]
name = "none"

[space]
n_blocks = 1
filters = {{ choices = [4, 8] }}
dropout = 0.0
dense_units = 8
learning_rate = {rate}
batch_size = 64

[promotion]
finalists = 2
seeds = 2
max_calibration_error = {error}
{promotion}
"""


def write_study(folder: Path, name: str = "light", **changes: Any) -> Path:
    facts = {"name": name, "epochs": 2, "rate": 0.01, "error": 0.3, "promotion": "", **changes}
    path = folder / f"{name}.toml"
    path.write_text(STUDY.format(**facts))
    return path


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of squares, of which those called dog are lighter, some of them hardly."""
    path = tmp_path_factory.mktemp("squares") / "squares.zip"
    rng = np.random.default_rng(3)
    with zipfile.ZipFile(path, "w") as file:
        for i in range(N):
            label = i % 2
            level = 110 + 35 * label + rng.normal(0, 12)
            pixels = np.clip(rng.normal(level, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            name = f"{('cat', 'dog')[label]}.{i}.ppm"
            file.writestr(name, b"P6 16 16 255\n" + pixels.tobytes())
    return path


def arguments(study: Path, state: StateFolder, *more: str) -> list[str]:
    return ["promote", "--study", str(study), "--state", str(state.root), *more]


def promote(study: Path, state: StateFolder, *more: str, code: int = 0) -> Any:
    return json.loads(call(*arguments(study, state, "--json", *more), code=code).stdout)


@pytest.fixture(scope="module")
def trained(
    squares: Path, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path
) -> tuple[Path, StateFolder]:
    """A study that was run, its finalists trained, and nothing promoted."""
    folder = tmp_path_factory.mktemp("trained")
    study = write_study(folder)
    state = StateFolder.at(str(folder / "state"))
    with mock.patch.dict(os.environ, {"CATDOG_CACHE": str(shared_cache)}):
        call("run", "--study", str(study), "--data", str(squares), "--state", str(state.root))
        # Stopped by what comes after the training, before anything is registered or looked at.
        with mock.patch("catdog_search.promotion.promote.fit", side_effect=_stop):
            call(*arguments(study, state), code=1)
    settle(state)
    return study, state


def _stop(*_: object) -> None:
    raise OSError("stopped here")


@pytest.fixture
def ready(trained: tuple[Path, StateFolder], tmp_path: Path) -> tuple[Path, StateFolder]:
    """A copy of `trained` of one's own."""
    study, state = trained
    shutil.copytree(state.root, tmp_path / "state")
    own = StateFolder.at(str(tmp_path / "state"))
    relocate(own)
    return shutil.copy(study, tmp_path / study.name), own


@pytest.fixture
def quick_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of their own take seconds; here the same model answers in this one."""

    def here(path: Path, photos: list[Any]) -> RoundTrip:
        model = keras.saving.load_model(path, compile=False)
        said = [model(photo[None], training=False)[0, 0] for photo in photos]
        answers = np.array([keras.ops.convert_to_numpy(each) for each in said], float)
        return RoundTrip(answers, (1.0, 1.0, 1.0))

    monkeypatch.setattr(checks, "load_afresh", here)
    made = OnnxFile(tiny_onnx.content(), Proof(200, 12, 0.0, 0.0, 0.0, 0))
    monkeypatch.setattr(onnx_file, "to_onnx", lambda *_: made)


def looks(state: StateFolder, study: str = "light") -> list[Any]:
    client = Store.of(state).client()
    parent = views.load_view(state, study).parent_run_id
    folder = client.download_artifacts(parent, words.SPLITS_FILE)
    hashes = json.loads(Path(folder).read_text())["test"]
    return list(Ledger(state, Store.of(state)).looks(hashes).known)


def champion(state: StateFolder, name: str = "catdog") -> int | None:
    found = {model.name: model for model in Registry(Store.of(state)).models()}
    return found[name].record.champion if name in found else None


@pytest.fixture(scope="module")
def done(
    trained: tuple[Path, StateFolder],
    tmp_path_factory: pytest.TempPathFactory,
    shared_cache: Path,
) -> tuple[Path, StateFolder, Any]:
    """The finalists promoted, and what that said."""
    study, state = trained
    root = tmp_path_factory.mktemp("done") / "state"
    shutil.copytree(state.root, root)
    own = StateFolder.at(str(root))
    relocate(own)
    with mock.patch.dict(os.environ, {"CATDOG_CACHE": str(shared_cache)}):
        said = promote(study, own)
    settle(own)
    return study, own, said


def test_finalists_are_trained_on_new_seeds_without_the_calibration_photos(
    trained: tuple[Path, StateFolder],
) -> None:
    _, state = trained
    parent, view = views.load_view(state, "light"), views.load_view(state, "light.finalists")
    by_recipe: dict[str | None, list[int]] = {}
    for row in view.trials:
        by_recipe.setdefault(row.recipe, []).append(row.replicate)
        assert row.params in [each.params for each in parent.trials]
        assert row.model_id is not None
    assert sorted(by_recipe.values()) == [[0, 1], [0, 1]]
    client = Store.of(state).client()
    seeds = {
        client.get_run(row.run_id).data.tags[words.SEED] for row in [*parent.trials, *view.trials]
    }
    assert len(seeds) == len(parent.trials) + len(view.trials)
    path = client.download_artifacts(view.parent_run_id, words.SPLITS_FILE)
    splits = {name: set(hashes) for name, hashes in json.loads(Path(path).read_text()).items()}
    assert len(splits["calibration"]) == 300
    assert splits["calibration"].isdisjoint(splits["train"] | splits["val"] | splits["test"])
    assert parent.class_counts["val"] == view.class_counts["val"]


def test_models_says_which_trial_trained_a_finalist(done: tuple[Path, StateFolder, Any]) -> None:
    _, state, said = done
    trained = f"trial {said['choice']['trials'][0]} of light.finalists"
    where = ["--state", str(state.root)]
    assert f"{trained}, with the params of trial" in call("models", "catdog", *where).output
    listed = json.loads(call("models", "--json", *where).stdout)["models"]
    assert [v["trained_as"] for m in listed for v in m["versions"] if v["version"] == 1] == [
        trained
    ]


def test_champion_is_registered_with_numbers_that_its_answers_bear_out(
    done: tuple[Path, StateFolder, Any],
) -> None:
    _, state, said = done
    assert (said["promoted"], said["version"], said["uri"]) == (True, 1, "models:/catdog@champion")
    assert champion(state) == 1
    run = PromotionRun.of(Store.of(state), said["run_id"])
    assert run is not None
    answers = run.answers("test")
    assert answers is not None
    right = (answers.probabilities > said["threshold"]) == answers.labels
    assert said["test"]["accuracy"] == pytest.approx(right.mean())
    assert said["test"]["n"] == len(right) == np.sum(said["test"]["confusion"])
    assert {gate["verdict"] for gate in said["gates"]} == {"passed", "off"}
    assert [gate["name"] for gate in said["gates"]] == [
        *("accuracy", "recall", "calibration", "champion", "round trip", "latency"),
        *("size", "raw and packed", "onnx", "leaks", "photos"),
    ]
    (look,) = looks(state)
    assert (look.n, look.again, look.run_id) == (len(right), False, said["run_id"])
    assert said["looks"]["text"] == "these photos have been looked at once, for this number"
    figures = {"gates.png", "reliability.png", "risk_coverage.png", "seeds.png", "neither.png"}
    assert run.figures() == figures


@needs_onnx
def test_champion_is_served_from_a_file_that_answers_as_it_did(
    done: tuple[Path, StateFolder, Any], squares: Path
) -> None:
    _, state, said = done
    served = OnnxModel.open(state.served("catdog"))
    served.self_test()
    facts = served.facts
    assert (facts.name, facts.version, facts.run_id) == ("catdog", 1, said["run_id"])
    assert facts.test is not None
    assert facts.test.accuracy == pytest.approx(said["test"]["accuracy"], abs=1e-6)
    assert (facts.test.n, facts.test.looks) == (said["test"]["n"], 1)
    assert facts.trained_on is not None
    assert facts.trained_on.endswith(" photos")
    run = PromotionRun.of(Store.of(state), said["run_id"])
    assert run is not None
    answers = run.answers("test")
    assert answers is not None
    with zipfile.ZipFile(squares) as file:
        photos = [packed(file.read(key), facts.image_size) for key in answers.keys.tolist()]
    probabilities, unlike = served.run(np.stack(photos))
    assert probabilities == pytest.approx(answers.probabilities, abs=1e-4)
    assert unlike == pytest.approx(answers.unlike, rel=1e-3)


@needs_onnx
def test_registered_model_answers_photos(
    done: tuple[Path, StateFolder, Any], squares: Path
) -> None:
    _, state, said = done
    told = call("predict", "catdog", str(squares), "--json", "--state", str(state.root)).stdout
    rows = [json.loads(line) for line in told.splitlines()]
    run = PromotionRun.of(Store.of(state), said["run_id"])
    assert run is not None
    answers = run.answers("test")
    assert answers is not None
    by_key = {Path(row["path"]).name: row for row in rows}
    assert len(by_key) == N
    dogs = [by_key[key]["probabilities"]["dog"] for key in answers.keys.tolist()]
    assert dogs == pytest.approx(answers.probabilities, abs=1e-4)
    # A trial's own model has no ONNX beside it: Keras answers.
    row = views.load_view(state, "light").trials[0]
    trial = call("predict", f"run:{row.run_id}", str(squares), "--json", "--state", str(state.root))
    assert len(trial.stdout.splitlines()) == N
    assert json.loads(trial.stdout.splitlines()[0])["unlike"] is None


def test_exported_champion_answers_calibrated_and_has_one_output(
    done: tuple[Path, StateFolder, Any], squares: Path
) -> None:
    _, state, said = done
    Store.of(state).client()
    model = mlflow.keras.load_model("models:/catdog@champion")
    run = PromotionRun.of(Store.of(state), said["run_id"])
    assert run is not None
    answers = run.answers("calibration")
    assert answers is not None
    with zipfile.ZipFile(squares) as file:
        raw = [file.read(key)[-16 * 16 * 3 :] for key in answers.keys[:50].tolist()]
    photos = np.stack([np.frombuffer(each, np.uint8).reshape(16, 16, 3) for each in raw])
    assert model.output_shape == (None, 1)
    found = model.predict(photos, verbose=0).ravel()
    assert found == pytest.approx(answers.probabilities[:50], abs=0.03)  # resized within
    facts = mlflow.models.get_model_info("models:/catdog@champion").metadata
    assert facts["temperature"] == said["calibration"]["temperature"]
    assert (facts["threshold"], facts["class_names"]) == (0.5, ["cat", "dog"])
    assert facts["neither_above"] == said["neither"]["threshold"]
    assert facts["guaranteed"] is True
    heat = facts["temperature"]
    p = np.clip(answers.uncalibrated, 1e-6, 1 - 1e-6)
    if said["choice"]["form"] == "median seed":
        again = mean_probabilities(np.log(p / (1 - p)), heat)
        assert again == pytest.approx(answers.probabilities, abs=1e-3)


def test_neither_model_lies_beside_it(done: tuple[Path, StateFolder, Any]) -> None:
    _, state, said = done
    (version,) = Registry(Store.of(state)).model("catdog").versions
    (path,) = state.artifacts.glob(f"light/models/{version.model_id}/artifacts/data/neither.keras")
    model = keras.saving.load_model(path, compile=False)
    assert model.output_shape == (None, 1)
    noise = np.random.default_rng(0).integers(0, 256, (50, 20, 30, 3), np.uint8)
    assert np.isfinite(model.predict(noise, verbose=0)).all()
    assert set(said["neither"]["kinds"]) > {"blank"}


def test_repeated_promotion_looks_at_nothing_and_registers_nothing(
    done: tuple[Path, StateFolder, Any], quick_round_trip: None
) -> None:
    study, state, said = done
    with mock.patch("catdog_search.promotion.candidate.Candidate.answer", side_effect=_stop):
        again = promote(study, state)
    assert (again["version"], again["created"], again["run_id"]) == (1, False, said["run_id"])
    assert again["test"] == said["test"]
    assert len(looks(state)) == 1


def test_models_tells_the_test_number_and_shows_the_card(
    done: tuple[Path, StateFolder, Any],
) -> None:
    _, state, said = done
    where = ["--state", str(state.root)]
    low, high = said["test"]["interval"]
    number = f"{said['test']['accuracy']:.4f} ({low:.4f} to {high:.4f}; 1 look)"
    assert number in call("models", *where).output
    shown = call("models", "catdog", *where).output
    assert number in shown
    assert "## What is neither" in shown
    assert "| test |" in shown
    found = json.loads(call("models", "catdog", "--json", *where).stdout)
    assert found["test"]["looks"] == 1
    assert found["card"].startswith("# catdog: cat or dog, from study light")
    version = Store.of(state).client().get_model_version("catdog", "1")
    assert version.description.startswith("# catdog: cat or dog")


def test_dry_run_shows_every_gate_and_changes_nothing(
    ready: tuple[Path, StateFolder], quick_round_trip: None
) -> None:
    study, state = ready
    settle(state)
    before = listing(state.root)
    said = promote(study, state, "--dry-run")
    verdicts = {gate["name"]: gate["verdict"] for gate in said["gates"]}
    assert [name for name, verdict in verdicts.items() if verdict == "open"] == [
        *("accuracy", "recall", "calibration", "champion"),
    ]
    assert (said["promoted"], said["test"], said["run_id"]) == (False, None, None)
    settle(state)
    assert listing(state.root).keys() == before.keys()
    assert champion(state) is None
    assert looks(state) == []


def test_dry_run_trains_nothing(
    squares: Path, tmp_path: Path, trained: tuple[Path, StateFolder]
) -> None:
    _, state = trained
    wider = write_study(tmp_path, promotion="min_accuracy = 0.5")
    found = call(*arguments(wider, state, "--dry-run", "--seeds", "3"))
    assert "finalists: 2 of 6 trainings to go (2 finalists x 3 seeds); about " in found.output
    assert found.output.count("the finalists are not trained yet") == 7
    assert "dry run: nothing was looked at, registered or moved" in found.output
    assert len(views.load_view(state, "light.finalists").trials) == 4


FAILING: dict[str, dict[str, Any]] = {
    "accuracy": {"promotion": "min_accuracy = 0.98"},
    "calibration": {"error": 0.001},
    "size": {"promotion": "max_size_mb = 0.001"},
    "latency": {"promotion": "max_latency_ms = 0.001"},
    "recall": {"promotion": "min_recall_share = 1.0"},
}


@pytest.mark.parametrize(("gate", "changes"), FAILING.items())
def test_failed_gate_moves_nothing_and_keeps_the_record(
    gate: str, changes: dict[str, Any], ready: tuple[Path, StateFolder], quick_round_trip: None
) -> None:
    _, state = ready
    study = write_study(state.root.parent, **changes)
    said = promote(study, state, code=1)
    (failed,) = [each for each in said["gates"] if each["verdict"] == "failed"]
    assert failed["name"] == gate
    assert (said["version"], champion(state)) == (None, None)
    run = PromotionRun.of(Store.of(state), said["run_id"])
    assert run is not None
    record = run.record()
    assert record is not None
    assert record["gates"] == said["gates"]
    told = call(*arguments(study, state), code=1).output
    assert f"not promoted, and nothing was moved: {gate} failed; run {said['run_id']}" in told
    # The gate was asked too much of; the same answers pass a lower one, without another look.
    passing = write_study(state.root.parent)
    assert promote(passing, state)["version"] == 1
    assert len(looks(state)) == 1


def test_other_seeds_are_another_model_and_another_look(
    ready: tuple[Path, StateFolder], quick_round_trip: None
) -> None:
    _, state = ready
    study = write_study(state.root.parent, promotion="margin = 0.2")
    first = promote(study, state, "--finalists", "1", "--seeds", "1")
    assert first["choice"]["form"] == "as it is"
    assert (first["fitted_on"], first["guaranteed"]) == ("val", False)
    second = promote(study, state)
    assert (second["version"], len(looks(state))) == (2, 2)
    assert second["previous"] == 1
    assert "2 times" in second["looks"]["text"]
    (gate,) = [each for each in second["gates"] if each["name"] == "champion"]
    assert "against version 1 on " in gate["text"]


def test_worse_challenger_is_refused(
    squares: Path, ready: tuple[Path, StateFolder], quick_round_trip: None
) -> None:
    study, state = ready
    promote(study, state)
    easy = "min_recall_share = 0.0"
    dull = write_study(state.root.parent, "dull", rate=1e-6, epochs=1, error=0.9, promotion=easy)
    call("run", "--study", str(dull), "--data", str(squares), "--state", str(state.root))
    said = promote(dull, state, "--finalists", "1", "--seeds", "1", code=1)
    failed = {each["name"]: each for each in said["gates"] if each["verdict"] == "failed"}
    assert "champion" in failed
    assert failed["champion"]["number"] < -0.01
    assert champion(state) == 1


class KilledError(BaseException):
    """The process ends here."""


# Every call by which a promotion changes what MLflow keeps.
WRITES = (
    *("create_run", "update_run", "set_tag", "log_batch", "log_artifact", "set_terminated"),
    *("create_logged_model", "log_model_artifacts", "finalize_logged_model"),
    *("create_registered_model", "set_registered_model_tag", "create_model_version"),
    *("set_logged_model_tags", "set_registered_model_alias"),
)


class Killer:
    """Counts writes, and ends the process before or after the n-th one."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None, *, worked: bool) -> None:
        self.seen: list[str] = []
        self._at, self._worked = at, worked
        for owner, name in self._writes():
            patch.setattr(owner, name, self._counted(getattr(owner, name), name))

    @staticmethod
    def _writes() -> list[tuple[type, str]]:
        return [
            (owner, name)
            for owner in (MlflowClient, Client)
            for name in WRITES
            if name in vars(owner)
        ]

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call_it(*args: Any, **options: Any) -> Any:
            self.seen.append(name)
            if len(self.seen) != self._at:
                return real(*args, **options)
            if self._worked:
                real(*args, **options)
            raise KilledError

        return call_it


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take a second of each promotion."""
    monkeypatch.setattr("catdog_search.promotion.record.drawing.figures", lambda *_: {})


# What the stores keep doesn't depend on the backend: on others a few steps will do.
STEPS = range(1, 21) if keras.backend.backend() == "tensorflow" else (4, 17)


@pytest.mark.parametrize("at", STEPS)
def test_promotion_that_is_killed_at_any_step_is_never_half_and_the_next_ends_it(
    at: int,
    ready: tuple[Path, StateFolder],
    quick_round_trip: None,
    no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, state = ready
    one = ["--finalists", "1", "--seeds", "1"]
    with monkeypatch.context() as patch:
        # Where it is cut off moves on through the promotion, before a write or after it.
        killer = Killer(patch, at, worked=bool(at % 2))
        with pytest.raises(KilledError):
            promote(study, state, *one)
    done = killer.seen if at % 2 else killer.seen[:-1]
    assert champion(state) == (1 if "set_registered_model_alias" in done else None)
    told = promote(study, state, *one)
    model = Registry(Store.of(state)).model("catdog")
    assert (model.record.champion, len(model.versions)) == (1, 1)
    assert (told["version"], told["test"]["n"]) == (1, 245)
    assert len(looks(state)) == 1
    client = Store.of(state).client()
    experiment = client.get_experiment_by_name("light").experiment_id
    query = f"tags.{words.ROLE} = '{words.ROLE_PROMOTION}'"
    (run,) = client.search_runs([experiment], query)
    assert (run.info.status, run.data.tags[words.PROMOTED]) == ("FINISHED", "catdog/1")
    found = client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'")
    assert [str(each.status) for each in found] == ["READY"]


def test_steps_of_a_promotion_are_those_that_are_cut(
    ready: tuple[Path, StateFolder],
    quick_round_trip: None,
    no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, state = ready
    killer = Killer(monkeypatch, None, worked=True)
    promote(study, state, "--finalists", "1", "--seeds", "1")
    assert len(killer.seen) <= 24
    assert set(killer.seen) >= {"create_run", "set_registered_model_alias", "set_terminated"}


def test_two_at_once_look_once_and_register_once(ready: tuple[Path, StateFolder]) -> None:
    study, state = ready
    command = [sys.executable, "-m", "catdog_search", *arguments(study, state, "--json")]
    at_once = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [json.loads(process.communicate(timeout=400)[0]) for process in at_once]
    assert [each["version"] for each in said] == [1, 1]
    assert sorted(each["created"] for each in said) == [False, True]
    assert said[0]["test"] == said[1]["test"]
    assert len(looks(state)) == 1
    assert champion(state) == 1


def test_evaluation_of_test_takes_the_answers_that_promotion_kept(
    done: tuple[Path, StateFolder, Any],
) -> None:
    _, state, said = done
    where = ["evaluate", "catdog", "--split", "test", "--state", str(state.root)]
    found = json.loads(call(*where, "--json").stdout)
    assert (found["kept"], found["look"], found["looks"]["n"]) == (True, None, 1)
    assert found["scores"]["accuracy"] == pytest.approx(said["test"]["accuracy"])
    assert found["confusion"] == said["test"]["confusion"]
    assert "so that test was not looked at again" in call(*where).output
    assert len(looks(state)) == 1


def test_second_look_by_the_same_model_is_forced_and_marked(
    ready: tuple[Path, StateFolder], quick_round_trip: None, squares: Path
) -> None:
    study, state = ready
    promote(study, state)
    where = ["evaluate", "catdog", "--state", str(state.root), "--data", str(squares)]
    refused = call(*where, code=1).output
    assert "of 1500 photos are of the test split, which is for promotion; --force" in refused
    forced = json.loads(call(*where, "--split", "test", "--force", "--json").stdout)
    assert (forced["look"]["again"], forced["kept"]) == (True, False)
    assert [look.again for look in looks(state)] == [False, True]
    # However often somebody looks later, the number says so.
    found = json.loads(call("models", "catdog", "--json", "--state", str(state.root)).stdout)
    assert found["test"]["looks"] == 2


def test_cost_moves_the_threshold_and_evaluation_follows(
    ready: tuple[Path, StateFolder], quick_round_trip: None
) -> None:
    _, state = ready
    study = write_study(state.root.parent, promotion="min_recall_share = 0.0\ncosts = { dog = 4 }")
    said = promote(study, state)
    assert said["threshold"] == pytest.approx(0.2)
    where = ["evaluate", "catdog", "--split", "test", "--state", str(state.root)]
    found = json.loads(call(*where, "--json").stdout)
    assert found["confusion"] == said["test"]["confusion"]
    cat_as_dog, dog_as_cat = said["test"]["confusion"][0][1], said["test"]["confusion"][1][0]
    assert cat_as_dog > dog_as_cat


BAD: dict[str, tuple[list[str], str, int]] = {
    "ledger's name": (["--model", "catdog-search-test-looks"], "is the ledger of looks", 2),
    "alias in the name": (["--model", "a@b"], "a name in the registry has no '@'", 2),
    "no finalist": (["--finalists", "0"], "Invalid value for '--finalists'", 2),
    "no seed": (["--seeds", "many"], "Invalid value for '--seeds'", 2),
    "other photos": (["--data", "nowhere.zip"], "nowhere.zip", 1),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_use_gets_one_line_and_changes_nothing(
    name: str, trained: tuple[Path, StateFolder]
) -> None:
    study, state = trained
    options, text, code = BAD[name]
    before = listing(state.root)
    said = call(*arguments(study, state, *options), code=code).output.splitlines()
    assert text in said[-1]
    assert listing(state.root) == before


UNFIT: dict[str, tuple[str, str]] = {
    "too small a test": (
        "min_accuracy = 0.999",
        "test has 245 photos, so even without an error the lower 95 % bound of the accuracy "
        "would be 0.9846, and more than 0.9990 is asked; it takes 3838 photos",
    ),
    "unknown cost": ("costs = { dgo = 2 }", "costs: dgo: unknown; did you mean 'dog'?"),
    "unknown gate": ("min_acuracy = 0.9", "[promotion] min_acuracy: unknown; did you mean"),
    "train too small": (
        "calibration_photos = 900",
        "900 photos for calibration are more than half of train's 1059",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_promotion_that_asks_what_cannot_be_is_refused_in_one_line(
    name: str, trained: tuple[Path, StateFolder], tmp_path: Path
) -> None:
    _, state = trained
    line, text = UNFIT[name]
    study = write_study(tmp_path, promotion=line)
    result = CliRunner().invoke(main, arguments(study, state))
    assert result.exit_code in (1, 2)
    assert text in result.output.splitlines()[-1]
    assert champion(state) is None


def test_other_classes_are_refused_before_anything_is_trained(
    done: tuple[Path, StateFolder, Any], tmp_path: Path, squares: Path
) -> None:
    _, state, _ = done
    other = write_study(tmp_path, "other", epochs=1)
    classes = ["--classes", "cat=ant,dog=bee"]
    run = ["--study", str(other), "--state", str(state.root), "--data", str(squares), *classes]
    hint = call("run", *run, "--trials", "1").output.splitlines()[-1]
    assert "promote --study other --model other --state" in hint
    said = call(*arguments(other, state), code=1).output.splitlines()[-1]
    assert "champion version 1 of 'catdog' tells cat from dog, study 'other' ant from bee" in said
    assert existing_studies(state) == ["light", "light.finalists", "other"]


def test_study_without_a_complete_trial_is_refused(tmp_path: Path, squares: Path) -> None:
    study = write_study(tmp_path)
    state = StateFolder.at(str(tmp_path / "state"))
    run = ["--study", str(study), "--state", str(state.root), "--data", str(squares)]
    call("run", *run, "--timeout", "0.001")
    said = call(*arguments(study, state), code=1).output.splitlines()[-1]
    assert "study 'light' has no COMPLETE trial to promote" in said


def verdict(said: Any, name: str) -> Any:
    return next(gate for gate in said["gates"] if gate["name"] == name)


def test_champion_that_was_never_asked_is_asked_and_that_is_a_look(
    ready: tuple[Path, StateFolder], quick_round_trip: None, no_figures: None
) -> None:
    _, state = ready
    study = write_study(state.root.parent, promotion="margin = 0.3")
    register_best(state, study="light")
    said = promote(study, state)
    assert "against version 1 on 245 photos, 95 %" in verdict(said, "champion")["text"]
    assert (said["version"], champion(state)) == (2, 2)
    assert {look.model for look in looks(state)} > {"models:/catdog/1"}
    assert len(looks(state)) == 2
    promote(study, state)
    assert len(looks(state)) == 2


def test_photos_that_the_champion_learned_from_are_left_out(
    ready: tuple[Path, StateFolder], quick_round_trip: None, no_figures: None
) -> None:
    _, state = ready
    study = write_study(state.root.parent, promotion="margin = 0.3")
    register_best(state, study="light")
    client, parent = Store.of(state).client(), views.load_view(state, "light").parent_run_id
    path = Path(client.download_artifacts(parent, words.SPLITS_FILE))
    splits = json.loads(path.read_text())
    splits["train"] += splits["test"][:20]
    client.log_text(parent, json.dumps(splits), words.SPLITS_FILE)
    said = promote(study, state)
    text = verdict(said, "champion")["text"]
    assert "on 225 photos, 20 that it was trained on left out, 95 %" in text
    splits["val"] += splits["test"][20:60]
    client.log_text(parent, json.dumps(splits), words.SPLITS_FILE)
    rolled = call("rollback", "--reason", "again", "--state", str(state.root))
    assert "not where it is served from yet: version 1 of 'catdog' has no ONNX" in rolled.output
    refused = verdict(promote(study, state, code=1), "champion")
    assert refused["verdict"] == "failed"
    assert (
        "of test's photos 185 are new to champion version 1 too, and it takes 200"
        in (refused["text"])
    )
    assert champion(state) == 1


def test_training_is_asked_for_on_a_terminal(
    trained: tuple[Path, StateFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, state = trained
    monkeypatch.setattr("catdog_search.cli.promote.on_terminal", lambda: True)
    refused = CliRunner().invoke(main, arguments(study, state, "--seeds", "3"), input="n\n")
    assert refused.exit_code == 1
    assert "finalists: 2 of 6 trainings to go (2 finalists x 3 seeds); about " in refused.output
    assert "train them? [y/N]: n" in refused.output
    assert len(views.load_view(state, "light.finalists").trials) == 4


@pytest.mark.parametrize(
    ("kind", "champion_kind", "allowed", "warns"),
    [
        ("synthetic", "zip", False, "its gate `photos` will keep it out, unless"),
        ("synthetic", "folder", True, "drawn_over_photos lets it follow"),
        ("synthetic", "synthetic", False, None),
        ("synthetic", None, False, None),
        ("zip", "zip", False, None),
    ],
)
def test_drawings_over_a_champion_of_photos_warn_and_ask(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    champion_kind: str | None,
    *,
    allowed: bool,
    warns: str | None,
) -> None:
    said: list[str] = []
    asked: list[str] = []
    monkeypatch.setattr(promoting, "Registry", mock.Mock())
    monkeypatch.setattr(promoting, "kind_of", lambda registry, model: champion_kind)
    own = mock.Mock(_hooks=mock.Mock(say=said.append, confirm=asked.append), _model="catdog")
    own._registered.return_value.record.champion = 1
    own._config.promotion.drawn_over_photos = allowed
    dataset = mock.Mock(manifest=mock.Mock(kind=kind))
    for dry_run in (True, False):
        promoting._Promoting._warn_of_drawn(own, dataset, dry_run=dry_run)
    assert len(asked) == (1 if warns else 0)
    assert len(said) == (2 if warns else 0)
    assert all(line.startswith("warning: study ") and (warns or "") in line for line in said)


def test_drawn_pictures_do_not_follow_photos_unless_asked(
    ready: tuple[Path, StateFolder], quick_round_trip: None, no_figures: None, tmp_path: Path
) -> None:
    study, state = ready
    promote(study, state)
    lines = "[data]\nsource = 'synthetic'\nsynthetic_n = 300\n\n[space]"
    drawn = write_study(tmp_path, "drawn", epochs=1, error=0.9, promotion="min_recall_share = 0.0")
    drawn.write_text(drawn.read_text().replace("[space]", lines))
    call("run", "--study", str(drawn), "--state", str(state.root), "--trials", "1")
    said = promote(drawn, state, "--finalists", "1", "--seeds", "1", code=1)
    gate = verdict(said, "photos")
    assert gate["verdict"] == "failed"
    assert "drawn pictures, the champion on photos; [promotion] drawn_over_photos" in gate["text"]
    assert champion(state) == 1


def test_champion_whose_run_was_deleted_is_compared_all_the_same(
    ready: tuple[Path, StateFolder], quick_round_trip: None, no_figures: None
) -> None:
    _, state = ready
    study = write_study(state.root.parent, promotion="margin = 0.3")
    register_best(state, study="light")
    client = Store.of(state).client()
    (version,) = Registry(Store.of(state)).model("catdog").versions
    client.delete_run(version.run_id)
    said = promote(study, state)
    assert "against version 1 on 245 photos" in verdict(said, "champion")["text"]
    assert champion(state) == 2
    told = call("models", "--state", str(state.root)).output
    assert f"catdog version 1: its run {version.run_id} was deleted" in told
