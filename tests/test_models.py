"""Networks, augmentation and the exported model."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from catdog_search.data.decode import decode, resize
from catdog_search.families.base import AUGMENTATIONS
from catdog_search.families.cnn import CnnParams, cost_of_cnn
from catdog_search.families.resnet50 import ResNet50Params, cost_of_resnet50
from catdog_search.models.augmentation import Augment, Mixup
from catdog_search.models.cnn import build_cnn
from catdog_search.models.export import (
    answers_to,
    averaged_weights,
    body_of,
    calibrated_model,
    exported_model,
    logits_of,
    training_model,
)
from catdog_search.models.loading import load_exported
from catdog_search.models.normalization import FusedBatchNormalization
from catdog_search.models.resnet50 import build_backbone, build_head
from catdog_search.search.proposal.uniform import UniformDraw
from catdog_search.study import studies


def pixels(n: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def as_numpy(tensor: object) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("block", ["plain", "residual", "separable"])
@pytest.mark.parametrize("head", ["flatten", "average", "max"])
@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_build_cnn_makes_what_its_params_say(block: str, head: str, normalization: str) -> None:
    params = CnnParams.model_validate(
        {
            "n_blocks": 3,
            "convolutions": 2,
            "filters": 4,
            "filter_growth": 1.5,
            "kernel_size": 5,
            "block": block,
            "head": head,
            "normalization": normalization,
            "dense_units": 16 if head == "flatten" else 0,
            "activation": "silu",
            "spatial_dropout": 0.1,
        }
    )
    model = build_cnn(params, 16)
    assert tuple(model(pixels(5, 16)).shape) == (5, 1)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("SeparableConv2D") == (4 if block == "separable" else 0)
    assert kinds.count("Conv2D") == (2 if block == "separable" else 6)
    assert kinds.count("Add") == (3 if block == "residual" else 0)
    assert kinds.count("MaxPooling2D") == kinds.count("SpatialDropout2D") == 3
    assert kinds.count("BatchNormalization") == (6 if normalization == "batch" else 0)
    assert kinds.count("Dense") == (2 if head == "flatten" else 1)
    convolutions = [la for la in model.layers if "Conv2D" in type(la).__name__]
    assert [la.filters for la in convolutions] == [4, 4, 6, 6, 9, 9]
    assert {la.kernel_size for la in convolutions} == {(5, 5)}
    assert cost_of_cnn(params, 16).parameters == model.count_params()


def test_cost_of_cnn_counts_weights_and_arithmetic_by_hand() -> None:
    cost = cost_of_cnn(CnnParams(n_blocks=1, filters=8, dense_units=0), 4)
    assert cost.parameters == (27 + 1) * 8 + (2 * 2 * 8 + 1)
    assert cost.multiply_adds == 27 * 8 * 16 + 2 * 2 * 8
    assert cost.activations == 4 * 4 * 8 + 1
    assert cost.training_operations(10) == 10 * 6 * cost.multiply_adds


@pytest.mark.parametrize("path", sorted(Path("studies").glob("*.toml")), ids=lambda p: p.stem)
def test_20_sampled_points_of_every_shipped_study_build(path: Path) -> None:
    study = studies.load(str(path))
    chance = UniformDraw(random.Random(0))
    points = [study.trial_params(study.space.sample(chance)) for _ in range(20)]
    points += [study.trial_params(study.space.complete(r)) for r in study.recipes.values()]
    deep = [params for params in points if isinstance(params, ResNet50Params)]
    for params in points:
        if isinstance(params, CnnParams):
            body = build_cnn(params, params.image_size)
            assert body.output_shape == (None, 1)
            assert body.count_params() == cost_of_cnn(params, params.image_size).parameters
    for params in deep[:1]:  # it takes seconds
        backbone = build_backbone(params, "none")
        head = build_head(params, backbone.resnet.output_shape[-1], 0)
        counted = backbone.resnet.count_params() + head.count_params()
        assert counted == cost_of_resnet50(params, ()).parameters


def test_build_cnn_makes_the_published_network() -> None:
    # conv 32/64/128, dense 128, one output, at 64 px: the weights counted by hand.
    model = build_cnn(CnnParams(n_blocks=3, filters=32, dense_units=128), 64)
    convolutions = (27 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 128
    assert model.count_params() == convolutions + (8 * 8 * 128 + 1) * 128 + 128 + 1


@pytest.mark.parametrize("n_blocks", [1, 2])
def test_cost_of_cnn_counts_the_whitening_stem(n_blocks: int) -> None:
    params = CnnParams(n_blocks=n_blocks, filters=8, stem="whitening", dense_units=0)
    cost, without = (
        cost_of_cnn(p, 8) for p in (params, params.model_copy(update={"stem": "none"}))
    )
    assert cost.parameters == build_cnn(params, 8).count_params()
    # 24 filters of 2 x 2 x 3, run only; the first block then reads 24 channels instead of 3.
    assert cost.forward_only == 24 * 12 * 8 * 8
    assert cost.multiply_adds - without.multiply_adds == (24 - 3) * 9 * 8 * 8 * 8


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_build_cnn_begins_residual_branches_at_zero_with_he(normalization: str) -> None:
    common = {"n_blocks": 1, "convolutions": 3, "filters": 8, "block": "residual",
              "head": "average", "dense_units": 0, "normalization": normalization}  # fmt: skip
    model = build_cnn(CnnParams.model_validate({**common, "initialization": "he"}), 8)
    add = next(layer for layer in model.layers if type(layer).__name__ == "Add")
    shortcut, branch = (
        as_numpy(keras.Model(model.input, tensor)(pixels(4, 8)))
        for tensor in (add.input[0], add.input[1])
    )
    assert np.abs(shortcut).max() > 0
    assert np.abs(branch).max() == 0
    first = next(layer for layer in model.layers if type(layer).__name__ == "Conv2D")
    assert np.std(as_numpy(first.kernel)) == pytest.approx((2 / 27) ** 0.5, rel=0.25)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's operation")
@pytest.mark.parametrize("side", [1, 4])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fused_batch_normalization_is_that_of_keras(policy: str, side: int) -> None:
    import tensorflow as tf

    chance = np.random.default_rng(0)
    x, w = (tf.constant(chance.normal(3, 2, (6, side, side, 5)), tf.float32) for _ in range(2))
    found = []
    for kind in (keras.layers.BatchNormalization, FusedBatchNormalization):
        layer = kind(momentum=0.9, dtype=policy)
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 2, 5))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cast(layer(x, training=True), tf.float32)
            loss = tf.reduce_sum(y * w)
        gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
        inference = layer(x, training=False)
        found.append([y, *layer.get_weights(), *gradients, inference])
    tolerance = 1e-3 if policy == "float32" else 0.05
    for keras_own, ours in zip(*found, strict=True):
        own = as_numpy(keras_own).astype(np.float32)
        close = np.abs(own - as_numpy(ours).astype(np.float32)) <= tolerance * (1 + np.abs(own))
        assert close.all()


def test_build_cnn_caps_the_filters() -> None:
    model = build_cnn(CnnParams(n_blocks=3, filters=512, dense_units=0), 8)
    assert [la.filters for la in model.layers if type(la).__name__ == "Conv2D"] == [512] * 3


def test_build_cnn_refuses_more_blocks_than_the_image_can_halve() -> None:
    with pytest.raises(ValueError, match="image_size 16 is below"):
        build_cnn(CnnParams(n_blocks=5), 16)


def augmented(kinds: str, strength: float, x: np.ndarray, seed: int = 1) -> np.ndarray:
    return as_numpy(Augment(strength, kinds.split("+"), seed)(x.astype(np.float32), training=True))


def test_augmentation_of_strength_0_is_nothing() -> None:
    body = build_cnn(CnnParams(n_blocks=1, filters=4), 16)
    model = training_model(body, 16, CnnParams(augmentation=0.0), 1)
    assert [type(layer).__name__ for layer in model.layers] == [
        "InputLayer",
        "Augment",
        "Functional",
    ]
    x = pixels(3, 16)
    assert (as_numpy(Augment(0.0, [], 1)(x, training=True)) == x).all()


def test_augmentation_changes_training_and_leaves_inference_alone() -> None:
    body = build_cnn(CnnParams(n_blocks=1, filters=4, dense_units=0, dropout=0), 16)
    x = pixels(8, 16)
    plain = as_numpy(training_model(body, 16, CnnParams(), 1)(x, training=True))
    model = training_model(body, 16, CnnParams(augmentation=1.0), 1)
    assert np.allclose(as_numpy(model(x, training=False)), plain, atol=1e-5)
    assert not np.allclose(as_numpy(model(x, training=True)), plain, atol=1e-2)


@pytest.mark.parametrize("kind", sorted(set(AUGMENTATIONS) - {"mixup", "alternating_flip"}))
def test_augmentation_differs_between_photos_and_calls_and_stays_a_photo(kind: str) -> None:
    x = np.repeat(pixels(1, 16), 12, axis=0).astype(np.float32)
    layer = Augment(1.0, [kind], 1)
    first, second = (as_numpy(layer(x, training=True)) for _ in range(2))
    assert len(np.unique(first.reshape(12, -1), axis=0)) >= (2 if kind == "flip" else 11)
    assert not np.allclose(first, second)
    assert min(first.min(), second.min()) >= -1e-3
    assert max(first.max(), second.max()) <= 255.001
    assert np.allclose(as_numpy(Augment(1.0, [kind], 1)(x, training=True)), first)


def test_augmentation_flip_mirrors_half_of_the_photos_exactly() -> None:
    x = pixels(400, 8)
    got = augmented("flip", 0.1, x)
    same = np.abs(got - x).max(axis=(1, 2, 3)) < 1e-2
    mirrored = np.abs(got - x[:, :, ::-1]).max(axis=(1, 2, 3)) < 1e-2
    assert (same ^ mirrored).all()
    assert 160 < mirrored.sum() < 240


def test_augmentation_alternating_flip_shows_both_sides_of_each_photo_in_turn() -> None:
    x = pixels(64, 8).astype(np.float32)
    augment = Augment(0.5, ["alternating_flip"], seed=1)
    seen = []
    for epoch in (0, 1, 2):
        augment.set_epoch(epoch)
        seen.append(as_numpy(augment(x, training=True)))
    mirrored = [np.abs(y - x[:, :, ::-1]).max(axis=(1, 2, 3)) < 1e-3 for y in seen]
    plain = [np.abs(y - x).max(axis=(1, 2, 3)) < 1e-3 for y in seen]
    assert all((m ^ p).all() for m, p in zip(mirrored, plain, strict=True))
    assert (mirrored[0] == plain[1]).all()
    assert (mirrored[0] == mirrored[2]).all()
    assert 16 < mirrored[0].sum() < 48


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_augmentation_moves_as_far_as_its_strength_says(strength: float) -> None:
    # Where the bright spot of a dark photo ends tells what was done to it.
    side, n = 65, 500
    spot = np.zeros((n, side, side, 3), np.uint8)
    spot[:, 32, 56] = 255  # 24 to the right of the centre

    def moved(kind: str) -> np.ndarray:
        got = augmented(kind, strength, spot)[..., 0]
        rows, columns = np.mgrid[:side, :side] - 32.0
        total = got.sum(axis=(1, 2))
        return np.stack([(got * columns).sum((1, 2)), (got * rows).sum((1, 2))]) / total

    columns, rows = moved("rotation")
    angles = np.degrees(np.arctan2(rows, columns))
    assert np.abs(angles).max() == pytest.approx(36 * strength, rel=0.05)
    assert np.abs(angles.mean()) < 2
    columns, _ = moved("zoom")
    assert columns.max() / 24 == pytest.approx(1 + 0.2 * strength, rel=0.03)
    assert columns.min() / 24 == pytest.approx(1 - 0.2 * strength, rel=0.03)
    shifted = pixels(1, side).repeat(n, axis=0) * 0
    shifted[:, 32, 32] = 255
    got = augmented("translation", strength, shifted)[..., 0]
    lit = got.sum((1, 2)) > 128
    rows, columns = np.mgrid[:side, :side] - 32.0
    along = (got * columns).sum((1, 2))[lit] / got.sum((1, 2))[lit]
    assert np.abs(along).max() == pytest.approx(0.2 * strength * side, rel=0.05)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_augmentation_recolours_as_far_as_its_strength_says(strength: float) -> None:
    grey = np.full((500, 4, 4, 3), 128, np.uint8)
    brighter = augmented("brightness", strength, grey)[:, 0, 0, 0] - 128
    assert np.abs(brighter).max() == pytest.approx(0.3 * 255 * strength, rel=0.03)
    halves = grey.copy()
    halves[:, :2], halves[:, 2:] = 88, 168  # 40 below and above their mean
    contrast = augmented("contrast", strength, halves)
    spread = (contrast[:, 3] - contrast[:, 0])[:, 0, 0] / 80
    assert spread.max() == pytest.approx(1 + 0.3 * strength, rel=0.02)
    assert spread.min() == pytest.approx(1 - 0.3 * strength, rel=0.02)
    coloured = grey.copy()
    coloured[..., 0] = 148
    saturated = augmented("saturation", strength, coloured)[:, 0, 0]
    factor = (saturated[:, 0] - saturated[:, 1]) / 20
    assert factor.max() == pytest.approx(1 + 0.5 * strength, rel=0.02)
    assert factor.min() == pytest.approx(1 - 0.5 * strength, rel=0.03)


def test_augmentation_erases_rectangles_up_to_its_strength() -> None:
    white = np.full((300, 20, 20, 3), 255, np.uint8)
    holes = augmented("erasing", 1.0, white)[..., 0] < 200
    widths = holes.any(axis=1).sum(axis=1)
    assert widths.max() == pytest.approx(8, abs=1)
    assert (holes.sum((1, 2)) == widths * holes.any(axis=2).sum(axis=1)).all()


def test_mixup_blends_neighbours_in_training_alone() -> None:
    x = pixels(3, 8).astype(np.float32)
    share = np.array([[1.0], [0.5], [0.75]], np.float32)
    layer = Mixup()
    got = as_numpy(layer([x, share], training=True))
    assert np.allclose(got[0], x[0])
    assert np.allclose(got[1], (x[1] + x[0]) / 2, atol=1e-3)
    assert np.allclose(got[2], 0.75 * x[2] + 0.25 * x[1], atol=1e-3)
    assert np.allclose(as_numpy(layer([x, share], training=False)), x)


@pytest.fixture(scope="module")
def body() -> keras.Model:
    keras.utils.set_random_seed(0)
    params = CnnParams(n_blocks=2, filters=8, normalization="batch", augmentation=0.5)
    return build_cnn(params, 24)


def test_export_equals_training_from_packed_pixels_on(body: keras.Model) -> None:
    x = pixels(16, 24)
    trained = sigmoid(
        as_numpy(training_model(body, 24, CnnParams(augmentation=0.5), 1)(x, training=False))
    )
    assert np.abs(as_numpy(exported_model(body, 24)(x)) - trained).max() < 1e-3


@pytest.mark.parametrize(("width", "height"), [(24, 24), (200, 200), (61, 333), (10, 7), (25, 24)])
def test_export_resizes_as_packing_does(body: keras.Model, width: int, height: int) -> None:
    exported = exported_model(body, 24)
    kinds = ("Rescaling", "Resizing")
    resizing = keras.Sequential([la for la in exported.layers if type(la).__name__ in kinds])
    raw = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    packed = np.asarray(resize(Image.fromarray(raw), 24)).astype(np.float32)
    inside = as_numpy(resizing(raw[None]))[0]
    assert np.abs(inside - packed).max() < 1.5  # whole levels, rounded twice


def test_export_takes_any_size_and_gives_probabilities(body: keras.Model) -> None:
    exported = exported_model(body, 24)
    for shape in ((1, 24, 24, 3), (3, 50, 120, 3)):
        p = exported.predict(np.full(shape, 200, np.uint8), verbose=0)
        assert p.shape == (shape[0], 1)
        assert ((p >= 0) & (p <= 1)).all()


def test_export_called_directly_is_in_inference_mode(body: keras.Model) -> None:
    exported, x = exported_model(body, 24), pixels(8, 24)
    predicted = exported.predict(x, verbose=0)
    assert np.allclose(as_numpy(exported(x)), predicted, atol=1e-6)
    assert np.allclose(exported.predict(x, verbose=0), predicted, atol=1e-6)


def test_export_holds_stock_layers_and_no_optimizer(body: keras.Model) -> None:
    exported = exported_model(body, 24)
    layers = [*exported.layers, *body.layers]
    assert {type(layer).__module__.split(".")[0] for layer in layers} == {"keras"}
    assert "Lambda" not in {type(layer).__name__ for layer in layers}
    assert not exported.compiled


def test_export_agrees_on_real_photos(body: keras.Model, real_photos: Path) -> None:
    exported = exported_model(body, 24)
    with zipfile.ZipFile(real_photos) as file:
        contents = [file.read(name) for name in file.namelist()[::250]]

    raw = [np.asarray(Image.open(io.BytesIO(c)).convert("RGB")) for c in contents]
    packed = np.stack([decode(c, 24) for c in contents])
    from_raw = np.concatenate([as_numpy(exported(r[None])) for r in raw])
    from_packed = as_numpy(exported(packed))
    assert np.abs(from_raw - from_packed).max() < 0.01


@pytest.fixture(scope="module")
def several() -> list[keras.Model]:
    """Three exported networks of one recipe, with mirrored photos, and BatchNorm that has moved."""
    facts = {
        "n_blocks": 2,
        "filters": 4,
        "normalization": "batch",
        "test_time_augmentation": "flip",
    }
    made = []
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        network = build_cnn(CnnParams.model_validate({**facts, "dropout": 0.5}), 16)
        network(pixels(32, 16, seed), training=True)
        made.append(exported_model(network, 16))
    return made


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_calibrated_model_is_the_mean_of_what_its_networks_say(
    several: list[keras.Model], n: int, temperature: float, tmp_path: Path
) -> None:
    x, networks = pixels(40, 16), several[:n]
    logits = logits_of(networks, x)
    assert logits.shape == (40, n)
    alone = [as_numpy(network(x)).ravel() for network in networks]
    assert np.abs(sigmoid(logits).T - alone).max() < 1e-5
    model = calibrated_model([body_of(each) for each in networks], 16, temperature)
    expected = sigmoid(logits / temperature).mean(axis=1)
    assert np.abs(answers_to(model, x) - expected).max() < 1e-5
    model.save(tmp_path / "model.keras")
    read = load_exported(tmp_path / "model.keras", 16)
    assert np.abs(answers_to(read, x) - expected).max() < 1e-6
    # As packing and other sizes take it.
    assert answers_to(read, pixels(2, 30)).shape == (2,)


def test_averaged_weights_are_those_of_one_network(several: list[keras.Model]) -> None:
    copies = [keras.models.clone_model(model) for model in several]
    for copy, model in zip(copies, several, strict=True):
        copy.set_weights(model.get_weights())
    mean = [np.mean(each, axis=0) for each in zip(*(c.get_weights() for c in copies), strict=True)]
    made = averaged_weights(copies)
    assert len(made.get_weights()) == len(several[0].get_weights())
    for weight, expected in zip(made.get_weights(), mean, strict=True):
        assert np.allclose(weight, expected, atol=1e-6)
    x = pixels(4, 16)
    assert np.abs(answers_to(made, x) - answers_to(several[0], x)).max() > 1e-4
