"""What a family of networks is: a row with everything that the rest of the package asks of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field, StringConstraints

from catdog_search.fields import Table
from catdog_search.space import Dimension, Params, Space, Value

# Sides of photos, in pixels.
SMALLEST_IMAGE, LARGEST_IMAGE = 8, 1024
CHANNELS = 3
_BYTES = 4  # of a float32
# Weights, gradients, and what the optimizer keeps for each weight.
_COPIES = {"adam": 4, "sgd": 3}
# A layer's output, its gradient, and what normalization and activation keep besides.
_ACTIVATION_COPIES = 3
# Backward takes about twice the arithmetic of forward.
_FORWARD_AND_BACKWARD = 3

AUGMENTATIONS = (
    "flip",
    "alternating_flip",
    "rotation",
    "zoom",
    "translation",
    "brightness",
    "contrast",
    "saturation",
    "erasing",
    "mixup",
)
_KIND = "|".join(AUGMENTATIONS)


def _each_once(kinds: str) -> str:
    named = kinds.split("+")
    if len(set(named)) < len(named) or {"flip", "alternating_flip"} <= set(named):
        raise ValueError("each kind once, and flip or alternating_flip")
    return kinds


AugmentationKinds = Annotated[
    str,
    StringConstraints(pattern=rf"^({_KIND})(\+({_KIND}))*$"),
    AfterValidator(_each_once),
]


class TrialParams(Table):
    """Params that the trials of any family have."""

    image_size: int = Field(
        0,
        ge=0,
        le=LARGEST_IMAGE,
        description="side in pixels of this trial's photos; 0: as the study says",
    )

    # Work of a light epoch, as a share of a normal one.
    light_share: ClassVar[float] = 1.0

    def light_epochs(self, epochs: int) -> int:
        """How many of a training's first epochs take less work than the others."""
        del epochs
        return 0

    def most_epochs(self, study: int) -> int:
        """Maximum number of epochs, given the study's."""
        return study

    def told(self) -> Mapping[str, Value]:
        """All params by name, as they are logged."""
        return self.model_dump()


class NetworkParams(TrialParams):
    """Params that our own families have: of regularization, augmentation and optimization."""

    dense_units: int = Field(
        128, ge=0, le=4096, description="units of the layer before the output; 0 leaves it out"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="rate before the dense and output layers")
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="decoupled, times the learning rate; spares biases and normalization",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="0.1 teaches 0.95 and 0.05")
    augmentation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="strength of augmentation_kinds; at 1: turns by up to 36°, zooms and shifts by "
        "up to 20 %, brightness and contrast by up to 30 %, saturation by up to 50 %, erases "
        "up to 16 %, mixes as Beta(0.4, 0.4); flip mirrors half of the photos at any strength, "
        "alternating_flip each photo in every second epoch",
    )
    augmentation_kinds: AugmentationKinds = Field(
        "flip+rotation+zoom+translation+brightness+contrast",
        description="which: some of " + ", ".join(AUGMENTATIONS) + ", joined by +, each once, and "
        "one of the two flips at most",
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="stock Keras optimizer")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum; read by sgd alone")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="highest of the trial")
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant",
        description="of the learning rate; one-cycle rises for 30 % of the steps, then falls; with "
        "constant alone training stops early and keeps the best epoch, else the last counts",
    )
    epochs: int = Field(0, ge=0, le=10_000, description="at most so many; 0: as [training] says")
    ema: float = Field(
        0.0, ge=0, lt=1, description="momentum of averaged weights; 0: none; needs a falling rate"
    )
    batch_size: int = Field(64, ge=1, le=4096, description="photos a step")

    @property
    def augmentations(self) -> frozenset[str]:
        """The kinds that are switched on."""
        return frozenset(self.augmentation_kinds.split("+")) if self.augmentation else frozenset()

    def most_epochs(self, study: int) -> int:
        """As in `TrialParams`; a trial may have its own number."""
        return self.epochs or study


