"""A model of the registry, or of a run, opened to answer photos."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catdog_search.answering.answer import Answer, answers_of
from catdog_search.answering.facts import ModelFacts
from catdog_search.answering.runtime import OnnxModel
from catdog_search.answering.stream import Answering
from catdog_search.exporting.keras_files import Networks, read
from catdog_search.exporting.onnx_file import missing
from catdog_search.places import StateFolder
from catdog_search.tracking.looked_at import fetch
from catdog_search.tracking.store import Store


def open_model(state: StateFolder, name: str) -> Answering:
    """Open a model: its ONNX where its promotion wrote one that can run, else in Keras.

    Args:
        state: State folder with the registry and runs.
        name: Model's name, as for `tracking.looked_at.load_model`.

    Raises:
        StateError: There is no such model, or it is not one of ours.
    """
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(Store.of(state).client(), name, Path(folder))
        if fetched.onnx is not None and missing(["onnxruntime"]) is None:
            return OnnxModel.open(fetched.onnx)
        return _KerasAnswering(read(fetched), fetched.facts)


class _KerasAnswering:
    """Photos answered by the Keras model."""

    by = "Keras"

    def __init__(self, networks: Networks, facts: ModelFacts) -> None:
        self._networks = networks
        self.facts = facts

    def answer(self, photos: npt.NDArray[np.uint8]) -> list[Answer]:
        """Answers to photos, uint8 RGB (n, side, side, 3)."""
        from catdog_search.models.export import answers_to

        neither = self._networks.neither
        unlike = None if neither is None else answers_to(neither, photos)
        return answers_of(self.facts, answers_to(self._networks.model, photos), unlike)
