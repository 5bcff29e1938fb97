"""Weights that a backbone starts from: a file's content, its identity, whether it is available.

A study's weights are `imagenet`, which `keras.applications` fetches, `none`, or the path of a Keras
weights file, of today's format or of the one that `keras.applications` still publishes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path

from catdog_search.errors import DataError

# The stages of ResNet50, in order.
STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
# Number of convolutions up to the end of each stage: tells where a weights file ends.
_CONVOLUTIONS = {1: "conv1", 11: "conv2", 24: "conv3", 43: "conv4", 53: "conv5"}
# Names of a convolution: in today's format by its kind and number, before by its own.
_CONVOLUTION = re.compile(r"conv2d(_\d+)?|conv\d\w*_conv")
# The attribute that files of the former format have.
_OLD_FORMAT = "layer_names"
# Where `keras.applications` fetches the weights without the top, by the name it caches them under.
_IMAGENET_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
_PATIENCE_S = 15


def stages_in(weights: str) -> tuple[str, ...]:
    """The stages that `weights` of a study hold: all for `imagenet`, none for `none`.

    Raises:
        DataError: A file can't be read, or doesn't hold a ResNet50 that ends after a stage.
    """
    if weights in ("imagenet", "none"):
        return STAGES if weights == "imagenet" else ()
    return _stages_in_file(weights)


def weights_id(weights: str) -> str:
    """What identifies a study's `weights`: a file's digest, not its path.

    Raises:
        DataError: The file can't be read.
    """
    if weights in ("imagenet", "none"):
        return weights
    path = Path(weights).expanduser()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"weights {weights}: can't be read: {error.strerror}") from None


def origin_of(weights: str) -> str:
    """Where a study's `weights` come from, valid in any folder: a file's absolute path."""
    if weights in ("imagenet", "none"):
        return weights
    return str(Path(weights).expanduser().absolute())


def require_weights(weights: str) -> None:
    """Fail early on what would fail only after minutes of packing; accesses the network.

    Raises:
        DataError: A file is not one of a ResNet50; or `imagenet` is neither in Keras's cache nor
            available from where Keras fetches it.
    """
    stages_in(weights)
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    cached = home / "models" / _IMAGENET_URL.rsplit("/", 1)[-1]
    if weights != "imagenet" or cached.exists():
        return
    import urllib.request  # 30 ms that only this needs

    request = urllib.request.Request(_IMAGENET_URL, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_S):  # noqa: S310
            return
    except OSError as error:  # URLError is one
        raise DataError(
            f"weights imagenet: {cached} is absent, and {_IMAGENET_URL} can't be reached "
            f"({getattr(error, 'reason', error)}); give --weights a file, or none"
        ) from None


def suffix_of(path: str) -> str:
    """What the name of a weights file must end in for Keras, which tells the format by it alone."""
    import h5py

    with h5py.File(Path(path).expanduser()) as file:
        return ".h5" if _OLD_FORMAT in file.attrs else ".weights.h5"


@functools.lru_cache
def _stages_in_file(path: str) -> tuple[str, ...]:
    import h5py

    if not Path(path).expanduser().is_file():
        raise DataError(f"weights {path}: no such file; allowed: imagenet, none, a weights file")
    try:
        with h5py.File(Path(path).expanduser()) as file:
            names: list[str] = list(file) if _OLD_FORMAT in file.attrs else []
            if not names:
                file.visit(names.append)
    except OSError as error:
        raise DataError(f"weights {path}: can't be read as a Keras weights file: {error}") from None
    layers = [name.rsplit("/", 1)[-1] for name in names]
    count = sum(_CONVOLUTION.fullmatch(layer) is not None for layer in layers)
    if count not in _CONVOLUTIONS:
        raise DataError(
            f"weights {path}: {count} convolutions; those of a ResNet50 that ends after a stage "
            f"are {', '.join(map(str, _CONVOLUTIONS))}"
        )
    return STAGES[: STAGES.index(_CONVOLUTIONS[count]) + 1]
