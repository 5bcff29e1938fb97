"""What a user's networks may be made of, and copies of them that others can load."""

from __future__ import annotations

import re
import warnings
from typing import Any

import keras
import numpy as np
from keras import layers

from catdog_search.errors import RequestError
from catdog_search.families.base import CHANNELS
from catdog_search.families.hypermodel import ACTIVATION_LAYERS, HYPERMODEL, OPERATION_MODULES
from catdog_search.text import with_article

# Layers that do nothing outside training.
_ONLY_IN_TRAINING = (
    *("GaussianDropout", "GaussianNoise", "AutoContrast", "CutMix", "MixUp", "RandAugment"),
    *("AugMix", "ActivityRegularization"),
)
# Layers that may come before a network that fixes the size of the photos.
_SAME_SIZE = ("Activation", "BatchNormalization", "Dropout", "Identity", "Normalization")
# RandomCrop isn't among them: outside training it resizes.
_RANDOM = re.compile(r"Random(?!Crop\b)[A-Z]\w*")
# By name; ONNX has no operation for celu's.
_ACTIVATIONS = HYPERMODEL.parts.activations - {"celu"}
# Enough to tell activations from each other, in rows of two for softmax.
_PROBES = np.linspace(-9, 9, 62, dtype=np.float32).reshape(-1, 2)


def require(operation: Any) -> None:
    """Refuse a layer or an operation that others couldn't load.

    Raises:
        RequestError: It is custom or unknown.
    """
    kind = type(operation).__name__
    if not isinstance(operation, layers.Layer):
        is_keras = type(operation).__module__ in OPERATION_MODULES
        if kind not in HYPERMODEL.parts.operations or not is_keras:
            raise RequestError(f"its network computes {kind} outside of layers; use a layer")
        return
    if _is_stock(operation) and isinstance(operation, layers.SpectralNormalization):
        require(operation.layer)
        return
    if not _is_stock(operation) or not (_is_gone(kind) or kind in HYPERMODEL.parts.layers):
        raise RequestError(
            f"its layer {operation.name} is {with_article(kind)}, which can't be exported; "
            "stock layers can, but for Lambda, Resizing and the like"
        )
    if isinstance(operation, layers.CenterCrop) and _enlarges(operation):
        raise RequestError(
            f"its layer {operation.name} crops to more than its input has, which enlarges it and "
            "can't be exported"
        )
    if not _is_gone(kind) and activation_of(operation) is None:
        raise RequestError(
            f"its layer {operation.name} has an activation of its own; stock ones can be exported, "
            f"by name or as {', '.join(ACTIVATION_LAYERS)}"
        )


def _enlarges(crop: Any) -> bool:
    wanted = crop.height, crop.width
    given = [node.input_tensors[0].shape[1:3] for node in crop._inbound_nodes]
    return any(
        n is None or n < most for side in given for n, most in zip(side, wanted, strict=True)
    )


def _is_stock(layer: Any) -> bool:
    return getattr(layers, type(layer).__name__, None) is type(layer)


def _is_gone(kind: str) -> bool:
    return kind in _ONLY_IN_TRAINING or _RANDOM.fullmatch(kind) is not None


def keeps_size(layer: Any) -> bool:
    """Whether photos leave a layer as large as they came."""
    kind = type(layer).__name__
    return _is_gone(kind) or kind in (*_SAME_SIZE, "Rescaling")


def ends_a_network(operation: Any) -> bool:
    """Whether a network may end with it: it answers with logits once its activation is gone."""
    return isinstance(operation, layers.Dense | layers.Activation) or _is_only_activation(operation)


def _is_only_activation(operation: Any) -> bool:
    is_function = not isinstance(operation, layers.Layer)
    return isinstance(operation, layers.Softmax) or (
        is_function and type(operation).__name__ in ("Sigmoid", "Softmax")
    )


def activation_of(operation: Any) -> str | None:
    """The stock activation of a layer or operation, by name; "linear" where it has none.

    Returns:
        None: It isn't a stock one.
    """
    if _is_only_activation(operation):
        return type(operation).__name__.lower()
    given = getattr(operation, "activation", None)
    if given is None:
        return "linear"
    if isinstance(given, layers.Layer):
        is_known = _is_stock(given) and type(given).__name__ in ACTIVATION_LAYERS
        return type(given).__name__.lower() if is_known else None
    return _name_of(given)


