"""Families of networks: what a row says is all that the rest asks, whichever row it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pooled_family import POOLED, PooledParams
from tiny_study import call

from catdog_search.errors import DataError, StudyFileError
from catdog_search.families import registry
from catdog_search.search.estimate import estimate_study
from catdog_search.search.limits import Limits
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig

SIDE = 16
WEIGHTS = 3 * (SIDE // 4) ** 2 + 1


@pytest.fixture
def third_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.FAMILIES, POOLED.name, POOLED)


def study(**more: Any) -> StudyConfig:
    table = {
        "name": "s",
        "purpose": "p",
        "family": "pooled",
        "image_size": SIDE,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": 2,
        "space": {"pool": {"choices": [2, 4]}},
        **more,
    }
    return studies.parse(table, "f.toml")


def test_study_of_a_family_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        StudyFileError, match="family: 'pooled'; allowed: any, cnn, hypermodel, resnet50"
    ):
        study()


@pytest.mark.usefixtures("third_family")
def test_study_of_a_third_family_is_read_by_its_row() -> None:
    config = study()
    trial = config.trial_params({"pool": 2})
    assert isinstance(trial, PooledParams)
    assert (trial.pool, trial.image_size) == (2, SIDE)
    assert config.family_of({"pool": 2}) is POOLED
    assert "weights" not in config.fingerprint()


@pytest.mark.usefixtures("third_family")
@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"pool": 0}, r"f.toml \[space\] pool: 0 is not allowed; it must be a whole number in"),
        ({"pol": 2}, "unknown; did you mean 'pool'"),
        ({"n_blocks": 2}, "n_blocks: unknown"),
        ({"pool": {"choices": [4, 5]}}, "f.toml .space. pool: 5 doesn't divide an image_size of"),
        ({"pool": 4, "image_size": {"choices": [0, 18]}}, "4 doesn't divide an image_size of 18"),
    ],
)
def test_study_of_a_third_family_is_refused_by_its_rules(space: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError, match=says):
        study(space=space)


@pytest.mark.usefixtures("third_family")
def test_study_of_any_family_has_the_third_one_too() -> None:
    space = {
        "network": {"choices": ["cnn", "pooled"]},
        "n_blocks": {"value": 2, "when": {"network": "cnn"}},
        "pool": {"choices": [2, 4], "when": {"network": "pooled"}},
    }
    config = study(family="any", image_size=32, space=space)
    assert type(config.trial_params({"network": "pooled", "pool": 2})) is PooledParams
    assert config.family_of({"network": "cnn", "n_blocks": 2}).name == "cnn"
    pool = {"value": 5, "when": {"network": "pooled"}}
    with pytest.raises(StudyFileError, match="5 doesn't divide"):
        study(family="any", image_size=32, space={**space, "pool": pool})
    with pytest.raises(StudyFileError, match="one of cnn, resnet50, pooled"):
        study(family="any", image_size=32, space={**space, "network": "vgg"})


NETWORKS: dict[str, Any] = {"network": {"choices": ["cnn", "resnet50"]}}
DEEP = {"choices": [2, 3], "when": {"network": "cnn"}}


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (
            {**NETWORKS, "n_blocks": 2},
            r"n_blocks: resnet50 has no such param; .* network = \"cnn\"",
        ),
        ({**NETWORKS, "views": {"choices": [1, 2]}}, "views: cnn has no such param"),
        ({"network": "cnn", "views": 2}, "views: cnn has no such param"),
        ({"views": 2}, "views: cnn has no such param"),
        (
            {
                **NETWORKS,
                "optimizer": "sgd",
                "stem": {"value": "none", "when": {"optimizer": "sgd"}},
            },
            "stem: resnet50 has no such param",
        ),
    ],
)
def test_param_that_a_trials_family_lacks_is_refused(space: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyFileError, match=says):
        study(family="any", image_size=32, space=space)


@pytest.mark.parametrize(
    "space",
    [
        {**NETWORKS, "n_blocks": DEEP, "dropout": 0.1},
        {**NETWORKS, "n_blocks": DEEP, "stem": {"value": "none", "when": {"n_blocks": 2}}},
        {"network": "cnn", "n_blocks": 2},
        {"n_blocks": 2},
    ],
)
def test_every_trial_of_any_family_has_params_of_its_own(space: dict[str, Any]) -> None:
    config = study(family="any", image_size=32, space=space)
    for params in config.space.points():
        assert type(config.trial_params(params)) is config.family_of(params).params


@pytest.mark.usefixtures("third_family")
def test_families_that_no_trial_is_of_have_no_say() -> None:
    config = study(family="any", image_size=30, space={"network": "cnn", "n_blocks": 2})
    registry.require_weights(config.family, config.domain(), "no such file")
    with pytest.raises(StudyFileError, match="a ResNet50 needs at least 32"):
        study(family="any", image_size=30, space={"network": "resnet50"})
    with pytest.raises(StudyFileError, match="4 doesn't divide an image_size of 30"):
        study(family="any", image_size=30, space={"network": "pooled"})
    other = study(family="any", image_size=32, space={"network": "resnet50"})
    with pytest.raises(DataError, match="no such file; allowed: imagenet"):
        registry.require_weights(other.family, other.domain(), "no such file")


def test_knobs_of_one_name_allow_the_same_in_every_family() -> None:
    for one, other in itertools.permutations(map(registry.knobs, registry.FAMILIES), 2):
        for name in one.keys() & other.keys():
            assert (one[name].kind, one[name].allowed) == (other[name].kind, other[name].allowed)


@pytest.mark.usefixtures("third_family")
def test_estimate_of_a_third_family_is_by_its_cost() -> None:
    limits = Limits(study(limits={"max_parameters": WEIGHTS}), photos=10, memory_bytes=10**9)
    assert limits.estimate(study().trial_params({"pool": 4})).parameters == WEIGHTS
    assert limits.too_large(study().trial_params({"pool": 4})) is None
    assert "at most 49" in getattr(limits.too_large(study().trial_params({"pool": 2})), "text", "")
    limits.learn_speed(study().trial_params({"pool": 4}), epoch=0, images_per_second=100.0)
    assert limits.estimate(study().trial_params({"pool": 4})).seconds is not None
    assert estimate_study(study(), Limits(study(), 10, 10**9)).parameters[0] == WEIGHTS


@pytest.mark.usefixtures("third_family")
def test_check_prints_a_third_familys_space(study_file: Callable[..., Path]) -> None:
    space = "n_blocks = { low = 1, high = 2 }\nfilters = { choices = [4, 8] }"
    swap = {'family = "cnn"': 'family = "pooled"', space: "pool = { choices = [2, 4] }"}
    path = study_file("third", swap=swap)
    assert "side of a patch, in pixels" in " ".join(call("check", str(path)).output.split())


@pytest.mark.parametrize("name", registry.declared())
def test_weights_of_a_study_count_where_its_family_loads_some(name: str) -> None:
    space = {"image_size": {"choices": [32, 64]}}
    config = study(family=name, image_size=32, space={"dropout": 0.1, **space})
    assert config.loads_weights == (name == "resnet50") == ("weights" in config.fingerprint())
    assert study(family="any", image_size=32, space={"network": name}).loads_weights


def test_families_are_light(in_fresh_python: Callable[[str], str]) -> None:
    code = (
        "import sys; from catdog_search.families import registry\n"
        "print([m for m in ('numpy', 'h5py', 'keras', 'urllib.request') if m in sys.modules])"
    )
    assert in_fresh_python(code) == "[]"
