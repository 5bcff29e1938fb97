"""Where photos come from: a folder, a zip, or the built-in drawn pictures."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from catdog_search.data import files, label_file, synthetic
from catdog_search.data.causes import causes, kinds
from catdog_search.data.discovery import Found, in_folder
from catdog_search.data.labels import AUTOMATIC, FOLDERS, NAMES, Choice, Labelling, counted, label
from catdog_search.data.manifest import Split
from catdog_search.data.readings import Reading
from catdog_search.data.signatures import HEAD, kind_of
from catdog_search.data.zips import in_zip
from catdog_search.errors import DataError
from catdog_search.text import printable

if TYPE_CHECKING:  # what checks study files takes longer to import than all of the above
    from catdog_search.study.config import DataConfig

SYNTHETIC_NOTICE = "built-in drawn pictures, not photos; give photos with --data PATH"
# Tick of the clock that file systems take times from, with room to spare.
_TICK_NS = 20_000_000
# Kinds of left-out items of which a single one can hide a whole class.
_MISSING = frozenset(("unreadable folder", "broken link", "link"))
# Most classes of one reading in the facts.
_MOST_CLASSES = 200
# Approximate bytes of a drawn picture.
_DRAWN_BYTES = 3 * synthetic.SIDE**2


class Source(Protocol):
    """Labelled image files, read by key; it can be pickled, to be read in other processes.

    Attributes:
        kind: `folder`, `zip` or `synthetic`.
        location: Location of the source, for display.
        class_names: Sorted; index 1 is the positive class.
        labels: Class index of every labelled image file by key, in key order.
        left_out: (key, reason) of everything else: no image, of no class, unreadable.
        splits: The split of photos whose folder names one, where splits are to be kept.
        facts: Facts that its labels and splits were read from, as plain values for JSON.
        notes: Lines for the user on how it was read.
    """

    kind: str
    location: str
    class_names: tuple[str, ...]
    labels: dict[str, int]
    left_out: tuple[tuple[str, str], ...]
    splits: dict[str, Split]
    facts: dict[str, Any]
    notes: tuple[str, ...]

    def size(self, key: str) -> int:
        """The file's declared size in bytes."""
        ...

    def read(self, key: str) -> bytes:
        """The file's content; safe to call from several threads.

        Raises:
            FileTooLargeError: It has more than `files.MAX_FILE_BYTES`.
        """
        ...

    def fingerprint(self) -> str:
        """A string that changes whenever a file may have been added, removed or altered.

        Reads no file; it decides only whether the files have to be looked at again.
        """
        ...


class _Photos:
    """What folders and zips of photos have in common: labels, and the notes on them."""

    kind: str

    def __init__(self, location: str, found: Found, choice: Choice) -> None:
        self.location = location
        if not found.photos:
            raise DataError(f"{location}: {_nothing(found)}")
        labelling, unmatched = _labelled(location, found, choice)
        self.class_names = labelling.class_names
        self.labels = labelling.labels
        self.left_out = (*labelling.left_out, *unmatched, *found.left_out)
        self.facts = _facts(labelling, found)
        self.splits = labelling.splits if choice.keep_splits else {}
        if choice.keep_splits and "train" not in self.splits.values():
            raise DataError(f"{location}: --keep-splits: no photo lies in a folder named train")
        self.notes = tuple(_notes(labelling, found, choice))


def _labelled(
    location: str, found: Found, choice: Choice
) -> tuple[Labelling, tuple[tuple[str, str], ...]]:
    if choice.labels is None or choice.labels in (FOLDERS, NAMES):
        try:
            return label(found.photos, location, choice), ()
        except DataError as error:
            raise DataError(_with_causes(str(error), location, found)) from None
    rows = label_file.read(choice.labels)
    matched = label_file.match(rows, found.photos, choice.labels)
    if not matched.labels:
        example = f"such as {printable(found.photos[0])}"
        raise DataError(
            f"--labels {choice.labels}: none of its {len(rows)} rows names one of the "
            f"{len(found.photos)} photos in {location}, {example}"
        )
    return label(found.photos, location, choice, matched.labels), matched.unmatched


def _with_causes(said: str, location: str, found: Found) -> str:
    """Why labels can't be read; first what is missing, where that may be the cause."""
    n_files = len(found.photos) + len(found.left_out)
    missing = _MISSING.intersection(kinds(found.left_out))
    if not missing and len(found.left_out) * 10 < n_files:
        return said
    about = f"{len(found.left_out)} of {n_files} files are left out: {causes(found.left_out)}"
    return f"{location}: {about}; {said.removeprefix(f'{location}: ')}"


