"""A saved model as one ONNX file, which is kept only if it answers the same."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from catdog_search.answering.facts import Example, ModelFacts
from catdog_search.answering.runtime import OnnxModel
from catdog_search.children import ChildError, run_python
from catdog_search.exporting import proof
from catdog_search.exporting.convert import MODEL, NEITHER, NETWORK
from catdog_search.exporting.proof import ExportError, Photo, Proof
from catdog_search.text import first_line

if TYPE_CHECKING:
    from onnx import ModelProto

    from catdog_search.models.export import ExportedModel

# Packages that writing one needs besides the backend that a model was trained on, by extra.
_NEEDED = {"onnx": "onnx", "onnxruntime": "onnx", "tf2onnx": "onnx", "tensorflow": "tf"}
_CONVERTER = "catdog_search.exporting.convert"
_LONGEST_S = 900
_EXAMPLES = 6
# Side of the examples that travel in the file: small, but still resized.
_EXAMPLE_SIDE = 40


@dataclass(frozen=True)
class OnnxFile:
    """A file that answers as the model does.

    Attributes:
        content: Its bytes.
        proof: How it compared with the model.
    """

    content: bytes
    proof: Proof


def missing(names: Iterable[str] | None = None) -> str | None:
    """What must be installed before one can be written; None where everything is.

    Args:
        names: Packages that are needed; None for all that writing needs.
    """
    absent = [name for name in names or _NEEDED if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    extras = ",".join(dict.fromkeys(_NEEDED[name] for name in absent))
    return (
        f"writing ONNX takes {', '.join(absent)}, whatever the model was trained on: "
        f"pip install 'catdog-search[{extras}]'"
    )


def to_onnx(
    model: ExportedModel,
    neither: ExportedModel | None,
    facts: ModelFacts,
    shown: Sequence[Photo] = (),
) -> OnnxFile:
    """Write a model as ONNX, and compare that with the model.

    Args:
        model: Exported Keras model: uint8 RGB (n, height, width, 3) -> probability (n, 1).
        neither: Score of how unlike train a photo is, from the same; None for none.
        facts: What it is to say of itself; its examples are added.
        shown: Photos to compare on, uint8 RGB (height, width, 3) each; drawn ones of other shapes
            are added up to 200.

    Raises:
        ExportError: Something isn't installed, it can't be converted, or it answers differently.
    """
    absent = missing()
    if absent is not None:
        raise ExportError(absent)
    from catdog_search.exporting.graph import whole, with_facts

    network = _converted(model, neither, facts.image_size)
    try:
        graph = whole(network, facts.image_size)
    except ValueError as error:
        raise ExportError(f"the converted network can't be used: {first_line(error)}") from error
    bare = OnnxModel(with_facts(graph, facts), "as ONNX")
    drawn = proof.photos(max(0, proof.N_PHOTOS - len(shown)))
    found = proof.prove(bare, model, neither, [*shown, *drawn])
    if not found.passed:
        raise ExportError(f"as ONNX it answers otherwise: {found}")
    examples = tuple(_example(bare, photo) for photo in proof.photos(_EXAMPLES))
    content = with_facts(graph, facts.model_copy(update={"examples": examples}))
    return OnnxFile(content, found)


def _example(model: OnnxModel, photo: Photo) -> Example:
    small = Image.fromarray(photo).resize((_EXAMPLE_SIDE, _EXAMPLE_SIDE + 3))
    pixels = np.asarray(small)
    probabilities, unlike = model.run(pixels[None])
    return Example.of(pixels, float(probabilities[0]), None if unlike is None else float(unlike[0]))


def _converted(model: ExportedModel, neither: ExportedModel | None, image_size: int) -> ModelProto:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, MODEL))
        if neither is not None:
            neither.save(Path(folder, NEITHER))
        try:
            run_python(["-m", _CONVERTER, folder, str(image_size)], _LONGEST_S)
        except ChildError as error:
            raise ExportError(f"it can't be converted to ONNX: {error}") from None
        return onnx.load(Path(folder, NETWORK))
