"""What a network is made of, and what that costs: worked out from its params, building nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from catdog_search.config import CnnParams

MAX_FILTERS = 512
CHANNELS = 3
_BYTES = 4  # of a float32
# Of the stem that whitens: each direction of a patch of 2 x 2 RGB pixels, and its negative.
_WHITENING_SIDE = 2
_WHITENING_FILTERS = 2 * _WHITENING_SIDE**2 * CHANNELS
# Weights, gradients, and what the optimizer keeps of each weight.
_COPIES = {"adam": 4, "sgd": 3}
# A layer's output, its gradient, and what normalization and activation keep beside them.
_ACTIVATION_COPIES = 3
# Backward takes about twice the arithmetic of forward.
_FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True)
class Convolution:
    """One convolution: what it reads, what it makes, and where."""

    channels: int
    filters: int
    kernel_size: int
    side: int
    separable: bool


@dataclass(frozen=True)
class Block:
    """Some convolutions before the pooling that halves the side, others after it.

    Those after it have a shortcut around them.
    """

    before: tuple[Convolution, ...]
    after: tuple[Convolution, ...]


@dataclass(frozen=True)
class Cost:
    """What training a network takes.

    Attributes:
        parameters: Weights, normalization's included.
        activations: Numbers that one photo leaves on its way forward.
        multiply_adds: Of one photo, forward, in what is trained.
        forward_only: Of one photo in what is frozen, in every epoch.
        once: Of one photo in what is frozen, before the first epoch.
    """

    parameters: int
    activations: int
    multiply_adds: int
    forward_only: int = 0
    once: int = 0

    def memory_bytes(self, batch_size: int, optimizer: str) -> int:
        """Estimated peak of one training step, without the photos."""
        per_photo = self.activations * _ACTIVATION_COPIES * batch_size
        return _BYTES * (self.parameters * (_COPIES[optimizer] + 1) + per_photo)

    def training_operations(self, photos: int) -> int:
        """Floating-point operations of one epoch."""
        return 2 * (self.multiply_adds * _FORWARD_AND_BACKWARD + self.forward_only) * photos


def whitening_of(params: CnnParams, image_size: int) -> Convolution | None:
    """The convolution before the first block whose kernel is fixed; None where there is none."""
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
        # The first one sees three channels: taking them apart would lose colour and save nothing.
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
