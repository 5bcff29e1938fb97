"""Protocols of a worker and of the backend that starts it, on whichever machine it runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

from catdog_search.outcomes import Ending
from catdog_search.search.events import Event
from catdog_search.search.workers.messages import (
    Decision,
    Outcome,
    Recording,
    Stop,
    TrialSpec,
    Unready,
)

Incoming = Event | Outcome | Unready | Recording


class Worker(Protocol):
    """A worker that was started; its first message is Ready, or Unready."""

    def send(self, message: TrialSpec | Decision | Stop) -> None:
        """Send a message; if the worker is gone, `receive` says so."""
        ...

    def receive(self) -> Incoming | None:
        """The next message; None if there is none yet.

        Raises:
            WorkerDiedError: The worker is gone, too large, or silent for too long.
        """
        ...

    def is_alive(self) -> bool:
        """Whether it can take a trial."""
        ...

    def is_worn(self) -> bool:
        """Whether the next trial should get a fresh worker."""
        ...


class WorkerBackend(Protocol):
    """Starts workers and ends them, and keeps the checkpoints that they leave.

    Attributes:
        capacity: Number of workers that may be in use concurrently, from 1.
        log: File that takes what workers and their libraries print.
    """

    capacity: int
    log: Path

    def warm_up(self) -> None:
        """Get the first worker ready, while the coordinator opens its stores."""
        ...

    def start(self) -> Worker:
        """Put a worker into use."""
        ...

    def wait(self, workers: Iterable[Worker]) -> None:
        """Wait until one of them has something to say, or for a moment."""
        ...

    def retire(self, worker: Worker) -> None:
        """End a worker in use."""
        ...

    def keep_spare(self) -> None:
        """Get a spare worker ready beside those in use, where that pays."""
        ...

    def stop(self, timeout: float) -> None:
        """End all workers.

        Args:
            timeout: Time that each has to end by itself, in s.
        """
        ...

    def checkpoint(self, number: int) -> Path:
        """Where a worker saves the training of a trial."""
        ...

    def has_checkpoint(self, number: int) -> bool:
        """Whether a worker that is started here can continue a trial."""
        ...

    def take_over_checkpoint(self, number: int, other: int) -> None:
        """Let a trial begin with the checkpoint of an earlier one, if there is one.

        Args:
            number: Number of the earlier trial.
            other: Number of the trial that continues it; a checkpoint of its own is left as it is.
        """
        ...

    def forget_checkpoints(self, numbers: Collection[int]) -> None:
        """Remove the checkpoints of trials that are over."""
        ...


class WorkerDiedError(Exception):
    """A worker is gone.

    Attributes:
        ending: Kind of end: OOM where memory ran out, BLOCKED where it waited for something else,
            else CRASHED.
        text: Description of what happened, for people: `was killed by SIGKILL`.
        from_outside: Whether something else ended it, so that another worker may fare better.
    """

    def __init__(self, ending: Ending, text: str, *, from_outside: bool = True) -> None:
        super().__init__(text)
        self.ending = ending
        self.text = text
        self.from_outside = from_outside
