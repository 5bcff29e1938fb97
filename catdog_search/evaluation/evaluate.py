"""Score a logged model on labelled photos, honestly: it says what the model has seen of them.

Test photos are recorded in the ledger before the model is shown them: those of the test split of
the model's own study, and those that have been used as such before, whatever they are to this
model. Other photos are recorded nowhere.
"""

from __future__ import annotations

import difflib
import itertools
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from catdog_search import places
from catdog_search.answering.facts import DRAWN_WARNING
from catdog_search.data import dataset, packing
from catdog_search.data.manifest import Photo, short_hash
from catdog_search.data.packing import DecodedPhotos
from catdog_search.data.sources import Source, SyntheticSource
from catdog_search.errors import DataError, StateError
from catdog_search.figures.predictions import Photos, Predictions
from catdog_search.figures.trial import confusion_matrix, most_wrong
from catdog_search.intervals import wilson
from catdog_search.places import StateFolder
from catdog_search.text import as_classes, name_key, printable
from catdog_search.tracking.ledger import Ledger, Look, Looks
from catdog_search.tracking.looked_at import Loaded, LoggedModels
from catdog_search.tracking.promotions import PromotionRun
from catdog_search.tracking.registry import Registry
from catdog_search.tracking.store import Store
from catdog_search.training.metrics import scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# How much more similar one pairing of names must be than the other to tell which class is which.
_TELLING = 0.5
# Splits that a study may have. A photo with copies in several counts for the last of those.
SPLITS = ("train", "calibration", "val", "test")


@dataclass(frozen=True)
class Part:
    """Result on the photos of one split of the model's study, or on new photos."""

    n: int
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Result of a model on some photos.

    Attributes:
        uri: Model's URI in MLflow.
        run_id: Id of the run that trained it.
        split: Split of the model's study that was chosen; None for all photos.
        not_found: Number of that split's photos that weren't found.
        n: Number of photos.
        scores: Scores by name: accuracy, balanced_accuracy, loss, precision, recall, f1, auc and
            calibration_error.
        interval: Bounds of the accuracy's 95 % interval (Wilson), 0 to 1.
        confusion: Number of photos by true and by predicted class.
        class_names: Class names, by index.
        seen: Number of these photos by the model's study's split, one of `SPLITS`, or `new` where
            it had them in none; None where the study didn't record its splits. Photos of train
            that its subset leaves out are new.
        by_split: Number and accuracy of the photos of each split, or new, where they are from
            several; empty otherwise.
        trained_on: Number of photos of train that it used, where a study of an earlier version
            recorded all of train; else None.
        looks: Earlier looks at the test photos among them.
        look: This look at them, as recorded; None where there are no test photos.
        kept: Whether the answers are those that the model's promotion kept, so that the model was
            shown nothing.
        left_out: Files that could not be used, as (file, reason).
        warning: Warning for anyone who relies on this; None for none.
        figures: Figures by file name.
    """

    uri: str
    run_id: str
    split: str | None
    not_found: int
    n: int
    scores: Mapping[str, float]
    interval: tuple[float, float]
    confusion: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    seen: Mapping[str, int] | None
    by_split: Mapping[str, Part]
    trained_on: int | None
    looks: Looks
    look: Look | None
    kept: bool
    left_out: tuple[tuple[str, str], ...]
    warning: str | None
    figures: Mapping[str, Figure]


def evaluate(
    state: StateFolder,
    name: str,
    source: Source | None,
    *,
    split: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a model on photos of a source, or of its own study.

    Args:
        state: State folder that keeps the model.
        name: Model's name, as `load_model` takes it.
        source: Labelled photos of the model's classes; None for those of its study, which the
            cache may hold.
        split: Split of the model's study, one of `SPLITS`, to restrict the photos to; None for all
            of a source.
        force: Whether photos of the test split may be looked at among others, and test photos once
            more by the same model.
        progress: Called with (done, total) decoded photos.

    Raises:
        StateError: There is no such model, its study didn't record which photos it had, or a look
            can't be recorded.
        DataError: Other classes, only one of them, no usable photo, no such split, or test photos
            without `force`.
    """
    store = Store.of(state)
    models = LoggedModels(store)
    loaded = models.load(name)
    splits = models.known_photos(loaded.run_id)
    shown = _shown(state, name, loaded, source, splits, split, progress)
    shorts = [short_hash(photo.sha256) for photo in shown.photos]
    where = None if splits is None else _where(splits)
    own = {short for short in shorts if where and where.get(short) == "test"}
    if own and split is None and not force:
        raise DataError(
            f"{shown.location}: {sum(short in own for short in shorts)} of {len(shorts)} photos "
            "are of the test split, which is for promotion; --force looks at them anyway, and that "
            "is recorded"
        )
    taken = models.photos_taken(loaded.run_id)
    if taken is not None and splits is not None and taken >= len(splits.get("train", ())):
        taken = None
    parts = None if where is None else tuple(where.get(short, "new") for short in shorts)
    is_drawn = Registry(store).data_kind(loaded.run_id) == SyntheticSource.kind
    warning = DRAWN_WARNING if is_drawn and source and source.kind != SyntheticSource.kind else None
    scene = _Scene(name, loaded, shown, split, parts, taken, warning)
    if split == "test" and not force and (kept := _kept(store, loaded, shorts)) is not None:
        return _scored(scene, kept, Ledger(state, store).looks(shorts), None, kept=True)
    options = [*(["--split", split] if split else []), *(["--force"] if force else [])]
    data = ["--data", source.location] if source else []
    command = shlex.join(["evaluate", name, *data, *options])
    looks, look = _recorded_look(
        state, Ledger(state, store), loaded, shorts, own, command=command, force=force
    )
    if own:
        models.note_look(loaded.run_id, f"{' '.join(['evaluate', *options])}, {len(own)} photos")
    pixels = shown.decoded.pixels
    probabilities = np.ravel(loaded.model.predict(pixels, batch_size=loaded.batch_size, verbose=0))
    return _scored(scene, probabilities, looks, look, kept=False)


