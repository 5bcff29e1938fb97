"""Exported models, read back: only what this project writes, and nothing else a file may name.

Keras's own `safe_mode` keeps Lambda layers out; it lets a file name any other class of Keras,
including those that read files and call code, and ask for any amount of memory. So a file is first
checked, entry by entry, and rewritten from what was checked; that is what Keras reads.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from catdog_search.families.base import Parts
from catdog_search.families.hypermodel import ACTIVATION_LAYERS, OPERATION_MODULES
from catdog_search.families.registry import FAMILIES
from catdog_search.machine.memory import free_bytes
from catdog_search.models import neither
from catdog_search.text import with_article

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_ENTRIES = frozenset((_CONFIG, _WEIGHTS, "metadata.json"))
# A ResNet50's has 180 KB.
_MOST_CONFIG_BYTES = 10_000_000
# Limit of a layer's sizes: no number of units or filters, side or padding of ours is larger.
_MOST = 8192
# Memory in multiples of the file's size: the file, what is read of it, the network, building it.
_COPIES = 4

# What `models.export` puts around a network of any family; the family says what is in it.
_AROUND = Parts(
    layers=frozenset({"Activation", "Average", "InputLayer", "Rescaling", "Resizing"}),
    initializers=frozenset(),
    activations=frozenset({"linear", "sigmoid"}),
)
_KERAS = {
    "keras.src.models.functional": frozenset({"Functional"}),
    "keras.models": frozenset({"Functional"}),
    "keras": frozenset({"DTypePolicy"}),
    "keras.dtype_policies": frozenset({"DTypePolicy"}),
}
# How Keras writes what an operation is called with: tensors of the network, and parts of them.
_MARKS = frozenset({"__keras_tensor__", "__ellipsis__", "__slice__"})
# Constants among them, as lists of numbers.
_CONSTANTS = frozenset({"__tensor__", "__numpy__"})
_NUMBERS = frozenset({"float16", "float32", "float64", "int32", "int64", "uint8"})
# Words that Keras would look up among functions and classes.
_LOOKED_UP = ("initializer", "regularizer", "constraint")
# What a damaged file makes zipfile, json, h5py and the checks of the config raise.
_DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,  # a RecursionError among them
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
# Numbers that aren't sizes: of a random stream, of an object.
_NO_SIZES = (
    *("seed", "shared_object_id", "epsilon", "scale", "offset", "axis", "mean", "variance"),
    *("x_min", "x_max"),
)


class ForeignModelError(ValueError):
    """A file is not a model written by this project, or was altered."""


@dataclass(frozen=True)
class _Known:
    """What a file may name.

    Attributes:
        classes: Every class that a model of ours may contain, by its module.
        activations: Every activation's name.
    """

    classes: Mapping[str, frozenset[str]]
    activations: frozenset[str]

    @classmethod
    def of(cls, around: Parts) -> _Known:
        """The parts of every family's networks, and those around them."""
        parts = [around, *(family.parts for family in FAMILIES.values())]
        ours = {
            "keras.layers": frozenset[str]().union(*(part.layers for part in parts)),
            "keras.initializers": frozenset[str]().union(*(part.initializers for part in parts)),
        }
        operations = frozenset[str]().union(*(part.operations for part in parts))
        ours |= dict.fromkeys(OPERATION_MODULES, operations)
        activations = frozenset[str]().union(*(part.activations for part in parts))
        return cls({**_KERAS, **ours}, activations)


def load_exported(path: Path, image_size: int) -> keras.Model:
    """Load a model that `exported_model` made.

    Args:
        path: A .keras file.
        image_size: The side that it resizes to, as recorded beside it.

    Raises:
        ForeignModelError: It is anything else.
    """
    model = _load(path, image_size, _AROUND)
    if _end_of(model) == neither.END:
        raise ForeignModelError(f"ends in {neither.END}, which is in no model of ours")
    return model


def load_neither(path: Path, image_size: int) -> keras.Model:
    """Load a score that `neither_model` made, as strictly as the model beside it.

    Args:
        path: A .keras file.
        image_size: The side that it resizes to, as recorded beside the model.

    Raises:
        ForeignModelError: It is anything else.
    """
    model = _load(path, image_size, neither.PARTS)
    if (end := _end_of(model)) != neither.END:
        raise ForeignModelError(f"ends in {end}, and in no model of ours that scores does")
    return model


