"""A study's scratch folder while it runs: a lock, and checkpoints of trials."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path


def lock_path(scratch: Path) -> Path:
    """The lock that a study's coordinator holds."""
    return scratch / "coordinator.lock"


def checkpoint_path(scratch: Path, number: int) -> Path:
    """The file that a trial's training is saved to."""
    return scratch / f"trial-{number:04d}.checkpoint.npz"


def state_of(scratch: Path) -> Path:
    """The state folder that a study's scratch folder lies in."""
    return scratch.parents[1]


def checkpoints_of(scratch: Path, numbers: Collection[int]) -> Iterator[Path]:
    """Checkpoints of these trials, half-written ones included."""
    for path in sorted(scratch.glob("trial-*.checkpoint.*")):
        number = path.name.split(".")[0].removeprefix("trial-")
        if number.isdecimal() and int(number) in numbers:
            yield path