def _kept(store: Store, loaded: Loaded, shorts: Sequence[str]) -> npt.NDArray[np.float32] | None:
    """The model's answers to these photos from its promotion; None where some are missing."""
    run = PromotionRun.of(store, loaded.run_id)
    answers = run.answers("test") if run else None
    if answers is None:
        return None
    known = dict(zip(answers.hashes.tolist(), answers.probabilities.tolist(), strict=True))
    if not known.keys() >= set(shorts):
        return None
    return np.array([known[short] for short in shorts], np.float32)


@dataclass(frozen=True)
class _Scene:
    """What is scored.

    Attributes:
        name: Model's name, as requested.
        loaded: Model.
        shown: Photos.
        split: Split that was chosen; None for all photos.
        parts: What each photo is to the model, see `Evaluation.seen`; None where unknown.
        trained_on: See `Evaluation.trained_on`.
        warning: See `Evaluation.warning`.
    """

    name: str
    loaded: Loaded
    shown: _Shown
    split: str | None
    parts: tuple[str, ...] | None
    trained_on: int | None
    warning: str | None


@dataclass(frozen=True)
class _Shown:
    """Photos that the model is shown.

    Attributes:
        location: Location that they are from, for display.
        decoded: Photos and pixels.
        labels: The model's class indices, row by row.
        not_found: Number of the chosen split's photos that weren't found.
    """

    location: str
    decoded: DecodedPhotos
    labels: npt.NDArray[np.int64]
    not_found: int

    @property
    def photos(self) -> tuple[Photo, ...]:
        return self.decoded.photos


def _shown(
    state: StateFolder,
    name: str,
    loaded: Loaded,
    source: Source | None,
    splits: Mapping[str, list[str]] | None,
    split: str | None,
    progress: Callable[[int, int], None] | None,
) -> _Shown:
    wanted = None if split is None else _hashes_of(name, splits, split)
    if source is None:
        assert wanted is not None, "or there is nothing to take"
        location, class_names, decoded = _packed(name, loaded, wanted)
        index = _indices(location, class_names, loaded.facts.class_names)
    else:
        location = source.location
        index = _indices(location, source.class_names, loaded.facts.class_names)
        decoded = packing.decode(source, loaded.facts.image_size, progress)
    not_found = 0
    if wanted is not None:
        rows = [i for i, p in enumerate(decoded.photos) if short_hash(p.sha256) in wanted]
        if not rows:
            raise DataError(f"{location}: holds no photo of the {split} split of model {name}")
        photos = tuple(decoded.photos[row] for row in rows)
        decoded = DecodedPhotos(decoded.pixels[rows], photos, decoded.left_out)
        not_found = len(wanted - {short_hash(photo.sha256) for photo in photos})
    labels = np.array([index[photo.label] for photo in decoded.photos])
    if len(set(labels)) == 1:
        predict = state.command(f"predict {shlex.quote(name)} PATH")
        raise DataError(
            f"{location}: photos of one class alone can't be scored; {predict} says what photos "
            "show that have no labels"
        )
    return _Shown(location, decoded, labels, not_found)


def _hashes_of(name: str, splits: Mapping[str, list[str]] | None, split: str) -> frozenset[str]:
    if splits is None:
        raise StateError(
            f"model {name}: its study didn't keep which photos it had, so that nobody knows its "
            "splits; give --data alone"
        )
    if not splits.get(split):
        there = ", ".join(each for each in SPLITS if splits.get(each))
        raise DataError(f"model {name}: its study has no photos of {split} (it has {there})")
    return frozenset(splits[split])


def _packed(
    name: str, loaded: Loaded, wanted: Collection[str]
) -> tuple[str, tuple[str, ...], DecodedPhotos]:
    """Some photos of the dataset that a model was trained on, as the cache holds them."""
    cache = places.cache_folder()
    digest, side = loaded.facts.dataset_digest, loaded.facts.image_size
    found = dataset.find(cache, digest, side) if digest else None
    if found is None:
        raise DataError(
            f"model {name}: the cache {cache} doesn't hold the photos of its study (dataset digest "
            f"{digest or 'unknown'}) at {side} px; say with --data where they are"
        )
    manifest = found.manifest
    rows = [
        row
        for row, photo in enumerate(manifest.photos)
        if photo.split is not None and short_hash(photo.sha256) in wanted
    ]
    photos = tuple(manifest.photos[row] for row in rows)
    return manifest.location, manifest.class_names, DecodedPhotos(found.read(rows), photos, ())


