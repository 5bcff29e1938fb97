"""The family `resnet50`: a backbone with loaded weights, some stages trained, a fresh head.

Its cost is counted by stage. Source: He et al. 2015, arXiv:1512.03385, table 1, as
`keras.applications.ResNet50` builds it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from catdog_search.families.base import CHANNELS, Cost, Domain, Family, NetworkParams, Parts
from catdog_search.families.weights import STAGES, require_weights, stages_in

# Blocks, filters of their middle convolution, and the stride of the first.
_BLOCKS = {"conv2": (3, 64, 1), "conv3": (4, 128, 2), "conv4": (6, 256, 2), "conv5": (3, 512, 2)}
_WIDENING = 4
_LEAST_SIDE = 32  # pixels, as in keras.applications
_BATCH_NORM = 4  # numbers per channel: gamma, beta, mean, variance


class ResNet50Params(NetworkParams):
    """Params of the family `resnet50`: a pretrained backbone, some stages trained, a fresh head."""

    trainable_stages: int = Field(
        0,
        ge=0,
        le=5,
        description="stages that are trained, counted from the backbone's last; 0: the head alone. "
        "A stage that starts without loaded weights is trained anyway",
    )
    backbone_end: Literal["conv4_block6_out", "conv5_block3_out"] = Field(
        "conv5_block3_out", description="the backbone's last layer; stage 5 is there or not"
    )
    dense_units: int = Field(
        0, ge=0, le=4096, description="units of the layer before the output; 0 leaves it out"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="rate before the dense and output layers")
    backbone_learning_rate: float = Field(
        1e-4, gt=0, le=1, description="highest of the backbone's; learning_rate is the head's"
    )
    warmup_epochs: int = Field(
        0,
        ge=0,
        le=1000,
        description="epochs, the first ones, that train only what starts random, at a constant "
        "rate, before loaded stages are unfrozen",
    )
    views: int = Field(
        1,
        ge=0,
        le=64,
        description="augmented views of each photo of train whose frozen features are computed, "
        "once, and taken in turn by epoch; 0: afresh in every step, and nothing is kept",
    )

    light_share: ClassVar[float] = 0.0  # the head alone takes next to nothing

    def light_epochs(self, epochs: int) -> int:
        """How many of a training's first epochs warm up."""
        return min(self.warmup_epochs, epochs)


@dataclass(frozen=True)
class _Stage:
    parameters: int
    multiply_adds: int
    activations: int


def stages_until(backbone_end: str) -> tuple[str, ...]:
    """The stages of a backbone up to its end."""
    return STAGES[: STAGES.index(backbone_end.split("_", maxsplit=1)[0]) + 1]


def trained_stages(params: ResNet50Params, loaded: tuple[str, ...]) -> tuple[str, ...]:
    """The stages that are trained, in order.

    Args:
        params: Params of the trial.
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
    """What a trial costs; frozen stages count only once where their features are kept.

    Args:
        params: Params of the trial, with its image size in pixels.
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
        kept_by=(params.image_size, len(present) - len(trained), _seen_as(params)),
        tells_speed=bool(trained),
    )


def _seen_as(params: ResNet50Params) -> Hashable:
    """How the photos are augmented, and in how many views."""
    kinds = params.augmentations
    return (params.augmentation, kinds, params.views) if kinds else ()


def _cost(params: ResNet50Params, weights: str) -> Cost:
    return cost_of_resnet50(params, stages_in(weights))


def _too_small(domain: Domain) -> Iterator[str]:
    least = min(domain.image_sizes)
    if least < _LEAST_SIDE:
        yield f"image_size: {least}; a ResNet50 needs at least {_LEAST_SIDE}"


def _mixed(domain: Domain) -> Iterator[str]:
    """Kept features are of single photos."""
    if "mixup" in "+".join(map(str, domain.values("augmentation_kinds"))).split("+"):
        yield (
            "[space] augmentation_kinds: mixup mixes photos, and a ResNet50 may be fed "
            "their kept features; leave it out"
        )


def _too_short(domain: Domain) -> Iterator[str]:
    """No more stages can be trained than exist."""
    end = domain.dimension("backbone_end")
    if end is None or not any("conv4" in str(value) for value in end.values or ()):
        return
    if len(STAGES) in end.when.get("trainable_stages", domain.values("trainable_stages")):
        yield (
            f"[space] backbone_end: can be conv4_block6_out, which has {len(STAGES) - 1} stages, "
            f"where trainable_stages is {len(STAGES)}; add when = "
            "{ trainable_stages = [0, 1, 2, 3, 4] }"
        )


RESNET50 = Family(
    name="resnet50",
    params=ResNet50Params,
    rules=(_too_small, _mixed, _too_short),
    cost=_cost,
    training="catdog_search.training.resnet50",
    parts=Parts(
        layers=frozenset(
            {
                *("Activation", "Add", "BatchNormalization", "Conv2D", "Dense", "Dropout"),
                *("GlobalAveragePooling2D", "MaxPooling2D", "Rescaling", "ZeroPadding2D"),
            }
        ),
        initializers=frozenset({"GlorotUniform", "Ones", "Zeros"}),
        activations=frozenset({"relu"}),
    ),
    require_weights=require_weights,
)
