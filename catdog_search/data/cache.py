"""The cache folder: one entry per dataset, written atomically, bounded, least recently used out.

An entry is named by what its manifest says about the photos, so it never changes, and two sources
with the same photos share it. A note says which entry a source had when it was last looked at. A
process holds the entries it uses (`places.Hold`), so that nobody removes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog_search.places import Hold, nobody_holds

# Part of every entry's name: bump it when what is stored, or how it is decoded, changes.
FORMAT = 3
# Prefix of the folders in which datasets are being packed.
_UNFINISHED = "packing-"


@dataclass(frozen=True)
class Entry:
    """One dataset in the cache.

    Attributes:
        path: Its folder.
        size: Size in bytes.
        used: Time of its last use, in seconds since the epoch.
    """

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Note:
    """What a source was when it was last looked at.

    Attributes:
        seen: Tells whether it may have changed since; empty where it must be looked at again.
        entry: Name of its entry.
        location: Location of the source.
        unread: Keys of files that couldn't be read or decoded for a passing reason.
    """

    seen: str
    entry: str
    location: str
    unread: tuple[str, ...] = ()


def entry(folder: Path, name: str) -> Path:
    """The folder of one dataset's manifest and packed pixels.

    Args:
        folder: The cache folder.
        name: Manifest's name, see `Manifest.name_of`.
    """
    return folder / "datasets" / entry_name(name)


def entry_name(name: str) -> str:
    """The name of an entry's folder.

    Args:
        name: Manifest's name, see `Manifest.name_of`.
    """
    return f"{FORMAT}-{name[:32]}"


def note_path(folder: Path, location: str, choices: str) -> Path:
    """The path of a source's note.

    Args:
        folder: The cache folder.
        location: Location of the source.
        choices: Choices that the dataset depends on besides its files.
    """
    named = json.dumps([FORMAT, location, choices])
    return folder / "sources" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"


def read_note(path: Path) -> Note | None:
    """The note at `path`; None where there is no readable one."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        plain = json.loads(path.read_text(encoding="utf-8"))
        plain["unread"] = tuple(plain["unread"])
        return Note(**plain)
    return None


def write_note(path: Path, note: Note) -> None:
    """Write a note atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(dataclasses.asdict(note)), encoding="utf-8")
    fresh.replace(path)


@contextlib.contextmanager
def packing_folder(folder: Path) -> Iterator[Path]:
    """A private folder to pack in, beside the entries; whatever is left in it is removed."""
    path = folder / "datasets" / f"{_UNFINISHED}{secrets.token_hex(8)}"
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def manifest_path(path: Path) -> Path:
    """The path of an entry's manifest, the file that is held while the entry is in use."""
    return path / "manifest.json"


def hold(path: Path) -> Hold | None:
    """Keep an entry from being removed; None where it is gone."""
    try:
        return Hold(manifest_path(path))
    except FileNotFoundError:
        return None


def touch(path: Path) -> None:
    """Mark an entry as used now."""
    os.utime(path)


def entries(folder: Path) -> list[Entry]:
    """All entries, least recently used first, unfinished ones included."""
    found = []
    for path in _listed(folder / "datasets"):
        # Another process may remove it in the meantime.
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                size = sum(p.stat().st_size for p in path.iterdir())
                found.append(Entry(path, size, path.stat().st_mtime))
    return sorted(found, key=lambda e: e.used)


def describe(found: Entry) -> str:
    """Which source an entry is of, and its image sizes."""
    location = _location(found.path)
    return f"{location}: {', '.join(f'{size} px' for size in sizes(found)) or 'no pixels'}"


def _location(path: Path) -> str:
    """Location of the source that last had an entry, or else of the one it was made from."""
    noted = [(note, read_note(note)) for note in path.parents[1].glob("sources/*.json")]
    with contextlib.suppress(OSError, ValueError, KeyError):
        users = [
            (where.stat().st_mtime, note.location)
            for where, note in noted
            if note is not None and entry_name(note.entry) == path.name
        ]
        if users:
            return max(users)[1]
        return str(json.loads(manifest_path(path).read_text("utf-8"))["location"])
    return "unfinished"


def sizes(found: Entry) -> list[int]:
    """The image sizes of an entry, the smallest first."""
    return sorted(int(p.stem.split("-")[1]) for p in found.path.glob("pixels-*.u8"))


def size_bytes(folder: Path) -> int:
    """Total size of the cache in bytes."""
    return sum(e.size for e in entries(folder))


def evict(folder: Path, limit: int, keep: Path | None = None) -> list[Path]:
    """Remove the least recently used entries until the cache is within `limit` bytes.

    Entries in use stay, so the cache may remain above the limit. What a process that died left
    unfinished is always removed.

    Args:
        folder: The cache folder.
        limit: Bytes that the cache may hold.
        keep: Entry that is never removed, even if it alone exceeds the limit.

    Returns:
        What was removed.
    """
    found = entries(folder)
    total = sum(e.size for e in found)
    removed = []
    for each in found:
        unfinished = each.path.name.startswith(_UNFINISHED)
        if each.path == keep or (total <= limit and not unfinished):
            continue
        if _remove(each.path):
            total -= each.size
            removed.append(each.path)
    _forget_what_is_gone(folder)
    return removed


def in_use(path: Path) -> bool:
    """Whether a process has an entry in use, or is packing it."""
    with nobody_holds(_listed(path)) as free:
        return not free


def _remove(path: Path) -> bool:
    """Remove an entry unless it is in use; returns whether it is gone."""
    with nobody_holds(_listed(path)) as free:
        if free:
            shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def _listed(folder: Path) -> list[Path]:
    """The contents of a folder; empty where another process has removed it."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _forget_what_is_gone(folder: Path) -> None:
    for path in folder.glob("sources/*.json"):
        note = read_note(path)
        if note is None or not entry(folder, note.entry).exists():
            path.unlink(missing_ok=True)