def _recorded_look(
    state: StateFolder,
    ledger: Ledger,
    loaded: Loaded,
    shorts: Collection[str],
    own: Collection[str],
    *,
    command: str,
    force: bool,
) -> tuple[Looks, Look | None]:
    """Record that a model is about to be shown test photos; does nothing where there are none.

    Returns:
        The earlier looks at those photos, and this one.

    Raises:
        DataError: The model was shown some of them before, and another look isn't forced.
        StateError: The look can't be recorded.
    """
    if not own and not ledger.covered(shorts):
        return ledger.looks(shorts), None
    with state.registering():
        hashes = ledger.covered(shorts).union(own)
        looks = ledger.looks(hashes)
        before = looks.by(loaded.model_id)
        if before and not force:
            raise DataError(
                f"model {loaded.uri} was shown photos of test that are among these before "
                f"({before[-1]}); --force shows them again, and marks that"
            )
        look = ledger.write(
            command=command,
            model=loaded.uri,
            model_id=loaded.model_id,
            run_id=loaded.run_id,
            hashes=hashes,
            again=bool(before),
        )
    return looks, look


def _scored(
    scene: _Scene,
    probabilities: npt.NDArray[np.float32],
    looks: Looks,
    look: Look | None,
    *,
    kept: bool,
) -> Evaluation:
    name, loaded, shown = scene.name, scene.loaded, scene.shown
    labels = shown.labels
    if not np.isfinite(probabilities).all():
        raise StateError(f"model {name}: what it says of photos are no numbers")
    seen_as = Predictions(labels, probabilities, loaded.facts.threshold)
    photos = Photos(shown.decoded.pixels, [photo.key for photo in shown.photos])
    names, where = loaded.facts.class_names, f"{len(labels)} photos"
    matrix = seen_as.confusion(len(names))
    return Evaluation(
        uri=loaded.uri,
        run_id=loaded.run_id,
        split=scene.split,
        not_found=shown.not_found,
        n=len(labels),
        scores=scores(labels, probabilities, prefix="", threshold=loaded.facts.threshold),
        interval=wilson(int(np.trace(matrix)), len(labels)),
        confusion=tuple(map(tuple, matrix.tolist())),
        class_names=names,
        seen=_seen(scene.parts),
        by_split=_by_split(scene.parts, seen_as.is_right),
        trained_on=scene.trained_on,
        looks=looks,
        look=look,
        kept=kept,
        left_out=shown.decoded.left_out,
        warning=scene.warning,
        figures={
            "confusion_matrix.png": confusion_matrix(seen_as, names, name, where),
            "most_wrong.png": most_wrong(seen_as, photos, names, name, where),
        },
    )


def _indices(location: str, class_names: Sequence[str], known: Sequence[str]) -> list[int]:
    """The model's index of each of a source's classes, which may sort differently."""
    keys = [name_key(printable(name)) for name in known]
    found = [name_key(name) for name in class_names]
    if sorted(found) != sorted(keys):
        raise DataError(
            f"{location}: classes {' and '.join(class_names)}; the model knows "
            f"{' and '.join(known)}; say which is which: {_which_is_which(class_names, known)}"
        )
    return [keys.index(key) for key in found]


def _which_is_which(found: Sequence[str], known: Sequence[str]) -> str:
    """The options that say which class is which, likeliest first; only one where names tell."""

    def alike(names: Sequence[str]) -> float:
        pairs = zip(names, known, strict=True)
        return sum(
            difflib.SequenceMatcher(None, name_key(a), name_key(b)).ratio() for a, b in pairs
        )

    ways = sorted(itertools.permutations(found), key=alike, reverse=True)
    options = [
        f"--classes {as_classes(f'{a}={b}' for a, b in zip(names, known, strict=True))}"
        for names in ways
    ]
    return options[0] if alike(ways[0]) - alike(ways[-1]) > _TELLING else " or ".join(options)


def _where(splits: Mapping[str, list[str]]) -> dict[str, str]:
    """The split of each photo."""
    return {short: split for split in SPLITS for short in splits.get(split, ())}


def _seen(parts: tuple[str, ...] | None) -> dict[str, int] | None:
    if parts is None:
        return None
    counted = Counter(parts)
    return {split: counted[split] for split in (*SPLITS, "new")}


def _by_split(parts: tuple[str, ...] | None, is_right: npt.NDArray[np.bool_]) -> dict[str, Part]:
    """Result on each split's photos; empty where all are from one split."""
    if parts is None or len(set(parts)) == 1:
        return {}
    whose = np.array(parts)
    found = {split: is_right[whose == split] for split in (*SPLITS, "new")}
    return {name: Part(len(it), float(it.mean())) for name, it in found.items() if it.size}