def _name_of(activation: Any) -> str | None:
    """The stock activation that computes the same: Keras's own names go by the function's name."""
    named = str(getattr(activation, "__name__", ""))
    known = sorted(_ACTIVATIONS, key=lambda name: (name != named, name))
    if named in known and keras.activations.get(named) is activation:
        return named
    try:
        said = _at_probes(activation)
    except Exception:  # anybody's code may raise anything
        return None
    same = (n for n in known if np.allclose(_at_probes(keras.activations.get(n)), said, atol=1e-6))
    return next(same, None)


def _at_probes(activation: Any) -> Any:
    tensor = keras.ops.convert_to_tensor(_PROBES)
    return keras.ops.convert_to_numpy(activation(tensor))


def copied(model: keras.Model, last: Any, image_size: int) -> keras.Model:
    """The same network of stock layers, with weights of its own; it ends with logits.

    Args:
        model: The network.
        last: The layer or operation that gives its output.
        image_size: Side of its photos in pixels.
    """
    copier = _Copier(last)
    network = copier.network(model, image_size)
    copier.give_weights()
    return network


class _Copier:
    """Copies layers, and remembers which became which.

    Args:
        last: The layer or operation that gives the network's output.
    """

    def __init__(self, last: Any) -> None:
        self._last = last
        self._pairs: list[tuple[Any, Any]] = []

    def network(self, model: keras.Model, image_size: int | None = None) -> keras.Model:
        """The same layers with fresh weights; the last one outputs logits."""
        if not isinstance(model, keras.Sequential):
            # As compiled, it would be compiled again, with a loss that Keras may not know.
            plain = keras.Model(model.input, model.output, name=model.name)
            return keras.models.clone_model(
                plain, clone_function=self._copy, call_function=_with_arrays
            )
        shape = model.inputs[0].shape[1:]
        if image_size is not None:
            shape = (image_size, image_size, CHANNELS)
        x = first = keras.Input(shape, name=f"{model.name}_input")
        for layer in model.layers:
            x = self._copy(layer)(x)
        return keras.Model(first, x, name=model.name)

    def _copy(self, operation: Any) -> Any:
        if isinstance(operation, keras.Model):
            return self.network(operation)
        kind, name = type(operation).__name__, operation.name
        is_last = operation is self._last
        if isinstance(operation, layers.SpectralNormalization):
            operation = operation.layer  # outside training it is that layer
        if _is_gone(kind) or (is_last and _is_only_activation(operation)):
            return layers.Activation("linear", name=name)
        if not isinstance(operation, layers.Layer):
            return type(operation).from_config(operation.get_config())
        if isinstance(operation, layers.Normalization):
            return _as_rescaling(operation)
        own = type(operation).from_config({**_config(operation, is_last), "name": name})
        self._pairs.append((operation, own))
        return own

    def give_weights(self) -> None:
        """Give the copies the weights."""
        for layer, own in self._pairs:
            own.set_weights(layer.get_weights())


def _with_arrays(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a copy with arrays for constants: tensors would become inputs of an ONNX network."""

    def plain(value: Any) -> Any:
        is_constant = keras.ops.is_tensor(value) and not isinstance(value, keras.KerasTensor)
        return keras.ops.convert_to_numpy(value) if is_constant else value

    args, kwargs = keras.tree.map_structure(plain, (args, kwargs))
    return operation(*args, **kwargs)


def _as_rescaling(layer: Any) -> Any:
    """A Normalization as it is now: its moments are no weights, and an ONNX network's inputs."""
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(each), np.float64)
        for each in (layer.mean, layer.variance)
    )
    deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
    scale, offset = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    return layers.Rescaling(scale.tolist(), offset.tolist(), name=layer.name, dtype="float32")


def _config(layer: Any, is_last: bool) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a lambda, whose place a stock activation takes
        config = {**layer.get_config(), "dtype": "float32"}
    for key in config:
        if key.endswith(("regularizer", "constraint")):
            config[key] = None
        elif key.endswith("initializer"):
            config[key] = "zeros"  # its weights are set afterwards
    if is_last:
        config["activation"] = "linear"
    elif "activation" in config:
        config["activation"] = _activation_for(layer)
    return config


def _activation_for(layer: Any) -> Any:
    given = layer.activation
    if isinstance(given, layers.Layer):
        return type(given).from_config({**given.get_config(), "dtype": "float32"})
    return activation_of(layer)
