"""The cache folder: one entry a source, written whole or not at all, bounded, oldest out first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

# Part of every entry's name: bump it when what is stored, or how it is decoded, changes.
FORMAT = 3


@dataclass(frozen=True)
class Entry:
    """One source in the cache.

    Attributes:
        path: Its folder.
        size: In bytes.
        used: When it was last used, seconds since the epoch.
    """

    path: Path
    size: int
    used: float


def entry(folder: Path, fingerprint: str) -> Path:
    """The folder of one source's manifest and packed pixels."""
    return folder / "datasets" / f"{FORMAT}-{fingerprint[:32]}"


def remember(folder: Path, location: str, path: Path) -> None:
    """Note that `path` is the newest entry of a source, for when files are added to it."""
    touch(path)
    note = _note(folder, location)
    note.parent.mkdir(parents=True, exist_ok=True)
    fresh = note.with_name(f"{note.name}.{os.getpid()}")
    fresh.write_text(path.name, encoding="utf-8")
    fresh.replace(note)


def earlier(folder: Path, location: str) -> Path | None:
    """The newest entry of a source, as it was when last packed; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        path = folder / "datasets" / _note(folder, location).read_text(encoding="utf-8")
        if path.name.startswith(f"{FORMAT}-") and (path / "manifest.json").exists():
            return path
    return None


def _note(folder: Path, location: str) -> Path:
    return folder / "sources" / hashlib.sha256(location.encode()).hexdigest()[:32]


def touch(path: Path) -> None:
    """Mark an entry as used now."""
    os.utime(path)


def entries(folder: Path) -> list[Entry]:
    """All entries, the longest unused first."""
    root = folder / "datasets"
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        # Another process may remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                size = sum(p.stat().st_size for p in path.iterdir())
                found.append(Entry(path, size, path.stat().st_mtime))
    return sorted(found, key=lambda e: e.used)


def describe(found: Entry) -> str:
    """Which source an entry is of, and its image sizes."""
    location = "unfinished"
    with contextlib.suppress(OSError, ValueError, KeyError):
        location = json.loads((found.path / "manifest.json").read_text("utf-8"))["location"]
    return f"{location}: {', '.join(f'{size} px' for size in sizes(found)) or 'no pixels'}"


def sizes(found: Entry) -> list[int]:
    """The image sizes of an entry, the smallest first."""
    return sorted(int(p.stem.split("-")[1]) for p in found.path.glob("pixels-*.u8"))


def size_bytes(folder: Path) -> int:
    """What the cache holds."""
    return sum(e.size for e in entries(folder))


def evict(folder: Path, limit: int, keep: Path | None = None) -> list[Path]:
    """Remove the entries longest unused until the cache is within `limit` bytes.

    A process that has an evicted entry mapped keeps it: the kernel frees it after the last use.

    Args:
        folder: The cache folder.
        limit: In bytes.
        keep: Never removed, even where it alone is over the limit.

    Returns:
        What was removed.
    """
    found = entries(folder)
    total = sum(e.size for e in found)
    removed = []
    for each in found:
        if total <= limit:
            break
        if each.path != keep:
            total -= each.size
            shutil.rmtree(each.path, ignore_errors=True)
            removed.append(each.path)
    return removed
