"""Score a logged model on labelled photos, honestly: it says what the model has seen of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catdog_search.data import packing
from catdog_search.data.manifest import short_hash
from catdog_search.data.sources import Source
from catdog_search.errors import DataError, StateError
from catdog_search.figures.predictions import Photos, Predictions
from catdog_search.figures.trial import confusion_matrix, most_wrong
from catdog_search.intervals import wilson
from catdog_search.places import StateFolder
from catdog_search.text import name_key, printable
from catdog_search.tracking.looked_at import LoggedModels
from catdog_search.tracking.store import Store
from catdog_search.training.metrics import scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Evaluation:
    """Result of a model on some photos.

    Attributes:
        uri: Model's URI in MLflow.
        run_id: Id of the run that trained it.
        n: Number of photos.
        scores: Scores by name: accuracy, balanced_accuracy, loss, precision, recall, f1, auc and
            calibration_error.
        interval: Bounds of the accuracy's 95 % interval (Wilson), 0 to 1.
        confusion: Number of photos by true and by predicted class.
        class_names: Class names, by index.
        seen: Number of these photos by the model's study's split: `train`, `val`, `test`, or `new`
            where it had them in none; None where the study didn't record its splits.
        left_out: Files that could not be used, as (file, reason).
        figures: Figures by file name.
    """

    uri: str
    run_id: str
    n: int
    scores: Mapping[str, float]
    interval: tuple[float, float]
    confusion: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    seen: Mapping[str, int] | None
    left_out: tuple[tuple[str, str], ...]
    figures: Mapping[str, Figure]


def evaluate(
    state: StateFolder,
    name: str,
    source: Source,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a model on all photos of a source.

    Args:
        state: State folder that keeps the model.
        name: Model's name, as `load_model` takes it.
        source: Labelled photos of the model's classes.
        force: Whether photos of the test split may be looked at, which the run then says.
        progress: Callback with (done, total) decoded photos.

    Raises:
        StateError: There is no such model.
        DataError: Other classes, only one of them, no usable photo, or photos of test without
            `force`.
    """
    models = LoggedModels(Store.of(state))
    loaded = models.load(name)
    index = _indices(source, loaded.class_names)
    decoded = packing.decode(source, loaded.image_size, progress)
    labels = np.array([index[photo.label] for photo in decoded.photos])
    if len(set(labels)) == 1:
        raise DataError(f"{source.location}: photos of one class alone can't be scored")
    seen = _seen([photo.sha256 for photo in decoded.photos], models.known_photos(loaded.run_id))
    if seen and seen["test"]:
        if not force:
            raise DataError(
                f"{source.location}: {seen['test']} of {len(labels)} photos are of the test split, "
                "which is for promotion; --force looks at them anyway, and the run will say so"
            )
        models.note_look(loaded.run_id, f"evaluate --force, {seen['test']} photos")
    probabilities = np.ravel(
        loaded.model.predict(decoded.pixels, batch_size=loaded.batch_size, verbose=0)
    )
    if not np.isfinite(probabilities).all():
        raise StateError(f"model {name}: what it says of photos are no numbers")
    seen_as = Predictions(labels, probabilities)
    photos = Photos(decoded.pixels, [photo.key for photo in decoded.photos])
    names, where = loaded.class_names, f"{len(labels)} photos"
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (labels, seen_as.predicted), 1)
    found = scores(labels.astype(np.float32), probabilities.astype(np.float32), prefix="")
    return Evaluation(
        uri=loaded.uri,
        run_id=loaded.run_id,
        n=len(labels),
        scores=found,
        interval=wilson(int(np.trace(matrix)), len(labels)),
        confusion=tuple(map(tuple, matrix.tolist())),
        class_names=names,
        seen=seen,
        left_out=decoded.left_out,
        figures={
            "confusion_matrix.png": confusion_matrix(seen_as, names, name, where),
            "most_wrong.png": most_wrong(seen_as, photos, names, name, where),
        },
    )


def _indices(source: Source, known: Sequence[str]) -> list[int]:
    """The model's index of each of the source's classes, which may sort otherwise."""
    keys = [name_key(printable(name)) for name in known]
    found = [name_key(name) for name in source.class_names]
    if sorted(found) != sorted(keys):
        raise DataError(
            f"{source.location}: classes {' and '.join(source.class_names)}; the model knows "
            f"{' and '.join(known)}; say which is which: --classes "
            + ",".join(f"FOUND={name}" for name in known)
        )
    return [keys.index(key) for key in found]


def _seen(sha256s: list[str], hashes: Mapping[str, list[str]] | None) -> dict[str, int] | None:
    if hashes is None:
        return None
    where = {short: split for split, shorts in hashes.items() for short in shorts}
    counted = Counter(where.get(short_hash(sha256), "new") for sha256 in sha256s)
    return {split: counted[split] for split in ("train", "val", "test", "new")}
