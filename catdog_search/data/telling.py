"""Loads photos and reports on the way: progress, what they are, and what the cache holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from catdog_search import places
from catdog_search.data import audit, cache, causes, packing
from catdog_search.data.dataset import Dataset
from catdog_search.data.manifest import Manifest
from catdog_search.data.sources import Source

if TYPE_CHECKING:
    from catdog_search.study.config import Duplicates

Say = Callable[[str], None]
# Photos between two progress lines.
_EVERY = 2048
# Photos of a class in val below which a user is told.
_FEW = 10


def counting(what: str, say: Say, where: str = "") -> Callable[[int, int], None]:
    """A progress callback that prints a line now and then: `packing 2048 of 20000 at 64 px`."""

    def progress(done: int, total: int) -> None:
        if done == total or done % _EVERY == 0:
            say(f"{what} {done} of {total}{where}")

    return progress


def load(
    source: Source,
    sizes: Iterable[int],
    say: Say,
    subset: int | None = None,
    duplicates: Duplicates = "near",
) -> dict[int, Dataset]:
    """Datasets by image size, from the user's cache or packed now.

    Args:
        source: Source of the photos.
        sizes: Sides in pixels; at least one.
        say: Callback given what a user should know, a line each.
        subset: Photos of train to use; None for all.
        duplicates: Rule for which photos stay in one split.

    Raises:
        DataError: The photos can't be used.
    """
    folder, limit = places.cache_folder(), places.cache_limit_bytes()
    for note in source.notes:
        say(note)
    loaded = {
        side: packing.load(
            source,
            side,
            folder,
            limit,
            counting("packing", say, f" at {side} px"),
            subset=subset,
            duplicates=duplicates,
            say=say,
        )
        for side in sizes
    }
    for line in about(next(iter(loaded.values())).manifest, subset):
        say(line)
    held = cache.size_bytes(folder)
    over = "; what is in use stays, so it is over its limit" if held > limit else ""
    say(f"cache: {folder}, {held / 1e6:.0f} MB of at most {limit / 1e9:g} GB{over}")
    return loaded


def about(manifest: Manifest, subset: int | None) -> Iterator[str]:
    """Lines that say what a dataset is and what was left out of it.

    Args:
        manifest: Manifest of the dataset.
        subset: Photos of train that are used; None for all.
    """
    splits = ", ".join(f"{k} {sum(v.values())}" for k, v in manifest.counts().items())
    names = " and ".join(manifest.class_names)
    yield audit.in_short(manifest)
    yield f"dataset: {len(manifest.used())} {names}: {splits}; digest {manifest.digest}"
    if subset is not None:
        yield f"subset: {subset} photos of train"
    yield from (f"note: {line}" for line in manifest.notes)
    yield from (f"balance: {line}" for line in manifest.imbalances())
    least, name = min((n, name) for name, n in manifest.counts()["val"].items())
    if least < _FEW:
        yield f"few photos: val holds {least} of {name}, so its scores are mostly chance"
    yield from causes.lines(manifest.left_out, "the study's run lists them in data/left_out.json")