@dataclass(frozen=True)
class Cost:
    """What training a network costs.

    Attributes:
        parameters: Weights, normalization's included.
        activations: Numbers that one photo's forward pass produces.
        multiply_adds: Forward multiply-adds per photo in the trained part.
        forward_only: Multiply-adds per photo in the frozen part, in every epoch.
        once: Multiply-adds per photo in the frozen part, before the first epoch.
        kept_by: What `once` depends on: trials that agree in it share that work.
        tells_speed: Whether a step's time follows from its arithmetic; not if there is hardly any.
    """

    parameters: int
    activations: int
    multiply_adds: int
    forward_only: int = 0
    once: int = 0
    kept_by: Hashable = None
    tells_speed: bool = True

    def memory_bytes(self, batch_size: int, optimizer: str) -> int:
        """Estimated peak memory of one training step, without the photos."""
        per_photo = self.activations * _ACTIVATION_COPIES * batch_size
        return _BYTES * (self.parameters * (_COPIES[optimizer] + 1) + per_photo)

    def training_operations(self, photos: int) -> int:
        """Floating-point operations of one epoch."""
        return 2 * (self.multiply_adds * _FORWARD_AND_BACKWARD + self.forward_only) * photos


class UnreadError(Exception):
    """A rule asks for what a study file says wrongly."""


@dataclass(frozen=True)
class Domain:
    """What the trials of a study can be, for rules across params.

    Attributes:
        space: Search space of the study.
        defaults: Values by knob, for those that the space leaves out.
        sides: Sides of photos in pixels.
        unread: Knobs that the study file specifies wrongly; whoever asks for them gets an
            `UnreadError`.
    """

    space: Space
    defaults: Mapping[str, Value]
    sides: tuple[int, ...]
    unread: Set[str] = frozenset()

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Sides of photos in pixels."""
        self._require_read("image_size")
        return self.sides

    def dimension(self, name: str) -> Dimension | None:
        """How the space searches a knob; None where it leaves the knob out."""
        self._require_read(name)
        return self.space.dimensions.get(name)

    def values(self, name: str) -> tuple[Value, ...]:
        """The values that a knob can take, in order; empty where they can't be enumerated."""
        if (dimension := self.dimension(name)) is not None:
            return dimension.values or ()
        return (self.defaults[name],) if name in self.defaults else ()

    def _require_read(self, name: str) -> None:
        if name in self.unread:
            raise UnreadError(name)


# Finds knobs that don't go together: lines, each beginning with its place in the study file.
Rule = Callable[[Domain], Iterator[str]]


@dataclass(frozen=True)
class Parts:
    """Stock Keras classes and functions, by name, that a family's exported networks are made of.

    What isn't named here is not loaded: `models.loading` trusts no file.
    """

    layers: frozenset[str]
    initializers: frozenset[str]
    activations: frozenset[str]
    operations: frozenset[str] = frozenset()


def as_used(params: Mapping[str, Value], stated: Mapping[str, Value]) -> Params:
    """Params as a trial uses them: where 0 leaves one to the study, the study's value.

    Args:
        params: Params of a trial, as its study's space has them.
        stated: The study's values of those that may be left to it, by name.
    """
    return {name: stated.get(name, v) if v == 0 else v for name, v in params.items()}


P = TypeVar("P", bound=TrialParams)


@dataclass(frozen=True)
class Family(Generic[P]):
    """One family of networks: a row of the registry.

    Attributes:
        name: Name in study files.
        params: Its params, each with its bounds and its meaning.
        rules: What its knobs must keep together.
        cost: Cost of a trial by its params and the study's weights; builds nothing. None where
            only building would tell.
        training: Name of the module that trains it, a `training.plan.Planner`; heavy to import.
        parts: Parts that its exported networks are made of.
        require_weights: Raises a DataError for weights that can't be obtained, before minutes of
            packing; may access the network. None where everything starts at random.
    """

    name: str
    params: type[P]
    rules: tuple[Rule, ...]
    cost: Callable[[P, str], Cost] | None
    training: str
    parts: Parts
    require_weights: Callable[[str], None] | None = None

    @property
    def loads_weights(self) -> bool:
        """Whether part of it may start from loaded weights."""
        return self.require_weights is not None