def _facts(labelling: Labelling, found: Found) -> dict[str, Any]:
    def plain(way: Reading) -> dict[str, Any]:
        return {"by": way.by, "classes": dict(islice(way.counts().items(), _MOST_CLASSES))}

    ours = Counter(labelling.labels.values())
    return {
        "labels": {
            **plain(labelling.reading),
            "taken": {name: ours[index] for index, name in enumerate(labelling.class_names)},
            "left_out": dict(Counter(reason for _, reason in labelling.left_out)),
            "other_readings": [plain(way) for way in labelling.others],
        },
        "splits_found": dict(labelling.folders),
        "passed_over": dict(found.passed_over),
    }


def _nothing(found: Found) -> str:
    hidden = sum(found.passed_over.values())
    passed = f"; {hidden} hidden files and folders of tools were passed over" if hidden else ""
    if found.left_out:
        return f"holds no photo that can be read: {causes(found.left_out)}{passed}"
    return f"holds no image file{passed}"


def _notes(labelling: Labelling, found: Found, choice: Choice) -> list[str]:
    notes = [f"labels: {labelling.said()}"]
    without = Counter(reason for _, reason in labelling.left_out)
    notes += [f"labels: {n} {reason}; left out" for reason, n in sorted(without.items())]
    if len(labelling.folders) > 1 or choice.keep_splits:
        kept = (
            "kept as they are"
            if choice.keep_splits
            else ("merged and split anew by content; --keep-splits keeps them")
        )
        notes.append(f"splits: folders {counted(labelling.folders)}, {kept}")
    if found.passed_over:
        notes.append(f"passed over: {counted(found.passed_over)}")
    return notes


class FolderSource(_Photos):
    """A folder of photos, and everything below it."""

    kind = "folder"

    def __init__(self, root: Path, choice: Choice = AUTOMATIC) -> None:
        self._root = root
        location = printable(str(root))
        try:
            found = in_folder(str(root))
        except OSError as error:
            raise DataError(f"{location}: can't be read: {error.strerror}") from None
        super().__init__(location, found, choice)

    def size(self, key: str) -> int:
        """As the file system says."""
        return os.stat(f"{self._root}/{key}").st_size

    def read(self, key: str) -> bytes:
        """The file's content."""
        return files.read_file(f"{self._root}/{key}")

    def fingerprint(self) -> str:
        """Made of paths, sizes, times and inodes; the time of a change (ctime) can't be forged."""
        rows = [(key, *_mark(f"{self._root}/{key}")) for key in self.labels]
        newest = max((row[-1] for row in rows), default=0)
        if time.time_ns() - newest < _TICK_NS:
            # A change in the same clock tick as the last one would leave no trace.
            time.sleep(_TICK_NS / 1e9)
        return _hash_rows(rows)