def _end_of(model: keras.Model) -> str:
    """Name of the layer that a model ends in."""
    return str(model.outputs[0]._keras_history.operation.name)


def _load(path: Path, image_size: int, around: Parts) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "model.keras")
        _rewrite(path, own, image_size, around)
        try:
            model = keras.saving.load_model(own, compile=False, safe_mode=True)
        # Errors of zipfile, h5py, Keras and its backend: a file that passed the checks and yet
        # can't be loaded is damaged, whatever the error.
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ForeignModelError(first) from error
    _check_face(model)
    return model


def photos_at_once(model: keras.Model, image_size: int, most: int) -> int:
    """Largest batch of photos that a loaded model can handle in the free memory, up to `most`.

    Raises:
        ForeignModelError: Not even one.
    """
    # A layer's input, its output, and what computing it takes.
    a_photo = 3 * 4 * max(_map_sizes(model, image_size))
    fitting = int(free_bytes() // (2 * a_photo))
    if fitting < 1:
        raise ForeignModelError(f"one photo would take {a_photo / 1e9:.1f} GB")
    return min(fitting, most)


def _map_sizes(model: keras.Model, image_size: int) -> Iterator[int]:
    """The numbers in each layer's output for one photo."""
    for operation in model.operations:
        if isinstance(operation, keras.Model):
            yield from _map_sizes(operation, image_size)
        else:
            # A side that isn't fixed is at most that of the photos.
            yield math.prod(image_size if n is None else n for n in operation.output.shape[1:])


def _check_face(model: keras.Model) -> None:
    """Check that it takes photos of any size, and gives one number for each."""
    faces = [[tensor.shape for tensor in side] for side in (model.inputs, model.outputs)]
    if faces != [[(None, None, None, 3)], [(None, 1)]]:
        raise ForeignModelError(f"takes and gives {faces}, not photos and one number of each")


def _rewrite(path: Path, own: Path, image_size: int, around: Parts) -> None:
    """Check a file, and write what was checked to another one.

    Raises:
        ForeignModelError: It isn't as we write it.
    """
    size = path.stat().st_size
    if _COPIES * size > free_bytes():
        raise ForeignModelError(f"its {size / 1e9:.1f} GB are more than memory has room for")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive.infolist(), size)
            config = json.loads(archive.read(_CONFIG))
            weights = archive.read(_WEIGHTS)
        _check_config(config, image_size, _Known.of(around), _count_numbers(weights))
    except ForeignModelError:
        raise
    except _DAMAGE as error:
        raise ForeignModelError(f"is damaged: {error}") from None
    with zipfile.ZipFile(own, "w") as archive:
        archive.writestr(_CONFIG, json.dumps(config))
        archive.writestr(_WEIGHTS, weights)


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Only what we write, as we write it: uncompressed, so it can't expand beyond the file."""
    names = sorted(entry.filename for entry in entries)
    if not {_CONFIG, _WEIGHTS} <= set(names) <= _ENTRIES or len(set(names)) < len(names):
        raise ForeignModelError(f"holds {names}, not {sorted(_ENTRIES)}")
    for entry in entries:
        most = size if entry.filename == _WEIGHTS else _MOST_CONFIG_BYTES
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > most:
            raise ForeignModelError(f"its {entry.filename} is compressed or too large")


def _count_numbers(weights: bytes) -> int:
    """How many numbers an HDF5 file holds, all of them within itself.

    Raises:
        ForeignModelError: It points to other files, or promises more than it holds.
    """
    total, seen = 0, set()
    with h5py.File(io.BytesIO(weights), "r") as file:
        groups = [file]
        while groups:
            group = groups.pop()
            for name in group:
                if type(group.get(name, getlink=True)) is not h5py.HardLink:
                    raise ForeignModelError(f"its weights link {name!r} to somewhere else")
                item = group[name]
                where = h5py.h5o.get_info(item.id).addr
                if where in seen:
                    raise ForeignModelError(f"its weights hold {name!r} twice")
                seen.add(where)
                if isinstance(item, h5py.Group):
                    groups.append(item)
                else:
                    total += _numbers_in(item)
    return total


