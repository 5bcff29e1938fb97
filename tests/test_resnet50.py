"""The family resnet50: what is loaded, what is trained, and features that are computed once."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format
from tiny_training import go_on, train

from catdog_search.errors import DataError
from catdog_search.families.resnet50 import ResNet50Params, cost_of_resnet50, trained_stages
from catdog_search.families.weights import STAGES, require_weights, stages_in
from catdog_search.models.resnet50 import build_backbone, build_head
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig
from catdog_search.training import scoring
from catdog_search.training.execution import Execution
from catdog_search.training.optimize import compile_model
from catdog_search.training.result import TrainData

SIDE = 32
END = "conv4_block6_out"
PARAMS = {"backbone_end": END, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}
REAL_WEIGHTS = (
    Path(__file__).parents[2] / "shared" / "data" / "resnet50-imagenet-conv1-4.weights.h5"
)


def config(weights: Path | str, **more: Any) -> StudyConfig:
    table = {
        "name": "r",
        "purpose": "p",
        "family": "resnet50",
        "weights": str(weights),
        "image_size": SIDE,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": 1,
        "pruner": {"name": "none"},
        "space": {"trainable_stages": 0},
        "training": {"epochs": 2, "patience": 2},
        **more,
    }
    return studies.parse(table, "f.toml")


def resnet(**params: Any) -> ResNet50Params:
    return ResNet50Params(image_size=SIDE, **params)


def keras_prefix(end: str = END) -> keras.Model:
    whole = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3)
    )
    return keras.Model(whole.input, whole.get_layer(end).output)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that ends after stage 4, as if learned, though it is random."""
    keras.utils.set_random_seed(7)
    path = tmp_path_factory.mktemp("weights") / "conv1-4.weights.h5"
    keras_prefix().save_weights(path)
    return path


@pytest.fixture(scope="module")
def data() -> TrainData:
    chance = np.random.default_rng(0)
    x = chance.integers(0, 256, (24, SIDE, SIDE, 3), np.uint8)
    y = np.arange(24, dtype=np.float32)[:, None] % 2
    x[y.ravel() == 1, :16] //= 3  # something to learn
    return TrainData(x, y, x[:12], y[:12], ("a", "b"), "some-digest")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    return tmp_path / "features"


@pytest.mark.parametrize(
    ("params", "loaded", "expected"),
    [
        ({"trainable_stages": 0}, "12345", ""),
        ({"trainable_stages": 1}, "12345", "5"),
        ({"trainable_stages": 5}, "12345", "12345"),
        ({"trainable_stages": 0, "backbone_end": END}, "12345", ""),
        ({"trainable_stages": 1, "backbone_end": END}, "1234", "4"),
        ({"trainable_stages": 4, "backbone_end": END}, "1234", "1234"),
        ({"trainable_stages": 0}, "1234", "5"),
        ({"trainable_stages": 1}, "1234", "5"),
        ({"trainable_stages": 2}, "1234", "45"),
        ({"trainable_stages": 0}, "", "12345"),
    ],
)
def test_stages_are_counted_from_the_last_one_and_random_ones_always_trained(
    params: dict[str, Any], loaded: str, expected: str
) -> None:
    got = trained_stages(resnet(**params), tuple(f"conv{n}" for n in loaded))
    assert got == tuple(f"conv{n}" for n in expected)


def test_backbone_equals_that_of_keras_with_its_preprocessing(weights: Path) -> None:
    backbone = build_backbone(resnet(backbone_end=END), str(weights))
    theirs = keras_prefix()
    theirs.load_weights(weights)
    x = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)
    expected = theirs(keras.applications.resnet50.preprocess_input(x.copy()), training=False)
    got = keras.ops.convert_to_numpy(backbone.whole(keras.ops.convert_to_tensor(x)))
    expected = keras.ops.convert_to_numpy(expected)
    assert np.allclose(got, expected, atol=1e-3 * np.abs(expected).max())


