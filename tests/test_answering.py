"""Answers of an exported model: a class, "not sure" or "neither"; and files that are no such."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_onnx
from tiny_onnx import BLUE, GREY, RED, WHITE

from catdog_search.answering.answer import answer_of
from catdog_search.answering.facts import Example, ModelFacts
from catdog_search.answering.runtime import FACTS_KEY, OnnxModel, score_apart
from catdog_search.errors import StateError


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return OnnxModel(tiny_onnx.content(), "tiny")


@pytest.mark.parametrize(
    ("photo", "text", "label"),
    [
        (RED, "dog", "dog"),
        (BLUE, "cat", "cat"),
        (GREY, "not sure", "cat"),
        (WHITE, "neither", "cat"),
    ],
)
def test_photo_is_answered(model: OnnxModel, photo: Any, text: str, label: str) -> None:
    (answer,) = model.answer(photo[None])
    assert (answer.text, answer.label) == (text, label)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.probability == answer.probabilities[label]
    assert answer.unlike == pytest.approx(photo.mean() / 25.5, rel=1e-4)


def test_batch_says_what_each_photo_alone_does(model: OnnxModel) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (5, 33, 21, 3), dtype=np.uint8)
    alone = [model.answer(photo[None])[0] for photo in photos]
    together = model.answer(photos)
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.probability for a in together] == pytest.approx([a.probability for a in alone])


@pytest.mark.parametrize(
    ("probability", "verdict"),
    [(0.2, "answered"), (0.2001, "not sure"), (0.7999, "not sure"), (0.8, "answered")],
)
def test_ends_of_the_band_are_answered(probability: float, verdict: str) -> None:
    assert answer_of(tiny_onnx.facts(), probability, 0.0).verdict == verdict


@pytest.mark.parametrize(
    ("unlike", "verdict"),
    [(9.0, "answered"), (9.01, "neither"), (float("nan"), "neither"), (None, "answered")],
)
def test_what_is_more_unlike_than_allowed_is_neither(unlike: float | None, verdict: str) -> None:
    assert answer_of(tiny_onnx.facts(), 0.95, unlike).verdict == verdict


@pytest.mark.parametrize(("p", "label"), [(0.3, "cat"), (0.31, "dog")])
def test_class_1_is_answered_above_the_threshold(p: float, label: str) -> None:
    facts = tiny_onnx.facts(threshold=0.3, not_sure=None, neither_above=None)
    answer = answer_of(facts, p, 99.0)
    assert (answer.text, answer.label) == (label, label)


@pytest.mark.parametrize("p", [float("nan"), -0.1, 1.1])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="no probability"):
        answer_of(tiny_onnx.facts(), p, None)


def test_model_without_a_score_answers() -> None:
    model = OnnxModel(tiny_onnx.content(with_score=False), "tiny")
    (answer,) = model.answer(WHITE[None])
    assert (answer.text, answer.unlike) == ("not sure", None)


def test_model_answers_its_own_examples(model: OnnxModel) -> None:
    model.self_test()


def test_model_that_answers_otherwise_than_when_exported_is_refused() -> None:
    example = Example.of(RED, 0.9, None)
    model = OnnxModel(tiny_onnx.content(examples=(example,)), "tiny")
    with pytest.raises(StateError, match=r"says 0\.1 else of its example 0"):
        model.self_test()


def test_model_whose_score_is_another_is_refused(model: OnnxModel) -> None:
    first = model.facts.examples[0]
    other = first.model_copy(update={"unlike": (first.unlike or 0) * 1.01})
    changed = OnnxModel(tiny_onnx.content(examples=(other,)), "tiny")
    with pytest.raises(StateError, match="else of its example 0"):
        changed.self_test()


def test_model_without_examples_is_not_trusted() -> None:
    with pytest.raises(StateError, match="carries no examples"):
        OnnxModel(tiny_onnx.content(examples=()), "tiny").self_test()


@pytest.mark.parametrize(("one", "other", "apart"), [(0, 0, 0), (0.5, 0.4, 0.1), (10, 8, 0.2)])
def test_scores_are_compared_as_shares_of_large_ones(
    one: float, other: float, apart: float
) -> None:
    assert score_apart(one, other) == pytest.approx(apart)


def test_facts_survive_the_file(model: OnnxModel) -> None:
    assert ModelFacts.from_json(model.facts.model_dump_json()) == model.facts


def changed(**facts: Any) -> bytes:
    model = onnx.load_from_string(tiny_onnx.content())
    said = json.loads(model.metadata_props[0].value)
    onnx.helper.set_model_props(model, {FACTS_KEY: json.dumps({**said, **facts})})
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"class_names": ["cat"]}, "class_names"),
        ({"class_names": ["cat", "CAT"]}, "class_names: .*names that differ"),
        ({"class_names": ["cat", "d\x1bg"]}, "class_names"),
        ({"image_size": 10**9}, "image_size"),
        ({"threshold": 1.5}, "threshold"),
        ({"not_sure": [0.1]}, "not_sure"),
        ({"temperature": 0}, "temperature"),
        ({"format": 2}, "format"),
        ({"examples": [{"shape": [9, 9], "pixels": "AAAA", "probability": 0.5}]}, "examples.0"),
        ({"examples": [{"shape": [-1, 1], "pixels": "AAAA", "probability": 0.5}]}, "examples.0"),
        ({"neither_above": float("nan")}, "neither_above"),
    ],
)
def test_file_that_says_what_ours_do_not_is_refused(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(StateError, match=rf"model other: its facts: {said}"):
        OnnxModel(changed(**facts), "other")


def test_file_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    bare = tiny_onnx.network().SerializeToString()
    for content, said in [(b"", "can't be loaded"), (b"\x08\x01x", "can't be"), (bare, "no facts")]:
        (tmp_path / "other.onnx").write_bytes(content)
        with pytest.raises(StateError, match=said) as caught:
            OnnxModel.open(tmp_path / "other.onnx")
        assert "\n" not in str(caught.value)
    with pytest.raises(StateError, match="No such file"):
        OnnxModel.open(tmp_path / "absent.onnx")


def test_network_that_takes_something_else_is_refused() -> None:
    model = onnx.load_from_string(tiny_onnx.network().SerializeToString())
    props = {FACTS_KEY: tiny_onnx.facts().model_dump_json()}
    onnx.helper.set_model_props(model, props)
    with pytest.raises(StateError, match=r"takes \['pixels'\]"):
        OnnxModel(model.SerializeToString(), "other")


def test_weights_in_other_files_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(12))
    model = onnx.load_from_string(tiny_onnx.content())
    weights = next(each for each in model.graph.initializer if each.name == "weights")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=str(secret))
    with pytest.raises(StateError, match="can't be loaded"):
        OnnxModel(model.SerializeToString(), "other")


def test_answering_imports_neither_keras_nor_mlflow(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx.content())
    code = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from catdog_search.answering.runtime import OnnxModel\n"
        f"OnnxModel.open(Path({str(path)!r})).answer(np.zeros((1, 9, 9, 3), np.uint8))\n"
        "print([n for n in ('keras', 'tensorflow', 'mlflow', 'optuna', 'sklearn', 'onnx')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StateError, match=r"takes onnxruntime: pip install 'catdog-search\[onnx\]'"):
        OnnxModel(tiny_onnx.content(), "tiny")
