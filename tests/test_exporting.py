"""Models as ONNX: every kind of network answers there as in Keras, and else leaves no file."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import test_neither
import tiny_onnx
from onnx import helper
from PIL import Image

from catdog_search.answering.facts import ModelFacts
from catdog_search.answering.runtime import OnnxModel
from catdog_search.data import decode
from catdog_search.exporting import convert as converter
from catdog_search.exporting import onnx_file, proof
from catdog_search.exporting.graph import whole, with_facts
from catdog_search.exporting.onnx_file import to_onnx
from catdog_search.exporting.proof import ExportError, Proof
from catdog_search.models.export import calibrated_model, exported_model
from catdog_search.models.neither import neither_model

SIDE = test_neither.SIDE
FACTS = ModelFacts(
    class_names=("cat", "dog"), image_size=SIDE, not_sure=(0.45, 0.55), neither_above=3.0
)
BODIES = {
    **{name: [build] for name, (build, _) in test_neither.NETWORKS.items() if name != "pooled"},
    "seeds": [lambda: test_neither.cnn(0), lambda: test_neither.cnn(1)],
}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter, without a process that imports TensorFlow for each network."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converter's own code
            converter.convert(Path(command[-2]), int(command[-1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return test_neither.drawn(60)


@pytest.mark.parametrize("name", BODIES)
def test_every_network_answers_as_in_keras(
    name: str, train: np.ndarray, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "N_PHOTOS", 36)
    bodies = [build() for build in BODIES[name]]
    model = calibrated_model(bodies, SIDE, temperature=1.7)
    neither = neither_model(exported_model(bodies[0], SIDE), train)
    made = to_onnx(model, neither, FACTS)
    assert (made.proof.n, made.proof.shapes, made.proof.different) == (36, 12, 0)
    assert made.proof.worst < 1e-5
    written = OnnxModel(made.content, name)
    written.self_test()
    photos = np.random.default_rng(0).integers(0, 256, (3, 50, 41, 3), np.uint8)
    said, unlike = written.run(photos)
    assert said == pytest.approx(np.ravel(model.predict(photos, verbose=0)), abs=1e-5)
    assert unlike == pytest.approx(np.ravel(neither.predict(photos, verbose=0)), rel=1e-3)


def test_model_is_converted_in_a_process_of_its_own() -> None:
    model = exported_model(test_neither.cnn(), SIDE)
    made = to_onnx(model, None, FACTS)
    assert made.proof.n == 200
    assert made.proof.worst_score is None
    answer = OnnxModel(made.content, "m").answer(np.zeros((1, 9, 70, 3), np.uint8))[0]
    assert answer.unlike is None


def level_of(row: int, column: int) -> onnx.ModelProto:
    """A network that says how light one pixel is, 0 to 1."""
    chosen = np.zeros((SIDE, SIDE, 3), np.float32)
    chosen[row, column] = 1 / 765
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", [converter.PIXELS], ["flat"]),
            helper.make_node("MatMul", ["flat", "chosen"], ["level"]),
        ],
        "level",
        [helper.make_tensor_value_info(converter.PIXELS, floats, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("level", floats, ["n", 1])],
        [onnx.numpy_helper.from_array(chosen.reshape(-1, 1), "chosen")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", converter.OPSET)])


@pytest.mark.parametrize("place", [(0, 0), (0, SIDE - 1), (7, 13), (SIDE - 1, SIDE - 1)])
def test_resize_is_that_of_training(place: tuple[int, int]) -> None:
    resize = keras.layers.Resizing(SIDE, SIDE, interpolation="bilinear", antialias=True)
    model = OnnxModel(with_facts(whole(level_of(*place), SIDE), FACTS), "level")
    for photo in proof.photos(12):
        level = 765 * float(model.run(photo[None])[0][0])
        in_keras = np.asarray(resize(photo[None].astype(np.float32)))[0][place].sum()
        in_training = np.asarray(decode.resize(Image.fromarray(photo), SIDE))[place].sum()
        assert level == pytest.approx(in_keras, abs=0.01)
        assert level == pytest.approx(in_training, abs=1.5 * 3)  # rounded to whole levels, twice


def test_file_that_answers_otherwise_is_refused(
    in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_antialiasing(network: Any, image_size: int) -> Any:
        model = whole(network, image_size)
        resize = next(node for node in model.graph.node if node.op_type == "Resize")
        for each in resize.attribute:
            if each.name in ("antialias", "exclude_outside"):
                each.i = 0
        return model

    monkeypatch.setattr("catdog_search.exporting.graph.whole", without_antialiasing)
    bright = test_neither.cnn(1)
    with pytest.raises(ExportError, match="as ONNX it answers otherwise: 200 photos of 12 shapes"):
        to_onnx(exported_model(bright, SIDE), None, FACTS)


def test_what_cannot_be_converted_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            command, 1, "", "Traceback\nValueError: no such\x1b layer"
        )

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(
        ExportError, match=r"it can't be converted to ONNX: ValueError: no such\\x1b"
    ):
        to_onnx(exported_model(test_neither.cnn(), SIDE), None, FACTS)


def test_what_has_to_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_NEEDED", {"onnx": "onnx", "absent_package": "tf"})
    said = r"takes absent_package, whatever .*: pip install 'catdog-search\[tf\]'"
    with pytest.raises(ExportError, match=said):
        to_onnx(exported_model(test_neither.cnn(), SIDE), None, FACTS)


@pytest.mark.parametrize(
    ("worst", "score", "different", "passed"),
    [(1e-3, None, 0, True), (2e-3, None, 0, False), (0, 2e-3, 0, False), (0, 0.0, 1, False)],
)
def test_proof_passes(worst: float, score: float | None, different: int, *, passed: bool) -> None:
    assert Proof(200, 12, worst, worst, score, different).passed is passed


def test_photos_of_the_proof_are_of_many_shapes_and_the_same_again() -> None:
    first, again = list(proof.photos(24)), list(proof.photos(24))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({photo.shape for photo in first}) == 12
    assert min(photo.std() for photo in first) > 5


def test_model_that_says_no_number_is_refused() -> None:
    model = whole(tiny_onnx.network(strength=float("nan")), tiny_onnx.SIDE)
    bare = OnnxModel(with_facts(model, tiny_onnx.facts()), "tiny")
    keras_model = exported_model(test_neither.cnn(), SIDE)
    with pytest.raises(ExportError, match="what is no number"):
        proof.prove(bare, keras_model, keras_model, [tiny_onnx.RED])


def test_model_without_the_others_score_is_refused() -> None:
    bare = OnnxModel(tiny_onnx.content(with_score=False), "tiny")
    keras_model = exported_model(test_neither.cnn(), SIDE)
    with pytest.raises(ExportError, match="has a score"):
        proof.prove(bare, keras_model, keras_model, [tiny_onnx.RED])


def test_network_of_other_outputs_is_not_made_whole() -> None:
    other = onnx.ModelProto()
    other.CopyFrom(tiny_onnx.network())
    other.graph.output.add().name = "third"
    with pytest.raises(ValueError, match="not a probability and a score"):
        whole(other, tiny_onnx.SIDE)


def test_converter_says_what_no_model_of_ours_is(tmp_path: Path) -> None:
    (tmp_path / converter.MODEL).write_bytes(b"no model")
    command = [sys.executable, "-m", "catdog_search.exporting.convert", str(tmp_path), "32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ForeignModelError: is damaged" in done.stderr.splitlines()[-1]
    assert not (tmp_path / converter.NETWORK).exists()
