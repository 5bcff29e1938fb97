"""Which state a folder holds, and whether it is where it belongs.

MLflow stores absolute locations, so a state folder that was moved or copied still names the old
place, and a call on it would write and delete there. Each state therefore has an identity, a small
file in its root, which says where that root is. Nothing heavy is imported here: every command that
opens a state checks it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import sqlite3
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from catdog_search import sqlite as databases
from catdog_search.errors import StateError
from catdog_search.text import printable

FILE = "state.json"
MLFLOW_DB = "mlflow.db"
OPTUNA_DB = "optuna.db"
ARTIFACTS = "artifacts"
# Default location of a state.
DEFAULT_NAME = "mlruns"
# Seconds to wait for another writer.
_WAIT_S = 60
# Most neighbouring folders that are searched for another state, and most states that are named.
_MOST_BESIDE, _MOST_NAMED = 1000, 3


@dataclass(frozen=True)
class Pending:
    """A relocation in progress: what a second call needs to finish it in the same way.

    Attributes:
        root: Folder that it was begun in.
        state_id: Id that the state has when it is over.
        uids: New uids of a copy's studies, by every uid that they had before.
    """

    root: Path
    state_id: str
    uids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """What a state folder says of itself.

    Attributes:
        state_id: Tells this state from every other.
        root: Absolute path of the folder.
        device: Device number of the root, as `stat` gives it.
        inode: Inode number of the root, as `stat` gives it.
        former: Former roots, most recent first.
        origins: Roots that it is a copy of, most recent first; files may have been left there.
        pending: Unfinished relocation; None otherwise.
    """

    state_id: str
    root: Path
    device: int
    inode: int
    former: tuple[Path, ...] = ()
    origins: tuple[Path, ...] = ()
    pending: Pending | None = None

    @classmethod
    def at(cls, root: Path, state_id: str) -> Identity:
        """The identity of a state in the folder `root`, which must exist."""
        found = root.stat()
        return cls(state_id, root, found.st_dev, found.st_ino)

    def again_at(self, root: Path) -> Identity:
        """The same identity, for what is at `root` now."""
        found = root.stat()
        return replace(self, root=root, device=found.st_dev, inode=found.st_ino)


@dataclass(frozen=True)
class Displaced:
    """A state that is not where its locations say.

    Attributes:
        state_id: Its id; None if it has none yet.
        places: Former roots, most recent first.
        is_copy: Whether one of those places still holds it, or can't be checked.
        pending: A relocation that was interrupted; None otherwise.
    """

    state_id: str | None
    places: tuple[Path, ...]
    is_copy: bool
    pending: Pending | None


def new_id() -> str:
    """An id that no other state has."""
    return uuid.uuid4().hex


def read(root: Path) -> Identity | None:
    """The identity of the state at `root`; None where it has none.

    Raises:
        StateError: It can't be read.
    """
    path = root / FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        away = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.away')}"
        raise StateError(
            printable(
                f"{path}: can't be read: {error.strerror}; let it be read, or have it made anew: "
                f"`{away}`"
            )
        ) from None
    except ValueError:
        return None  # damaged: as for a state from before there were identities
    try:
        return _parse(table)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _parse(table: Any) -> Identity:
    root, relocating = Path(table["root"]), table.get("relocating")
    if not root.is_absolute():
        raise ValueError(f"{root} is not absolute")
    return Identity(
        state_id=uuid.UUID(hex=table["id"]).hex,
        root=root,
        device=int(table["device"]),
        inode=int(table["inode"]),
        former=tuple(map(Path, table["former"])),
        origins=tuple(map(Path, table["origins"])),
        pending=None
        if relocating is None
        else Pending(
            Path(relocating["root"]), uuid.UUID(hex=relocating["id"]).hex, relocating["uids"]
        ),
    )


def write(root: Path, identity: Identity) -> None:
    """Write the identity of the state at `root` atomically, even across a power cut.

    Raises:
        OSError: It can't be written.
    """
    table: dict[str, Any] = {
        "id": identity.state_id,
        "root": str(identity.root),
        "device": identity.device,
        "inode": identity.inode,
        "former": [str(path) for path in identity.former],
        "origins": [str(path) for path in identity.origins],
    }
    if identity.pending:
        table["relocating"] = {
            "root": str(identity.pending.root),
            "id": identity.pending.state_id,
            "uids": dict(identity.pending.uids),
        }
    write_whole(root / FILE, json.dumps(table, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file of a state atomically, even across a power cut.

    Raises:
        OSError: It can't be written.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


def canonical(root: Path) -> Path:
    """The path under which a state's locations are stored; a link or mount may give another one."""
    with contextlib.suppress(StateError):
        found = read(root)
        if found is not None and found.root != root and _is_same_folder(found.root, root):
            return found.root
    return root


