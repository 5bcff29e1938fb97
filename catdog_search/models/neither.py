"""How unlike train a photo is, as a model of stock Keras layers: the score behind "neither".

A network keeps little of what its answer doesn't need, so neither the answer nor the layer before
it is good at telling photos that show neither class; its earlier maps are
(`benchmarks/neither.py` has the candidates and the numbers). So the score looks at the map of every
depth: its channels' means and deviations over the photo, and how far they are from train's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import KerasTensor, layers, ops
from sklearn.covariance import ledoit_wolf

from catdog_search.families.base import Parts

# More photos hardly change a covariance, and a deep network takes minutes for them.
_MOST_PHOTOS = 6000
_AT_ONCE = 64
# Floor for a channel that train never activates, as a share of the mean; avoids division by 0.
_FLOOR = 1e-3

# Layers that the score uses besides the network's own.
PARTS = Parts(
    layers=frozenset(
        {
            *("Activation", "BatchNormalization", "Concatenate", "Dense", "Dot", "InputLayer"),
            *("GlobalAveragePooling2D", "Rescaling", "Resizing"),
        }
    ),
    initializers=frozenset({"GlorotUniform", "Ones", "Zeros"}),
    activations=frozenset({"linear", "softsign"}),
    operations=frozenset({"Std"}),
)

# The layer that gives the score, which distinguishes it from the model beside it.
END = "unlikeness"

Photos = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


def neither_model(exported: keras.Model, photos: Photos) -> keras.Model:
    """The score of a model, fitted on the photos that it was trained on.

    It knows no classes: any number of them will do.

    Args:
        exported: A model as `exported_model` makes it, or one that averages several networks, of
            which the first is used. The score shares its layers until it is saved.
        photos: Train's packed photos, uint8 RGB (n, side, side, 3), at least 2; up to 12,000 of
            them are used, at least 6,000 where there are that many, evenly spaced.

    Returns:
        Uncompiled model: uint8 RGB (batch, any height, any width, 3) -> float32 score (batch, 1),
        from 0; train's average is 1, and higher is less like train. It is finite for every photo.

    Source:
        Mahalanobis distance at several depths: Lee et al. 2018, arXiv:1807.03888; shrinkage of its
        covariance: Ledoit and Wolf 2004, J. Multivar. Anal. 88.
    """
    statistics = statistics_model(exported)
    return scoring(statistics, statistics_of(statistics, photos[:: step_of(len(photos))]))


def step_of(n: int) -> int:
    """Step between the photos of train that are used, of n."""
    return max(1, n // _MOST_PHOTOS)


def statistics_model(exported: keras.Model) -> keras.Model:
    """The feature part: statistics of a photo's map at each of a model's depths.

    A depth ends at a layer that makes the map smaller: that layer's input is the depth's map.

    Returns:
        Uncompiled model: uint8 RGB (batch, any height, any width, 3) -> a list of float32
        (batch, 2 * channels), each channel's mean over the photo, then each one's deviation.
    """
    photo, maps = _maps_of(exported)
    found = []
    for depth, x in enumerate(maps):
        mean = layers.GlobalAveragePooling2D(name=f"mean_{depth}", dtype="float32")(x)
        deviation = ops.std(x, axis=[1, 2])
        found.append(layers.Concatenate(name=f"depth_{depth}", dtype="float32")([mean, deviation]))
    return keras.Model(photo, found, name="statistics")


def statistics_of(statistics: keras.Model, photos: Photos) -> list[Vectors]:
    """What `statistics_model` gives for photos, by depth; converts a few to floats at a time."""
    batches = (photos[at : at + _AT_ONCE] for at in range(0, len(photos), _AT_ONCE))
    of_batches = [_as_list(statistics.predict_on_batch(np.asarray(batch))) for batch in batches]
    return [np.concatenate(of_depth) for of_depth in zip(*of_batches, strict=True)]


def scoring(statistics: keras.Model, of_train: Sequence[Vectors]) -> keras.Model:
    """The score: a photo's squared distance relative to train's own, averaged over the depths.

    Args:
        statistics: As `statistics_model` makes it.
        of_train: What it gives for photos of train, as `statistics_of` returns it.

    Returns:
        The model that `neither_model` returns.
    """
    apart = []
    for depth, (x, seen) in enumerate(zip(_as_list(statistics.outputs), of_train, strict=True)):
        # Divides by the usual level: a normalization layer, because it keeps numbers as weights.
        usual = layers.BatchNormalization(
            center=False, scale=False, epsilon=0.0, name=f"usual_{depth}", dtype="float32"
        )
        # Some photos have huge channels; unbounded, these would set the threshold.
        bounded = layers.Activation("softsign", name=f"bounded_{depth}", dtype="float32")
        whiten = layers.Dense(seen.shape[1], name=f"whitened_{depth}", dtype="float32")
        apart.append(whiten(bounded(usual(x, training=False))))
        level = np.abs(seen).mean(axis=0, dtype=np.float64)
        level += _floor(level)
        usual.set_weights([np.zeros_like(level), level**2])
        kernel, bias = _whitening(_softsign(seen / level))
        whiten.set_weights([kernel / np.sqrt(len(of_train)), bias / np.sqrt(len(of_train))])
    whole = apart[0]
    if len(apart) > 1:
        whole = layers.Concatenate(name="apart", dtype="float32")(apart)
    score = layers.Dot(axes=1, name=END, dtype="float32")([whole, whole])
    return keras.Model(statistics.inputs[0], score, name="neither")


def _whitening(x: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    """Kernel (d, d) and bias (d,) that make the squared norm a squared distance from x's mean.

    It is divided by its mean over x, so that depths with many channels and with few weigh the same.
    """
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation += _floor(deviation)
    standard = (x - mean) / deviation
    covariance, _ = ledoit_wolf(standard, assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    whitened = directions / np.sqrt(np.maximum(variances, np.finfo(np.float32).eps))
    usual = np.einsum("ij,ij->", standard @ whitened, standard @ whitened) / len(x)
    kernel = whitened / deviation[:, None] / np.sqrt(usual or 1.0)
    return kernel, -mean @ kernel


def _softsign(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    bounded: npt.NDArray[np.float64] = x / (1 + np.abs(x))
    return bounded


def _floor(values: npt.NDArray[np.float64]) -> float:
    return float(_FLOOR * values.mean() or _FLOOR)


def _maps_of(model: keras.Model) -> tuple[KerasTensor, list[KerasTensor]]:
    """A model's input, and the map of each depth of the network within it."""
    graph = _Graph(model)
    return graph.input, list(_maps_in(graph, graph.wanted))


