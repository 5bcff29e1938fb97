"""Why files are left out, in terms that show what to do: by kind, with an example of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from catdog_search.data.manifest import Manifest
from catdog_search.text import printable

LeftOut = Sequence[tuple[str, str]]

_MOST_KINDS = 6
# How many files of each kind get a line of their own.
_FEW = 5
# For kinds whose reason says what is wrong, but not what to do about it.
_ADVICE = {
    "empty": "copy or download it again",
    "truncated": "copy or download it again",
    "corrupt": "copy or download it again",
    "unreadable": "see to its permissions and its disk",
    "unreadable folder": "see to its permissions",
}


def kind_of_reason(reason: str) -> str:
    """`truncated` of `truncated: image file is truncated`."""
    return reason.split(":", 1)[0]


def kinds(left_out: LeftOut) -> dict[str, int]:
    """Files by why they are left out, the most frequent kind first."""
    return dict(Counter(kind_of_reason(reason) for _, reason in left_out).most_common())


def causes(left_out: LeftOut) -> str:
    """`40 Git LFS pointer, such as cats/1.jpg: …; 3 empty, such as …`, in one line."""
    counted = kinds(left_out)
    said = []
    for kind in list(counted)[:_MOST_KINDS]:
        key, reason = next(row for row in left_out if kind_of_reason(row[1]) == kind)
        detail = ", ".join(filter(None, (reason[len(kind) + 1 :].strip(), _ADVICE.get(kind))))
        about = f": {printable(detail)}" if detail else ""
        said.append(f"{counted[kind]} {kind}, such as {printable(key)}{about}")
    if len(counted) > _MOST_KINDS:
        said.append(f"{sum(list(counted.values())[_MOST_KINDS:])} for other reasons")
    return "; ".join(said)


def shrinkage(manifest: Manifest, more_than: float) -> list[str]:
    """What became of the files, where few of them are left to learn from.

    Args:
        manifest: Manifest of the dataset that the photos became.
        more_than: Share of the files that may be left out without comment, in [0, 1).
    """
    said, left_out = [], manifest.left_out
    n_files = len(manifest.used()) + len(left_out)
    if len(left_out) > more_than * n_files:
        said.append(f"{len(left_out)} of {n_files} files are left out: {causes(left_out)}")
    groups = list(manifest.groups().values())
    grouped = sum(map(len, groups))
    if grouped * 2 > len(manifest.photos):
        said.append(
            f"{grouped} of {len(manifest.photos)} photos are in {len(groups)} groups of "
            f"duplicates, such as that of {printable(groups[0][0].key)}; a group stays in one split"
        )
    return said


def lines(left_out: LeftOut, all_of_them: str) -> Iterator[str]:
    """Lines for the first files of each kind, and one saying how many more there are.

    Args:
        left_out: (key, reason) of each.
        all_of_them: Says where all of them are listed.
    """
    by_kind: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, reason in left_out:
        by_kind[kind_of_reason(reason)].append((key, reason))
    for kind, rows in by_kind.items():
        for key, reason in rows[:_FEW]:
            yield f"left out: {printable(key)}: {printable(reason)}"
        if len(rows) > _FEW:
            yield f"left out: {len(rows) - _FEW} more {kind}; {all_of_them}"
