"""Recognises what this program writes, so that it never takes its own files for given photos."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from PIL.PngImagePlugin import PngInfo

# Written into every picture file that this program saves.
MARK: Mapping[str, str] = {"Software": "catdog-search"}
_MARKED = re.compile(rb"\x89PNG\r\n\x1a\n.{0,400}tEXtSoftware\0catdog-search", re.DOTALL)
# Default names of the pictures.
_NAMES = frozenset((
    *("audit.png", "accuracy.png", "curves.png", "history.png", "slices.png", "importance.png"),
    *("confusion_matrix.png", "most_wrong.png", "train.png", "val.png"),
))  # fmt: skip
# A folder with more of them holds photos; opening each would take seconds.
_MOST_PICTURES = 100
# What marks a state folder, and what else it contains.
_STORES = ("optuna.db", "mlflow.db")
_STATE = ("artifacts/", "scratch/")


def mark() -> PngInfo:
    """The mark for Pillow's `save`, as `MARK` is for matplotlib's."""
    info = PngInfo()
    for name, text in MARK.items():
        info.add_text(name, text)
    return info


def is_own_picture(head: bytes) -> bool:
    """Whether a file is a picture that this program drew.

    Args:
        head: Its first few hundred bytes.
    """
    return _MARKED.match(head) is not None


def may_be_own(keys: Collection[str]) -> set[str]:
    """The files worth searching for the mark: by their names, or because they are few.

    Args:
        keys: Keys of all files, relative to the source.
    """
    pictures = [key for key in keys if key.lower().endswith(".png")]
    around = Counter(key.rpartition("/")[0] for key in pictures)
    return {
        key
        for key in pictures
        if around[key.rpartition("/")[0]] <= _MOST_PICTURES or PurePosixPath(key).name in _NAMES
    }


def of_studies(keys: Collection[str]) -> tuple[str, ...]:
    """Prefixes of the keys of files that belong to stored studies.

    Args:
        keys: Keys of all files, relative to the source.
    """
    found = {key.rpartition("/")[0] for key in keys if key.rpartition("/")[2] in _STORES}
    # The source itself may be a state folder: photos may lie beside its files.
    within = (*_STORES, *_STATE) if "" in found else ()
    return (*sorted(f"{folder}/" for folder in found if folder), *within)
