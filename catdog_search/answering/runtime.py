"""An exported model in onnxruntime: photos in, probabilities and scores out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catdog_search.answering.answer import Answer, answers_of
from catdog_search.answering.facts import Example, FactsError, ModelFacts
from catdog_search.errors import StateError
from catdog_search.machine import cores
from catdog_search.text import first_line

# Names within the file.
PHOTO, PROBABILITY, UNLIKE = "photo", "probability", "unlike"
FACTS_KEY = "catdog_search"
# Absolute for a probability, relative for a score; between machines, backends and formats.
TOLERANCE = 1e-3
_MOST_BYTES = 2_000_000_000
# A photo may have any height and width.
_DIMENSIONS = ("n", "height", "width", 3)

Photos = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class OnnxModel:
    """A model that `model export` wrote.

    Safe to call from several threads.

    Args:
        content: Bytes of the file.
        where: Where they are from, for display.
        threads: Number of cores that one call may use; None for all.

    Attributes:
        facts: What it says of itself.
        digest: SHA-256 of the file, in hex.
        by: What computes its answers, for display.

    Raises:
        StateError: It is not a model of ours.
    """

    by = "onnxruntime"

    def __init__(self, content: bytes, where: str, threads: int | None = None) -> None:
        self._where = where
        self._session = _session(content, where, threads or cores.count())
        self.digest = hashlib.sha256(content).hexdigest()
        said = self._session.get_modelmeta().custom_metadata_map.get(FACTS_KEY)
        try:
            if said is None:
                raise FactsError("it says no facts of itself; model export writes ones that do")
            self.facts = ModelFacts.from_json(said)
        except FactsError as error:
            raise StateError(f"model {where}: {error}") from None
        self._outputs = _face(self._session, where)

    @classmethod
    def open(cls, path: Path, threads: int | None = None) -> OnnxModel:
        """Open a file.

        Raises:
            StateError: It can't be read, or is not a model of ours.
        """
        try:
            size = path.stat().st_size
            if size > _MOST_BYTES:
                raise StateError(f"model {path}: has {size / 1e9:.1f} GB, at most 2")
            content = path.read_bytes()
        except OSError as error:
            raise StateError(f"model {path}: {error.strerror}") from None
        return cls(content, str(path), threads)

    def run(self, photos: Photos) -> tuple[Floats, Floats | None]:
        """Probabilities of class 1, (n,), and scores of how unlike train, (n,), or None.

        Args:
            photos: uint8 RGB (n, height, width, 3), of any one size.

        Raises:
            StateError: It fails on them.
        """
        try:
            found = self._session.run(self._outputs, {PHOTO: photos})
        # onnxruntime's errors have no base class of their own.
        except Exception as error:
            raise StateError(f"model {self._where}: {first_line(error)}") from None
        return np.ravel(found[0]), np.ravel(found[1]) if len(found) > 1 else None

    def answer(self, photos: Photos) -> list[Answer]:
        """Its answers to photos, see `run`."""
        return answers_of(self.facts, *self.run(photos))

    def self_test(self) -> None:
        """Run it on its examples, whose answers it carries.

        Raises:
            StateError: It answers differently, or has no examples.
        """
        if not self.facts.examples:
            raise StateError(f"model {self._where}: carries no examples to be tried on")
        for number, example in enumerate(self.facts.examples):
            apart = self._apart(example)
            if not apart <= TOLERANCE:
                raise StateError(
                    f"model {self._where}: says {apart:.2g} else of its example {number} than when "
                    f"it was exported, at most {TOLERANCE}"
                )

    def _apart(self, example: Example) -> float:
        probabilities, unlike = self.run(example.photo[None])
        apart = abs(float(probabilities[0]) - example.probability)
        if unlike is None or example.unlike is None:
            return apart
        return max(apart, score_apart(float(unlike[0]), example.unlike))


def score_apart(one: float, other: float) -> float:
    """Distance of two "neither" scores, as a share of the larger one, from 0."""
    return abs(one - other) / max(abs(one), abs(other), 1.0)


def _session(content: bytes, where: str, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        raise StateError(
            f"model {where}: takes onnxruntime: pip install 'catdog-search[onnx]'"
        ) from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # it prints what it raises
    # Threads that spin while waiting take the CPU that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StateError(f"model {where}: can't be loaded: {first_line(error)}") from None


def _face(session: Any, where: str) -> list[str]:
    """The names of its outputs, the probability first.

    Raises:
        StateError: Its inputs or outputs differ from ours.
    """
    inputs = [(each.name, each.type, len(each.shape)) for each in session.get_inputs()]
    outputs = {each.name: each.type for each in session.get_outputs()}
    names = [name for name in (PROBABILITY, UNLIKE) if name in outputs]
    takes_photos = inputs == [(PHOTO, "tensor(uint8)", len(_DIMENSIONS))]
    floats = set(outputs.values()) == {"tensor(float)"}
    if not takes_photos or not floats or PROBABILITY not in names or len(names) < len(outputs):
        raise StateError(
            f"model {where}: takes {[name for name, *_ in inputs]} and gives {list(outputs)}, not "
            f"{PHOTO!r} in uint8, and {PROBABILITY!r}, maybe {UNLIKE!r}"
        )
    return names
