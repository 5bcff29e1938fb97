"""A saved model and its score as one ONNX network of packed floats, in a process of its own.

`python -m catdog_search.exporting.convert FOLDER`: the converter reads TensorFlow's graphs, so
this process runs on TensorFlow whatever the model was trained on; the saved model is stock Keras
and means the same on every backend. Its output is proven elsewhere.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

# Files in the folder: two that are read, and one that is written.
MODEL, NEITHER, NETWORK = "model.keras", "neither.keras", "network.onnx"
# Name of the network's input.
PIXELS = "pixels"
# From 18 on, Resize supports antialiasing.
OPSET = 18


def convert(folder: Path, image_size: int) -> None:
    """Write the network of the models in a folder beside them.

    It takes float32 RGB (n, side, side, 3), 0 to 255, and gives the probability (n, 1) and, where
    there is a score beside the model, the score (n, 1).

    Args:
        folder: Folder of the files.
        image_size: Side that the model resizes to.

    Raises:
        ForeignModelError: A file is not one of ours.
    """
    import keras
    import numpy as np

    from catdog_search.models.loading import load_exported, load_neither

    pixels = keras.Input((image_size, image_size, 3), dtype="float32", name=PIXELS)
    found = [_on_packed(load_exported(folder / MODEL, image_size), image_size)(pixels)]
    if (folder / NEITHER).exists():
        found.append(_on_packed(load_neither(folder / NEITHER, image_size), image_size)(pixels))
    network = keras.Model(pixels, found)
    network(np.zeros((1, image_size, image_size, 3), np.float32))  # export needs a built one
    network.export(str(folder / NETWORK), format="onnx", opset_version=OPSET, verbose=False)


def _on_packed(model: Any, image_size: int) -> Any:
    """A model without its resize, whose antialiasing converts to nothing onnxruntime supports."""
    import keras

    def clone(layer: Any) -> Any:
        is_resize = isinstance(layer, keras.layers.Resizing)
        return keras.layers.Identity(name=layer.name) if is_resize else layer

    pixels = keras.Input((image_size, image_size, 3), dtype="float32")
    cloned = keras.models.clone_model(model, input_tensors=pixels, clone_function=clone)
    return keras.Model(pixels, cloned.outputs[0], name=model.name)


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Conversion needs no GPU, and would only take it from trainings.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")  # from the converter's own code
    convert(Path(sys.argv[1]), int(sys.argv[2]))