def _numbers_in(item: Any) -> int:
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
        raise ForeignModelError(f"its weights hold {item.name!r}, which is no array of numbers")
    is_elsewhere = item.is_virtual or item.external
    if is_elsewhere or item.chunks or item.id.get_storage_size() != item.nbytes:
        raise ForeignModelError(f"its weights promise {item.name!r} and don't hold it as it is")
    return int(item.size)


def _check_config(config: Any, image_size: int, known: _Known, n_numbers: int) -> None:
    """Check what a network is made of; what concerns its training is removed.

    Raises:
        ForeignModelError: Other layers than ours, a size beyond ours, or more weights than the
            file holds.
    """
    if config["class_name"] != "Functional":
        raise ForeignModelError(f"is {with_article(str(config['class_name']))}, not a Functional")
    n_weights = 0
    for table in _tables(config):
        if table.get("class_name") in _CONSTANTS:
            _check_constant(table["config"])
        elif "class_name" in table and table["class_name"] not in _MARKS:
            _check_object(table, image_size, known)
            n_weights += _count_weights(table)
            table.pop("compile_config", None)
        for key, value in table.items():
            _check_word(key, value, known)
    if n_weights > n_numbers:
        raise ForeignModelError(f"asks for {n_weights} weights, and holds {n_numbers} numbers")


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _check_object(table: dict[str, Any], image_size: int, known: _Known) -> None:
    name, module = str(table["class_name"]), str(table.get("module"))
    if name not in known.classes.get(module, ()):
        raise ForeignModelError(f"names {module}.{name}, which is in no model of ours")
    if table.get("registered_name") not in (None, name):
        raise ForeignModelError(f"names {table['registered_name']!r} for {name}")
    config = table["config"]
    if name == "Resizing" and [config["height"], config["width"]] != [image_size] * 2:
        raise ForeignModelError(f"resizes to other than {image_size} pixels")
    for key, value in config.items():
        if key not in _NO_SIZES and name != "Functional":
            _check_size(f"{name}.{key}", value)


def _check_constant(config: Mapping[str, Any]) -> None:
    if config["dtype"] not in _NUMBERS:
        raise ForeignModelError(f"holds a constant of {config['dtype']}, and no numbers")
    waiting = [config["value"]]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif not isinstance(each, int | float):
            raise ForeignModelError(f"holds a constant {each!r}, which is no number")


def _check_size(where: str, value: Any) -> None:
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, list):
            _check_size(where, number)
        elif isinstance(number, int) and abs(number) > _MOST:
            raise ForeignModelError(f"{where} is {number}, at most {_MOST}")


def _check_word(key: str, value: Any, known: _Known) -> None:
    is_unknown = key == "activation" and not _is_activation(value, known)
    is_looked_up = key.endswith(_LOOKED_UP) and isinstance(value, str)
    is_other = key.startswith("lora") or (key == "data_format" and value != "channels_last")
    if value is not None and (is_unknown or is_looked_up or is_other):
        raise ForeignModelError(f"says {key} {value!r}, which is in no model of ours")


def _is_activation(value: Any, known: _Known) -> bool:
    """Whether it is a function that is known, or a layer, which is checked like any other."""
    if isinstance(value, dict):
        return value.get("class_name") in ACTIVATION_LAYERS
    return value in known.activations


def _count_weights(table: Mapping[str, Any]) -> int:
    """Weights that Keras allocates when it builds a layer, except biases."""
    name, config = table["class_name"], table["config"]
    if name not in ("Dense", "BatchNormalization", "Conv2D", "SeparableConv2D"):
        return 0
    channels = int(table["build_config"]["input_shape"][-1])
    match name:
        case "Dense":
            return channels * int(config["units"])
        case "BatchNormalization":
            return channels * (2 + bool(config["scale"]) + bool(config["center"]))
        case "Conv2D":
            each = math.prod(map(int, config["kernel_size"])) * channels // int(config["groups"])
            return each * int(config["filters"])
        case _:
            deeper = channels * int(config["depth_multiplier"])
            kernel = math.prod(map(int, config["kernel_size"]))
            return deeper * (kernel + int(config["filters"]))
