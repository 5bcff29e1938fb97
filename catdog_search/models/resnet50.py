"""The family `resnet50`: a backbone with loaded weights, cut where training starts, and a head."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from catdog_search.errors import DataError
from catdog_search.families.resnet50 import ResNet50Params, stages_until
from catdog_search.families.weights import STAGES, stages_in, suffix_of

# What keras.applications subtracts, in RGB; its weights expect BGR, see `_take_rgb`.
_MEANS = (123.68, 116.779, 103.939)
# The last layer of each stage.
_LAST = {
    "conv1": "pool1_pool",
    "conv2": "conv2_block3_out",
    "conv3": "conv3_block4_out",
    "conv4": "conv4_block6_out",
    "conv5": "conv5_block3_out",
}


@dataclass(frozen=True)
class Backbone:
    """ResNet50 with its weights, to be cut where training starts.

    Attributes:
        resnet: Centred RGB (batch, side, side, 3) -> the last map.
        stages: The stages present, in order.
        loaded: Those of them with loaded weights.
    """

    resnet: keras.Model
    stages: tuple[str, ...]
    loaded: tuple[str, ...]

    def whole(self, photos: Any) -> Any:
        """RGB (batch, side, side, 3), 0 to 255 -> the last map."""
        return self.resnet(centred(photos))

    def cut(self, first_trained: int) -> tuple[keras.Model | None, keras.Model | None]:
        """The part before a stage and the part from it on, of the same layers.

        Args:
            first_trained: Its index in `stages`; their number for none.

        Returns:
            Frozen part (centred RGB -> map) and trained part (map -> last map); None for an empty
            part.
        """
        if first_trained == 0:
            return None, self.resnet
        if first_trained == len(self.stages):
            return self.resnet, None
        at = self.resnet.get_layer(_LAST[self.stages[first_trained - 1]]).output
        return keras.Model(self.resnet.input, at), keras.Model(at, self.resnet.output)

    def train_from(self, first_trained: int) -> None:
        """Set which layers are trained.

        BatchNorm in stages with loaded weights stays frozen and runs in inference mode at every
        depth, so that small batches can't disturb what it has learned; in stages that start at
        random it is trained.
        """
        trained = self.stages[first_trained:]
        for layer in self.resnet.layers:
            stage = _stage_of(layer)
            is_norm = isinstance(layer, layers.BatchNormalization)
            layer.trainable = stage in trained and not (is_norm and stage in self.loaded)


def _stage_of(layer: keras.layers.Layer) -> str:
    return next((stage for stage in STAGES if layer.name.startswith(stage)), STAGES[0])


def centred(photos: Any) -> Any:
    """RGB, 0 to 255 -> RGB as the loaded weights expect it."""
    return layers.Rescaling(1.0, offset=[-mean for mean in _MEANS])(photos)


def build_backbone(params: ResNet50Params, weights: str) -> Backbone:
    """The backbone of a trial.

    Args:
        params: Params of the trial, with its image size in pixels, at least 32.
        weights: `imagenet`, `none`, or the path of a file.

    Raises:
        DataError: The weights can't be obtained: no such file, not of a ResNet50, no network.

    Source: He et al. 2015, arXiv:1512.03385.
    """
    shape = (params.image_size, params.image_size, 3)
    fetched = "imagenet" if weights == "imagenet" else None
    try:
        whole = keras.applications.ResNet50(include_top=False, weights=fetched, input_shape=shape)
    except Exception as error:  # of any kind: it goes through urllib, h5py and Keras
        raise DataError(
            f"weights: those of ImageNet can't be fetched ({error}); give --weights the path of a "
            "file, or none"
        ) from error
    loaded = stages_in(weights)
    if loaded and not fetched:
        _load(keras.Model(whole.input, whole.get_layer(_LAST[loaded[-1]]).output), weights)
    if loaded:
        _take_rgb(whole)
    stages = stages_until(params.backbone_end)
    resnet = keras.Model(whole.input, whole.get_layer(params.backbone_end).output, name="resnet50")
    return Backbone(resnet, stages, tuple(stage for stage in stages if stage in loaded))


def _load(part: keras.Model, weights: str) -> None:
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("error", UserWarning)  # Keras only warns of layers it left out
            named = Path(folder) / f"resnet50{suffix_of(weights)}"
            named.symlink_to(Path(weights).expanduser().absolute())
            part.load_weights(named)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"weights {weights}: are not those of a ResNet50: {first}") from None


def _take_rgb(whole: keras.Model) -> None:
    """Flip the first kernel from BGR, on which it was trained, to RGB: the same sums."""
    kernel = whole.get_layer("conv1_conv").kernel
    kernel.assign(keras.ops.flip(kernel.value, axis=2))


def build_head(params: ResNet50Params, channels: int, seed: int) -> keras.Model:
    """Features (batch, channels), averaged over the map -> float32 logits (batch, 1)."""
    seeds = itertools.count(seed)
    features = keras.Input((channels,), name="features")
    x: Any = features
    if params.dense_units:
        x = layers.Dropout(params.dropout, seed=next(seeds))(x)
        x = layers.Dense(params.dense_units, activation="relu")(x)
    x = layers.Dropout(params.dropout, seed=next(seeds))(x)
    return keras.Model(features, layers.Dense(1, dtype="float32", name="logits")(x), name="head")


def digest_of(model: keras.Model) -> str:
    """Sha256 over a model's weights."""
    total = hashlib.sha256()
    for array in model.get_weights():
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
