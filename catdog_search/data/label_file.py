"""A CSV file of labels: read whatever program wrote it, and matched with the photos it names."""

from __future__ import annotations

import codecs
import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from catdog_search.data.readings import folder_and_name, parts_of, stem_of
from catdog_search.errors import DataError
from catdog_search.text import printable, shown_key

_N_COLUMNS = 2
_DELIMITERS = ",;\t"
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Row:
    """One row: a path or name, and what it says the photo is.

    Attributes:
        line: Line number in the file, from 1.
        name: Path or name as it stands there.
        label: Label as it stands there; empty where there is none.
    """

    line: int
    name: str
    label: str


@dataclass(frozen=True)
class Matched:
    """What a file says of the photos.

    Attributes:
        labels: Labels by path.
        unmatched: (name, reason) of every row that names no photo.
    """

    labels: dict[str, str]
    unmatched: tuple[tuple[str, str], ...]


def read(path: str) -> list[Row]:
    """Read a file of labels: two columns, separated by comma, semicolon or tab.

    Raises:
        DataError: It can't be read, or a row doesn't have two columns.
    """
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"--labels {path}: {error.strerror}; folders, names or a file") from None
    text = _decoded(content)
    try:
        rows = max((_split(text, mark) for mark in _DELIMITERS), key=_likeliness)
    except csv.Error as error:
        raise DataError(f"--labels {path}: is no CSV file: {error}") from None
    for number, cells in rows:
        if len(cells) != _N_COLUMNS:
            raise DataError(
                f"--labels {path} line {number}: {len(cells)} columns; two are wanted, a path or "
                "name and a label, parted by comma, semicolon or tab"
            )
    return [Row(number, name, label) for number, (name, label) in rows]


def _decoded(content: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _split(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Non-empty rows with their line numbers, without trailing empty cells."""
    reader = csv.reader(io.StringIO(text, ""), delimiter=delimiter, skipinitialspace=True)
    rows = []
    for row in reader:
        cells = [cell.strip() for cell in row]
        while len(cells) > _N_COLUMNS and not cells[-1]:
            cells.pop()
        if any(cells):
            rows.append((reader.line_num, cells))
    return rows


def _likeliness(rows: Sequence[tuple[int, list[str]]]) -> tuple[int, int]:
    """Sorts likely splits last: two columns, the second with few distinct values."""
    pairs = [cells for _, cells in rows if len(cells) == _N_COLUMNS]
    return len(pairs), -len({label for _, label in pairs})


def match(rows: Sequence[Row], paths: Sequence[str], file: str) -> Matched:
    """Find the photo that each row names: by its path, the end of it, its name, or its stem.

    The first row may be a header.

    Raises:
        DataError: A row's name is that of several photos, or a photo has two labels.
    """
    index = _Index(paths)
    labels: dict[str, str] = {}
    unmatched = []
    for row in rows:
        found = index.find(row.name)
        if len(found) > 1:
            raise DataError(
                f"--labels {file} line {row.line}: {printable(row.name)} is the name of "
                f"{len(found)} photos, such as {printable(found[0])} and {printable(found[1])}; "
                "write their paths"
            )
        if not found:
            unmatched.append(row)
        elif row.label and shown_key(labels.setdefault(found[0], row.label)) != shown_key(
            row.label
        ):
            raise DataError(
                f"--labels {file} line {row.line}: {printable(found[0])} is "
                f"{printable(row.label)}, but {printable(labels[found[0]])} above"
            )
    if unmatched and unmatched[0] is rows[0] and _is_header(rows):
        del unmatched[0]
    reason = "no such photo: named in the file of labels, line"
    return Matched(labels, tuple((row.name, f"{reason} {row.line}") for row in unmatched))


def _is_header(rows: Sequence[Row]) -> bool:
    """Whether the first row, which names no photo, has a label that no other row has."""
    return shown_key(rows[0].label) not in {shown_key(row.label) for row in rows[1:]}


class _Index:
    """An index of photos by name and by stem."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._named: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for path in paths:
            keys = _keys(path)
            self._named[keys[-1]].append((keys, path))
            if (stem := stem_of(keys[-1])) != keys[-1]:
                self._named[stem].append((keys, path))

    def find(self, name: str) -> list[str]:
        """The photos that may be meant; where one has exactly this path, that one alone."""
        wanted = _keys(name)
        if not wanted:
            return []
        found = []
        for keys, path in self._named.get(wanted[-1], ()):
            *folders, _ = keys
            *wanted_folders, _ = wanted
            shared = min(len(folders), len(wanted_folders))
            if folders[len(folders) - shared :] == wanted_folders[len(wanted_folders) - shared :]:
                found.append((folders == wanted_folders, path))
        exact = [path for is_exact, path in found if is_exact]
        return exact or [path for _, path in found]


def _keys(path: str) -> tuple[str, ...]:
    folder, name = folder_and_name(path)
    return tuple(shown_key(part) for part in (*parts_of(folder), name) if part)
