"""The score of how unlike train a photo is: built for every network, saved, read back strictly."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from catdog_search.data import synthetic
from catdog_search.evaluation.negatives import negatives
from catdog_search.evaluation.neither import found_of, threshold_at
from catdog_search.families.cnn import CnnParams
from catdog_search.families.resnet50 import ResNet50Params
from catdog_search.models import neither
from catdog_search.models.cnn import build_cnn
from catdog_search.models.export import exported_model
from catdog_search.models.loading import (
    ForeignModelError,
    load_exported,
    load_neither,
    photos_at_once,
)
from catdog_search.models.neither import neither_model, statistics_model, statistics_of
from catdog_search.models.resnet50 import build_backbone, build_head, centred

SIDE = 32


def drawn(n: int, first: int = 0, side: int = SIDE) -> np.ndarray:
    images = [synthetic.draw(i % 2, i) for i in range(first, first + n)]
    return np.stack([np.asarray(image.resize((side, side))) for image in images])


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return drawn(120)


def cnn(seed: int = 0, **params: Any) -> keras.Model:
    keras.utils.set_random_seed(seed)
    shape = {"n_blocks": 2, "filters": 4, "dense_units": 6, "image_size": SIDE, **params}
    return build_cnn(CnnParams.model_validate(shape), SIDE)


def mirrored() -> keras.Model:
    body = cnn()
    photo = keras.Input((SIDE, SIDE, 3))
    both = [body(photo), body(keras.ops.flip(photo, axis=2))]
    return keras.Model(photo, layers.Average()(both), name="mirrored")


def averaged() -> keras.Model:
    """Of networks of several seeds."""
    photo = keras.Input((SIDE, SIDE, 3))
    bodies = [cnn(seed) for seed in range(3)]
    for n, body in enumerate(bodies):
        body.name = f"cnn_{n}"
    return keras.Model(photo, layers.Average()([body(photo) for body in bodies]), name="seeds")


def resnet50() -> keras.Model:
    """Its first stages: the others are like them, and large."""
    keras.utils.set_random_seed(0)
    params = ResNet50Params(image_size=SIDE, backbone_end="conv4_block6_out")
    resnet = build_backbone(params, "none").resnet
    until = resnet.get_layer("conv3_block1_out").output
    resnet = keras.Model(resnet.input, until, name="resnet50")
    photo = keras.Input((SIDE, SIDE, 3))
    pooled = layers.GlobalAveragePooling2D()(resnet(centred(photo)))
    head = build_head(params, resnet.output_shape[-1], 0)
    return keras.Model(photo, head(pooled), name="resnet50_classifier")


def pooled() -> keras.Model:
    """A family with no map but the photo."""
    photo = keras.Input((SIDE, SIDE, 3))
    x = layers.Flatten()(layers.AveragePooling2D(4)(photo))
    return keras.Model(photo, layers.Dense(1)(x), name="pooled")


# What each depth has: channels before each pooling, and at the end.
NETWORKS: dict[str, tuple[Callable[[], keras.Model], list[int]]] = {
    "plain": (cnn, [4, 8, 8]),
    "residual": (
        lambda: cnn(block="residual", convolutions=2, normalization="batch", head="average"),
        [4, 8, 8],
    ),
    "separable": (lambda: cnn(block="separable", head="max", dense_units=0), [4, 8, 8]),
    "whitening": (lambda: cnn(stem="whitening", activation="elu"), [4, 8, 8]),
    "progressive": (lambda: cnn(progressive=0.5, head="average", spatial_dropout=0.2), [4, 8, 8]),
    "one block": (lambda: cnn(n_blocks=1, filter_growth=1.5), [4, 4]),
    "mirrored": (mirrored, [4, 8, 8]),
    "averaged": (averaged, [4, 8, 8]),
    "resnet50": (resnet50, [3, 64, 256, 512]),
    "pooled": (pooled, [3, 3]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_score_of_every_network_is_read_back_as_it_was(
    name: str, train: np.ndarray, tmp_path: Path
) -> None:
    build, channels = NETWORKS[name]
    model = exported_model(build(), SIDE)
    shapes = statistics_model(model).output_shape
    assert [shape[-1] for shape in shapes] == [2 * n for n in channels]
    score = neither_model(model, train)
    photos = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    said = score.predict(photos, verbose=0)
    assert said.shape == (3, 1)
    assert said.dtype == np.float32
    assert np.isfinite(said).all()
    # Called as they are, some layers would take it for training.
    assert np.allclose(keras.ops.convert_to_numpy(score(photos)), said, rtol=1e-5)
    score.save(tmp_path / "neither.keras")
    if name == "pooled":  # no family of ours, so the strict reader doesn't know its layers
        return
    loaded = load_neither(tmp_path / "neither.keras", SIDE)
    assert np.allclose(loaded.predict(photos, verbose=0), said, rtol=1e-5)
    assert photos_at_once(loaded, SIDE, most=7) == 7


@dataclass(frozen=True)
class Fitted:
    model: keras.Model
    score: keras.Model
    path: Path


@pytest.fixture(scope="module")
def fitted(train: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A score of a network that has learned nothing yet, beside its model."""
    folder = tmp_path_factory.mktemp("models")
    model = exported_model(cnn(n_blocks=3), SIDE)
    score = neither_model(model, train)
    model.save(folder / "model.keras")
    score.save(folder / "neither.keras")
    return Fitted(model, score, folder)


