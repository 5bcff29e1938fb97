"""What a promotion checks before it looks at test: names, costs, files, copies, raw photos."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catdog_search.answering.facts import ModelFacts
from catdog_search.answering.runtime import TOLERANCE
from catdog_search.data import telling
from catdog_search.data.dataset import Dataset, as_it_was
from catdog_search.data.decode import Pixels, decode_whole
from catdog_search.data.groups import group_photos
from catdog_search.data.manifest import CALIBRATION, Manifest
from catdog_search.data.sources import Source, SyntheticSource, choose_source
from catdog_search.errors import DataError, RequestError, StateError
from catdog_search.evaluation.floors import Floor
from catdog_search.exporting import onnx_file
from catdog_search.exporting.onnx_file import OnnxFile
from catdog_search.exporting.round_trip import load_afresh
from catdog_search.promotion import gates
from catdog_search.promotion.candidate import Candidate
from catdog_search.promotion.gates import Gate
from catdog_search.search.prepare import Prepared
from catdog_search.search.study.storage import remembered_splits
from catdog_search.study.config import PromotionConfig
from catdog_search.text import printable
from catdog_search.tracking.looked_at import is_ledger

# Photos that are asked about in a separate process.
_ASKED = 100
# Side in pixels to which a JPEG may be scaled down before it counts as a raw photo: resizing a full
# photo of 100 megapixels within the network takes gigabytes.
_RAW_SIDE = 2048
_AT_ONCE = 32


def require_name(model: str) -> None:
    """Refuse a name that no registered model can have, before anything is trained for it.

    Raises:
        RequestError: It is such a name; the message says why.
    """
    if is_ledger(model):
        raise RequestError(f"--model {model}: is the ledger of looks at test; give another name")
    for mark in "@/:":
        if mark in model:
            raise RequestError(
                f"--model {model}: a name in the registry has no {mark!r}; leave it out"
            )
    if not model.strip() or printable(model) != model:
        raise RequestError(f"--model {printable(model)!r}: is no name that can be printed")


def untrained(asked: PromotionConfig, floors: Sequence[Floor]) -> list[Gate]:
    """All gates, open, before the finalists are trained."""
    until = "the finalists are not trained yet"
    limits: dict[str, float | None] = {
        "round trip": gates.ROUND_TRIP,
        "raw and packed": None,
        "size": asked.max_size_mb,
        "latency": asked.max_latency_ms,
        "onnx": TOLERANCE,
        "leaks": asked.max_leaked,
        "photos": None,
    }
    later = [Gate(name, "open", None, limit, until) for name, limit in limits.items()]
    return [*gates.not_looked_at(asked, floors), *later]


def leaked(manifest: Manifest) -> int:
    """Number of photos of test that have a copy or near-copy among those learned from.

    This doesn't depend on the study's kind of duplicates. For drawn pictures only exact copies
    count: they are made of few shapes, so their hashes are alike.
    """
    learned = ("train", CALIBRATION)
    rows = [i for i, p in enumerate(manifest.photos) if p.split in (*learned, "test")]
    photos = [manifest.photos[i] for i in rows]
    kind = "exact" if manifest.kind == "synthetic" else "near"
    looks = [(photo.phash, photo.fine) for photo in photos]
    found = group_photos([photo.sha256 for photo in photos], looks, kind)  # type: ignore[arg-type]
    return sum(
        sum(photos[i].split == "test" for i in group)
        for group in found.groups
        if any(photos[i].split in learned for i in group)
    )


def reopened(prepared: Prepared) -> Source:
    """The source that a study's photos came from."""
    manifest = prepared.dataset.manifest
    if manifest.kind == "synthetic":
        return SyntheticSource(prepared.config.data.synthetic_n)
    return choose_source(prepared.config.data, manifest.location)


def packed_at(prepared: Prepared, side: int, say: Callable[[str], None]) -> Dataset:
    """The study's photos at another side, in pixels.

    Raises:
        StateError: The photos have changed.
        DataError: They can't be read.
    """
    config = prepared.config
    source, data = reopened(prepared), config.data
    loaded = telling.load(source, [side], say, data.subset, data.duplicates)[side]
    remembered = remembered_splits(prepared.state, config.name)
    assert remembered is not None, "the study was run"
    found = as_it_was(loaded, *remembered)
    if found is None:
        raise StateError(f"{source.location} holds other photos now than study {config.name!r} had")
    return found


