"""A user's networks: their inputs and outputs, how they are trained, and what is exported."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from catdog_search.errors import RequestError
from catdog_search.families.base import CHANNELS, LARGEST_IMAGE, SMALLEST_IMAGE
from catdog_search.families.hypermodel import Labels
from catdog_search.kerastuner import stock, targets
from catdog_search.kerastuner.losses import form_of, in_form, loss_of, takes_logits
from catdog_search.text import named_line, with_article

Photos = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float32]
Split = tuple[Photos, npt.NDArray[Any]]

# Layers that pass values on unchanged at inference.
_PASSING = ("Dropout", "Flatten", "Identity", "Reshape")
_SMALLEST = 1e-7  # smallest probability, as Keras's losses clip it
_REPEATED = re.compile(
    r"(?:multiple values for (?:keyword )?argument|unexpected keyword argument) '(\w+)'"
)
# Arguments that a `fit` may set itself.
_OPTIONAL = ("epochs", "verbose", "validation_data")

Activation = Literal["sigmoid", "softmax", "linear"]


@dataclass(frozen=True)
class Face:
    """Form of a network's output and of the labels that it is trained with.

    Attributes:
        units: Number of outputs per photo: 1 or 2.
        activation: Activation of the outputs; linear ones are logits.
        form: Form of the labels that its loss takes.
    """

    units: int
    activation: Activation
    form: Labels

    def labels(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Labels 0 or 1, of any shape, in this form."""
        return in_form(y, self.form)

    def logits(self, said: npt.NDArray[Any]) -> Numbers:
        """Logits of class 1 (n,) from its outputs (n, units)."""
        wide = np.asarray(said, np.float64)
        if self.activation == "linear":
            return np.asarray(wide[:, -1] - (wide[:, 0] if self.units > 1 else 0), np.float32)
        wide = np.clip(wide, _SMALLEST, 1 - _SMALLEST)
        other = wide[:, 0] if self.units > 1 else 1 - wide[:, 0]
        return np.asarray(np.log(wide[:, -1] / other), np.float32)


def settle(model: Any, side: int) -> int | None:
    """Build a network whose weights are created only at its first photo.

    Args:
        model: What the user's code has built.
        side: Side of its photos in pixels, if it takes any.

    Returns:
        The side that it takes; None for any.

    Raises:
        RequestError: It isn't a network, takes something else, or can't be built.
    """
    if not isinstance(model, keras.Model):
        raise RequestError(f"its build returns a {type(model).__name__}, and no Keras model")
    if isinstance(model, keras.Sequential) and not model.built:
        fixed = _nested_side(model)
        try:
            model.build((None, fixed or side, fixed or side, CHANNELS))
        except Exception as error:  # of Keras, a backend or a layer of the user's
            raise RequestError(
                f"its network can't be built for photos of {fixed or side} px: {named_line(error)}"
            ) from error
        return fixed
    _require_functional(model)
    return input_side(model)


def _nested_side(model: keras.Sequential) -> int | None:
    """The side that the first network within takes, behind layers that keep the size."""
    for layer in model.layers:
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            return input_side(layer)
        if not stock.keeps_size(layer):
            return None
    return None


def face_of(model: keras.Model, form: Labels | None = None) -> Face:
    """Form of a network's output, and of the labels that its compiled loss takes.

    Args:
        model: The network.
        form: Form of the labels where it isn't compiled, if that is known.

    Raises:
        RequestError: It doesn't classify two classes in one of these ways.
    """
    _require_functional(model)
    input_side(model)
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:  # noqa: PLR2004  photos, units
        shapes = [tuple(output.shape) for output in model.outputs]
        raise RequestError(f"its network answers {shapes}; it must be one number or two a photo")
    units, activation = int(model.outputs[0].shape[-1]), _activation(model)
    if units > 2 or (units, activation) in ((1, "softmax"), (2, "sigmoid")):  # noqa: PLR2004
        raise RequestError(
            f"its network answers with {units} units of {activation}; two classes take one of "
            "sigmoid, two of softmax, or logits"
        )
    return Face(units, activation, _form(model, units, activation, form))


def _form(model: keras.Model, units: int, activation: Activation, found: Labels | None) -> Labels:
    loss = loss_of(model)
    of_logits = activation == "linear"
    if loss is None:
        return found or ("column" if units == 1 else "one-hot")
    if of_logits and not takes_logits(loss, units):
        raise RequestError(
            "its last layer has no activation, and its loss takes no logits; give it sigmoid, "
            "softmax, or a loss with from_logits=True"
        )
    return form_of(loss, units, of_logits=of_logits)


