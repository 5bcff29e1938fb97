"""A saved model as others will load it: in a fresh process without this package."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catdog_search.children import ChildError, run_python
from catdog_search.errors import StateError

_LONGEST_S = 600
_TIMED = 20
# Importing the package is blocked, so that loading a model can't depend on it.
_SCRIPT = """
import json, sys, time
sys.modules["catdog_search"] = None
import keras, numpy as np

model = keras.saving.load_model(sys.argv[1], compile=False, safe_mode=True)
photos = np.load(sys.argv[2])
answers = {
    name: float(np.ravel(keras.ops.convert_to_numpy(model(photos[name][None], training=False)))[0])
    for name in photos.files
}
first = photos[photos.files[0]][None]
model.predict_on_batch(first)
seconds = []
for _ in range(int(sys.argv[3])):
    began = time.perf_counter()
    model.predict_on_batch(first)
    seconds.append(time.perf_counter() - began)
print(json.dumps({"answers": answers, "seconds": seconds}))
"""


@dataclass(frozen=True)
class RoundTrip:
    """A fresh process's answers.

    Attributes:
        answers: Probabilities of class 1 (n,).
        milliseconds: Median, least and most time of one photo, after compilation.
    """

    answers: npt.NDArray[np.float64]
    milliseconds: tuple[float, float, float]


def load_afresh(path: Path, photos: Sequence[npt.NDArray[np.uint8]]) -> RoundTrip:
    """Load a saved model in its own process, and run it.

    Args:
        path: Path of the .keras file.
        photos: Raw photos, uint8 RGB (height, width, 3) each; at least one.

    Raises:
        StateError: It can't be loaded there.
    """
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder, "photos.npz")
        named: dict[str, Any] = {f"{n:05d}": photo for n, photo in enumerate(photos)}
        np.savez(stored, **named)
        arguments = ["-c", _SCRIPT, str(path), str(stored), str(_TIMED)]
        try:
            printed = run_python(arguments, _LONGEST_S, folder)
        except ChildError as error:
            raise StateError(
                f"{path}: a process without this package can't load it: {error}"
            ) from None
    said = json.loads(printed.strip().splitlines()[-1])
    times = 1e3 * np.array(said["seconds"])
    return RoundTrip(
        np.array([said["answers"][name] for name in sorted(said["answers"])]),
        (float(np.median(times)), float(times.min()), float(times.max())),
    )