def scores(model: keras.Model, photos: np.ndarray) -> np.ndarray:
    return np.ravel(model.predict(photos, verbose=0))


def test_score_of_train_is_1_on_average(fitted: Fitted, train: np.ndarray) -> None:
    assert scores(fitted.score, train).mean() == pytest.approx(1, abs=1e-3)


def test_score_is_the_same_made_again(fitted: Fitted, train: np.ndarray) -> None:
    again = scores(neither_model(fitted.model, train), train)
    assert np.allclose(again, scores(fitted.score, train), rtol=1e-5)


def test_score_of_a_photo_is_its_own(fitted: Fitted, train: np.ndarray) -> None:
    alone = scores(fitted.score, train[:1])
    assert np.allclose(alone, scores(fitted.score, train)[:1], rtol=1e-4)


@pytest.mark.parametrize("kind", ["blank", "text"])
def test_score_tells_negatives_from_photos(fitted: Fitted, kind: str) -> None:
    photos = scores(fitted.score, drawn(150, first=1000))
    others = scores(fitted.score, negatives(kind, 60, 48))
    found = found_of(kind, photos, others, threshold_at(photos))
    assert found.auc > 0.85  # the network has learned nothing, and has few channels


@pytest.mark.parametrize("photo", [0, 255])
def test_score_of_train_of_one_photo_is_a_number(fitted: Fitted, photo: int) -> None:
    score = neither_model(fitted.model, np.full((4, SIDE, SIDE, 3), photo, np.uint8))
    assert np.isfinite(scores(score, drawn(3))).all()


def test_statistics_are_means_and_deviations(train: np.ndarray) -> None:
    model = exported_model(pooled(), SIDE)
    photo, _ = statistics_of(statistics_model(model), train[:70])
    assert np.allclose(photo[:, :3], train[:70].mean(axis=(1, 2)), atol=1e-2)
    assert np.allclose(photo[:, 3:], train[:70].std(axis=(1, 2)), atol=1e-2)


def test_model_and_score_are_not_taken_for_each_other(fitted: Fitted) -> None:
    with pytest.raises(ForeignModelError, match="in no model of ours"):
        load_exported(fitted.path / "neither.keras", SIDE)
    with pytest.raises(ForeignModelError, match="in no model of ours"):
        load_neither(fitted.path / "model.keras", SIDE)


def test_model_is_as_it_was_after_its_score_was_made(fitted: Fitted, train: np.ndarray) -> None:
    loaded = load_exported(fitted.path / "model.keras", SIDE)
    assert np.allclose(scores(loaded, train), scores(fitted.model, train), rtol=1e-5)


def test_score_is_made_from_some_photos_of_many(
    fitted: Fitted, train: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def look(statistics: keras.Model, photos: np.ndarray) -> list[np.ndarray]:
        seen.append(photos)
        return statistics_of(statistics, photos)

    monkeypatch.setattr(neither, "_MOST_PHOTOS", 30)
    monkeypatch.setattr(neither, "statistics_of", look)
    neither_model(fitted.model, train)
    assert np.array_equal(seen[0], train[::4])  # 120 of them


def test_score_of_another_side_is_refused(fitted: Fitted) -> None:
    with pytest.raises(ForeignModelError, match="other than 64 pixels"):
        load_neither(fitted.path / "neither.keras", 64)


def set_in(config: Any, name: str, key: str, value: Any) -> None:
    """Changes every layer of a class, at any depth."""
    for each in config.values() if isinstance(config, dict) else config:
        if isinstance(each, dict | list):
            set_in(each, name, key, value)
    if isinstance(config, dict) and config.get("class_name") == name:
        (config if key in config else config["config"])[key] = value


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("Dot", "class_name", "Lambda"),
        ("Std", "module", "os"),
        ("Std", "class_name", "FromFile"),
        ("Dense", "units", 4000),
        ("Activation", "activation", "catdog_search>Augment"),
        ("BatchNormalization", "registered_name", "catdog_search>FusedBatchNormalization"),
    ],
)
def test_changed_score_is_refused(
    name: str, key: str, value: Any, fitted: Fitted, tmp_path: Path
) -> None:
    with zipfile.ZipFile(fitted.path / "neither.keras") as file:
        entries = {entry: file.read(entry) for entry in file.namelist()}
    config = json.loads(entries["config.json"])
    set_in(config, name, key, value)
    changed = json.dumps(config).encode()
    assert changed != entries["config.json"]
    with zipfile.ZipFile(tmp_path / "neither.keras", "w") as file:
        for entry, content in {**entries, "config.json": changed}.items():
            file.writestr(entry, content)
    with pytest.raises(ForeignModelError):
        load_neither(tmp_path / "neither.keras", SIDE)


def test_score_is_loaded_without_this_package(
    fitted: Fitted, train: np.ndarray, in_fresh_python: Callable[[str], str], tmp_path: Path
) -> None:
    np.save(tmp_path / "photos.npy", train[:5])
    code = (
        "import sys; sys.modules['catdog_search'] = None\n"
        "import keras, numpy as np\n"
        f"model = keras.saving.load_model({str(fitted.path / 'neither.keras')!r})\n"
        f"said = model.predict(np.load({str(tmp_path / 'photos.npy')!r}), verbose=0)\n"
        "print(*said.ravel().tolist())"
    )
    elsewhere = np.array(in_fresh_python(code).split(), float)
    assert np.allclose(elsewhere, scores(fitted.score, train[:5]), rtol=1e-4)
