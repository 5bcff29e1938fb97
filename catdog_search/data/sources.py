"""Where photos come from: a folder, a zip, or the built-in drawn pictures."""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from catdog_search.data import files, synthetic
from catdog_search.data.decode import IMAGE_SUFFIXES
from catdog_search.errors import DataError

if TYPE_CHECKING:  # what checks study files takes longer to import than all of the above
    from catdog_search.config import DataConfig

N_CLASSES = 2
DRAWN_NOTICE = "built-in drawn pictures, not photos; give photos with --data PATH"
# Of the clock that file systems take the time from, with room to spare.
_TICK_NS = 20_000_000
# Of a picture that is drawn.
_DRAWN_BYTES = 3 * synthetic.SIDE**2
_KAGGLE_NAME = re.compile(r"(?P<name>[^.]+)\.\d+\.[^.]+")


class Source(Protocol):
    """Labelled image files, read by key; it can be pickled, to be read in other processes.

    Attributes:
        kind: `folder`, `zip` or `synthetic`.
        location: Where it is, for people.
        class_names: The two names, sorted; index 1 is the positive class.
        labels: Class index of every image file by key, in key order.
        others: Files that don't look like images by their names; they are listed, not read.
    """

    kind: str
    location: str
    class_names: tuple[str, str]
    labels: dict[str, int]
    others: list[str]

    def size(self, key: str) -> int:
        """Bytes that the file says it has."""
        ...

    def read(self, key: str) -> bytes:
        """The file's content; safe to call from several threads.

        Raises:
            FileTooLargeError: It has more than `files.MAX_FILE_BYTES`.
        """
        ...

    def fingerprint(self) -> str:
        """Changes whenever a file may have been added, removed or altered; reads none.

        It decides whether the files have to be looked at again, and nothing else.
        """
        ...


class FolderSource:
    """A folder with two class folders, or with files named `cat.1.jpg`."""

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self._root = root
        self.location = str(root)
        keys, self.others = _images_and_others(list(_files_below(root)))
        self.class_names, self.labels = label_by_path(keys, self.location, root.name)

    def size(self, key: str) -> int:
        """As the file system says."""
        return os.stat(f"{self._root}/{key}").st_size

    def read(self, key: str) -> bytes:
        """The file's content."""
        return files.read_file(f"{self._root}/{key}")

    def fingerprint(self) -> str:
        """Of paths, sizes, times and places on the disk; nobody can set the time of a change."""
        rows = [(key, *_mark(f"{self._root}/{key}")) for key in self.labels]
        newest = max((row[-1] for row in rows), default=0)
        if time.time_ns() - newest < _TICK_NS:
            # A change within the same tick as the last one would leave no trace.
            time.sleep(_TICK_NS / 1e9)
        return _hash_rows(rows)


