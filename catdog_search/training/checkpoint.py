"""A training's state after its last whole epoch, so that a power cut costs at most an epoch."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from catdog_search.errors import StateError

_HEADER = "header"
# Errors of opening a file that say nothing about the file.
_OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UnusableError(Exception):
    """A checkpoint that this training can't use; the text says why."""


class _Header(BaseModel):
    """What a checkpoint holds besides its arrays; see `Checkpoint`."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    key: str
    history: list[dict[str, float]] = Field(min_length=1)
    done: bool
    stopper: dict[str, int | float | None]


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to resume.

    Attributes:
        key: Tells trainings apart; only the same one may resume from here.
        history: Metrics of the epochs so far.
        done: Whether early stopping had ended it.
        stopper: Early stopping's counters.
        variables: Variables of model and optimizer, random streams and step counter included.
        best_weights: Weights of the best epoch so far; empty where none is kept.
    """

    key: str
    history: list[dict[str, float]]
    done: bool
    stopper: Mapping[str, Any]
    variables: list[npt.NDArray[Any]]
    best_weights: list[npt.NDArray[Any]]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically, even across a power cut.

    Raises:
        StateError: Its folder is gone with the state's, and isn't recreated.
        OSError: It can't be written.
    """
    header = _Header(
        key=checkpoint.key,
        history=checkpoint.history,
        done=checkpoint.done,
        stopper=dict(checkpoint.stopper),
    )
    arrays = {_HEADER: np.frombuffer(header.model_dump_json().encode(), np.uint8)}
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
    """The checkpoint at `path`; None where there is none.

    Raises:
        UnusableError: It belongs to another training, or can't be read.
        OSError: No file can be opened at the moment.
    """
    try:
        header, variables, best_weights = _read(path, key)
    except FileNotFoundError:
        return None
    except UnusableError:
        raise
    # Of any kind: a damaged file can fail in zip, NumPy's headers or JSON.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_PROCESS:
            raise
        why = getattr(error, "strerror", None) or type(error).__name__
        raise UnusableError(f"can't be read ({why})") from error
    return Checkpoint(**header.model_dump(), variables=variables, best_weights=best_weights)


def _read(path: Path, key: str) -> tuple[_Header, list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    # Opened here: NumPy would leave a file open that isn't a zip.
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        header = _Header.model_validate_json(file[_HEADER].tobytes())
        if header.key != key:
            raise UnusableError("is of other data, params, precision or versions")
        return header, _arrays(file, "variables"), _arrays(file, "best_weights")


def _arrays(file: Any, name: str) -> list[npt.NDArray[Any]]:
    count = sum(entry.startswith(f"{name}/") for entry in file.files)
    return [file[f"{name}/{i}"] for i in range(count)]
