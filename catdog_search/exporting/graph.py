"""The one ONNX file: the resize, the network, and what the model says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from catdog_search.answering.facts import ModelFacts
from catdog_search.answering.runtime import FACTS_KEY, PHOTO, PROBABILITY, UNLIKE
from catdog_search.exporting.convert import PIXELS

if TYPE_CHECKING:
    from onnx import ModelProto

# onnx 1.23 would write 14, which some runtimes in use can't read.
_IR_VERSION = 10
_FLOATS, _CHANNELS_FIRST, _RESIZED = "floats", "channels_first", "resized"
_AROUND, _SIZE, _SIZES = "photos_and_channels", "size", "sizes"


def whole(network: ModelProto, image_size: int) -> ModelProto:
    """A network of packed floats behind the resize that training photos went through.

    Args:
        network: Network as `convert` writes it.
        image_size: Side of the photos that it takes.

    Returns:
        Model: uint8 RGB `photo` (n, any height, any width, 3) -> `probability` (n, 1) and, where
        the network gives two numbers, `unlike` (n, 1).

    Raises:
        ValueError: The network is not one of ours.
    """
    import onnx
    from onnx import TensorProto, helper

    outputs = [each.name for each in network.graph.output]
    names = dict(zip(outputs, (PROBABILITY, UNLIKE), strict=False))
    if [each.name for each in network.graph.input] != [PIXELS] or len(names) < len(outputs):
        raise ValueError(f"the network gives {outputs}, not a probability and a score")
    made = onnx.ModelProto()
    made.CopyFrom(network)
    made.ir_version = _IR_VERSION
    made.producer_name = "catdog-search"
    graph = made.graph
    _rename(graph, names)
    resize = [*_resize()]
    nodes = [*resize, *graph.node]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    size = np.array([image_size, image_size], np.int64)
    graph.initializer.append(onnx.numpy_helper.from_array(size, _SIZE))
    shape = ["n", "height", "width", 3]
    graph.input.append(helper.make_tensor_value_info(PHOTO, TensorProto.UINT8, shape))
    for name in names.values():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]))
    onnx.checker.check_model(made)
    return made


def with_facts(model: ModelProto, facts: ModelFacts) -> bytes:
    """The bytes of a model with these facts in its metadata."""
    import onnx

    onnx.helper.set_model_props(model, {FACTS_KEY: facts.model_dump_json()})
    content: bytes = model.SerializeToString()
    return content


def _resize() -> list[Any]:
    """From `photo` to `pixels`, by the same triangle filter as Pillow's and Keras's.

    Without `exclude_outside` pixels at the edge differ by up to 6 of 255 levels. All four sizes are
    given: if a Resize names its axes, onnxruntime 1.32 moves transposes through it wrongly.
    """
    from onnx import TensorProto, helper

    return [
        helper.make_node("Cast", [PHOTO], [_FLOATS], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [_FLOATS], [_CHANNELS_FIRST], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", [_CHANNELS_FIRST], [_AROUND], start=0, end=2),
        helper.make_node("Concat", [_AROUND, _SIZE], [_SIZES], axis=0),
        helper.make_node(
            "Resize",
            [_CHANNELS_FIRST, "", "", _SIZES],
            [_RESIZED],
            mode="linear",
            antialias=1,
            coordinate_transformation_mode="half_pixel",
            exclude_outside=1,
        ),
        helper.make_node("Transpose", [_RESIZED], [PIXELS], perm=[0, 2, 3, 1]),
    ]


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename tensors."""
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
