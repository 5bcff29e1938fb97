"""The ways in which paths can be read as labels: by each level of folders, by prefixes of names.

Names that organise files (`layout`) are never classes and are skipped. Pure: no file is read.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from catdog_search.data.layout import names_no_class, organises
from catdog_search.text import printable, shown_key

By = Literal["folders", "names", "file", "drawn"]
Chain = tuple[str, ...]

_MOST_NAMED = 8
_SEPARATOR = re.compile(r"[\\/]")
_DRIVE = re.compile(r"[A-Za-z]:")
# A numbered photo, as in cat.1, cat_001, cat-12, cat (3), cat12, cat_2024_07, or a copy of one.
_NUMBERED = re.compile(
    r"(?P<name>.+?)(?:(?:[\s._-]+\(?\d+\)?)+|\(\d+\)|\d+)(?:[\s._-]*copy|\s*\(\d+\))*",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Reading:
    """One way to read the labels.

    Attributes:
        by: Place that the labels are read from.
        names: Class names as they are printed; sorted.
        of: Each photo's class, as an index into `names`; None where it has none.
    """

    by: By
    names: tuple[str, ...]
    of: tuple[int | None, ...]

    def counts(self) -> dict[str, int]:
        """Photos by class."""
        counted = Counter(self.of)
        return {name: counted[place] for place, name in enumerate(self.names)}

    def labelled(self) -> int:
        """Photos that have a class."""
        return len(self.of) - self.of.count(None)

    def both(self, other: Reading) -> set[tuple[int, int]]:
        """The pairs of classes that the two readings give photos that both know."""
        pairs = set(zip(self.of, other.of, strict=True))
        return {(a, b) for a, b in pairs if a is not None and b is not None}

    def parts_alike(self, other: Reading) -> bool:
        """Whether every class of one is a class of the other, for photos that both know."""
        both = self.both(other)
        ours, theirs = {a for a, _ in both}, {b for _, b in both}
        return len(both) == len(ours) == len(theirs) == len(self.names) == len(other.names)

    def knows_beyond(self, other: Reading) -> bool:
        """Whether it has a class for a photo that `other` has none for."""
        return any(a is not None and b is None for a, b in zip(self.of, other.of, strict=True))

    def __str__(self) -> str:
        counts = self.counts()
        most = sorted(counts, key=lambda name: -counts[name])[:_MOST_NAMED]
        listed = ", ".join(f"{name} {counts[name]}" for name in self.names if name in most)
        more = len(counts) - len(most)
        return f"by {self.by}: {listed or 'none'}" + (f" and {more} more" if more else "")


def reading(by: By, texts: Sequence[str | None]) -> Reading:
    """A reading from each photo's word, merging words that people would take as equal."""
    counted = Counter(text for text in texts if text is not None)
    written: dict[str, Counter[str]] = defaultdict(Counter)
    for text, n in counted.items():
        written[shown_key(text)][printable(text)] += n
    shown = {key: _most_often(spellings) for key, spellings in written.items()}
    names = sorted(shown.values())
    places = {name: place for place, name in enumerate(names)}
    place_of = {text: places[shown[shown_key(text)]] for text in counted}
    return Reading(by, tuple(names), tuple(None if t is None else place_of[t] for t in texts))


def _most_often(written: Counter[str]) -> str:
    """The most frequent spelling; the first of equals, so that the photos' order doesn't matter."""
    return min(written, key=lambda text: (-written[text], text))


def folder_and_name(path: str) -> tuple[str, str]:
    """A path's folder and its name, split at the last / or backslash."""
    at = max(path.rfind("/"), path.rfind("\\")) + 1
    return path[:at], path[at:]


def parts_of(folder: str) -> list[str]:
    """Names of folders, outermost first, without `/`, `..` and `C:`."""
    parts = [part for part in _SEPARATOR.split(folder) if part not in ("", ".", "..")]
    return parts[1:] if parts and _DRIVE.fullmatch(parts[0]) else parts


def stem_of(name: str) -> str:
    """A file's name without its last suffix."""
    return name.rpartition(".")[0] or name


def prefix_of(name: str) -> str | None:
    """The text before a file's number; None where there is no number, or it names no class."""
    found = _NUMBERED.fullmatch(stem_of(name))
    prefix = found["name"].strip(" ._-") if found else ""
    return None if names_no_class(prefix) else prefix


