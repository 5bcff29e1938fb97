"""The cache folder: one entry a source, written whole or not at all, bounded, oldest out first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def entry(folder: Path, fingerprint: str) -> Path:
    """The folder of one source's manifest and packed pixels."""
    return folder / "datasets" / fingerprint[:32]


def touch(path: Path) -> None:
    """Mark an entry as used now."""
    os.utime(path)


def size_bytes(folder: Path) -> int:
    """What the cache holds."""
    return sum(_size(path) for path in _entries(folder))


def evict(folder: Path, limit: int, keep: Path) -> list[Path]:
    """Remove the entries longest unused until the cache is within `limit` bytes.

    A process that has an evicted entry mapped keeps it: the kernel frees it after the last use.

    Args:
        folder: The cache folder.
        limit: In bytes.
        keep: Never removed, even where it alone is over the limit.

    Returns:
        What was removed.
    """
    total = size_bytes(folder)
    removed = []
    for path in sorted(_entries(folder), key=lambda p: p.stat().st_mtime):
        if total <= limit:
            break
        if path != keep:
            total -= _size(path)
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _entries(folder: Path) -> list[Path]:
    root = folder / "datasets"
    return [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.iterdir() if p.is_file())
