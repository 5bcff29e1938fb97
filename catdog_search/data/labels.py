"""Which class each photo is of, decided from all paths together. Pure: no file is read.

A reading is used if it is the only one that separates the photos into two classes; where several
do, or names contradict folders, none is used, and the user must choose.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catdog_search.data.layout import organises, split_named
from catdog_search.data.manifest import Split
from catdog_search.data.readings import (
    Chain,
    Reading,
    Tree,
    folder_and_name,
    parts_of,
    reading,
    stem_of,
)
from catdog_search.errors import DataError
from catdog_search.text import N_CLASSES, as_classes, chosen_classes, printable, shown_key

FOLDERS, NAMES = "folders", "names"
# Letters by which inflected forms of a word differ, as in cat and cats, Hund and Hunde.
_INFLECTION = 2
_UNLABELLED = {
    "folders": "unlabelled: it lies in no folder that is a class",
    "names": "unlabelled: its name says no class",
    "file": "unlabelled: the file of labels doesn't name it",
}
_SAY = "--labels folders, --labels names or --labels FILE.csv"


@dataclass(frozen=True)
class Choice:
    """What the user says about labels and splits; by default everything is detected.

    Attributes:
        labels: `folders`, `names` or the path of a CSV file.
        classes: `FOUND[=OURS],…`, see `text.chosen_classes`.
        keep_splits: Whether folders named train, val and test define the splits.
    """

    labels: str | None = None
    classes: str | None = None
    keep_splits: bool = False


AUTOMATIC = Choice()


@dataclass(frozen=True)
class Labelling:
    """The classes, and which photos belong to them.

    Attributes:
        reading: The one that was used, with class names as found.
        class_names: Sorted; index 1 is the positive class.
        labels: Class index of every labelled photo, in the photos' order.
        left_out: (photo, reason) of the others; a reason starts with its kind.
        splits: Splits of labelled photos, where a folder's name says one.
        folders: Labelled photos by the folder that names their split.
        others: Other readings that the photos allow.
    """

    reading: Reading
    class_names: tuple[str, ...]
    labels: dict[str, int]
    left_out: tuple[tuple[str, str], ...]
    splits: dict[str, Split]
    folders: Mapping[str, int]
    others: tuple[Reading, ...]

    def said(self) -> str:
        """What the labels are read from, in one line."""
        found = {name: n for name, n in self.reading.counts().items() if n}
        ours = Counter(self.labels.values())
        as_ours = {name: ours[index] for index, name in enumerate(self.class_names)}
        renamed = "" if found == as_ours else f"; taken as {counted(as_ours)}"
        return f"{self.reading}{renamed}"


def counted(counts: Mapping[str, int]) -> str:
    """`cats 40, dogs 39`."""
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def label(
    paths: Sequence[str],
    location: str,
    choice: Choice = AUTOMATIC,
    listed: Mapping[str, str] | None = None,
) -> Labelling:
    """Decide which class each photo is of.

    Args:
        paths: Paths of the photos, below their source; sorted.
        location: The source, for messages.
        choice: User's choice about labels and splits.
        listed: Labels by path, where `choice.labels` names a file.

    Raises:
        DataError: There are not exactly two classes, or not in one way only.
    """
    try:
        chosen = chosen_classes(choice.classes) if choice.classes else {}
        ours = {shown_key(found): name for found, name in chosen.items()}
        tree = Tree(paths, ours)
        if listed is not None:
            found = _listed(reading("file", [listed.get(path) for path in paths]), ours)
        elif ours:
            found = _chosen(tree, choice, ours)
        else:
            found = _only_one(tree, choice)
    except ValueError as error:
        raise DataError(f"{location}: {error}") from None
    return _labelling(tree, found, ours)


def _labelling(tree: Tree, found: Reading, ours: Mapping[str, str]) -> Labelling:
    taken = [ours.get(shown_key(name)) if ours else name for name in found.names]
    class_names = tuple(sorted({name for name in taken if name is not None}))
    index = {place: class_names.index(name) for place, name in enumerate(taken) if name is not None}
    labels, left_out = {}, []
    for path, place in zip(tree.paths, found.of, strict=True):
        if place is None:
            left_out.append((path, _UNLABELLED[found.by]))
        elif place in index:
            labels[path] = index[place]
        else:
            left_out.append((path, f"other class: {found.names[place]}"))
    told = {path: split for path in labels if (split := split_of_path(path))}
    return Labelling(
        found,
        class_names,
        labels,
        tuple(left_out),
        {path: split for path, (split, _) in told.items()},
        Counter(name for _, name in told.values()),
        tuple(way for way in (*tree.levels(), tree.names) if len(way.names) > 1 and way != found),
    )


def split_of_path(path: str) -> tuple[Split, str] | None:
    """The split named by a photo's innermost folder that names one, and that folder's name."""
    return _split_of_folder(folder_and_name(path)[0])


@functools.lru_cache(maxsize=4096)
def _split_of_folder(folder: str) -> tuple[Split, str] | None:
    for part in reversed(parts_of(folder)):
        if split := split_named(part):
            return split, printable(part)
    return None


def _only_one(tree: Tree, choice: Choice) -> Reading:
    """The reading into two classes, where no other is possible."""
    ways = _ways(tree, choice)
    if not ways:
        raise ValueError(_no_way(tree, choice))
    if len(ways) > 1:
        raise ValueError(_several_ways(tree.paths, ways))
    (found,) = ways
    if choice.labels is None:
        if found.by == "folders":
            _require_no_contradiction(tree, found, found.names)
        else:
            _require_no_other_folder(tree, found)
    return found


def _ways(tree: Tree, choice: Choice) -> list[Reading]:
    """Readings into two classes, followed by the other ways to read the same photos."""
    names = tree.names if choice.labels != FOLDERS else None
    if names and len(names.names) != N_CLASSES:
        names = None
    pairs = tree.pairs() if choice.labels != NAMES else []
    if not pairs:
        levels = tree.levels() if names and choice.labels != NAMES else []
        rivals = [lev for lev in levels if names and not names.knows_beyond(lev)]
        return [names, *(lev for lev in rivals if not lev.parts_alike(names))] if names else []
    folders = [pair for pair, _ in pairs]
    above = [level for _, levels in pairs for level in levels if level not in folders]
    ways = [*folders, *dict.fromkeys(above)]
    if names and names.parts_alike(folders[0]) and len(ways) == 1:
        # Both say the same, so it only matters which one labels more photos.
        return [names] if names.labelled() > folders[0].labelled() else ways
    if names and _is_as_likely(names, folders[0]):
        ways.append(names)
    return ways


def _is_as_likely(names: Reading, folders: Reading) -> bool:
    """Whether prefixes that divide the photos differently may be meant and not incidental."""
    both = names.both(folders)
    crossing = len({a for a, _ in both}) < len(both)
    wide = names.labelled() * 2 >= folders.labelled()
    return (crossing and wide) or names.knows_beyond(folders)


def _require_no_contradiction(tree: Tree, found: Reading, taken: Sequence[str | None]) -> None:
    """Refuse where the name of a photo in one class's folder says another class.

    Args:
        tree: The photos.
        found: The reading by folders.
        taken: Class that each folder class stands for; None for one that is left out.
    """
    keys = [shown_key(name) for name in found.names]
    longest = max(map(len, keys)) + _INFLECTION

    @functools.cache
    def said(word: str) -> set[str | None]:
        return {taken[n] for n, key in enumerate(keys) if _alike(shown_key(word), key)} - {None}

    odd = []
    for path, prefix, place in zip(tree.paths, tree.prefixes, found.of, strict=True):
        word = prefix or stem_of(folder_and_name(path)[1])
        if place is None or taken[place] is None or len(word) > longest:
            continue
        if said(word) and taken[place] not in said(word):
            odd.append(path)
    if odd:
        raise ValueError(_contradiction(found, odd))


def _require_no_other_folder(tree: Tree, found: Reading) -> None:
    """Refuse where a photo named for one class lies in a folder that says only another."""
    keys = [shown_key(name) for name in found.names]

    @functools.cache
    def said(chain: Chain) -> set[int]:
        return {n for n, key in enumerate(keys) if any(_alike(part, key) for part in chain)}

    rows = zip(tree.paths, tree.chains, found.of, strict=True)
    odd = [
        path
        for path, chain, place in rows
        if place is not None and said(chain) and place not in said(chain)
    ]
    if odd:
        raise ValueError(_contradiction(found, odd))


def _contradiction(found: Reading, odd: Sequence[str]) -> str:
    return (
        f"names and folders disagree: {found}; but of {len(odd)} the name says another class than "
        f"the folder, such as {printable(odd[0])}; say what holds with {_SAY}"
    )


def _alike(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    inflection = _INFLECTION if len(short) > _INFLECTION else 0
    return long.startswith(short) and len(long) - len(short) <= inflection


def _several_ways(paths: Sequence[str], ways: Sequence[Reading]) -> str:
    said = "; ".join(map(str, ways))
    example = _example(paths, ways[0], ways[1])
    options = []
    if len({way.by for way in ways}) > 1:
        options.append(_SAY)
    options += [f"--classes {as_classes(w.names)}" for w in ways if len(w.names) == N_CLASSES]
    if len({way.by for way in ways}) == 1:
        options.append("--labels FILE.csv")
    return (
        f"the labels can be read in {len(ways)} ways: {said}{example}; say which: "
        + ", or ".join(dict.fromkeys(options))
    )


def _example(paths: Sequence[str], one: Reading, other: Reading) -> str:
    """A photo on which two readings disagree, relative to where they put most photos."""
    seen = Counter(zip(one.of, other.of, strict=True))
    most: Counter[int | None] = Counter()
    for (a, b), n in seen.items():
        most[b] = max(most[b], n if a is not None else 0)
    for path, a, b in zip(paths, one.of, other.of, strict=True):
        if a is not None and b is not None and seen[a, b] < most[b]:
            return f" (such as {printable(path)}: {one.names[a]} or {other.names[b]})"
    return ""


def _no_way(tree: Tree, choice: Choice) -> str:
    """Why there is no reading into two classes, and what to do."""
    levels = tree.levels() if choice.labels != NAMES else []
    names = tree.names if choice.labels != FOLDERS else reading("names", [None] * len(tree.paths))
    if levels and len(levels[0].names) == N_CLASSES:
        inner = tree.innermost()
        return (
            f"folders of one class lie in the other: from outside {levels[0]}; from inside "
            f"{inner}{_example(tree.paths, levels[0], inner)}; move them, or give the labels with "
            "--labels FILE.csv"
        )
    # Names that aren't numbered, such as checksums, each have their own prefix.
    classes = [way for way in (*levels[:1], names) if 2 * len(way.names) <= way.labelled()]
    many = [way for way in classes if len(way.names) > N_CLASSES]
    if many:
        return _wrong_number(many[0])
    one = [tree.outermost()] if choice.labels != NAMES else []
    found = [way for way in (*one, names) if way.names]
    said = f"one class alone, {found[0]}" if found else "no class"
    passed, n = _passed_over(tree.paths), len(tree.paths)
    return (
        f"{said}, of {n} photo{'' if n == 1 else 's'}; two are wanted, as two folders of photos, "
        "as names like cat.1.jpg and dog.1.jpg, or with --labels FILE.csv (a path or name and a "
        f"label in each row){passed}"
    )


def _wrong_number(found: Reading) -> str:
    if len(found.names) <= N_CLASSES:
        return f"{found}; two classes are wanted"
    a, b, c, *_ = found.names
    return (
        f"{len(found.names)} classes, {found}; two are wanted: choose them with --classes "
        f"{as_classes((a, b))}, or take several for one, as with --classes "
        f"{as_classes((f'{a}={a}', f'{b}=other', f'{c}=other'))}"
    )


def _passed_over(paths: Sequence[str]) -> str:
    folders = dict.fromkeys(folder_and_name(path)[0] for path in paths)
    parts = dict.fromkeys(part for folder in folders for part in parts_of(folder))
    passed = [printable(part) for part in parts if organises(part)]
    if not passed:
        return ""
    listed = ", ".join(passed[:3])
    return f"; folders that only organise ({listed}) are classes where --classes names them"


def _listed(found: Reading, ours: Mapping[str, str]) -> Reading:
    """The reading of a file of labels, if it has two classes or all that the user names."""
    if ours:
        _require_known([found], ours)
    elif len(found.names) != N_CLASSES:
        raise ValueError(_wrong_number(found))
    return found


def _chosen(tree: Tree, choice: Choice, ours: Mapping[str, str]) -> Reading:
    """The reading that has all classes that the user names."""
    ways = [] if choice.labels == NAMES else [_by_chosen_folder(tree, ours)]
    ways += [] if choice.labels == FOLDERS else [tree.names]
    whole = _require_known(ways, ours)
    taken = [[ours.get(shown_key(name)) for name in way.names] for way in whole]
    if len(whole) > 1:
        both = {(taken[0][a], taken[1][b]) for a, b in whole[0].both(whole[1])}
        if any(a != b for a, b in both if None not in (a, b)):
            raise ValueError(_several_ways(tree.paths, whole))
    found, as_ours = max(zip(whole, taken, strict=True), key=lambda way: _n_taken(*way))
    if found.by == "folders":
        _require_apart(tree, ours)
        if choice.labels is None:
            _require_no_contradiction(tree, found, as_ours)
    return found


def _n_taken(found: Reading, taken: Sequence[str | None]) -> int:
    return sum(n for place, n in Counter(found.of).items() if place is not None and taken[place])


def _by_chosen_folder(tree: Tree, ours: Mapping[str, str]) -> Reading:
    """By the outermost folder the user names; else by the first that holds none of these."""
    around = {part for chain in tree.chains if not ours.keys().isdisjoint(chain) for part in chain}

    def class_of(chain: Chain) -> str | None:
        named = (part for part in chain if part in ours)
        return next(named, next((part for part in chain if part not in around), None))

    return tree.by_folder(class_of)


def _require_apart(tree: Tree, ours: Mapping[str, str]) -> None:
    """Refuse photos that lie within folders of both classes."""
    for path, chain in zip(tree.paths, tree.chains, strict=True):
        if len({ours[part] for part in chain if part in ours}) > 1:
            raise ValueError(
                f"{printable(path)} lies in folders of both classes; move it, or give the labels "
                "with --labels FILE.csv"
            )


def _require_known(ways: Sequence[Reading], ours: Mapping[str, str]) -> list[Reading]:
    """The readings that have all classes that the user names."""

    def missing(way: Reading) -> list[str]:
        return sorted(ours.keys() - set(map(shown_key, way.names)))

    whole = [way for way in ways if not missing(way)]
    if not whole:
        nearest = min(ways, key=lambda way: len(missing(way)))
        found = "; ".join(str(way) for way in ways if way.names) or "none"
        raise ValueError(f"--classes: there is no class {', '.join(missing(nearest))}; {found}")
    return whole
