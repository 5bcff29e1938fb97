"""Which photos are one and the same: byte for byte, or to the eye."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # what checks study files is not needed where photos are decoded
    from catdog_search.study.config import Duplicates

# Of 64 bits. Of the pairs in 20,000 real photos that differ in at most 8 bits, all 27 with up to 4
# were the same picture, and none of the 8 with 6 or 8 (inspected one by one).
NEAR_BITS = 4
# By the pigeonhole principle, hashes that differ in 4 bits agree in one of 5 bands.
_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
# Of 256 bits of the finer hash: a photo saved again at JPEG quality 40 changes up to 6, at 64 x 64
# pixels up to 10. Of photos of different objects on one background, all within 4 of 64 bits, half
# are more than 12 apart where the object is 1/30 of the width, 30 where it is 1/13.
FINE_BITS = 10
# Groups above _MANY photos, or above this share but never at or below _FEW, are checked with the
# finer hash: near matches form chains of photos merely alike, and chains leave nothing to split.
_MANY, _SUSPECT_SHARE, _FEW = 20, 0.05, 8
# A group as large as val is useless in any split.
_TOO_LARGE_SHARE = 0.15
# How far apart in a run of equal bands photos are compared; only thousands of similar pictures
# make longer runs.
_MAX_RUN = 500


@dataclass(frozen=True)
class Grouping:
    """Which photos stay in one split.

    Attributes:
        groups: Rows of two or more, each sorted, by their first row.
        notes: Lines for the user.
    """

    groups: list[list[int]]
    notes: tuple[str, ...] = ()


def group_photos(
    sha256s: Sequence[str], looks: Sequence[tuple[str, str]], duplicates: Duplicates
) -> Grouping:
    """Find the photos that must stay in one split.

    Photos that look alike are grouped by `find_groups`, but a large group is only a suspicion:
    there each photo must also be near to the group's first one by the finer hash. Of what remains
    too large for a split, only exact copies are grouped.

    Args:
        sha256s: SHA-256 digests of the files' bytes, hex.
        looks: Perceptual hash (16 hex digits) and finer one (64) of each photo; empty ones are like
            no other.
        duplicates: Whether copies and what looks the same stay together, copies, or nothing.
    """
    if duplicates == "off":
        return Grouping([])
    if duplicates == "exact":
        return Grouping(find_groups(sha256s, [""] * len(sha256s)))
    near = find_groups(sha256s, [phash for phash, _ in looks])
    few = max(_FEW, min(_MANY, round(_SUSPECT_SHARE * len(sha256s))))
    suspects = [rows for rows in near if len(rows) > few]
    finer = [part for rows in suspects for part in _compared_finely(rows, sha256s, looks)]
    most = max(_FEW, round(_TOO_LARGE_SHARE * len(sha256s)))
    too_large = [rows for rows in finer if len(rows) > most]
    groups = [rows for rows in near if len(rows) <= few]
    groups += [rows for rows in finer if 1 < len(rows) <= most]
    groups += [part for rows in too_large for part in _copies(rows, sha256s)]
    return Grouping(sorted(groups), tuple(_notes(suspects, too_large, len(sha256s))))


def _compared_finely(
    rows: Sequence[int], sha256s: Sequence[str], looks: Sequence[tuple[str, str]]
) -> list[list[int]]:
    """Divide a group: each photo joins the first one before it that is near by the finer hash.

    By content, so that names and order don't matter.
    """
    ordered = sorted(rows, key=lambda row: (sha256s[row], row))
    hashes = np.array([bytearray.fromhex(looks[row][1]) for row in ordered], np.uint8)
    words = hashes.view(np.uint64)
    firsts = np.empty(len(ordered), int)
    parts: list[list[int]] = []
    for number, word in enumerate(words):
        apart = np.bitwise_count(words[firsts[: len(parts)]] ^ word).sum(axis=1)
        near = np.flatnonzero(apart <= FINE_BITS)
        if len(near):
            parts[near[0]].append(ordered[number])
        else:
            firsts[len(parts)] = number
            parts.append([ordered[number]])
    return [sorted(part) for part in parts]


def _copies(rows: Sequence[int], sha256s: Sequence[str]) -> list[list[int]]:
    """The exact copies in a group."""
    found = find_groups([sha256s[row] for row in rows], [""] * len(rows))
    return [[rows[i] for i in part] for part in found]


def _notes(suspects: list[list[int]], too_large: list[list[int]], n: int) -> Iterator[str]:
    if suspects:
        alike = sum(map(len, suspects))
        yield (
            f"duplicates: {alike} of {n} photos look alike from afar, as before one camera and "
            "background; they were compared more finely"
        )
    if too_large:
        same = sum(map(len, too_large))
        yield (
            f"duplicates: {same} of {n} photos look the same even so, too many for one split; only "
            "exact copies among them stay together, and what is nearly one may lie in two splits"
        )


def find_groups(sha256s: Sequence[str], phashes: Sequence[str]) -> list[list[int]]:
    """Group equal and near-equal photos.

    Args:
        sha256s: SHA-256 digests of the files' bytes, hex.
        phashes: Perceptual hashes, 16 hex digits; an empty one is like no other.

    Returns:
        Groups of two or more rows, each sorted, by their first row.
    """
    parents = list(range(len(sha256s)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for first, second in (*_equal(sha256s), *_equal(phashes), *_near(phashes)):
        a, b = sorted((root(first), root(second)))
        parents[b] = a
    members = defaultdict(list)
    for row in range(len(parents)):
        members[root(row)].append(row)
    return [rows for rows in members.values() if len(rows) > 1]


def _equal(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    first_row: dict[str, int] = {}
    for row, name in enumerate(names):
        if name and first_row.setdefault(name, row) != row:
            yield first_row[name], row


def _near(phashes: Sequence[str]) -> Iterator[tuple[int, int]]:
    # Equal hashes are already joined; one of each is enough here.
    rows = np.array(list({h: row for row, h in enumerate(phashes) if h}.values()), int)
    hashes = np.array([int(phashes[row], 16) for row in rows], np.uint64)
    for start, width in _BANDS:
        band = (hashes >> np.uint64(start)) & np.uint64(2**width - 1)
        order = np.argsort(band, kind="stable")
        yield from _near_in_band(rows[order], hashes[order], band[order])


def _near_in_band(
    rows: npt.NDArray[np.int_], hashes: npt.NDArray[np.uint64], band: npt.NDArray[np.uint64]
) -> Iterator[tuple[int, int]]:
    for offset in range(1, min(_MAX_RUN, len(rows))):
        same = band[:-offset] == band[offset:]
        if not same.any():
            return
        near = same & (np.bitwise_count(hashes[:-offset] ^ hashes[offset:]) <= NEAR_BITS)
        for i in np.flatnonzero(near):
            yield int(rows[i]), int(rows[i + offset])
