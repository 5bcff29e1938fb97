"""sqlite files: checking one for damage, keeping a copy beside it, restoring the copy."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

# Suffixes of what sqlite keeps for a file, which must never be paired with another file.
_BESIDE = ("", "-wal", "-shm", "-journal")
_WAIT_S = 20
# Databases by their copies for reading.
_copied_from: dict[Path, Path] = {}


def kept_copy(path: Path) -> Path:
    """Where the copy of a database is kept."""
    return path.parent / "copies" / path.name


def damage(path: Path, *, thorough: bool = False) -> str | None:
    """What is wrong with a database, in one line; None where it is intact.

    A lock or an unreadable folder isn't damage.

    Args:
        path: Path of the database.
        thorough: Whether to read all of it, which takes a second for a few hundred megabytes.
    """
    if not path.exists():
        return "is gone"
    try:
        with contextlib.closing(_open(path)) as connection:
            tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
            check = "pragma quick_check(1)" if thorough else "select 'ok'"
            (said,) = connection.execute(check).fetchone()
    except sqlite3.OperationalError as error:
        # Old sqlite versions report a damaged schema so; a locked or unopenable file is intact.
        return str(error) if "malformed" in str(error) else None
    except sqlite3.DatabaseError as error:
        return str(error)
    if said != "ok":
        what = " ".join(str(said).split()).removeprefix("*** in database main *** ")
        return f"is damaged: {what}"
    return None if tables else "holds no table"


def enable_wal(path: Path) -> None:
    """Let readers and a writer of a database work concurrently; the setting stays in the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode=wal")


def keep_copy(path: Path) -> None:
    """Copy a database atomically, even while others write to it.

    Raises:
        sqlite3.Error: It can't be read, or the disk is full.
        OSError: The folder can't be written.
    """
    kept = kept_copy(path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_name(f"{kept.name}.{os.getpid()}.new")
    try:
        with (
            contextlib.closing(_open(path)) as source,
            contextlib.closing(sqlite3.connect(fresh)) as target,
        ):
            source.backup(target)
        _sync(fresh)
        fresh.replace(kept)
    finally:
        fresh.unlink(missing_ok=True)


@functools.cache
def copy_to_read(path: Path) -> Path:
    """A copy of a database in a read-only folder; it is removed when this process ends.

    Even reading creates files beside a database with a write-ahead log.

    Raises:
        OSError: It can't be read, or there is no room for the copy.
    """
    folder = Path(tempfile.mkdtemp(prefix="catdog-search-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _copied_from[folder / path.name] = path
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path.with_name(path.name + suffix), folder / (path.name + suffix))
    return folder / path.name


def original(path: Path) -> Path:
    """The database that a path stands for: what `copy_to_read` has copied, or the path itself."""
    return _copied_from.get(path, path)


def restore(path: Path) -> Path | None:
    """Replace a database by its copy; nothing is lost, the old one is set aside.

    Returns:
        Where the old one is now; None where there was none.

    Raises:
        OSError: It can't be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    shutil.copyfile(kept_copy(path), fresh)
    _sync(fresh)
    aside = set_aside(path)
    fresh.replace(path)
    return aside


def set_aside(path: Path) -> Path | None:
    """Move a database out of the way; returns its new path, None where there was none."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 0
    while (aside := path.with_name(f"{path.name}.damaged-{stamp}-{number}")).exists():
        number += 1
    for suffix in reversed(_BESIDE):  # the file itself last: a kill leaves it in its place
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside if aside.exists() else None


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
