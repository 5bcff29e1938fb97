"""Networks, augmentation and the exported model."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from catdog_search.config import CnnParams
from catdog_search.data.decode import decode, resize
from catdog_search.models.augmentation import augmentation_layers
from catdog_search.models.cnn import build_cnn
from catdog_search.models.export import exported_model, training_model


def pixels(n: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def as_numpy(tensor: object) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(
    ("n_blocks", "normalization", "dense_units", "activation"),
    [
        (n, norm, dense, act)
        for (n, norm, dense), act in zip(
            itertools.product((1, 3), ("none", "batch"), (0, 16)),
            itertools.cycle(("relu", "leaky_relu", "elu", "gelu", "silu")),
            strict=False,
        )
    ],
)
def test_build_cnn_gives_a_logit_a_photo(
    n_blocks: int, normalization: str, dense_units: int, activation: str
) -> None:
    params = CnnParams.model_validate(
        {
            "n_blocks": n_blocks,
            "filters": 4,
            "normalization": normalization,
            "dense_units": dense_units,
            "activation": activation,
        }
    )
    model = build_cnn(params, 16)
    logits = model(pixels(5, 16))
    assert tuple(logits.shape) == (5, 1)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == n_blocks
    assert kinds.count("BatchNormalization") == (n_blocks if normalization == "batch" else 0)
    assert kinds.count("Dense") == 1 + bool(dense_units)


def test_build_cnn_makes_the_published_network() -> None:
    # conv 32/64/128, dense 128, one output, at 64 px: the weights counted by hand.
    model = build_cnn(CnnParams(n_blocks=3, filters=32, dense_units=128), 64)
    convolutions = (27 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 128
    assert model.count_params() == convolutions + (8 * 8 * 128 + 1) * 128 + 128 + 1


def test_build_cnn_caps_the_filters() -> None:
    model = build_cnn(CnnParams(n_blocks=3, filters=512, dense_units=0), 8)
    assert [la.filters for la in model.layers if type(la).__name__ == "Conv2D"] == [512] * 3


def test_build_cnn_refuses_more_blocks_than_the_image_can_halve() -> None:
    with pytest.raises(ValueError, match="image_size 16 is below"):
        build_cnn(CnnParams(n_blocks=5), 16)


def test_augmentation_of_strength_0_is_nothing() -> None:
    assert augmentation_layers(0, seed=1) == []


def test_augmentation_changes_training_and_leaves_inference_alone() -> None:
    body = build_cnn(CnnParams(n_blocks=1, filters=4, dense_units=0, dropout=0), 16)
    x = pixels(8, 16)
    plain = as_numpy(training_model(body, 0.0, 1)(x, training=True))
    augmented = training_model(body, 1.0, 1)
    assert np.allclose(as_numpy(augmented(x, training=False)), plain, atol=1e-5)
    assert not np.allclose(as_numpy(augmented(x, training=True)), plain, atol=1e-2)


def test_augmentation_differs_between_photos_and_calls() -> None:
    x = np.repeat(pixels(1, 16), 4, axis=0).astype(np.float32)
    for layer in augmentation_layers(1.0, seed=1):
        changed = as_numpy(layer(x, training=True))
        if type(layer).__name__ != "RandomFlip":
            assert not np.allclose(changed[0], changed[1]), type(layer).__name__
        x = changed
    assert x.min() >= 0
    assert x.max() <= 255


@pytest.fixture(scope="module")
def body() -> keras.Model:
    keras.utils.set_random_seed(0)
    params = CnnParams(n_blocks=2, filters=8, normalization="batch", augmentation=0.5)
    return build_cnn(params, 24)


def test_export_equals_training_from_packed_pixels_on(body: keras.Model) -> None:
    x = pixels(16, 24)
    trained = sigmoid(as_numpy(training_model(body, 0.5, 1)(x, training=False)))
    assert np.abs(as_numpy(exported_model(body)(x)) - trained).max() < 1e-3


@pytest.mark.parametrize(("width", "height"), [(24, 24), (200, 200), (61, 333), (10, 7), (25, 24)])
def test_export_resizes_as_packing_does(body: keras.Model, width: int, height: int) -> None:
    exported = exported_model(body)
    kinds = ("Rescaling", "Resizing")
    resizing = keras.Sequential([la for la in exported.layers if type(la).__name__ in kinds])
    raw = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    packed = np.asarray(resize(Image.fromarray(raw), 24)).astype(np.float32)
    inside = as_numpy(resizing(raw[None]))[0]
    assert np.abs(inside - packed).max() < 1.5  # whole levels, rounded twice


def test_export_takes_any_size_and_gives_probabilities(body: keras.Model) -> None:
    exported = exported_model(body)
    for shape in ((1, 24, 24, 3), (3, 50, 120, 3)):
        p = exported.predict(np.full(shape, 200, np.uint8), verbose=0)
        assert p.shape == (shape[0], 1)
        assert ((p >= 0) & (p <= 1)).all()


def test_export_called_directly_is_in_inference_mode(body: keras.Model) -> None:
    exported, x = exported_model(body), pixels(8, 24)
    predicted = exported.predict(x, verbose=0)
    assert np.allclose(as_numpy(exported(x)), predicted, atol=1e-6)
    assert np.allclose(exported.predict(x, verbose=0), predicted, atol=1e-6)


def test_export_holds_stock_layers_and_no_optimizer(body: keras.Model) -> None:
    exported = exported_model(body)
    layers = [*exported.layers, *body.layers]
    assert {type(layer).__module__.split(".")[0] for layer in layers} == {"keras"}
    assert "Lambda" not in {type(layer).__name__ for layer in layers}
    assert not exported.compiled


def test_export_agrees_on_real_photos(body: keras.Model, real_photos: Path) -> None:
    exported = exported_model(body)
    with zipfile.ZipFile(real_photos) as file:
        contents = [file.read(name) for name in file.namelist()[::250]]

    raw = [np.asarray(Image.open(io.BytesIO(c)).convert("RGB")) for c in contents]
    packed = np.stack([decode(c, 24) for c in contents])
    from_raw = np.concatenate([as_numpy(exported(r[None])) for r in raw])
    from_packed = as_numpy(exported(packed))
    assert np.abs(from_raw - from_packed).max() < 0.01
