"""A training after its last whole epoch, on disk, so that a power cut costs at most an epoch."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catdog_search.errors import StateError

_HEADER = "header"


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on.

    Attributes:
        key: Tells trainings apart; only the same one may go on from here.
        history: Metrics of the epochs so far.
        done: Whether early stopping had ended it.
        stopper: Early stopping's counters.
        variables: Of model and optimizer, random streams and step counter included.
        best_weights: Of the best epoch so far; empty where none is kept.
    """

    key: str
    history: list[dict[str, float]]
    done: bool
    stopper: Mapping[str, Any]
    variables: list[npt.NDArray[Any]]
    best_weights: list[npt.NDArray[Any]]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint: whole or not at all, also when the power goes.

    Raises:
        StateError: Its folder is gone with the state's, which isn't made anew.
        OSError: It can't be written.
    """
    header = {
        "key": checkpoint.key,
        "history": checkpoint.history,
        "done": checkpoint.done,
        "stopper": dict(checkpoint.stopper),
    }
    arrays = {_HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for name in ("variables", "best_weights"):
        arrays |= {f"{name}/{i}": a for i, a in enumerate(getattr(checkpoint, name))}
    if not path.parent.is_dir():
        raise StateError(f"{path.parent} is gone; was the state folder moved meanwhile?")
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load(path: Path, key: str) -> Checkpoint | None:
    """The checkpoint at `path`; None where there is none of this training that can be read."""
    try:
        with np.load(path) as file:
            header = json.loads(file[_HEADER].tobytes())
            if header["key"] != key:
                return None
            variables, best_weights = (_arrays(file, n) for n in ("variables", "best_weights"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return Checkpoint(**header, variables=variables, best_weights=best_weights)


def _arrays(file: Any, name: str) -> list[npt.NDArray[Any]]:
    count = sum(entry.startswith(f"{name}/") for entry in file.files)
    return [file[f"{name}/{i}"] for i in range(count)]