def test_batch_norm_learns_only_where_a_stage_starts_at_random(weights: Path) -> None:
    backbone = build_backbone(resnet(), str(weights))
    assert backbone.loaded == ("conv1", "conv2", "conv3", "conv4")
    backbone.train_from(2)
    norms = [
        layer for layer in backbone.resnet.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]  # fmt: skip
    before = [layer.get_weights() for layer in norms]
    x = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3)).astype(np.float32)
    backbone.resnet(x, training=True)
    moved = {
        layer.name[:5]
        for layer, old in zip(norms, before, strict=True)
        if any((a != b).any() for a, b in zip(old, layer.get_weights(), strict=True))
    }
    assert moved == {"conv5"}
    trained = {v.path.split("/")[-2][:5] for v in backbone.resnet.trainable_variables}
    assert trained == {"conv3", "conv4", "conv5"}
    gammas = {v.path.split("/")[-2][:5] for v in backbone.resnet.trainable_variables
              if v.name == "gamma"}  # fmt: skip
    assert gammas == {"conv5"}


def test_cost_of_resnet50_counts_its_weights_and_arithmetic() -> None:
    params = ResNet50Params(image_size=224, trainable_stages=5)
    cost = cost_of_resnet50(params, ())
    model = keras.applications.ResNet50(include_top=False, weights=None)
    head = build_head(params, 2048, 0)
    assert cost.parameters == model.count_params() + head.count_params()
    # He et al. give 3.8 x 10^9 multiplications for the network with its strides in the 1 x 1
    # convolutions, as Keras has them.
    assert cost.multiply_adds == pytest.approx(3.8e9, rel=0.03)
    frozen = cost_of_resnet50(ResNet50Params(image_size=224), stages_in("imagenet"))
    assert frozen.once == pytest.approx(3.8e9, rel=0.03)
    assert frozen.multiply_adds < 1e4


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file; allowed: imagenet, none"), (b"nonsense", "can't be read as a Keras")],
)
def test_weights_that_cannot_be_had_are_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "w.weights.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        stages_in(str(path))


def test_weights_of_imagenet_are_asked_for_where_keras_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    asked: list[str] = []

    def refuse(what: Any, *_: Any, **__: Any) -> None:
        asked.append(getattr(what, "full_url", what))
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match=r"is absent, and https://.* \(no route to host\); give"):
        require_weights("imagenet")

    def fetch(name: str, origin: str, **_: Any) -> None:
        asked.append(origin)
        raise OSError(name)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", fetch)
    with pytest.raises(DataError, match="can't be fetched") as refused:
        build_backbone(resnet(), "imagenet")
    assert asked[0] == asked[1]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / str(refused.value.__cause__)).touch()
    require_weights("imagenet")
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["r.h5", "resnet50", "a b.hdf5"])
def test_weights_file_may_have_any_name(tmp_path: Path, weights: Path, name: str) -> None:
    shutil.copyfile(weights, tmp_path / name)
    first, last = keras_prefix(), build_backbone(resnet(), str(tmp_path / name)).resnet
    first.load_weights(weights)
    for layer in ("conv2_block1_0_conv", "conv4_block6_3_conv"):
        assert np.array_equal(first.get_layer(layer).kernel, last.get_layer(layer).kernel)


def test_weights_as_keras_applications_publishes_them_are_taken(tmp_path: Path) -> None:
    whole = keras_prefix("conv5_block3_out")
    path = tmp_path / "resnet50_notop.weights.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, whole)
    assert stages_in(str(path)) == STAGES
    loaded = build_backbone(resnet(), str(path)).resnet.get_layer("conv4_block6_3_conv")
    assert np.array_equal(loaded.kernel, whole.get_layer("conv4_block6_3_conv").kernel)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    other.save_weights(tmp_path / "first.weights.h5")
    with pytest.raises(DataError, match="are not those of a ResNet50"):
        build_backbone(resnet(), str(tmp_path / "first.weights.h5"))
    keras.Sequential([other, keras.layers.Conv2D(4, 3)]).save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(DataError, match="2 convolutions; those of a ResNet50"):
        stages_in(str(tmp_path / "w.weights.h5"))


class SaidError(Exception):
    """What a training said first."""


def _stop(said: str) -> None:
    raise SaidError(said)


