"""A model of two matrices in the format that `model export` writes: no Keras is needed for it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from catdog_search.answering.facts import Example, ModelFacts
from catdog_search.answering.runtime import OnnxModel
from catdog_search.exporting.convert import OPSET, PIXELS
from catdog_search.exporting.graph import whole, with_facts

SIDE = 16
RED = np.full((40, 30, 3), (255, 0, 0), np.uint8)
BLUE = np.full((30, 50, 3), (0, 0, 255), np.uint8)
GREY = np.full((20, 20, 3), 120, np.uint8)
WHITE = np.full((20, 30, 3), 255, np.uint8)


@cache
def network(*, with_score: bool = True, strength: float = 8.0) -> Any:
    """Red photos are dogs, blue ones are cats, grey ones neither here nor there; white is neither.

    Float32 (n, side, side, 3) -> probability (n, 1) and, if asked for, brightness (n, 1).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    floats = TensorProto.FLOAT
    weights = np.array([[strength], [0], [-strength]], np.float32) / 255
    bright = np.full((3, 1), 1 / 3 / 25.5, np.float32)
    nodes = [
        helper.make_node("ReduceMean", [PIXELS, "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["first"]),
    ]
    outputs = [helper.make_tensor_value_info("first", floats, ["n", 1])]
    if with_score:
        nodes.append(helper.make_node("MatMul", ["mean", "bright"], ["second"]))
        outputs.append(helper.make_tensor_value_info("second", floats, ["n", 1]))
    kept = {"axes": np.array([1, 2], np.int64), "weights": weights, "bright": bright}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(PIXELS, floats, ["n", SIDE, SIDE, 3])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in kept.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(graph, opset_imports=opset)


def facts(**others: Any) -> ModelFacts:
    """What the model says of itself."""
    return ModelFacts(
        **{
            "class_names": ("cat", "dog"),
            "image_size": SIDE,
            "not_sure": (0.2, 0.8),
            "error_rate": 0.01,
            "neither_above": 9.0,
            **others,
        }
    )


def content(*, with_score: bool = True, strength: float = 8.0, **others: Any) -> bytes:
    """The bytes of a file, with an example of each kind of photo."""
    model = whole(network(with_score=with_score, strength=strength), SIDE)
    bare = OnnxModel(with_facts(model, facts()), "tiny")
    examples = []
    for photo in (RED, BLUE, GREY):
        p, unlike = bare.run(photo[None])
        score = None if unlike is None else float(unlike[0])
        examples.append(Example.of(photo, float(p[0]), score))
    return with_facts(model, facts(**{"examples": tuple(examples), **others}))