def require_home(root: Path) -> None:
    """Refuse a state that was moved or copied, before any of it is used.

    If it is where its locations say, a state from before there were identities gets one here, and
    one restored from a backup has its device and inode updated; in a read-only folder both stay as
    they are.

    Raises:
        StateError: It was moved or copied, or its relocation was interrupted, or it holds the
            copies of another state's databases; the message names the cure.
    """
    if _holds_copies(root):
        raise StateError(
            f"{printable(str(root))}: holds copies of the databases of a state, which is the "
            f"folder above: --state {shlex.quote(str(root.parent))}"
        )
    if away := displaced(root):
        raise StateError(_say(root, away))
    if not is_state(root):
        return
    found = read(root)
    if found is None:
        now = Identity.at(root, new_id())
    elif found.root == root:
        now = found.again_at(root)
    else:
        return
    if now != found:
        with contextlib.suppress(OSError):
            write(root, now)


def claim(root: Path) -> None:
    """Give a new state an identity; one that has an identity keeps it.

    Raises:
        OSError: It can't be written.
    """
    if read(root) is None:
        write(root, Identity.at(root, new_id()))


def displaced(root: Path) -> Displaced | None:
    """Where a state was before; None where it is at home, or isn't a state.

    Raises:
        StateError: A former place can't be determined.
    """
    found = read(root)
    if found is None:
        places = _recorded_places(root)
        is_copy = any(map(is_state, places))
        return Displaced(None, places, is_copy, None) if places else None
    pending = found.pending
    if pending is None and (found.root == root or _is_same_folder(found.root, root)):
        return None
    last, ids = [found.root], {found.state_id}
    if pending is not None:
        last.append(pending.root)
        ids.add(pending.state_id)
    is_copy = any(_may_hold(p, ids) for p in last if not _is_same_folder(p, root))
    places = tuple(p for p in dict.fromkeys((*last, *found.former)) if p != root)
    return Displaced(found.state_id, places, is_copy, pending)


def _say(root: Path, away: Displaced) -> str:
    here = f"state folder {printable(str(root))}"
    cure = f"`{relocate_command(root)}`"
    if away.pending:
        return f"{here}: its relocation was cut off; go on with {cure}"
    last = printable(str(away.places[0]))
    if away.is_copy:
        return (
            f"{here} is a copy of {last}, where MLflow would go on to write and delete; "
            f"make it a state of its own with {cure}"
        )
    return f"{here} was moved here from {last}, which MLflow still names; repair it with {cure}"


def relocate_command(root: Path) -> str:
    """The command that repairs a state that was moved or copied."""
    return printable(f"catdog-search relocate --state {shlex.quote(str(root))}")


def is_state(root: Path) -> bool:
    """Whether a folder holds a store of ours; True where that can't be checked."""
    return any(_may_exist(root / name) for name in (MLFLOW_DB, OPTUNA_DB))


def _holds_copies(root: Path) -> bool:
    """Whether a folder is where a state keeps the copies of its databases."""
    return databases.kept_copy(root.parent / OPTUNA_DB).parent == root and is_state(root.parent)


def nearby(root: Path) -> list[Path]:
    """States with studies around a folder, nearest first: in folders above, beside and below.

    For a user in the wrong folder; folders that can't be read are skipped.
    """
    found: list[Path] = []
    for place in _around(root):
        holds_studies = os.path.isfile(place / OPTUNA_DB) and not _holds_copies(place)
        if holds_studies and not any(_is_same_folder(place, other) for other in (root, *found)):
            found.append(place)
    return found[:_MOST_NAMED]


def _around(root: Path) -> Iterator[Path]:
    for above in (root, *root.parents):
        yield from (above / DEFAULT_NAME, above)
    for folder in (root.parent, root):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in itertools.islice(entries, _MOST_BESIDE):
                yield from (Path(entry.path), Path(entry.path) / DEFAULT_NAME)


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _may_hold(place: Path, ids: Collection[str]) -> bool:
    """Whether a state is still at a place; True where that can't be checked."""
    if not _may_exist(place / FILE):
        return False
    try:
        found = read(place)
    except StateError:
        return True
    return found is None or found.state_id in ids


def _is_same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _recorded_places(root: Path) -> tuple[Path, ...]:
    """Where MLflow's experiments place a state without an identity; empty where that is here.

    An experiment of another state that was only tracked here doesn't count: its files are there.
    """
    store = root / MLFLOW_DB
    if not store.exists():
        return ()
    uri = f"file:{quote(str(store))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S)) as connection:
            rows = connection.execute("select name, artifact_location from experiments").fetchall()
    except sqlite3.Error as error:
        raise StateError(f"MLflow store {printable(str(store))}: {error}") from None
    places = set()
    for name, location in rows:
        path, files = local_path(location or ""), root / ARTIFACTS / name
        if path is None or (path.name, path.parent.name) != (name, ARTIFACTS):
            continue
        if path == files or path.resolve() == files.resolve():
            return ()
        if files.exists() or not is_state(path.parents[1]):
            places.add(path.parents[1])
    return tuple(sorted(places))


def local_path(location: str) -> Path | None:
    """The file that a location names, as MLflow reads it; None where it names none.

    MLflow treats `%` as an escape even in a plain path.
    """
    if location.startswith("file:///"):
        location = urlsplit(location).path
    return Path(unquote(location)) if location.startswith("/") else None