@dataclass(frozen=True)
class FileChecks:
    """Findings about the saved model.

    Attributes:
        gates: Gates on how others load it, its answers to raw photos, its size and its speed.
        onnx: The same model as ONNX; None where that can't be written, as a gate says.
    """

    gates: list[Gate]
    onnx: OnnxFile | None


def of_the_file(
    candidate: Candidate,
    facts: ModelFacts,
    source: Source,
    asked: PromotionConfig,
    say: Callable[[str], None],
) -> FileChecks:
    """Save a model, load it as others do, and ask it of raw photos.

    Args:
        candidate: Model that may become champion.
        facts: Facts that it states about itself.
        source: Files of the photos that it was fitted on.
        asked: Study's `[promotion]`.
        say: Callback for what is done next, a line each.

    Raises:
        DataError: A photo can no longer be read.
    """
    keys = candidate.answers.keys.tolist()
    say(f"asking it about {len(keys)} raw photos")
    answers, kept = _answers_to_raw(candidate, source, keys)
    packed = candidate.answers.probabilities > candidate.threshold
    different = int(((answers > candidate.threshold) != packed).sum())
    shown = [photo for _, photo in kept]
    say("saving it, and loading it in a process without this package")
    found = list(_loaded_afresh(candidate, shown, answers[[row for row, _ in kept]], asked))
    say("converting it to ONNX, and comparing both on photos of many shapes")
    onnx, gate = _as_onnx(candidate, facts, shown)
    return FileChecks([*found, gates.of_resize(different, len(keys)), gate], onnx)


def _loaded_afresh(
    candidate: Candidate,
    shown: Sequence[Pixels],
    answers: npt.NDArray[np.float32],
    asked: PromotionConfig,
) -> Iterator[Gate]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        size = candidate.save(path)
        try:
            told = load_afresh(path, shown)
        except StateError as error:
            limit = gates.ROUND_TRIP
            yield Gate("round trip", "failed", None, limit, str(error).replace(str(path), "model"))
        else:
            yield gates.of_round_trip(float(np.abs(told.answers - answers).max()), len(shown))
            yield gates.of_latency(asked, *told.milliseconds)
    yield gates.of_file(asked, size)


def _as_onnx(
    candidate: Candidate, facts: ModelFacts, shown: Sequence[Pixels]
) -> tuple[OnnxFile | None, Gate]:
    absent = onnx_file.missing()
    if absent is not None:
        return None, Gate("onnx", "off", None, None, f"not written: {absent}")
    try:
        made = onnx_file.to_onnx(candidate.model, candidate.neither, facts, shown)
    except StateError as error:
        return None, Gate("onnx", "failed", None, TOLERANCE, str(error))
    return made, gates.of_onnx(made.proof)


def _answers_to_raw(
    candidate: Candidate, source: Source, keys: Sequence[str]
) -> tuple[npt.NDArray[np.float32], list[tuple[int, Pixels]]]:
    """A model's answers to raw photos, and some of those photos, evenly spaced, with their rows."""
    from catdog_search.models.export import answers_to

    chosen = set(np.linspace(0, len(keys) - 1, min(_ASKED, len(keys))).astype(int).tolist())
    found = np.empty(len(keys), np.float32)
    kept: list[tuple[int, Pixels]] = []
    waiting: dict[tuple[int, ...], list[tuple[int, Pixels]]] = defaultdict(list)

    def answer(batch: list[tuple[int, Pixels]]) -> None:
        rows = [row for row, _ in batch]
        found[rows] = answers_to(candidate.model, np.stack([photo for _, photo in batch]))

    for row, key in enumerate(keys):
        photo = _raw(source, key)
        if row in chosen:
            kept.append((row, photo))
        batch = waiting[photo.shape]
        batch.append((row, photo))
        # Large photos go in small batches, small ones in large batches.
        if len(batch) * photo.size >= _AT_ONCE * 3 * 256**2 or len(batch) == _AT_ONCE:
            answer(waiting.pop(photo.shape))
    for batch in waiting.values():
        answer(batch)
    return found, kept


def _raw(source: Source, key: str) -> Pixels:
    try:
        return decode_whole(source.read(key), _RAW_SIDE)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{source.location}: {printable(key)} can't be read: {error}") from None