class ZipSource:
    """A zip laid out as a `FolderSource` may be; it is never unpacked."""

    kind = "zip"

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        try:
            self._zip = files.open_zip(path)
        except zipfile.BadZipFile as error:
            raise DataError(f"{path}: is not a usable zip: {error}") from None
        # One handle, several threads: seek and read belong together.
        self._lock = threading.Lock()
        names = [info.filename for info in self._zip.infolist() if not info.is_dir()]
        keys, self.others = _images_and_others(names)
        self.class_names, self.labels = label_by_path(keys, self.location, "")

    def __getstate__(self) -> dict[str, object]:
        return {name: it for name, it in vars(self).items() if name not in ("_zip", "_lock")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._zip, self._lock = files.open_zip(Path(self.location)), threading.Lock()

    def size(self, key: str) -> int:
        """As the zip's directory says."""
        return self._zip.getinfo(key).file_size

    def read(self, key: str) -> bytes:
        """The entry's content."""
        with self._lock:
            return files.read_entry(self._zip, key)

    def fingerprint(self) -> str:
        """Of names, sizes and checksums, and of the zip as a file, wherever it was moved."""
        infos = (self._zip.getinfo(key) for key in self.labels)
        assert self._zip.fp is not None
        stat = os.fstat(self._zip.fp.fileno())
        whole = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return _hash_rows([whole, *((i.filename, i.file_size, i.CRC) for i in infos)])


class SyntheticSource:
    """Drawn cats and dogs, always the same for the same count and seed."""

    kind = "synthetic"
    class_names = ("cat", "dog")

    def __init__(self, n: int, seed: int = 0) -> None:
        self._seed = seed
        self.others: list[str] = []
        self.location = f"{n} drawn pictures"
        self.labels = {
            f"{name}.{index:06d}.ppm": label
            for label, name in enumerate(self.class_names)
            for index in range(n // 2 + (n % 2 if label == 0 else 0))
        }

    def size(self, key: str) -> int:
        """Of any picture, about."""
        del key
        return _DRAWN_BYTES

    def read(self, key: str) -> bytes:
        """The picture as PPM: its bytes, and so its sha256, depend on no encoder."""
        index = int(key.split(".")[1])
        buffer = io.BytesIO()
        synthetic.draw(self.labels[key], index, self._seed).save(buffer, format="PPM")
        return buffer.getvalue()

    def fingerprint(self) -> str:
        """Of the drawing's version, the count and the seed."""
        return _hash_rows([("synthetic", synthetic.DRAWING_VERSION, self._seed, len(self.labels))])


def open_source(path: str) -> Source:
    """The folder or zip at `path`.

    Raises:
        DataError: Nothing is there, or it doesn't hold exactly two classes.
    """
    location = Path(path).expanduser()
    if location.is_dir():
        return FolderSource(location.resolve())
    if location.is_file():
        return ZipSource(location.resolve())
    raise DataError(f"{path}: no such folder or zip of photos")


def choose_source(config: DataConfig, given: str | None) -> Source:
    """Where a study's photos come from.

    In this order: `--data`; drawn pictures where the study file wants them; `CATDOG_DATA`; the
    study file's path; drawn pictures.

    Args:
        config: The study file's `[data]`.
        given: What `--data` says.

    Raises:
        DataError: Nothing is there, or it doesn't hold exactly two classes.
    """
    if given:
        return open_source(given)
    path = os.environ.get("CATDOG_DATA") or config.path
    if config.source == "synthetic" or not path:
        return SyntheticSource(config.synthetic_n)
    return open_source(path)


def label_by_path(
    keys: Sequence[str], location: str, root_name: str
) -> tuple[tuple[str, str], dict[str, int]]:
    """Find the two classes in the paths: by the folder the files lie in, else by `cat.1.jpg`.

    Args:
        keys: Paths of image files below the source, sorted.
        location: The source, for messages.
        root_name: Name of the folder that files without one lie in.

    Returns:
        The class names, sorted, and the class index of every key.

    Raises:
        DataError: There are not exactly two classes.
    """
    if not keys:
        raise DataError(f"{location}: holds no image file ({', '.join(sorted(IMAGE_SUFFIXES))})")
    folders = [PurePosixPath(key).parent.name or root_name for key in keys]
    prefixes = [_KAGGLE_NAME.fullmatch(PurePosixPath(key).name) for key in keys]
    for found in (folders, [m["name"] if m else "" for m in prefixes]):
        names = sorted(set(found))
        if len(names) == N_CLASSES and all(names):
            labels = {key: names.index(name) for key, name in zip(keys, found, strict=True)}
            return (names[0], names[1]), labels
    raise DataError(
        f"{location}: needs exactly {N_CLASSES} classes, as two folders of photos or as names like "
        f"cat.1.jpg and dog.1.jpg; found folders {_counted(folders)}"
    )


def _files_below(root: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it; links to folders are not followed."""
    for folder, _, names in os.walk(root):
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for name in names:
            if os.path.isfile(f"{folder}/{name}"):  # as in fingerprint
                yield f"{prefix}{name}"


def _images_and_others(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sort files by their names; what operating systems hide beside photos is passed over."""
    seen = [PurePosixPath(file) for file in sorted(files)]
    shown = [p for p in seen if "__MACOSX" not in p.parts and not p.name.startswith(".")]
    keys = [str(p) for p in shown if p.suffix.lower() in IMAGE_SUFFIXES]
    return keys, [str(p) for p in shown if p.suffix.lower() not in IMAGE_SUFFIXES]


def _mark(path: str) -> tuple[int, int, int, int, int]:
    """Device, inode, size, and the times of modification and change; zeros where it is gone."""
    # Text, not Path: it is the same call without making an object for each of 20,000 files.
    try:
        stat = os.stat(path)
    except OSError:
        return (0, 0, 0, 0, 0)
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _counted(names: Sequence[str], most: int = 5) -> str:
    counts = Counter(names).most_common()
    listed = ", ".join(f"{name!r} ({n} files)" for name, n in counts[:most])
    return listed + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _hash_rows(rows: Iterable[tuple[object, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode() + b"\n")
    return digest.hexdigest()