class Tree:
    """The photos' folders and prefixes, by keys that compare as people would.

    Attributes:
        paths: Paths of the photos.
        prefixes: Text before each photo's number, see `prefix_of`.
        names: The reading by prefixes.
        chains: Keys of the folders above each photo that can be classes, outermost first.
    """

    def __init__(self, paths: Sequence[str], chosen: Collection[str]) -> None:
        """Look at all paths.

        Args:
            paths: Paths of the photos.
            chosen: Keys of folders that are classes whatever their names.
        """
        self.paths = paths
        self.prefixes = [prefix_of(folder_and_name(path)[1]) for path in paths]
        self.names = reading("names", self.prefixes)
        written: dict[str, Counter[str]] = defaultdict(Counter)
        chain_of: dict[str, Chain] = {}
        for folder in dict.fromkeys(folder_and_name(path)[0] for path in paths):
            parts = [(part, shown_key(part)) for part in parts_of(folder)]
            told = [(part, key) for part, key in parts if key in chosen or not organises(part)]
            chain_of[folder] = tuple(dict.fromkeys(key for _, key in told))
            for part, key in told:
                written[key][printable(part)] += 1
        self._shown = {key: _most_often(spellings) for key, spellings in written.items()}
        self.chains = [chain_of[folder_and_name(path)[0]] for path in paths]

    def by_folder(self, class_of: Callable[[Chain], str | None]) -> Reading:
        """The reading in which `class_of` maps the folders above a photo to its class's key."""
        known: dict[Chain, str | None] = {}
        for chain in set(self.chains):
            key = class_of(chain)
            known[chain] = None if key is None else self._shown[key]
        return reading("folders", [known[chain] for chain in self.chains])

    def pairs(self) -> list[tuple[Reading, list[Reading]]]:
        """Readings by two folders such that every photo in a folder lies in exactly one of them.

        Depth doesn't matter: `cats/1.jpg` beside `more/cats/2.jpg` reads as people would expect.

        Returns:
            Distinct readings into two classes; each with the readings by the levels of folders
            above it, where those differ.
        """
        told = [chain for chain in self._telling().values() if chain]
        levels = self.levels()
        found = []
        for pair in _pairs_of(told):
            by_pair = self.by_folder(lambda chain, pair=pair: _first(chain, pair))  # type: ignore[misc]
            above = min(chain.index(part) for chain in told for part in pair if part in chain)
            others = [level for level in levels[:above] if not level.parts_alike(by_pair)]
            found.append((by_pair, others))
        return found

    def levels(self) -> list[Reading]:
        """Readings by each level of folders, outermost first, down to the depth all photos reach.

        Folders that all photos in folders share distinguish nothing and are no level; photos in no
        folder are ignored.
        """
        told = self._telling()
        depth = min((len(chain) for chain in told.values() if chain), default=0)
        return [
            self.by_folder(lambda chain, at=at: _first(told[chain][at:], None))  # type: ignore[misc]
            for at in range(depth)
        ]

    def innermost(self) -> Reading:
        """The reading by the folder that a photo lies in."""
        return self.by_folder(lambda chain: chain[-1] if chain else None)

    def outermost(self) -> Reading:
        """The reading by the outermost folder that can be a class."""
        return self.by_folder(lambda chain: _first(chain, None))

    def _telling(self) -> dict[Chain, Chain]:
        """Chains without the folders that all photos in folders share: they distinguish nothing."""
        told = {chain: chain for chain in dict.fromkeys(self.chains)}
        while any(told.values()):
            common = set.intersection(*(set(chain) for chain in told.values() if chain))
            if not common:
                break
            told = {c: tuple(p for p in left if p not in common) for c, left in told.items()}
        return told


def _first(chain: Chain, allowed: Collection[str] | None) -> str | None:
    """The outermost of the allowed folders; None allows all."""
    return next((part for part in chain if allowed is None or part in allowed), None)


def _pairs_of(chains: Sequence[Chain]) -> Iterator[tuple[str, str]]:
    """Pairs of folders of which every chain holds just one; of equivalent pairs, the outer one."""
    if not chains:
        return
    sets = [frozenset(chain) for chain in chains]
    seen: set[frozenset[int]] = set()
    for a in chains[0]:
        holding = frozenset(n for n, parts in enumerate(sets) if a in parts)
        others = [n for n in range(len(sets)) if n not in holding]
        if not others or holding in seen:
            continue
        elsewhere = frozenset[str]().union(*(sets[n] for n in holding))
        shared = frozenset[str].intersection(*(sets[n] for n in others)) - elsewhere
        if shared:
            seen.add(holding)
            yield a, next(part for part in chains[others[0]] if part in shared)
