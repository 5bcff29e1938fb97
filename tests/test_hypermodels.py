"""Somebody's code for KerasTuner: imported, explored, narrowed by a study and exported."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from kerastuner_code import FIT, LOOP, TABLE, explored, writer_of

from catdog_search.cli import main
from catdog_search.errors import RequestError, StudyFileError
from catdog_search.families import hypermodel
from catdog_search.families.hypermodel import Hypermodel
from catdog_search.places import StateFolder
from catdog_search.search.prepare import Request, prepare
from catdog_search.search.study.settings import differences, may_change
from catdog_search.space import Choice, Range, Space
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig
from catdog_search.training.execution import ForcedExecution

CODE = Hypermodel(
    name="own:build",
    source="0" * 16,
    space=Space(
        {
            "kind": Choice(("cnn", "mlp")),
            "units": Range(8, 64, step=8),
            "lr": Range(1e-4, 1e-1, log=True),
            "depth": Range(1, 5, when={"kind": ("cnn",)}),
        }
    ),
    names={"kind": "kind", "units": "n=units", "lr": "lr", "depth": "depth"},
    spelled={},
    defaults={"kind": "cnn", "units": 8, "lr": 1e-3, "depth": 1},
    image_size=None,
    side=None,
    weights=(10, 20),
    notes=("build raises ValueError: too deep for {}",),
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module into the current folder; returns its name."""
    return writer_of(tmp_path, monkeypatch)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run: the code has shown `CODE`."""
    monkeypatch.setattr(hypermodel, "find", lambda name, side: CODE)


BUILD = """
def build(hp):
    inputs, x = flat()
    hp.Int("n", 1, 9)
    return compiled(x, inputs)
"""
OWN = """
class Own(kt.HyperModel):
    def build(self, hp):
        return build(hp)
