"""Do heat maps lie on what the answer rests on? Photos beside their maps, and a count beside that.

The picture is for a person, who sees whether the warm places are the animal; its photos are not
chosen by what the model says. The count needs nobody (the grid pointing game: Böhle et al. 2021,
CVPR): two photos that the model is right and sure of, one of each class, are joined. Only one of
them speaks for the class that is meant then; by luck it would have half of the map. Hiding places
under the photo's mean, as `heat` does, is compared with hiding them under a blurred copy.

    python benchmarks/heat.py FILE.onnx --data PHOTOS [--to heat.png] [--n 10]

`--n` photos are drawn, half of each class, and as many joined, each pair in four ways.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from catdog_search.answering import heat as heat_module
from catdog_search.answering.heat import Heat, heat
from catdog_search.answering.runtime import OnnxModel
from catdog_search.data.decode import decode
from catdog_search.data.sources import Source
from catdog_search.markup import as_figure_text

Pixels = Any
SHOWN_SIDE = 200
BLURRED = 1 / 8  # of the side
PAIRS_A_ROW = 3
SURE = 0.9
MOST_LOOKED_AT = 100  # for each that is joined
SEED = 0


def main() -> None:
    """Draw, count and print."""
    parser = common.parser(__doc__, 10)
    parser.add_argument("model", type=Path, help="a model that `model export` wrote")
    parser.add_argument("--to", type=Path, default=Path("heat.png"), help="default: %(default)s")
    asked = parser.parse_args()
    model = OnnxModel.open(asked.model)
    source = common.source(asked)
    draw(model, source, asked)
    contents = sure(model, source, asked.n)
    ways = {"its mean": heat_module._filling, "a blurred copy": blurred}
    rows = [row(model, contents, name, way) for name, way in ways.items()]
    common.report(asked, ("onnxruntime", "numpy", "pillow"), rows, image_size=side_of(model))


def side_of(model: OnnxModel) -> int:
    """Side of its photos in pixels."""
    return model.facts.image_size


def in_turn(source: Source) -> Iterator[tuple[str, int]]:
    """Photos of one class and the other in turn, by chance."""
    keys = [*source.labels]
    random.Random(SEED).shuffle(keys)
    by_class = [[key for key in keys if source.labels[key] == index] for index in (0, 1)]
    for pair in zip(*by_class, strict=False):
        yield from ((key, index) for index, key in enumerate(pair))


def sure(model: OnnxModel, source: Source, n: int) -> list[bytes]:
    """Photos of one class and the other in turn that a model is right and sure of."""
    found: tuple[list[bytes], list[bytes]] = ([], [])
    for key, index in itertools.islice(in_turn(source), MOST_LOOKED_AT * n):
        content = source.read(key)
        (answer,) = model.answer(decode(content, side_of(model))[None])
        if answer.probabilities[model.facts.class_names[index]] >= SURE:
            found[index].append(content)
    pairs = list(zip(*found, strict=False))[: n // 2]
    if not pairs:
        raise SystemExit(f"error: the model is not {SURE:.0%} sure of a single pair of photos")
    return [content for pair in pairs for content in pair]


def blurred(photo: Pixels) -> Pixels:
    """A copy without detail."""
    radius = BLURRED * len(photo)
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(radius)))


def row(
    model: OnnxModel, contents: list[bytes], name: str, filling: Callable[[Pixels], Pixels]
) -> dict[str, Any]:
    """What one way of hiding comes to on joined photos."""
    shares, peaks, seconds = [], [], []
    with patch.object(heat_module, "_filling", filling):
        for photo, of_class_1 in joined(contents, side_of(model)):
            began = time.perf_counter()
            found = heat(model, photo)
            seconds.append(time.perf_counter() - began)
            is_1 = model.answer(photo[None])[0].label == model.facts.class_names[1]
            meant = of_class_1 if is_1 else ~of_class_1
            if found.range:
                map_ = as_large_as(photo, found)
                shares.append(float(map_[meant].sum() / map_.sum()))
                peaks.append(bool(meant[np.unravel_index(map_.argmax(), map_.shape)]))
    return {
        "hidden under": name,
        "maps": len(shares),
        "share on the photo of the class": round(statistics.mean(shares), 3),
        "peak on it": round(statistics.mean(peaks), 3),
        "seconds": common.spread(seconds),
    }


def joined(contents: list[bytes], side: int) -> Iterator[tuple[Pixels, Pixels]]:
    """Two photos as one, beside and above each other, and where the one of class 1 is."""
    for zero, one in zip(contents[::2], contents[1::2], strict=True):
        for axis, is_first in itertools.product((0, 1), (False, True)):
            order = [(one, True), (zero, False)][:: 1 if is_first else -1]
            size = (side, side // 2) if axis == 0 else (side // 2, side)
            halves = [
                np.asarray(Image.fromarray(decode(content, side)).resize(size))
                for content, _ in order
            ]
            where = [np.full(h.shape[:2], is_1) for h, (_, is_1) in zip(halves, order, strict=True)]
            yield np.concatenate(halves, axis), np.concatenate(where, axis)


def as_large_as(photo: Pixels, found: Heat) -> Any:
    """A map in pixels of its photo."""
    small = Image.fromarray(found.map.astype(np.float32))
    return np.asarray(small.resize(photo.shape[1::-1], Image.Resampling.BILINEAR))


def draw(model: OnnxModel, source: Source, asked: argparse.Namespace) -> None:
    """Each photo beside itself under its map, with what the model says of it."""
    keys = [key for key, _ in itertools.islice(in_turn(source), asked.n)]
    rows = -(-len(keys) // PAIRS_A_ROW)
    figure = Figure(figsize=(4.4 * PAIRS_A_ROW, 2.5 * rows), layout="tight")
    axes = figure.subplots(rows, 2 * PAIRS_A_ROW, squeeze=False)
    for each in axes.flat:
        each.axis("off")
    for key, (bare, warm) in zip(keys, axes.reshape(-1, 2), strict=False):
        content = source.read(key)
        photo = decode(content, side_of(model))
        found = heat(model, photo)
        answer = model.answer(photo[None])[0]
        shown = decode(content, SHOWN_SIDE)
        bare.imshow(shown)
        bare.set_title(as_figure_text(Path(key).name, 24), fontsize=8)
        warm.imshow(shown.mean(axis=2), cmap="gray")
        map_ = as_large_as(shown, found)
        warm.imshow(map_, cmap="inferno", alpha=0.65 * map_, vmin=0, vmax=1)
        said = f"{answer.text}: {answer.label} {answer.probability:.0%}, falls {found.range:.1f}"
        warm.set_title(as_figure_text(said), fontsize=8)
    figure.savefig(asked.to, dpi=110)
    print(f"drew {len(keys)} photos: {asked.to}")


if __name__ == "__main__":
    main()
