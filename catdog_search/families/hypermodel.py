"""The family `hypermodel`: networks that a user's `build(hp)` for KerasTuner makes.

Its params are what that code asks of `hp`. No file lists them, so they are found by running it in
its own process (`kerastuner.discover`); this module holds the result, and what it means for trials.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from catdog_search.children import ChildError, run_python
from catdog_search.errors import RequestError
from catdog_search.families.base import Family, Parts, TrialParams
from catdog_search.space import Params, Space, Value

NAME = "hypermodel"
# What the code is called.
SPELLED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_FINDER = "catdog_search.kerastuner.discover"
# Dozens of networks are built, and the first one waits for Keras to load.
_LONGEST_S = 1800.0


Labels = Literal["column", "one-hot", "integers"]

# Modules of the operations that its networks may use outside of layers.
OPERATION_MODULES = (
    *("keras.src.ops.numpy", "keras.src.ops.nn"),
    "keras.src.activations.activations",
)
# Layers that a layer may have as its activation: those without weights.
ACTIVATION_LAYERS = ("ELU", "LeakyReLU", "ReLU", "Softmax")


class HypermodelParams(TrialParams):
    """Params of the family `hypermodel`: those of the code, in its words and in ours."""

    hypermodel: str = Field(description="the code: pkg.module:NAME")
    source: str = Field(description="digest of its module's source")
    values: Mapping[str, Value] = Field(description="values by KerasTuner's names")
    own: Mapping[str, Value] = Field(description="the same by our names")
    labels: Labels | None = Field(
        None, description="form of the labels that its fit takes, where no loss is compiled"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `labels` where there are none: checkpoints name trials by what is written."""
        written: dict[str, Any] = write(self)
        return {k: v for k, v in written.items() if k != "labels" or v is not None}

    def told(self) -> Mapping[str, Value]:
        """As in `TrialParams`; the code's values win where a name is also one of ours."""
        ours: dict[str, Value] = {"hypermodel": self.hypermodel, "image_size": self.image_size}
        return {**ours, **self.own}


@dataclass(frozen=True)
class Hypermodel:
    """What running a user's code has shown of it.

    Attributes:
        name: The code, as `pkg.module:NAME`.
        source: Digest of its module's source.
        space: Its space, or the part of it that a study searches.
        names: What it calls our dimensions, by our names.
        spelled: How it spells their values, by our names, where that differs from ours.
        defaults: Its defaults, by our names.
        image_size: Side in pixels of the photos that its networks take; None where they take any,
            or where `side` gives it.
        side: Dimension that gives the side; None where none does.
        weights: Fewest and most weights of the networks that were built.
        notes: What can't be known before it runs, for display.
        labels: Form of the labels that its `fit` takes, where build compiles no loss.
    """

    name: str
    source: str
    space: Space
    names: Mapping[str, str]
    spelled: Mapping[str, Mapping[Value, Value]]
    defaults: Params
    image_size: int | None
    side: str | None
    weights: tuple[int, int]
    notes: tuple[str, ...]
    labels: Labels | None = None

    def trial(self, params: Params, image_size: int) -> HypermodelParams:
        """The params of a trial.

        Args:
            params: Params by our names.
            image_size: Side of photos where it doesn't give one.
        """
        known = {name: value for name, value in params.items() if name in self.names}
        values = {self.names[n]: self.spelled.get(n, {}).get(v, v) for n, v in known.items()}
        side = known.get(self.side) if self.side else self.image_size
        return HypermodelParams(
            image_size=int(side or image_size),
            hypermodel=self.name,
            source=self.source,
            values=values,
            own=known,
            labels=self.labels,
        )

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Sides that its trials can have; empty where it takes any."""
        if self.side is not None:
            return tuple(int(v) for v in self.space.dimensions[self.side].values or ())
        return () if self.image_size is None else (self.image_size,)


def find(name: str, side: int | None = None) -> Hypermodel:
    """Run a user's code in its own process to see what it searches.

    Args:
        name: The code, as `pkg.module:NAME`.
        side: Side in pixels of the photos for networks that take any; None to find one that fits.

    Raises:
        RequestError: It can't be imported, built or served.
    """
    if not SPELLED.fullmatch(name):
        raise RequestError("must be written pkg.module:NAME")
    try:
        printed = run_python(
            ["-m", _FINDER, name, *([] if side is None else [str(side)])], _LONGEST_S
        )
    except ChildError as error:
        raise RequestError(f"the process that builds it died: {error}") from None
    said = json.loads(printed.splitlines()[-1])
    if "error" in said:
        raise RequestError(said["error"])
    return read(said)


def read(said: Mapping[str, Any]) -> Hypermodel:
    """The inverse of `tell`."""
    return Hypermodel(
        **{
            **said,
            "space": Space.of_dict(said["space"]),
            "spelled": {name: dict(pairs) for name, pairs in said["spelled"].items()},
            "weights": tuple(said["weights"]),
            "notes": tuple(said["notes"]),
        }
    )


def tell(model: Hypermodel) -> dict[str, Any]:
    """All of it in a form for JSON, where keys must be strings."""
    spelled = {name: list(each.items()) for name, each in model.spelled.items()}
    return {**vars(model), "space": model.space.as_dict(), "spelled": spelled}


HYPERMODEL = Family(
    name=NAME,
    params=HypermodelParams,
    rules=(),  # the code itself knows what goes together
    cost=None,
    training="catdog_search.training.hypermodel",
    parts=Parts(
        layers=frozenset(
            {
                *("Activation", "Add", "AlphaDropout", "Average", "AveragePooling2D"),
                *("BatchNormalization", "CenterCrop", "Concatenate", "Conv2D", "Conv2DTranspose"),
                "Cropping2D",
                *("Dense", "DepthwiseConv2D", "Dropout", "ELU", "Flatten"),
                *("GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization", "Identity"),
                *("LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum"),
                *("Multiply", "Normalization", "PReLU", "Permute", "ReLU", "Rescaling", "Reshape"),
                *("SeparableConv2D", "Softmax", "SpatialDropout2D", "Subtract"),
                "UnitNormalization",
                *("UpSampling2D", "ZeroPadding2D"),
            }
        ),
        initializers=frozenset({"Zeros"}),
        activations=frozenset(
            {
                *("celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh"),
                *("leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu"),
                *("sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"),
            }
        ),
        operations=frozenset(
            {
                *("Absolute", "Add", "Clip", "Concatenate", "Divide", "GetItem", "Max", "Maximum"),
                *("Mean", "Min", "Minimum", "Multiply", "Negative", "Power", "Sqrt", "Square"),
                *("Stack", "Subtract", "Tanh", "TrueDivide"),
                *("Elu", "Gelu", "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu"),
                *("LogSigmoid", "ReLU", "Relu", "Relu6", "Selu", "Sigmoid", "Silu", "Softmax"),
                *("Softplus", "Softsign"),
            }
        ),
    ),
)