"""


@pytest.mark.parametrize(
    "named",
    [
        "own = build",
        f"{OWN}own = Own",
        f"{OWN}own = Own()",
        "def own():\n    return build",
        f"{OWN}def own():\n    return Own()",
    ],
    ids=["function", "class", "instance", "factory of a function", "factory of an instance"],
)
def test_every_kind_of_name_builds(module: Callable[..., str], named: str) -> None:
    from catdog_search.kerastuner import targets

    own = module(BUILD + named)
    model, hp = targets.build(targets.load(f"{own}:own"), {"n": 3})
    assert hp.values == {"n": 3}
    assert model.count_params() == 16 * 16 * 3 + 1


@pytest.mark.parametrize("name", ["own", "own.build", "own/x.py:build", ":build", "own:"])
def test_name_of_another_form_is_refused_before_anything_is_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypermodel, "run_python", None)
    with pytest.raises(RequestError, match=r"must be written pkg\.module:NAME"):
        hypermodel.find(name)


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("", "nowhere_at_all:build", "no module 'nowhere_at_all' in"),
        ("", "own:build", "own has no build"),
        ("def build(hp): pass", "own:bild", r"own has no bild \(.*\); did you mean 'build'\?"),
        ("", "own.py:build", r"no module 'own.py' in .*; did you mean 'own:build'\?"),
        ("import nowhere_at_all", "own:build", "its import failed: ModuleNotFoundError"),
        ("raise SystemExit", "own:build", "its import failed: SystemExit"),
        ("1 / 0", "own:build", "its import failed: ZeroDivisionError: division by zero"),
        ("build = 3", "own:build", "is an int; it must be a HyperModel"),
        ("class build: pass", "own:build", "is a class, but not a HyperModel"),
        ("def build(hp, more): pass", "own:build", "takes other arguments than hp"),
        ("def build(): return 3", "own:build", "makes an int"),
        (
            "def build(): 1 / 0",
            "own:build",
            r"making it failed: ZeroDivisionError.*\(own\.py, line",
        ),
        (
            "def build(hp):\n  int('x')",
            "own:build",
            r"its build failed: ValueError.*\(own\.py, line",
        ),
        ("def build(hp:", "own:build", r"its import failed: SyntaxError.*\(own\.py, line"),
        ("build = kt.applications.HyperXception", "own:build", "making it failed: ValueError"),
        (
            "class build(kt.HyperModel):\n    def __init__(self, n): pass",
            "own:build",
            "is a class that needs arguments",
        ),
    ],
)
def test_what_is_no_hypermodel_is_refused_in_a_line(
    module: Callable[..., str], text: str, name: str, says: str
) -> None:
    module(text)
    with pytest.raises(RequestError, match=says) as refused:
        explored(name)
    assert "\n" not in str(refused.value)


def test_current_folder_comes_last(module: Callable[..., str], tmp_path: Path) -> None:
    from catdog_search.kerastuner import targets

    (tmp_path / "colorsys.py").write_text("raise RuntimeError('hidden')")
    targets.load(f"{module('import colorsys' + chr(10) + BUILD)}:build")
    assert sys.path[-1] == str(tmp_path)


def test_space_has_conditions_and_what_appears_later(module: Callable[..., str]) -> None:
    own = module("""
    def build(hp):
        inputs, x = flat()
        kind = hp.Choice("kind", ["mlp", "linear"])
        with hp.conditional_scope("kind", ["mlp"]):
            if kind == "mlp":
                with hp.name_scope("mlp"):
                    x = layers.Dense(hp.Int("units", 4, 16, step=2, sampling="log"))(x)
        for i in range(hp.Int("layers", 0, 2)):
            x = layers.Dense(hp.Int(f"n=units/{i}", 1, 4))(x)
        if hp.Boolean("drop"):
            x = layers.Dropout(hp.Float("rate", 0.1, 0.5, step=0.1))(x)
        hp.Fixed("constant", 3)
        return compiled(x, inputs)
    """)
    code = explored(f"{own}:build")
    dimensions = code.space.dimensions
    assert set(dimensions) == {
        *("kind", "mlp/units", "layers", "n_units/0", "n_units/1", "drop", "rate", "constant")
    }
    assert dimensions["mlp/units"] == Range(4, 16, 2, log=True, when={"kind": ("mlp",)})
    assert code.names["n_units/1"] == "n=units/1"
    assert (code.image_size, code.notes) == (16, ())
    trial = code.trial({"kind": "linear", "n_units/1": 2, "rate": 0.3}, 64)
    assert trial.values == {"kind": "linear", "n=units/1": 2, "rate": 0.1 + 0.2}
    assert trial.told() == {
        **{"hypermodel": f"{own}:build", "image_size": 16},
        **{"kind": "linear", "n_units/1": 2, "rate": 0.3},
    }
    assert hypermodel.read(json.loads(json.dumps(hypermodel.tell(code)))) == code


def test_params_of_a_fit_are_in_the_space(module: Callable[..., str]) -> None:
    code = explored(f"{module(FIT)}:OwnFit")
    assert set(code.space.dimensions) == {"units", "normalize", "weight", "batch_size", "epochs"}
    assert code.notes == ("it trains by a fit of its own: a trial that is cut off begins anew",)


def test_loop_of_their_own_is_taken_where_it_tells_of_epochs(module: Callable[..., str]) -> None:
    code = explored(f"{module(LOOP)}:Loop")
    assert set(code.space.dimensions) == {"rate", "rate of learning"}
    silent = LOOP.replace("for callback in callbacks:", "for callback in ():")
    with pytest.raises(RequestError, match="trains without telling its callbacks of any epoch"):
        explored(f"{module(silent)}:Loop")


def test_size_of_photos_is_the_models_or_a_params(module: Callable[..., str]) -> None:
    any_size = """
    def build(hp):
        inputs = keras.Input((None, None, 3))
        return compiled(layers.GlobalAveragePooling2D()(inputs), inputs, hp.Choice("loss", ["mse"]))
    def tuned(hp):
        inputs, x = flat(hp.Choice("side", [16, 32]))
        return compiled(x, inputs)
    def hidden(hp):
        inputs, x = flat(8 * hp.Choice("eighths", [2, 4]))
        return compiled(x, inputs)
    """
    own = module(any_size)
    assert explored(f"{own}:build").image_sizes == ()
    tuned = explored(f"{own}:tuned")
    assert tuned.image_sizes == (16, 32)
    assert tuned.trial({"side": 32}, 16).image_size == 32
    with pytest.raises(RequestError, match=r"photos of several sizes \(16, 32\)"):
        explored(f"{own}:hidden")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        ("return 3", "its build returns a int, and no Keras model"),
        ("return compiled(x, [inputs, keras.Input((1,))])", "takes 2 inputs"),
        ("return compiled(x, inputs, 'mse', 10)", "answers with 10 units of sigmoid"),
        ("return compiled(x, inputs, activation='relu')", "ends with Dense relu"),
        ("return compiled(x, inputs, activation=None)", "its loss takes no logits"),
        ("return compiled(layers.Lambda(lambda x: x)(x), inputs)", "is a Lambda, which can't be"),
        ("return compiled(keras.ops.sin(x), inputs)", "computes Sin outside of layers"),
        ("return keras.Model(inputs, layers.Dense(1, 'sigmoid')(x))", "is not compiled"),
        (
            "i = keras.Input((16, 8, 3))\n    return compiled(layers.Flatten()(i), i)",
            r"takes \(None, 16, 8, 3\); photos are",
        ),
        (
            "class Own(keras.Model):\n        def call(self, x): return x\n    return Own()",
            "is an Own with a call of its own",
        ),
    ],
)
def test_network_that_cant_be_served_is_refused(
    module: Callable[..., str], build: str, says: str
) -> None:
    own = module(f"def build(hp):\n    inputs, x = flat()\n    hp.Int('n', 1, 2)\n    {build}\n")
    with pytest.raises(RequestError, match=says):
        explored(f"{own}:build")


def test_build_that_fails_for_some_params_is_told(module: Callable[..., str]) -> None:
    own = module("""
    def build(hp):
        inputs, x = flat()
        if hp.Boolean("deep"):
            raise kt.errors.FailedTrialError("too deep")
        return compiled(x, inputs)
    """)
    assert explored(f"{own}:build").notes == (
        'build raises FailedTrialError: too deep for {"deep": true}',
    )


@pytest.mark.parametrize(
    ("loss", "units", "activation", "labels"),
    [
        ("'binary_crossentropy'", 1, "sigmoid", [[0.0], [1.0]]),
        ("keras.losses.BinaryCrossentropy(from_logits=True)", 1, None, [[0.0], [1.0]]),
        ("'sparse_categorical_crossentropy'", 2, "softmax", [0, 1]),
        ("['categorical_crossentropy']", 2, "softmax", [[1.0, 0.0], [0.0, 1.0]]),
        ("keras.losses.SparseCategoricalCrossentropy(from_logits=True)", 2, None, [0, 1]),
        ("keras.losses.binary_crossentropy", 2, "softmax", [[1.0, 0.0], [0.0, 1.0]]),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_network_says_the_same_where_it_leaves_the_house(
    module: Callable[..., str],
    tmp_path: Path,
    loss: str,
    units: int,
    activation: str | None,
    labels: list[Any],
    nested: bool,
) -> None:
    from catdog_search.kerastuner import networks, targets
    from catdog_search.models.export import answers_to, exported_model
    from catdog_search.models.loading import load_exported
    from catdog_search.training.metrics import probabilities_of

    own = module(f"""
    def build(hp):
        model = keras.Sequential([
            keras.Input((16, 16, 3)), layers.Rescaling(1 / 255), layers.RandomFlip("horizontal"),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(), layers.Dropout(0.5), layers.Flatten(),
            layers.Dense({units}, activation={activation!r}),
        ])
        if {nested}:
            model = keras.Sequential([keras.Input((16, 16, 3)), model])
        model.compile("adam", {loss})
        return model
    """)
    model, _ = targets.build(targets.load(f"{own}:build"), {})
    assert networks.settle(model, 64) == 16
    face = networks.face_of(model)
    assert face.labels(np.array([[0.0], [1.0]])).tolist() == labels
    networks.require_stock(model)
    photos = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    said = face.logits(model.predict(photos.astype(np.float32), verbose=0))
    exported = exported_model(networks.network_of(model, 16), 16)
    exported.save(tmp_path / "model.keras")
    loaded = load_exported(tmp_path / "model.keras", 16)
    assert np.allclose(answers_to(loaded, photos), probabilities_of(said), atol=1e-4)


def config(**more: Any) -> StudyConfig:
    return studies.parse({**TABLE, **more}, "own.toml")


@pytest.mark.usefixtures("found")
def test_study_searches_what_the_code_does_unless_it_says_otherwise() -> None:
    whole = config()
    assert whole.space == CODE.space
    assert whole.image_size == 64  # of neither
    assert whole.fingerprint()["hypermodel"] == {"name": "own:build", "source": "0" * 16}
    space = {"units": {"low": 16, "high": 32}, "lr": 0.01, "kind": "mlp"}
    part = config(space=space, image_size=48, recipes={"mine": {"units": 24}}).space
    assert part.dimensions["units"] == Range(16, 32, step=8)
    assert part.dimensions["lr"].values == (0.01,)
    assert "depth" not in part.dimensions  # no cnn, no depth
    assert config(recipes={"mine": {"units": 24}}).recipes["mine"] == {
        **{"kind": "cnn", "units": 24, "lr": 1e-3, "depth": 1}
    }
    params = config(space=space).trial_params({"kind": "mlp", "units": 16, "lr": 0.01})
    assert params.told()["units"] == 16
    assert params.values["n=units"] == 16


@pytest.mark.usefixtures("found")
def test_hyperband_of_kerastuner_goes_without_a_pruner() -> None:
    sampler = {"name": "kt-hyperband"}
    assert config(sampler=sampler).pruner.name == "none"
    assert config(sampler=sampler, pruner={"name": "none"}).pruner.name == "none"
    assert config(sampler={"name": "kt-grid"}).pruner.name == "median"


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"space": {"unit": 8}}, r"\[space\] unit: unknown; did you mean 'units'"),
        ({"space": {"units": 9}}, r"\[space\] units: 9 is not allowed; it must be 8 to 64, step 8"),
        ({"space": {"units": {"low": 8, "high": 60}}}, "units.high: 60 is not allowed"),
        ({"space": {"kind": {"choices": ["cnn", "rnn"]}}}, "kind.choices: 'rnn' is not allowed"),
        ({"space": {"lr": {"low": 0.001, "high": 0.1, "log": True}}}, "are those of the code"),
        ({"space": {"kind": "mlp", "depth": 2}}, "depth: is never active"),
        ({"space": {"kind": "cnn", "lr": {"value": 0.1, "when": {"kind": "cnn"}}}}, "leave it out"),
        ({"recipes": {"r": {"units": 7}}}, r"\[recipes.r\] units: 7 is not in the space"),
        ({"hypermodel": 3}, "hypermodel: is missing or no text"),
        ({"family": "cnn", "space": {"dropout": 0.1}}, 'needs family = "hypermodel"'),
        ({"found": {}}, "found: unknown"),
    ],
)
def test_study_that_says_what_the_code_cant_is_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError, match=says):
        config(**more)


def test_study_of_another_size_than_the_code_takes_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        hypermodel, "find", lambda name, side: dataclasses.replace(CODE, image_size=32)
    )
    assert config().image_size == 32
    with pytest.raises(StudyFileError, match="image_size: 64, but own:build takes photos of 32 px"):
        config(image_size=64)


def test_list_of_studies_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, side: int | None) -> Hypermodel:
        raise AssertionError(name)

    monkeypatch.setattr(hypermodel, "find", find)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    text = studies.file_of_hypermodel("own:build", "mine")
    (tmp_path / "studies" / "mine.toml").write_text(text)
    listed = CliRunner().invoke(main, ["studies"]).output
    assert "mine (studies/mine.toml, 20 trials)" in listed
    with pytest.raises(RequestError, match="--study mine: is the name of a study file"):
        studies.file_of_hypermodel("own:build", "mine")


@pytest.mark.usefixtures("found")
def test_check_prints_the_space_and_what_it_cant_know(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(studies.file_of_hypermodel("own:build", "mine"))
    said = CliRunner().invoke(main, ["check", str(path)])
    assert said.exit_code == 0, said.output
    for line in ("if kind = cnn", "which calls it n=units", "note: build raises ValueError"):
        assert line in said.output


def test_run_without_a_study_or_code_is_refused() -> None:
    said = CliRunner().invoke(main, ["run"])
    assert said.exit_code == 2
    assert "say what to run: --study NAME|FILE, or --hypermodel pkg.module:NAME" in said.output


@pytest.mark.usefixtures("found")
def test_changed_code_is_a_changed_space() -> None:
    changed = dataclasses.replace(CODE, source="1" * 16)
    now = config().model_copy(update={"found": changed}).fingerprint()
    (found,) = differences(then := config().fingerprint(), now)
    assert not may_change(found, then, now)
    assert [str(found)] == [f'hypermodel.source was "{"0" * 16}", now "{"1" * 16}"']


@pytest.mark.usefixtures("found")
def test_execution_of_a_hypermodel_is_its_own(tmp_path: Path) -> None:
    data = {"source": "synthetic", "synthetic_n": 100}
    request = Request(study=config(data=data, image_size=16), state=StateFolder.at(str(tmp_path)))
    said: list[str] = []
    forced = prepare(request, said.append).options.forced
    assert (forced.pixels, forced.precision, forced.steps_per_call) == ("stream", "float32", 1)
    assert f"note: {CODE.notes[0]}" in said
    with pytest.raises(RequestError, match="--pixels device: a hypermodel says that itself"):
        prepare(dataclasses.replace(request, forced=ForcedExecution(pixels="device")), said.append)
