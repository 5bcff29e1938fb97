"""A cache entry: its manifest, and how its files get there whole."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import shutil
from pathlib import Path

from catdog_search.data import cache
from catdog_search.data.manifest import Manifest
from catdog_search.data.pack import pack_path, sums_path
from catdog_search.errors import CacheLostError, DataError
from catdog_search.places import Hold


def link(file: Path, to: Path) -> None:
    """Hard-link a file; copy it where the file system can't."""
    try:
        to.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, to)


def manifest_if_whole(entry: Path) -> Manifest | None:
    """An entry's manifest; None where it is missing or damaged, since it can be made again."""
    try:
        return _manifest_on_disk(entry)
    except CacheLostError:
        return None


def _manifest_on_disk(entry: Path) -> Manifest:
    try:
        text = cache.manifest_path(entry).read_text(encoding="utf-8")
        if cache.entry_name(Manifest.name_of(text)) == entry.name:
            return Manifest.from_json(text)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    raise CacheLostError(f"cache {entry}: its manifest is gone or damaged")


@functools.lru_cache(maxsize=8)
def read_manifest(entry: Path, location: str | None) -> Manifest:
    """Cached: an entry never changes, is read often, and 20,000 photos take tens of ms."""
    manifest = _manifest_on_disk(entry)
    return manifest if location is None else dataclasses.replace(manifest, location=location)


def unusable(folder: Path, error: OSError) -> DataError:
    """What to say of a cache folder that can't be written."""
    return DataError(
        f"cache {folder}: {error.strerror or error}; fix that, or set CATDOG_CACHE to another "
        "folder"
    )


def install(folder: Path, path: Path, image_size: int) -> Hold:
    """Move what was packed into its entry, which another process may have made or be removing.

    Args:
        folder: Folder with the manifest, and the pixels of one image size.
        path: Path of the entry.
        image_size: Side in pixels.
    """
    while True:
        if _is_moved(folder, path):
            return Hold(cache.manifest_path(path))
        with contextlib.suppress(FileNotFoundError):  # another process was just removing it
            return _add(folder, path, image_size)


def _add(folder: Path, path: Path, image_size: int) -> Hold:
    """Add a pack to an existing entry."""
    if manifest_if_whole(path) is None:
        mended = cache.manifest_path(path).with_suffix(".partial")
        shutil.copyfile(cache.manifest_path(folder), mended)
        mended.replace(cache.manifest_path(path))
    hold = Hold(cache.manifest_path(path))
    pack = pack_path(folder, image_size)
    for file in (sums_path(pack), pack):
        file.replace(path / file.name)
    return hold


def _is_moved(folder: Path, path: Path) -> bool:
    """Move a folder to where there is none yet; False where there is one."""
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