class ZipSource(_Photos):
    """A zip laid out as a `FolderSource` may be; it is never unpacked."""

    kind = "zip"

    def __init__(self, path: Path, choice: Choice = AUTOMATIC) -> None:
        self._path = path
        location = printable(str(path))
        try:
            self._zip = files.open_zip(path)
        except zipfile.BadZipFile as error:
            raise DataError(f"{location}: {_no_zip(path, error)}") from None
        except OSError as error:
            raise DataError(f"{location}: can't be read: {error.strerror}") from None
        # One handle, several threads: seek and read belong together.
        self._lock = threading.Lock()
        found, self._entries = in_zip(self._zip)
        super().__init__(location, found, choice)

    def __getstate__(self) -> dict[str, object]:
        return {name: it for name, it in vars(self).items() if name not in ("_zip", "_lock")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._zip, self._lock = files.open_zip(self._path), threading.Lock()

    def size(self, key: str) -> int:
        """As the zip's directory says."""
        return self._entries[key].file_size

    def read(self, key: str) -> bytes:
        """The entry's content."""
        with self._lock:
            return files.read_entry(self._zip, self._entries[key].filename)

    def fingerprint(self) -> str:
        """Made of names, sizes and checksums, and of the zip file's stat, wherever it was moved."""
        infos = (self._entries[key] for key in self.labels)
        assert self._zip.fp is not None
        stat = os.fstat(self._zip.fp.fileno())
        whole = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return _hash_rows([whole, *((i.filename, i.file_size, i.CRC) for i in infos)])


def _no_zip(path: Path, error: zipfile.BadZipFile) -> str:
    with path.open("rb") as file:
        kind = kind_of(file.read(HEAD))
    if kind is None or (kind.name == "archive" and path.suffix.lower() == ".zip"):
        return f"is not a usable zip: {error}"
    if kind.is_photo:
        return (
            f"is not a usable zip, but a picture ({kind.name}); give the folder it lies in, or ask "
            "`catdog-search predict` what it shows"
        )
    if kind.name == "archive":
        return "is not a usable zip, but another archive; unpack it and give the folder"
    return f"is not a usable zip: {kind.reason()}"


class SyntheticSource:
    """Drawn cats and dogs, always the same for the same count and seed."""

    kind = "synthetic"
    class_names: tuple[str, ...] = ("cat", "dog")

    def __init__(self, n: int, seed: int = 0) -> None:
        self._seed = seed
        self.left_out: tuple[tuple[str, str], ...] = ()
        self.splits: dict[str, Split] = {}
        self.notes: tuple[str, ...] = ()
        self.location = f"{n} drawn pictures"
        self.labels = {
            f"{name}.{index:06d}.ppm": label
            for label, name in enumerate(self.class_names)
            for index in range(len(range(label, n, len(self.class_names))))
        }
        self.facts: dict[str, Any] = {}

    def size(self, key: str) -> int:
        """About that of any picture."""
        del key
        return _DRAWN_BYTES

    def read(self, key: str) -> bytes:
        """The picture as PPM: its bytes, and so its sha256, depend on no encoder."""
        index = int(key.split(".")[1])
        buffer = io.BytesIO()
        synthetic.draw(self.labels[key], index, self._seed).save(buffer, format="PPM")
        return buffer.getvalue()

    def fingerprint(self) -> str:
        """Made of the drawing's version, the count and the seed."""
        return _hash_rows([("synthetic", synthetic.DRAWING_VERSION, self._seed, len(self.labels))])


def open_source(path: str, choice: Choice = AUTOMATIC) -> Source:
    """The folder or zip at `path`.

    Args:
        path: Path of a folder or a zip.
        choice: User's choice about labels and splits.

    Raises:
        DataError: Nothing is there, or it doesn't hold exactly two classes.
    """
    location = _existing(path)
    if location.is_dir():
        return FolderSource(location.resolve(), choice)
    return ZipSource(location.resolve(), choice)


def _existing(path: str, said_by: str = "") -> Path:
    location = Path(path).expanduser()
    if location.is_dir() or location.is_file():
        return location
    here = "" if location.is_absolute() else f" in {printable(str(Path.cwd()))}"
    raise DataError(f"{said_by}{printable(path)}: no such folder or zip of photos{here}")


def require_named(config: DataConfig, given: str | None) -> None:
    """Refuse a wrong path of a study's photos before anything slower is looked at.

    Raises:
        DataError: Nothing is there.
    """
    if has_photos(config, given):
        _existing(*_named(config, given))


def has_photos(config: DataConfig, given: str | None) -> bool:
    """Whether a study has photos: `--data`, `CATDOG_DATA`, or its file's path.

    A study of drawn pictures ignores all but the first.
    """
    named = os.environ.get("CATDOG_DATA") or config.path
    return bool(given or (named and config.source != "synthetic"))


def _named(config: DataConfig, given: str | None) -> tuple[str, str]:
    """The path that is named first, and who names it, for messages."""
    if given:
        return given, ""
    if by_environment := os.environ.get("CATDOG_DATA"):
        return by_environment, "CATDOG_DATA: "
    return str(config.path), "[data] path: "


def choose_source(config: DataConfig, given: str | None) -> Source:
    """Where a study's photos come from.

    In this order: `--data`; drawn pictures where the study file wants them; `CATDOG_DATA`; the
    study file's path; drawn pictures, unless it wants photos.

    Args:
        config: The study file's `[data]`, with the choices of this call.
        given: Value of `--data`; None where it isn't given.

    Raises:
        DataError: Nothing is there, or it doesn't hold exactly two classes; or there are choices
            about labels but no photos; or the study wants photos and there are none.
    """
    choice = Choice(config.labels, config.classes, config.keep_splits)
    if has_photos(config, given):
        path, _ = _named(config, given)
        return open_source(path, choice)
    if config.source == "photos":
        raise DataError(
            'the study file says source = "photos", and there are none: name a folder or zip with '
            "--data PATH or CATDOG_DATA, or fetch some with `catdog-search data download`"
        )
    if choice != AUTOMATIC:
        raise DataError(
            "the built-in drawn pictures have their own labels; labels, classes and keep_splits "
            "are for photos: give them with --data PATH"
        )
    return SyntheticSource(config.synthetic_n)


def _mark(path: str) -> tuple[int, int, int, int, int]:
    """Device, inode, size, and the times of modification and change; zeros where it is gone."""
    # A string, not a Path: the same call without creating an object for each of 20,000 files.
    try:
        stat = os.stat(path)
    except OSError:
        return (0, 0, 0, 0, 0)
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _hash_rows(rows: Iterable[tuple[object, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode() + b"\n")
    return digest.hexdigest()
