"""Exported models that somebody has changed: nothing that the file names happens."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from catdog_search.errors import StateError
from catdog_search.families.cnn import CnnParams
from catdog_search.models import loading
from catdog_search.models.cnn import build_cnn
from catdog_search.models.export import exported_model
from catdog_search.models.loading import ForeignModelError, load_exported, photos_at_once
from catdog_search.retry import Retry
from catdog_search.tracking import looked_at
from catdog_search.tracking.looked_at import load_model
from catdog_search.tracking.models import Pair, log_model
from catdog_search.tracking.registry import register_champion
from catdog_search.tracking.store import Store

SIDE = 16
Config = dict[str, Any]


def exported(side: int = SIDE, **params: Any) -> keras.Model:
    shape = {"n_blocks": 1, "filters": 4, "dense_units": 6, "image_size": side, **params}
    return exported_model(build_cnn(CnnParams(**shape), side), side)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    exported().save(path)
    return path


def parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def packed(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def layers(config: Config, name: str) -> list[Config]:
    """All of a class, at any depth."""
    found = [config] if config.get("class_name") == name else []
    for value in config.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                found += layers(each, name)
    return found


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"separable": True, "normalization": "batch", "head": "average"},
        {"residual": True, "head": "max", "initialization": "he", "normalization": "batch"},
        {"progressive": 0.5, "head": "average", "spatial_dropout": 0.1, "dense_units": 0},
    ],
)
def test_what_we_export_is_loaded_as_it_was(params: dict[str, Any], tmp_path: Path) -> None:
    known = CnnParams.model_fields
    model = exported(**{key: value for key, value in params.items() if key in known})
    model.save(tmp_path / "model.keras")
    loaded = load_exported(tmp_path / "model.keras", SIDE)
    photos = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    assert np.array_equal(loaded.predict(photos, verbose=0), model.predict(photos, verbose=0))


def lambda_layer() -> Config:
    layer = keras.layers.Lambda(lambda x: x, name="evil")
    return keras.saving.serialize_keras_object(layer)  # type: ignore[no-any-return]


def replaced(**keys: Any) -> Callable[[Config], None]:
    """Changes a convolution into something else."""

    def change(config: Config) -> None:
        layers(config, "Conv2D")[0].update(keys)

    return change


def setting(name: str, key: str, value: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        layers(config, name)[0]["config"][key] = value

    return change


def nested(config: Config) -> None:
    config["config"]["deep"] = json.loads("[" * 500 + "]" * 500)
    layers(config, "Dense")[0]["config"]["units"] = "many"


def without_shape(config: Config) -> None:
    del layers(config, "Dense")[0]["build_config"]


def lying_shape(config: Config) -> None:
    layers(config, "Dense")[0]["build_config"]["input_shape"] = [None, 10**10]


TAMPERED: dict[str, Callable[[Config], None]] = {
    "lambda": lambda config: layers(config, "Conv2D")[0].update(lambda_layer()),
    "a function of os": replaced(module="os", class_name="function", config="system"),
    "a class of subprocess": replaced(
        module="subprocess", class_name="Popen", config={"args": "id"}
    ),
    "a class of keras that reads": replaced(
        class_name="StringLookup", config={"vocabulary": "/etc/passwd"}
    ),
    "another that reads": replaced(
        class_name="TextVectorization", config={"vocabulary": "/etc/passwd"}
    ),
    "a saved model": replaced(class_name="TFSMLayer", config={"filepath": "/tmp/graph"}),
    "a module of torch": replaced(class_name="TorchModuleWrapper", config={"module": "x"}),
    "a utility": replaced(module="keras.utils", class_name="get_file", config={"origin": "x"}),
    "a registered name": replaced(registered_name="catdog_search>Augment"),
    "no module": replaced(module=None),
    "a list for a module": replaced(module=["keras.layers"]),
    "a lambda for an activation": setting(
        "Conv2D", "activation", {"class_name": "__lambda__", "config": {"value": ["", None, None]}}
    ),
    "an unknown activation": setting("Activation", "activation", "catdog_search>Augment"),
    "a layer of elsewhere for an activation": setting(
        "Conv2D", "activation", {"module": "os", "class_name": "ReLU", "config": {}}
    ),
    "a layer with weights for an activation": setting(
        "Conv2D", "activation", {"module": "keras.layers", "class_name": "PReLU", "config": {}}
    ),
    "a constant of text": setting(
        "Conv2D", "x", {"class_name": "__numpy__", "config": {"value": ["a"], "dtype": "float32"}}
    ),
    "a constant of objects": setting(
        "Conv2D", "x", {"class_name": "__tensor__", "config": {"value": [1], "dtype": "object"}}
    ),
    "an initializer by name": setting("Conv2D", "kernel_initializer", "catdog_search>Augment"),
    "a billion units": setting("Dense", "units", 10**9),
    "more weights than there are": setting("Dense", "units", 4000),
    "no shape": without_shape,
    "a shape of billions": lying_shape,
    "lora": setting("Dense", "lora_rank", 4),
    "filters": setting("Conv2D", "filters", 2**40),
    "a kernel": setting("Conv2D", "kernel_size", [3000, 3000]),
    "words for numbers": setting("Conv2D", "filters", "four"),
    "padding": replaced(class_name="ZeroPadding2D", config={"padding": [[10**6, 0], [0, 0]]}),
    "resizing": setting("Resizing", "height", 100_000),
    "resizing to another size": setting("Resizing", "width", SIDE * 2),
    "channels first": setting("Conv2D", "data_format", "channels_first"),
    "nonsense": nested,
    "a sequential": lambda config: config.update(class_name="Sequential"),
    "no config": lambda config: config.pop("config"),
}


@pytest.fixture
def no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("Keras reads it"))


@pytest.mark.usefixtures("no_keras")
@pytest.mark.parametrize("name", TAMPERED)
def test_config_that_is_not_ours_is_refused_before_keras_reads_it(
    name: str, original: Path, tmp_path: Path
) -> None:
    entries = parts(original)
    config = json.loads(entries["config.json"])
    TAMPERED[name](config)
    changed = {**entries, "config.json": json.dumps(config).encode()}
    with pytest.raises(ForeignModelError):
        load_exported(packed(tmp_path / "model.keras", changed), SIDE)


def test_what_a_config_says_of_training_is_passed_over(original: Path, tmp_path: Path) -> None:
    entries = parts(original)
    config = json.loads(entries["config.json"])
    for model in layers(config, "Functional"):
        model["compile_config"] = {"loss": {"module": "os", "config": "system"}}
    changed = {**entries, "config.json": json.dumps(config).encode()}
    path = packed(tmp_path / "model.keras", changed)
    assert not load_exported(path, SIDE).compiled


def weights(fill: Callable[[h5py.File], object]) -> Callable[[bytes], bytes]:
    def make(original: bytes) -> bytes:
        buffer = io.BytesIO(original)
        with h5py.File(buffer, "r+") as file:
            fill(file)
        return buffer.getvalue()

    return make


def external(file: h5py.File) -> None:
    shape, where = (4,), [("/etc/hostname", 0, 16)]
    file.create_dataset("out", shape, "f4", external=where)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "data", (4,))
    file.create_virtual_dataset("out", layout)


def promised(file: h5py.File) -> None:
    file.create_dataset("out", (10**6, 10**6), "f4")  # of which nothing is stored


def linked(link: object) -> Callable[[h5py.File], None]:
    return lambda file: file.__setitem__("out", link)


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "external link": weights(linked(h5py.ExternalLink("/tmp/other.h5", "data"))),
    "soft link": weights(linked(h5py.SoftLink("/layers"))),
    "twice": weights(lambda file: file.__setitem__("out", file["layers"])),
    "a circle": weights(lambda file: file["layers"].__setitem__("out", file["layers"])),
    "external storage": weights(external),
    "virtual": weights(virtual),
    "promised": weights(promised),
    "compressed": weights(
        lambda file: file.create_dataset("out", data=np.zeros(10**6), compression="gzip")
    ),
    "texts": weights(lambda file: file.create_dataset("out", data=["text"])),
    "none": lambda _: b"",
    "nonsense": lambda _: b"\x89HDF\r\n\x1a\n" + bytes(900),
    "cut off": lambda content: content[: len(content) // 2],
}


@pytest.mark.usefixtures("no_keras")
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_hold_anything_else_are_refused(
    name: str, original: Path, tmp_path: Path
) -> None:
    entries = parts(original)
    changed = {**entries, "model.weights.h5": WEIGHTS[name](entries["model.weights.h5"])}
    with pytest.raises(ForeignModelError):
        load_exported(packed(tmp_path / "model.keras", changed), SIDE)


@pytest.mark.usefixtures("no_keras")
@pytest.mark.parametrize(
    "change",
    [
        lambda entries: {**entries, "assets/vocabulary.txt": b"x"},
        lambda entries: {**entries, "../../evil.py": b"x"},
        lambda entries: {name: entries[name] for name in ("metadata.json", "config.json")},
        lambda entries: {**entries, "config.json": b"{"},
        lambda entries: {**entries, "config.json": b"[" * 10**6},
        lambda entries: {**entries, "config.json": b"[]"},
        lambda entries: {**entries, "config.json": bytes(20_000_000)},
    ],
)
def test_archive_that_is_not_ours_is_refused(
    change: Callable[[dict[str, bytes]], dict[str, bytes]], original: Path, tmp_path: Path
) -> None:
    with pytest.raises(ForeignModelError):
        load_exported(packed(tmp_path / "model.keras", change(parts(original))), SIDE)


@pytest.mark.usefixtures("no_keras")
def test_bomb_and_what_is_no_archive_are_refused(original: Path, tmp_path: Path) -> None:
    entries = parts(original)
    bomb = packed(tmp_path / "bomb.keras", entries | {"model.weights.h5": bytes(10**8)}, 8)
    with pytest.raises(ForeignModelError, match="compressed or too large"):
        load_exported(bomb, SIDE)
    (tmp_path / "text.keras").write_text("no archive")
    with pytest.raises(ForeignModelError, match="is damaged"):
        load_exported(tmp_path / "text.keras", SIDE)
    doubled = packed(tmp_path / "doubled.keras", entries)
    with zipfile.ZipFile(doubled, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("config.json", b"{}")
    with pytest.raises(ForeignModelError, match="holds "):
        load_exported(doubled, SIDE)


def test_model_of_another_face_is_refused(tmp_path: Path) -> None:
    photo = keras.Input((None, None, 3), dtype="uint8", name="photo")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1.0)(photo))
    keras.Model(photo, keras.layers.Dense(2)(x)).save(tmp_path / "model.keras")
    with pytest.raises(ForeignModelError, match="not photos and one number of each"):
        load_exported(tmp_path / "model.keras", SIDE)


def test_as_many_photos_are_shown_at_once_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = exported(64, filters=8)
    a_map = 64 * 64 * 8 * 4
    for free, n in ((10**12, 256), (6 * 40 * a_map, 40), (a_map, 0)):
        monkeypatch.setattr(loading, "free_bytes", lambda free=free: free)
        if n:
            assert photos_at_once(model, 64, 256) == n
        else:
            with pytest.raises(ForeignModelError, match="one photo would take"):
                photos_at_once(model, 64, 256)


def test_file_larger_than_memory_is_not_read(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda: original.stat().st_size)
    with pytest.raises(ForeignModelError, match="more than memory has room for"):
        load_exported(original, SIDE)


class Logged:
    """A model in a store, and where its files are."""

    def __init__(self, store: Store, experiment: str, **place: str) -> None:
        self.store = store
        self.client = client = store.client()
        experiment = client.create_experiment(experiment, **place)
        self.run_id = client.create_run(experiment, "run", {}).info.run_id
        said = {"class_names": ["cat", "dog"], "image_size": SIDE}
        photos = np.zeros((1, 8, 8, 3), np.uint8)
        self.model_id = log_model(
            client, self.run_id, Pair(exported()), "tensorflow", said, photos, Retry("the store")
        )

    @property
    def folder(self) -> Path:
        where = self.client.get_logged_model(self.model_id).artifact_location
        return Path(where.removeprefix("file://"))

    def load(self) -> looked_at.Loaded:
        return load_model(self.client, f"run:{self.run_id}")

    def say(self, text: str, instead: str) -> None:
        says = self.folder / "MLmodel"
        before = says.read_text(encoding="utf-8")
        assert text in before
        says.write_text(before.replace(text, instead), encoding="utf-8")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Logged:
    root = tmp_path_factory.mktemp("kept")
    shutil.copy(empty_mlflow, root / "mlflow.db")
    store = Store(f"sqlite:///{root / 'mlflow.db'}", None)
    return Logged(store, "tiny", artifact_location=str(root / "artifacts"))


@pytest.fixture
def logged(kept: Logged, tmp_path: Path) -> Iterator[Logged]:
    """A model that is put back as it was afterwards."""
    shutil.copytree(kept.folder, tmp_path / "before")
    yield kept
    shutil.rmtree(kept.folder)
    shutil.copytree(tmp_path / "before", kept.folder)


def test_logged_model_is_loaded(logged: Logged) -> None:
    loaded = logged.load()
    assert (loaded.facts.class_names, loaded.facts.image_size) == (("cat", "dog"), SIDE)
    assert loaded.run_id == logged.run_id
    assert loaded.batch_size == 256


def test_nothing_that_lies_beside_it_is_loaded(logged: Logged, tmp_path: Path) -> None:
    """A SavedModel whose graph writes a file, and an MLmodel that asks for it."""
    tf = pytest.importorskip("tensorflow")

    class Graph(tf.Module):  # type: ignore[misc,name-defined]
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])  # type: ignore[untyped-decorator]
        def serve(self, photos: Any) -> Any:
            tf.io.write_file(str(tmp_path / "ran"), "ran")
            return tf.zeros((tf.shape(photos)[0], 1))

    tf.saved_model.save(Graph(), str(logged.folder / "data" / "model"))
    (logged.folder / "data" / "keras_module.txt").write_text("os")
    for old, new in (
        ("save_exported_model: false", "save_exported_model: true"),
        ("data: data", "data: ../../other"),
    ):
        says = (logged.folder / "MLmodel").read_text(encoding="utf-8")
        (logged.folder / "MLmodel").write_text(says.replace(old, new), encoding="utf-8")
    loaded = logged.load()
    loaded.model.predict(np.zeros((1, SIDE, SIDE, 3), np.uint8), verbose=0)
    assert isinstance(loaded.model, keras.Model)
    assert not (tmp_path / "ran").exists()


def test_run_is_the_one_of_the_store_whatever_the_file_says(logged: Logged) -> None:
    logged.say(f"run_id: {logged.run_id}", "run_id: 0123456789abcdef")
    assert logged.load().run_id == logged.run_id


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        (f"image_size: {SIDE}", "image_size: 100000"),
        (f"image_size: {SIDE}", "image_size: 4"),
        (f"image_size: {SIDE}", "image_size: -64"),
        (f"image_size: {SIDE}", "image_size: '16'"),
        (f"image_size: {SIDE}", "image_size: true"),
        (f"image_size: {SIDE}", "image_size: 64"),  # not what the network resizes to
        (f"image_size: {SIDE}", "size: 16"),
        ("- dog", "- cat"),
        ("- dog", "- CAT"),
        ("- dog", "- ''"),
        ("- dog", "- 7"),
        ("- dog", '- "\\e[2J"'),
        ("- dog", '- "two\\nlines"'),
        ("- dog", f"- {'d' * 300}"),
        ("- dog", "- dog\n  - cow"),
        ("  - dog\n", ""),
        ("- cat\n  - dog", "[[cat], dog]"),
        ("metadata:", "metadata: !!python/object/apply:os.system [touch /tmp/x]\nother:"),
        ("metadata:", "metadata: ["),
        ("metadata:", "metadata: " + "[" * 5000),
        ("metadata:", "padding: " + "x" * 200_000 + "\nmetadata:"),
        ("metadata:", "bomb: &a [x,x]\nb: &b [*a,*a]\nmetadata: *b\nother:"),
    ],
)
def test_what_a_model_says_of_itself_is_checked_before_it_is_loaded(
    text: str, instead: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("Keras reads it"))
    logged.say(text, instead)
    with pytest.raises(StateError, match=r"^model run:.*: can't be loaded: ") as caught:
        logged.load()
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_model_that_says_what_none_of_ours_says_is_not_promoted(logged: Logged) -> None:
    logged.say(f"image_size: {SIDE}", "image_size: 100000")
    with pytest.raises(StateError, match=r"can't be registered as 'pets': its facts: image_size"):
        register_champion(logged.store, "pets", logged.model_id, {})
    logged.say("metadata:", "metadata: [")
    with pytest.raises(StateError, match=r"can't be registered as 'pets': its MLmodel can't be"):
        register_champion(logged.store, "pets", logged.model_id, {})


def outward(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target)
        shutil.rmtree(path)
    else:
        shutil.copy(path, target)
        path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["MLmodel", "data", "data/model.keras"])
def test_link_that_leads_out_is_refused(name: str, logged: Logged, tmp_path: Path) -> None:
    outward(logged.folder / name, tmp_path / "elsewhere")
    with pytest.raises(StateError, match=r"can't be loaded: its .* is no file of its own"):
        logged.load()


@pytest.mark.parametrize("name", ["MLmodel", "data/model.keras"])
def test_what_is_no_file_is_refused(name: str, logged: Logged) -> None:
    (logged.folder / name).unlink()
    os.mkfifo(logged.folder / name)
    with pytest.raises(StateError, match=r"can't be loaded: its .* is no file of its own"):
        logged.load()
    (logged.folder / name).unlink()
    with pytest.raises(StateError, match=r"can't be loaded: "):
        logged.load()


def test_model_is_loaded_through_a_server(server: str) -> None:
    far = Logged(Store(server, None), "far")
    loaded = far.load()
    assert (loaded.run_id, loaded.facts.image_size) == (far.run_id, SIDE)
