"""What ResNet50 is made of, by stage, and what that costs: counted, building nothing.

Source: He et al. 2015, arXiv:1512.03385, table 1, as `keras.applications.ResNet50` builds it.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import urllib.request
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from catdog_search.config import ResNet50Params
from catdog_search.errors import DataError
from catdog_search.models.plan import CHANNELS, Cost

STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
# Blocks, filters of their middle convolution, and the stride of the first.
_BLOCKS = {"conv2": (3, 64, 1), "conv3": (4, 128, 2), "conv4": (6, 256, 2), "conv5": (3, 512, 2)}
_WIDENING = 4
_BATCH_NORM = 4  # numbers a channel: gamma, beta, mean, variance
# Convolutions up to and with each stage: how a weights file says where it ends.
_CONVOLUTIONS = {1: "conv1", 11: "conv2", 24: "conv3", 43: "conv4", 53: "conv5"}
# Where `keras.applications` fetches the weights without the top, under the name it keeps them by.
_IMAGENET_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
_PATIENCE_S = 15


@dataclass(frozen=True)
class _Stage:
    parameters: int
    multiply_adds: int
    activations: int


def stages_until(backbone_end: str) -> tuple[str, ...]:
    """The stages of a backbone that ends with a layer."""
    return STAGES[: STAGES.index(backbone_end.split("_", maxsplit=1)[0]) + 1]


def stages_in(weights: str) -> tuple[str, ...]:
    """The stages that `weights` of a study hold: all for `imagenet`, none for `none`.

    Raises:
        DataError: A file can't be read, or doesn't hold a ResNet50 that ends after a stage.
    """
    if weights in ("imagenet", "none"):
        return STAGES if weights == "imagenet" else ()
    return _stages_in_file(weights)


def weights_id(weights: str) -> str:
    """What tells `weights` of a study apart from others: a file's digest, not its place.

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


def require_weights(weights: str) -> None:
    """Say at once what would fail only after minutes of packing.

    Raises:
        DataError: A file is not one of a ResNet50; or `imagenet` is neither in Keras's cache nor to
            be had from where Keras fetches it.
    """
    stages_in(weights)
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    cached = home / "models" / _IMAGENET_URL.rsplit("/", 1)[-1]
    if weights != "imagenet" or cached.exists():
        return
    request = urllib.request.Request(_IMAGENET_URL, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_S):  # noqa: S310
            return
    except OSError as error:  # URLError is one
        raise DataError(
            f"weights imagenet: {cached} is absent, and {_IMAGENET_URL} can't be reached "
            f"({getattr(error, 'reason', error)}); give --weights a file, or none"
        ) from None


@functools.lru_cache
def _stages_in_file(path: str) -> tuple[str, ...]:
    import h5py

    if not Path(path).expanduser().is_file():
        raise DataError(f"weights {path}: no such file; allowed: imagenet, none, a weights file")
    try:
        with h5py.File(Path(path).expanduser()) as file:
            names: list[str] = []
            file.visit(names.append)
    except OSError as error:
        raise DataError(f"weights {path}: can't be read as a Keras weights file: {error}") from None
    layers = [name.rsplit("/", 1)[-1] for name in names]
    count = sum(layer == "conv2d" or layer.startswith("conv2d_") for layer in layers)
    if count not in _CONVOLUTIONS:
        raise DataError(
            f"weights {path}: {count} convolutions; those of a ResNet50 that ends after a stage "
            f"are {', '.join(map(str, _CONVOLUTIONS))}"
        )
    return STAGES[: STAGES.index(_CONVOLUTIONS[count]) + 1]


def trained_stages(params: ResNet50Params, loaded: tuple[str, ...]) -> tuple[str, ...]:
    """The stages that are trained, in order.

    Args:
        params: Of the trial.
        loaded: Stages with loaded weights.
    """
    present = stages_until(params.backbone_end)
    first = len(present) - min(params.trainable_stages, len(present))
    random = [i for i, stage in enumerate(present) if stage not in loaded]
    return present[min([first, *random]) :]


def _stages(side: int) -> dict[str, _Stage]:
    """Every stage at an image size."""
    side = math.ceil(side / 2)
    area, width = 7 * 7, 64
    weights = area * CHANNELS * width
    found = {
        "conv1": _Stage(weights + width * (1 + _BATCH_NORM), side**2 * weights, 2 * side**2 * width)
    }
    side, channels = math.ceil(side / 2), width
    for name, (blocks, width, stride) in _BLOCKS.items():
        side = math.ceil(side / stride)
        parameters = multiply_adds = activations = 0
        for block in range(blocks):
            wide = width * _WIDENING
            kernels = [(1, channels, width), (3, width, width), (1, width, wide)]
            kernels += [(1, channels, wide)] if block == 0 else []
            for kernel, inputs, outputs in kernels:
                weights = kernel**2 * inputs * outputs
                parameters += weights + outputs * (1 + _BATCH_NORM)
                multiply_adds += weights * side**2
                activations += 2 * outputs * side**2
            channels = wide
        found[name] = _Stage(parameters, multiply_adds, activations)
    return found


def cost_of_resnet50(params: ResNet50Params, loaded: tuple[str, ...]) -> Cost:
    """What a trial costs; frozen stages are counted once where their features are kept.

    Args:
        params: Of the trial, with its image size.
        loaded: Stages with loaded weights.
    """
    stages = _stages(params.image_size)
    present, trained = stages_until(params.backbone_end), trained_stages(params, loaded)
    features = 1024 if present[-1] == "conv4" else 2048
    widths = [features, *([params.dense_units] if params.dense_units else []), 1]
    head = sum((inputs + 1) * units for inputs, units in pairwise(widths))
    frozen = sum(stages[stage].multiply_adds for stage in present if stage not in trained)
    views = params.views if params.augmentation else min(params.views, 1)
    return Cost(
        parameters=sum(stages[stage].parameters for stage in present) + head,
        activations=sum(stages[stage].activations for stage in trained) + sum(widths),
        multiply_adds=sum(stages[stage].multiply_adds for stage in trained) + head,
        forward_only=0 if params.views else frozen,
        once=frozen * views,
    )
