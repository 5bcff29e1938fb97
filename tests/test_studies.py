"""Study files: found, read, and refused with where, what came and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from catdog_search.errors import StudyFileError
from catdog_search.study import studies
from catdog_search.study.config import NOT_IN_A_FILE, StudyConfig
from catdog_search.study.keys import keys

SHIPPED = sorted((Path(__file__).parents[1] / "studies").glob("*.toml"))


CONDITIONAL = {
    "optimizer": {"choices": ["adam", "sgd"]},
    "momentum": {"low": 0.8, "high": 0.95, "when": {"optimizer": "sgd"}},
}


def base(**more: Any) -> dict[str, Any]:
    return {
        "name": "s",
        "purpose": "p",
        "image_size": 32,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": 2,
        "space": {"dropout": {"low": 0.0, "high": 0.5}},
        **more,
    }


def without(key: str) -> dict[str, Any]:
    table = base()
    del table[key]
    return table


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_study_is_valid_and_named_as_its_file(path: Path) -> None:
    assert studies.load(str(path)).name == path.stem


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (base(image_sise=3), "f.toml image_sise: unknown; did you mean 'image_size'?"),
        (without("name"), "f.toml name: is missing"),
        (without("trials"), "f.toml trials: is missing; it must be a whole number in [1"),
        (without("space"), "f.toml [space]: is missing or empty"),
        (base(name="a/b"), "f.toml name: 'a/b' is not allowed; it must be a text: letters"),
        (base(trials=0), "f.toml trials: 0 is not allowed; it must be a whole number in [1"),
        (base(trials=True), "f.toml trials: True is not allowed"),
        (base(trials=2.0), "f.toml trials: 2.0 is not allowed"),
        (base(timeout=0), "f.toml timeout: 0 is not allowed; it must be a number in (0"),
        (base(image_size=4), "f.toml image_size: 4 is not allowed"),
        (base(metric="val_acc"), "metric: 'val_acc' is not allowed; it must be one of val_accu"),
        (base(metric="accuracy"), "metric: 'accuracy' is not allowed"),
        (base(direction="minimize"), "looks for the worst model; it must be 'maximize'"),
        (base(metric="val_loss"), "looks for the worst model; it must be 'minimize'"),
        (base(family="mlp"), "f.toml family: 'mlp'; allowed: any, cnn, hypermodel, resnet50"),
        (base(space=3), "f.toml space: 3 is not a table"),
        (base(training=3), "f.toml training: 3 is not allowed; it must be a table"),
        (base(training={"epoch": 3}), "f.toml [training] epoch: unknown; did you mean 'epochs'?"),
        (base(training={"epochs": 0}), "f.toml [training] epochs: 0 is not allowed"),
        (base(training={"min_delta": -1.0}), "f.toml [training] min_delta: -1.0"),
        (
            base(sampler={"name": "tp"}),
            "f.toml [sampler] name: 'tp' is not allowed; it must be one",
        ),
        (base(pruner={"n_warmup_steps": 1}), "did you mean 'n_warmup_epochs'?"),
        (base(data={"source": "web"}), "f.toml [data] source: 'web' is not allowed"),
        (
            base(space={"n_blocks": {"low": 2, "high": 6}}),
            "6 of them need an image_size of at least",
        ),
        (base(recipes={"a": {}}), "f.toml [recipes.a] dropout: is missing"),
        (base(recipes={"a": {"dropout": 0.7}}), "[recipes.a] dropout: 0.7 is not in the space"),
        (base(recipes={"a": {"droput": 0.2}}), "did you mean 'dropout'?"),
        (base(recipes={"a": 3}), "f.toml [recipes.a]: 3 is not a table"),
        (base(recipes={"": {}}), "f.toml [recipes.]: its name must have 1 to "),
        (
            base(recipes={"plain": {"dropout": 0.2}}, published={"plian": {"val_accuracy": 0.9}}),
            "f.toml [published.plian]: is no recipe of it; did you mean 'plain'?",
        ),
        (
            base(space={"image_size": {"low": 32, "high": 64}}),
            "f.toml [space] image_size: 33 sizes, each of which is packed; at most 16",
        ),
        (
            base(space={"image_size": {"choices": [4, 32]}}),
            "f.toml [space] image_size: 4 is not allowed; it must be at least 8",
        ),
        (
            base(sampler={"name": "grid"}),
            "f.toml [sampler] name: 'grid' can't search [space] dropout: it is continuous",
        ),
        (
            base(sampler={"name": "gp"}, space={"activation": {"choices": ["relu", "elu"]}}),
            "'gp' can't search [space] activation: its choices have no order",
        ),
        (
            base(sampler={"name": "cmaes"}, space=CONDITIONAL),
            "'cmaes' can't search [space] optimizer: its choices have no order",
        ),
        (
            base(sampler={"name": "qmc"}, space=CONDITIONAL),
            "'qmc' can't search [space] momentum: it is active only now and then",
        ),
        (
            base(space={"schedule": {"choices": ["cosine", "constant"]}}),
            "f.toml [pruner] name: 'median' compares trials epoch by epoch, but [space] schedule",
        ),
        (
            base(space={"epochs": {"choices": [5, 10]}}),
            "[space] epochs differs between them (5, 10)",
        ),
        (
            base(space={"progressive": 0.5}),
            "f.toml [space] progressive: trains on photos of half the side, and head can be",
        ),
        (
            base(image_size=16, space={"progressive": 0.5, "head": "max", "n_blocks": 4}),
            "f.toml [space] progressive: trains on photos of half the side, 8 px, which 4 blocks",
        ),
        (base(space={"ema": 0.9}), "f.toml [space] ema: averages weights towards the end"),
        (base(space={"augmentation_kinds": "flip+flop"}), "'flip+flop' is not allowed"),
        (
            base(space={"augmentation_kinds": {"choices": ["flip", "flip+zoom+flip"]}}),
            "'flip+zoom+flip' is not allowed",
        ),
        (
            base(space={"augmentation_kinds": "flip+alternating_flip"}),
            "each once, and one of the two flips at most",
        ),
        (base(limits={"max_memory_gb": 0}), "[limits] max_memory_gb: 0 is not allowed"),
        (
            base(promotion={"min_acuracy": 0.9}),
            "f.toml [promotion] min_acuracy: unknown; did you mean 'min_accuracy'?",
        ),
        (base(promotion={"fairness": 1}), "f.toml [promotion] fairness: unknown; allowed: "),
        (base(promotion=3), "f.toml promotion: 3 is not allowed; it must be a table"),
        *(
            (base(promotion={key: value}), f"f.toml [promotion] {key}: {value!r} is not allowed")
            for key, value in (
                ("finalists", 0),
                ("finalists", 101),
                ("finalists", 1.5),
                ("seeds", 0),
                ("seeds", True),
                ("calibration_share", 0.0),
                ("calibration_share", 0.51),
                ("calibration_share", math.nan),
                ("calibration_photos", 1),
                ("error_rate", 0.0),
                ("error_rate", 0.5),
                ("min_accuracy", 1.0),
                ("min_accuracy", -0.1),
                ("min_accuracy", "high"),
                ("margin", -0.01),
                ("margin", 1.0),
                ("margin", math.inf),
                ("min_recall_share", 1.1),
                ("max_calibration_error", 0.0),
                ("max_calibration_error", math.nan),
                ("max_latency_ms", 0),
                ("max_latency_ms", math.inf),
                ("max_size_mb", 0.0),
                ("max_size_mb", math.inf),
                ("max_leaked", -1),
                ("drawn_over_photos", "yes"),
                ("costs", 3),
            )
        ),
        (base(promotion={"costs": {"cat": "much"}}), "f.toml [promotion.costs] cat: 'much'"),
        (base(promotion={"costs": {"cat": math.nan}}), "f.toml [promotion.costs] cat: nan"),
        (base(promotion={"costs": {"cat": 0}}), "f.toml [promotion.costs] cat: 0 "),
    ],
)
def test_parse_refuses_and_says_what_is_allowed(table: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        studies.parse(table, "f.toml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def mistakes_of(table: dict[str, Any]) -> list[str]:
    with pytest.raises(StudyFileError) as caught:
        studies.parse(table, "f")
    return [line.removeprefix("f ") for line in caught.value.lines]


def test_parse_tells_all_mistakes_of_a_file_at_once() -> None:
    told = mistakes_of(
        base(
            trials=0,
            metric="val_acc",
            training={"epochs": 0, "patiense": 3},
            sampler={"name": "grid"},
            space={
                "droput": 0.1,
                "dropout": {"low": -1.0, "high": 2.0, "stp": 1},
                "filters": {"choices": [1, 8, 1000]},
                "learning_rate": {"low": 0.1, "high": 0.2},
            },
            recipes={"a": {"learning_rate": 5.0}, "b": 3},
            published={"c": {}},
        )
    )
    assert [line.split(":")[0] for line in told] == [
        "[space] droput",
        "[space] dropout.stp",
        "[space] dropout.low",
        "[space] dropout.high",
        "[space] filters.choices",
        "[space] filters.choices",
        "[recipes.a] learning_rate",
        "[recipes.b]",
        "[training] patiense",
        "metric",
        "trials",
        "[training] epochs",
        "[published.c]",
        "[sampler] name",
    ]


@pytest.mark.parametrize(
    ("space", "recipe", "says"),
    [
        # Rules that don't ask for what is wrong still hold.
        (
            {"n_blocks": {"low": 6, "high": 7}, "augmentation_kinds": "spin"},
            {"n_blocks": 6},
            "[space] n_blocks: 7 of them need an image_size of at least 128; it is 32",
        ),
        (
            {"n_blocks": 1, "filters": "many", "head": "flatten", "progressive": 0.5},
            {},
            "[space] progressive: trains on photos of half the side, and head can be flatten",
        ),
        # A recipe has its own mistakes, even of params whose space can't be read.
        (
            {"n_blocks": {"low": 3, "high": 2}},
            {"n_blocks": 9},
            "[recipes.r] n_blocks: 9 is not allowed; it must be a whole number in [1, 7]",
        ),
        ({"n_blocks": {"low": 3, "high": 2}}, {"nope": 1}, "[recipes.r] nope: unknown"),
    ],
)
def test_parse_tells_what_else_is_wrong_beside_an_unreadable_space(
    space: dict[str, Any], recipe: dict[str, Any], says: str
) -> None:
    told = mistakes_of(base(space=space, recipes={"r": recipe}))
    assert any(line.startswith(says) for line in told), told
    assert len(told) == 2


def test_parse_of_keys_that_no_file_has_lists_only_those_that_it_may_have() -> None:
    for name in NOT_IN_A_FILE:
        (line,) = mistakes_of(base(**{name: {}}))
        assert line.startswith(f"{name}: unknown; ")
        assert name not in line.partition("allowed: ")[2].split(", ")
        assert name not in {key.name for key in keys()}


def test_allowed_values_are_those_of_a_key_that_may_be_left_out() -> None:
    allowed = {key.name: key.allowed for key in keys()}
    assert allowed["[data] source"] == "one of photos, synthetic"
    assert "a table" not in {allowed["[data] subset"], allowed["[data] path"]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        # A key that is misspelt is not missing too.
        ({"nmae": "x", "name": None}, ["nmae"]),
        # What stands on a wrong value is not wrong for that.
        ({"metric": "val_los", "direction": "minimize"}, ["metric"]),
        ({"image_size": 4}, ["image_size"]),
        ({"family": "mlp", "recipes": {"a": {"x": 1}}}, ["family"]),
        (
            {
                "space": {
                    "optimizer": "sdg",
                    "momentum": {"choices": [0.8, 0.9], "when": {"optimizer": "sgd"}},
                },
                "recipes": {"a": {"optimizer": "adam"}, "b": {"momentum": 0.8}},
            },
            ["[space] optimizer"],
        ),
        (
            {"space": {"schedule": "cosin", "ema": 0.9}},
            ["[space] schedule"],
        ),
        (
            {"space": {"epochs": {"choices": [5, 10]}}, "pruner": {"name": "meidan"}},
            ["[pruner] name"],
        ),
    ],
)
def test_parse_tells_a_mistake_once(change: dict[str, Any], told: list[str]) -> None:
    table = {key: value for key, value in base(**change).items() if value is not None}
    assert [line.split(":")[0] for line in mistakes_of(table)] == told


def test_parse_takes_a_recipes_whole_number_as_a_rate() -> None:
    config = studies.parse(base(recipes={"plain": {"dropout": 0}}), "f.toml")
    assert config.recipes == {"plain": {"dropout": 0.0}}


def test_parse_spells_a_recipe_as_the_space_does() -> None:
    steps = {"dropout": {"low": 0.1, "high": 0.5, "step": 0.1}}
    config = studies.parse(base(space=steps, recipes={"b": {"dropout": 0.1 + 0.2}}), "f.toml")
    assert config.recipes == {"b": {"dropout": 0.3}}


def test_parse_refuses_a_grid_that_no_memory_holds() -> None:
    steps = {"dropout": {"low": 0.0, "high": 0.5, "step": 1e-8}}
    with pytest.raises(StudyFileError, match="lists all 50000001 points"):
        studies.parse(base(space=steps, sampler={"name": "grid"}), "f.toml")


def test_parse_loads_nothing_heavy(in_fresh_python: Callable[[str], str]) -> None:
    code = (
        "import sys; from catdog_search.study import studies; studies.load('quick')\n"
        "print([m for m in ('keras', 'tensorflow', 'mlflow', 'optuna', 'sklearn', 'matplotlib') "
        "if m in sys.modules])"
    )
    assert in_fresh_python(code) == "[]"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name = ", "is not TOML"),
        (b"name = 'a'\nname = 'b'", "is not TOML"),
        (b"\xff\xfe\x00", "is not TOML"),
        (b"", "[space]: is missing or empty"),
    ],
)
def test_load_refuses_what_is_not_a_study(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(StudyFileError) as caught:
        studies.load(str(path))
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_load_says_why_a_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "locked.toml"
    path.touch()
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "not allowed")))
    with pytest.raises(StudyFileError, match=r"locked\.toml: can't be read: not allowed"):
        studies.load(str(path))


def test_find_names_the_near_one() -> None:
    with pytest.raises(StudyFileError, match="did you mean 'custom-cnn'"):
        studies.find("custom-cn")


def test_find_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match="no such study file"):
        studies.find(str(tmp_path / "x.toml"))


def test_available_prefers_the_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study_file: Callable[..., Path]
) -> None:
    (tmp_path / "studies").mkdir()
    study_file("quick").rename(tmp_path / "studies" / "quick.toml")
    monkeypatch.chdir(tmp_path)
    assert studies.load("quick").purpose == "A study for tests."
    assert "custom-cnn" in studies.available()


def fingerprint(**more: Any) -> dict[str, Any]:
    config: StudyConfig = studies.parse(base(**more), "f.toml")
    return config.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"space": {"dropout": {"low": 0.0, "high": 0.4}}},
        {"image_size": 64},
        {"metric": "val_loss", "direction": "minimize"},
        {"seed": 9},
        {"training": {"epochs": 11}},
        {"sampler": {"name": "random"}},
        {"pruner": {"name": "none"}},
    ],
)
def test_fingerprint_changes_with_what_trials_are_compared_by(change: dict[str, Any]) -> None:
    assert fingerprint(**change) != fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"trials": 9},
        {"timeout": 5},
        {"purpose": "other"},
        {"limits": {"max_memory_gb": 3}},
        {"keep_models": 9},
        {"promotion": {"finalists": 1, "min_accuracy": 0.9}},
    ],
)
def test_fingerprint_allows_more_trials_and_time(change: dict[str, Any]) -> None:
    assert fingerprint(**change) == fingerprint()
    recipes = {"recipes": {"r": {"dropout": 0.1}}}
    assert fingerprint(**recipes, seeds=2) == fingerprint(**recipes)


def test_mixed_schedules_are_fine_without_a_pruner() -> None:
    space = {
        "schedule": {"choices": ["constant", "cosine"]},
        "ema": {"low": 0.9, "high": 0.99, "when": {"schedule": "cosine"}},
    }
    config = studies.parse(base(space=space, pruner={"name": "none"}), "f.toml")
    assert config.space.searched == ("schedule", "ema")


def test_wanted_trials_and_most_epochs_are_those_that_a_call_has() -> None:
    recipes = {"a": {"epochs": 1}, "b": {"epochs": 3}}
    epochs = {"choices": [1, 3]}
    more = {"space": {"epochs": epochs}, "pruner": {"name": "none"}, "training": {"epochs": 2}}
    config = studies.parse(base(trials=4, seeds=3, recipes=recipes, **more), "f.toml")
    assert (config.wanted(), config.wanted(1), config.most_epochs) == (8, 4, 3)
    assert studies.parse(base(training={"epochs": 7}), "f.toml").most_epochs == 7
