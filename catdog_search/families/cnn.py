"""The family `cnn`: convolution blocks that halve the side, then a dense head.

A network's structure is described once, by `plan_cnn`: the builder walks it to make layers, the
cost to count weights and arithmetic.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from catdog_search.families.base import CHANNELS, Cost, Domain, Family, NetworkParams, Parts

MAX_FILTERS = 512
# The whitening stem: each direction of a patch of 2 x 2 RGB pixels, and its negative.
_WHITENING_SIDE = 2
_WHITENING_FILTERS = 2 * _WHITENING_SIDE**2 * CHANNELS


class CnnParams(NetworkParams):
    """Params of the family `cnn`: convolution blocks, each halving the side, then a dense head."""

    n_blocks: int = Field(3, ge=1, le=7, description="convolution blocks; each halves the side")
    convolutions: int = Field(1, ge=1, le=4, description="convolutions a block")
    filters: int = Field(32, ge=4, le=512, description="filters of the first block")
    filter_growth: float = Field(
        2.0, ge=1, le=4, description="filters of a block over those of the one before; at most 512"
    )
    kernel_size: Literal[3, 5, 7] = Field(3, description="side of a convolution, in pixels")
    block: Literal["plain", "residual", "separable"] = Field(
        "plain",
        description="plain: convolutions, then pooling; residual: all but the first convolution "
        "stand after the pooling, with a shortcut around them; separable: plain with depthwise "
        "separable convolutions",
    )
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu"] = Field(
        "relu", description="after every convolution and dense layer"
    )
    normalization: Literal["none", "batch"] = Field(
        "none", description="between a convolution and its activation"
    )
    stem: Literal["none", "whitening"] = Field(
        "none",
        description="before the first block; whitening: a fixed convolution that takes apart what "
        "patches of 2 x 2 pixels have in common, computed from train's photos",
    )
    initialization: Literal["glorot", "he"] = Field(
        "glorot",
        description="of kernels; glorot: as Keras does; he: He's normal one, and the branch beside "
        "a shortcut begins at zero",
    )
    head: Literal["flatten", "average", "max"] = Field(
        "flatten", description="what becomes of the last block's map: all of it, or its mean or max"
    )
    spatial_dropout: float = Field(
        0.0, ge=0, lt=1, description="rate after each block, of whole filter maps"
    )
    progressive: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="share of the epochs, the first ones, that train on photos of half the side, "
        "at a quarter of the arithmetic; val sees whole ones; needs head average or max",
    )

    test_time_augmentation: Literal["none", "flip"] = Field(
        "none",
        description="what a photo is judged by at the end, and by the exported model; flip: the "
        "mean logit of it and its mirror image",
    )

    light_share: ClassVar[float] = 0.25  # half the side is a quarter of the arithmetic

    def light_epochs(self, epochs: int) -> int:
        """How many of a training's first epochs see photos of half the side."""
        return round(self.progressive * epochs)


@dataclass(frozen=True)
class Convolution:
    """One convolution: its channels, its kernel, and the side of its map."""

    channels: int
    filters: int
    kernel_size: int
    side: int
    separable: bool


@dataclass(frozen=True)
class Block:
    """Some convolutions before the pooling that halves the side, others after it.

    Those after it are bypassed by a shortcut.
    """

    before: tuple[Convolution, ...]
    after: tuple[Convolution, ...]


def whitening_of(params: CnnParams, image_size: int) -> Convolution | None:
    """The convolution with a fixed kernel before the first block; None where there is none."""
    if params.stem == "none":
        return None
    return Convolution(CHANNELS, _WHITENING_FILTERS, _WHITENING_SIDE, image_size, separable=False)