def _require_functional(model: keras.Model) -> None:
    if isinstance(model, keras.Sequential):
        return
    pixels = keras.Input((1,))
    functional = type(keras.Model(pixels, pixels))
    if not isinstance(model, functional) or type(model).call is not functional.call:
        raise RequestError(
            f"its network is {with_article(type(model).__name__)} with a call of its own; only "
            "Sequential and functional models can be exported"
        )


def input_side(model: keras.Model) -> int | None:
    """The side in pixels of the photos that a network takes; None for any.

    Raises:
        RequestError: It takes anything but RGB photos of one square size.
    """
    shapes = [tuple(each.shape) for each in model.inputs]
    if len(shapes) != 1:
        raise RequestError(f"its network takes {len(shapes)} inputs {shapes}; it must be one photo")
    [shape] = shapes
    fits = len(shape) == 4 and shape[0] is None and shape[1] == shape[2] and shape[3] == CHANNELS  # noqa: PLR2004
    if not fits or (shape[1] or SMALLEST_IMAGE) not in range(SMALLEST_IMAGE, LARGEST_IMAGE + 1):
        raise RequestError(
            f"its network takes {shape}; photos are (None, side, side, 3), of {SMALLEST_IMAGE} to "
            f"{LARGEST_IMAGE} px"
        )
    return None if shape[1] is None else int(shape[1])


def _activation(model: keras.Model) -> Activation:
    last = _last_layer(model)
    name = stock.activation_of(last)
    known: dict[Any, Activation] = {each: each for each in get_args(Activation)}
    if stock.ends_a_network(last) and name in known:
        return known[name]
    kind = type(last).__name__
    raise RequestError(
        f"its network ends with {kind if name is None else f'{kind} {name}'}; it must end with "
        "Dense or Activation, of sigmoid, softmax or none"
    )


def _last_layer(model: keras.Model) -> Any:
    """The layer that gives a network's output, also inside nested models."""
    layer: Any = model
    tensor: Any = model.outputs[0]
    while True:
        layer = tensor._keras_history.operation
        if isinstance(layer, keras.Model):
            tensor = layer.outputs[0]
        elif type(layer).__name__ in _PASSING:
            tensor = layer.input
        else:
            return layer


def require_stock(model: keras.Model) -> None:
    """Refuse a network that can't be exported because others couldn't load it.

    Raises:
        RequestError: It has custom or unknown layers or operations.
    """
    for operation in _operations(model):
        stock.require(operation)


def _operations(model: keras.Model) -> Iterator[Any]:
    found = model.layers if isinstance(model, keras.Sequential) else model.operations
    for operation in found:
        if isinstance(operation, keras.Model):
            yield from _operations(operation)
        elif not isinstance(operation, layers.InputLayer):
            yield operation


def network_of(model: keras.Model, image_size: int) -> keras.Model:
    """A trained network in the form of ours: stock layers, without those only for training.

    Args:
        model: The network, which `require_stock` and `face_of` accepted.
        image_size: Side of its photos in pixels.

    Returns:
        RGB (batch, side, side, 3), 0 to 255 -> float32 logits of class 1 (batch, 1). It has
        weights of its own.
    """
    face = face_of(model)
    pixels = keras.Input((image_size, image_size, CHANNELS), name="pixels")
    x = stock.copied(model, _last_layer(model), image_size)(pixels)
    if face.units > 1:
        difference = layers.Dense(1, use_bias=False, dtype="float32", name="logit")
        x = difference(x)
        difference.set_weights([np.array([[-1.0], [1.0]], np.float32)])
    return keras.Model(pixels, x, name="hypermodel")


def call_fit(
    hypermodel: Any,
    hyperparameters: Any,
    model: keras.Model,
    train: Split,
    val: Split,
    epochs: int,
    callbacks: Sequence[Any],
) -> None:
    """Call a user's own `fit` as KerasTuner does, with what its users pass to `search`.

    Arguments that the `fit` sets itself are left out.

    Raises:
        Exception: Whatever it raises.
    """
    given: dict[str, Any] = {"validation_data": val, "epochs": epochs, "verbose": 0}
    while True:
        with contextlib.suppress(_RepeatedError):
            with _naming_what_is_repeated(given), targets.no_exit("fit"):
                hypermodel.fit(hyperparameters, model, *train, callbacks=list(callbacks), **given)
            return


class _RepeatedError(Exception):
    """An argument is set by the `fit` itself or not accepted; it is no longer passed."""


@contextlib.contextmanager
def _naming_what_is_repeated(given: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        said = _REPEATED.search(str(error))
        if said is None or said[1] not in _OPTIONAL or said[1] not in given:
            raise
        del given[said[1]]
        raise _RepeatedError from error
