"""A study's scratch folder while it runs: a lock and the trials' checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from catdog_search.errors import StateError, StudyLockedError
from catdog_search.places import StateFolder, file_lock


def lock_path(scratch: Path) -> Path:
    """The lock that a study's coordinator holds."""
    return scratch / "coordinator.lock"


def checkpoint_path(scratch: Path, number: int) -> Path:
    """The file that a trial's training is saved to."""
    return scratch / f"trial-{number:04d}.checkpoint.npz"


def state_of(scratch: Path) -> Path:
    """The state folder that a study's scratch folder is in."""
    return scratch.parents[1]


def checkpoints_of(scratch: Path, numbers: Collection[int]) -> Iterator[Path]:
    """Checkpoints of these trials, half-written ones included."""
    for path in sorted(scratch.glob("trial-*.checkpoint.*")):
        number = path.name.split(".")[0].removeprefix("trial-")
        if number.isdecimal() and int(number) in numbers:
            yield path


@contextmanager
def only_coordinator(state: StateFolder, name: str) -> Iterator[None]:
    """Hold a study's lock, which is released when its holder dies.

    Raises:
        StudyLockedError: Another process runs it.
        StateError: The folder can't be written.
    """
    lock = lock_path(state.scratch(name))
    with ExitStack() as stack:
        try:
            stack.enter_context(state.in_use())
            stack.enter_context(file_lock(lock, wait=False))
        except BlockingIOError:
            raise StudyLockedError(
                f"study {name!r} in {state.root} is being run by another process; "
                "wait for it, or stop it"
            ) from None
        except OSError as error:
            raise StateError(f"state folder {state.root}: {error.strerror}") from None
        yield