def plan_cnn(params: CnnParams, image_size: int) -> list[Block]:
    """The blocks of a network.

    Args:
        params: Its shape; `n_blocks` must leave at least one pixel.
        image_size: Side in pixels, at least 2 ** n_blocks.

    Raises:
        ValueError: image_size is smaller than 2 ** n_blocks.
    """
    if image_size < 2**params.n_blocks:
        raise ValueError(f"image_size {image_size} is below 2 ** n_blocks = {2**params.n_blocks}")
    stem = whitening_of(params, image_size)
    blocks, channels, side = [], stem.filters if stem else CHANNELS, image_size
    for index in range(params.n_blocks):
        filters = min(round(params.filters * params.filter_growth**index), MAX_FILTERS)
        # The first one sees three channels: separating them would lose colour and save nothing.
        separable = params.block == "separable" and index > 0
        widths = [channels, *[filters] * params.convolutions]
        n_before = 1 if params.block == "residual" else params.convolutions
        made = [
            Convolution(*pair, params.kernel_size, side if i < n_before else side // 2, separable)
            for i, pair in enumerate(pairwise(widths))
        ]
        blocks.append(Block(tuple(made[:n_before]), tuple(made[n_before:])))
        channels, side = filters, side // 2
    return blocks


def cost_of_cnn(params: CnnParams, image_size: int) -> Cost:
    """What a network costs.

    Raises:
        ValueError: image_size is smaller than 2 ** n_blocks.
    """
    blocks = plan_cnn(params, image_size)
    batch_norm = params.normalization == "batch"
    parameters = activations = multiply_adds = forward_only = 0
    if (stem := whitening_of(params, image_size)) is not None:
        parameters = _kernel_weights(stem)
        forward_only = parameters * stem.side**2
        activations = stem.side**2 * stem.filters
    for convolution in (c for block in blocks for c in (*block.before, *block.after)):
        weights = _kernel_weights(convolution)
        outputs = convolution.side**2 * convolution.filters
        parameters += weights + convolution.filters * (4 if batch_norm else 1)
        multiply_adds += weights * convolution.side**2
        activations += outputs * (2 if batch_norm else 1)
    side = image_size // 2**params.n_blocks
    features = blocks[-1].before[-1].filters * (side**2 if params.head == "flatten" else 1)
    widths = [features, *([params.dense_units] if params.dense_units else []), 1]
    for inputs, units in pairwise(widths):
        parameters += (inputs + 1) * units
        multiply_adds += inputs * units
        activations += units
    return Cost(parameters, activations, multiply_adds, forward_only)


def _kernel_weights(convolution: Convolution) -> int:
    area = convolution.kernel_size**2
    if convolution.separable:
        return convolution.channels * (area + convolution.filters)
    return area * convolution.channels * convolution.filters


def _cost(params: CnnParams, weights: str) -> Cost:
    del weights  # everything starts at random
    return cost_of_cnn(params, params.image_size)


def _too_deep(domain: Domain) -> Iterator[str]:
    """Each block halves the side, so the deepest one must still see a pixel."""
    most, least = _most_blocks(domain), min(domain.image_sizes)
    if 2**most > least:
        yield (
            f"[space] n_blocks: {most} of them need an image_size of at least {2**most}; "
            f"it is {least}"
        )


def _not_progressive(domain: Domain) -> Iterator[str]:
    """A network that trains on two sizes must take both."""
    progressive = domain.dimension("progressive")
    if progressive is None or progressive.values == (0.0,):
        return
    at = "[space] progressive: trains on photos of half the side"
    if "flatten" in domain.values("head"):
        yield f"{at}, and head can be flatten, which takes one size; use average"
    most = _most_blocks(domain)
    for side in domain.image_sizes:
        if side % 2 or side // 2 < 2**most:
            yield (
                f"{at}, {side / 2:g} px, which {most} blocks can't halve; the image_size must be "
                f"even and at least {2 ** (most + 1)}"
            )


def _most_blocks(domain: Domain) -> int:
    return max(int(value) for value in domain.values("n_blocks"))


CNN = Family(
    name="cnn",
    params=CnnParams,
    rules=(_too_deep, _not_progressive),
    cost=_cost,
    training="catdog_search.training.cnn",
    parts=Parts(
        layers=frozenset(
            {
                *("Activation", "Add", "Average", "BatchNormalization", "Conv2D", "Dense"),
                *("Dropout", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
                *("MaxPooling2D", "Rescaling", "SeparableConv2D", "SpatialDropout2D"),
            }
        ),
        initializers=frozenset({"GlorotUniform", "HeNormal", "Ones", "Zeros"}),
        operations=frozenset({"Flip"}),
        activations=frozenset(typing.get_args(CnnParams.model_fields["activation"].annotation)),
    ),
)