def _maps_in(graph: _Graph, given: Sequence[KerasTensor]) -> Iterator[KerasTensor]:
    """The maps of one model, and of the models within it.

    Args:
        graph: The model, taken apart.
        given: The tensors of `graph.wanted`, computed from the photo on.
    """
    yield from given[: len(graph.read)]
    for inner, x in zip(graph.inner, given[len(graph.read) :], strict=True):
        until = keras.Model(inner.input, inner.wanted, name=inner.name)
        yield from _maps_in(inner, _as_list(until(x, training=False)))


class _Graph:
    """A functional model, retraced over the same layers to see what each one reads.

    A layer that is called again (on a photo's mirror image) and another network with the same
    input (one of several whose answers are averaged) are skipped: the first one is enough.

    Attributes:
        name: The model's name.
        input: Its input.
        read: The maps of its depths: those that a layer makes smaller, and the one it ends with;
            except outputs of inner models, which count as theirs.
        inner: Models within it that have such maps.
        wanted: `read`, then what each of `inner` reads.
    """

    def __init__(self, model: keras.Model) -> None:
        self._read_by: dict[Any, KerasTensor] = {}
        self._ends: set[int] = set()
        laid_out = keras.models.clone_model(
            model, clone_function=lambda layer: layer, call_function=self._call
        )
        self.name: str = model.name
        self.input: KerasTensor = laid_out.inputs[0]
        read = [x for layer, x in self._read_by.items() if _shrinks(layer, x)]
        read += [x for x in laid_out.outputs if _is_map(x)]
        self.read = list({id(x): x for x in read if id(x) not in self._ends}.values())
        inner: dict[int, tuple[_Graph, KerasTensor]] = {}
        for layer, x in self._read_by.items():
            if isinstance(layer, keras.Model) and id(x) not in inner:
                graph = _Graph(layer)
                if graph.read or graph.inner:
                    inner[id(x)] = graph, x
        self.inner: list[_Graph] = [graph for graph, _ in inner.values()]
        self.wanted: list[KerasTensor] = [*self.read, *(x for _, x in inner.values())]

    def _call(self, layer: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        self._read_by.setdefault(layer, x)
        result = layer(x, *args, **kwargs)
        if isinstance(layer, keras.Model):
            self._ends.add(id(result))
        return result


def _shrinks(layer: Any, x: Any) -> bool:
    """Whether a layer makes a map smaller, or turns it into something that isn't a map."""
    if isinstance(layer, keras.Model) or not isinstance(layer, keras.layers.Layer):
        return False
    if not _is_map(x):
        return False
    is_flattened = len(layer.compute_output_shape(x.shape)) < len(x.shape)
    return is_flattened or np.max(getattr(layer, "strides", 1)) > 1


def _is_map(x: Any) -> bool:
    """Whether it is (photo, row, column, channel)."""
    return isinstance(x, KerasTensor) and len(x.shape) == len(("photo", "row", "column", "channel"))


def _as_list(found: Any) -> list[Any]:
    return list(found) if isinstance(found, (list, tuple)) else [found]