@pytest.mark.parametrize("stages", [0, 1])
def test_kept_features_train_as_pixels_do(
    stages: int, data: TrainData, weights: Path, cache: Path
) -> None:
    params = {**PARAMS, "trainable_stages": stages}
    said: list[str] = []
    kept = train(params, config(weights), data, go_on, seed=1, say=said.append)
    live = train({**params, "views": 0}, config(weights), data, go_on, seed=1)
    for one, two in zip(kept.history, live.history, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=2e-2)
    assert kept.model is not None
    served = np.ravel(keras.ops.convert_to_numpy(kept.model(data.x_val)))
    assert np.allclose(served, kept.val_probabilities, atol=1e-3)
    assert len(list(cache.glob("*.f16"))) == 2
    assert "to be computed for 36 photos" in said[0]
    # As soon as it says so; it would only build what was built above.
    with pytest.raises(SaidError, match="in the cache"):
        train(params, config(weights), data, go_on, seed=2, say=_stop)


@pytest.mark.parametrize("stages", [0, 1])
def test_half_precision_scores_val_through_its_features(
    stages: int, data: TrainData, weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = scoring._distance

    def counted(logits: Any, network: keras.Model, data: TrainData) -> float:
        seen.append(len(logits))
        monkeypatch.setattr(network, "predict", pytest.fail)  # the whole of val by all of it
        return real(logits, network, data)

    monkeypatch.setattr(scoring, "_distance", counted)
    params = {**PARAMS, "trainable_stages": stages}
    half = Execution(precision="mixed_bfloat16")
    result = train(params, config(weights), data, go_on, seed=1, execution=half)
    assert result.model is not None
    assert seen == [len(data.y_val)]
    served = np.ravel(keras.ops.convert_to_numpy(result.model(data.x_val)))
    assert np.allclose(served, result.val_probabilities, atol=scoring._TOLERANCE)


def test_val_is_scored_from_photos_where_its_features_answer_otherwise(
    data: TrainData, weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_TOLERANCE", -1.0)
    monkeypatch.setattr(scoring, "_QUIET_S", 0.0)
    said: list[str] = []
    half = Execution(precision="mixed_bfloat16")
    result = train(PARAMS, config(weights), data, go_on, seed=1, execution=half, say=said.append)
    assert result.model is not None
    served = np.ravel(keras.ops.convert_to_numpy(result.model(data.x_val)))
    assert np.allclose(served, result.val_probabilities, atol=1e-4)
    assert "val is scored from photos" in said[1]
    assert "scoring 12 photos of val" in said[2]


def test_features_placed_on_the_device_train_as_streamed_ones(
    data: TrainData, weights: Path, cache: Path
) -> None:
    params = {**PARAMS, "augmentation": 0.5, "views": 2}
    one = train(params, config(weights), data, go_on, seed=1)
    two = train(params, config(weights), data, go_on, seed=1, execution=Execution(pixels="device"))
    assert len(list(cache.glob("*.f16"))) == 3  # two views of train, and val
    for a, b in zip(one.history, two.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-4)


def test_features_that_the_cache_cannot_hold_are_not_kept(
    data: TrainData, weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE_LIMIT_GB", "0.00001")
    said: list[str] = []
    result = train(PARAMS, config(weights), data, go_on, seed=1, say=said.append)
    assert result.ending == "finished"
    assert "more than the cache may hold" in said[0]
    assert not list(cache.glob("*.f16"))


def test_warm_up_trains_what_is_random_and_counts_on(
    data: TrainData, weights: Path, cache: Path, tmp_path: Path
) -> None:
    params = {**PARAMS, "trainable_stages": 1, "warmup_epochs": 2, "schedule": "cosine"}
    fit = config(weights, training={"epochs": 4, "patience": 4})
    seen: list[int] = []
    result = train(params, fit, data, lambda e, m: seen.append(e) is None, seed=1)
    assert seen == [0, 1, 2, 3]
    assert result.best_epoch == 3
    rates = [epoch["learning_rate"] for epoch in result.history]
    assert rates[0] == rates[1] == pytest.approx(1e-2)
    assert rates[3] < rates[2] < 1e-2
    path = tmp_path / "c.npz"
    for cut in (1, 2):  # within the warm-up, and after the first epoch behind it
        with pytest.raises(KeyboardInterrupt):
            train(params, fit, data, _until(cut + 1), seed=1, checkpoint=path)
        resumed = train(params, fit, data, go_on, seed=1, checkpoint=path)
        assert np.allclose(resumed.val_probabilities, result.val_probabilities, atol=1e-4)
        path.unlink()


def _until(cut: int) -> Callable[[int, Any], bool]:
    def report(epoch: int, metrics: Any) -> bool:
        if epoch == cut:
            raise KeyboardInterrupt
        return True

    return report


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_backbone_learns_at_its_own_rate(optimizer: str) -> None:
    x = keras.Input((4,))
    slow = keras.layers.Dense(4, name="slow")
    model = keras.Model(x, keras.layers.Dense(1, name="fast")(slow(x)))
    before = [layer.get_weights()[0].copy() for layer in (slow, model.get_layer("fast"))]
    params = resnet(optimizer=optimizer, weight_decay=0.1, learning_rate=1e-2, momentum=0.0)
    compile_model(model, params, 10, slow=(slow.trainable_variables, 0.0))
    model.fit(np.ones((8, 4), np.float32), np.ones((8, 1), np.float32), verbose=0)
    assert (slow.get_weights()[0] == before[0]).all()
    assert (model.get_layer("fast").get_weights()[0] != before[1]).all()


def test_stages_that_a_file_lacks_are_said_aloud_and_trained(
    data: TrainData, weights: Path, cache: Path
) -> None:
    said: list[str] = []
    params = {**PARAMS, "backbone_end": "conv5_block3_out", "epochs": 1}
    result = train(params, config(weights), data, go_on, seed=1, say=said.append)
    assert "has no conv5, which starts random" in said[0]
    assert "2 x 2 x 1024 frozen features" in said[1]  # of the stages before it
    assert result.model is not None


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"trainable_stages": 5, "backbone_end": END}, "has 4 stages"),
        ({"augmentation_kinds": "flip+mixup"}, "mixup mixes photos"),
        ({"image_size": {"low": 32, "high": 64}}, "at most 16"),
        ({"image_size": {"choices": [16, 64]}}, "needs at least 32"),
    ],
)
def test_what_a_resnet50_cannot_do_is_refused(space: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config("none", space={"dropout": 0.1, **space})


def test_a_study_of_any_family_asks_each_trial_for_its_network() -> None:
    space = {
        "network": {"choices": ["cnn", "resnet50"]},
        "n_blocks": {"choices": [2, 3], "when": {"network": "cnn"}},
        "trainable_stages": {"value": 0, "when": {"network": "resnet50"}},
        "image_size": {"choices": [0, 64]},
    }
    study = config("none", family="any", space=space)
    assert study.image_sizes() == [32, 64]
    small = study.trial_params({"network": "cnn", "n_blocks": 2, "image_size": 0})
    assert (type(small).__name__, small.image_size) == ("CnnParams", 32)
    large = study.trial_params({"network": "resnet50", "trainable_stages": 0, "image_size": 64})
    assert (type(large).__name__, large.image_size) == ("ResNet50Params", 64)
    with pytest.raises(ValueError, match="one of cnn, resnet50"):
        config("none", family="any", space={**space, "network": "vgg"})


def test_real_weights_are_known_for_what_they_are() -> None:
    if not REAL_WEIGHTS.exists():
        pytest.skip(f"the real weights are not at {REAL_WEIGHTS}")
    assert stages_in(str(REAL_WEIGHTS)) == ("conv1", "conv2", "conv3", "conv4")
    backbone = build_backbone(resnet(backbone_end=END), str(REAL_WEIGHTS))
    # Learned edges and blobs: far from symmetric, unlike random ones.
    assert abs(float(np.mean(backbone.resnet.get_layer("conv1_conv").get_weights()[0]))) < 0.1
    assert backbone.loaded == stages_in(str(REAL_WEIGHTS))
