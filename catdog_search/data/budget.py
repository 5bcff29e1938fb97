"""Memory that threads and processes share: each reserves what it is about to need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from catdog_search.machine.memory import free_bytes

Reserve = Callable[[int], AbstractContextManager[None]]

# The budget's share of the memory free at the start; the rest is for pixels in transit and others.
_SHARE = 0.5
# Used where next to nothing seems free: enough for any phone's photo, and no machine misses it.
_LEAST_BYTES = 256 * 1024**2
# Share of the total that files may take on top of it.
_FILES_SHARE = 0.25
# One byte in a pipe for each part of the budget; a pipe holds 64 KiB by default.
_PARTS = 4096


class BudgetError(MemoryError):
    """More than the whole budget is asked for."""


def unlimited(n_bytes: int) -> AbstractContextManager[None]:
    """A reserve that never waits nor refuses."""
    del n_bytes
    return nullcontext()


@dataclass(frozen=True)
class Budget:
    """Bytes that threads, and processes that inherit `descriptors`, draw on.

    A pipe holds a byte for every free part: that needs no server, a killed process leaves no lock
    behind, and waiting uses no CPU.

    Attributes:
        total: Bytes in all, for decoding.
        file_bytes: Bytes of the largest file that is held without asking.
        descriptors: Four ends of pipes: the free parts, to read and to write; the turn, likewise.
    """

    total: int
    file_bytes: int
    descriptors: tuple[int, int, int, int]

    @classmethod
    @contextlib.contextmanager
    def of_free_memory(cls, workers: int) -> Iterator[Budget]:
        """A share of what is free now; it must not be used after the context ends.

        Args:
            workers: Number of workers, each of which holds a file; at least 1.
        """
        total = max(int(_SHARE * free_bytes()), _LEAST_BYTES)
        descriptors = (*os.pipe(), *os.pipe())
        try:
            os.write(descriptors[1], bytes(_PARTS))
            os.write(descriptors[3], bytes(1))
            yield cls(total, int(_FILES_SHARE * total / workers), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    @contextlib.contextmanager
    def for_file(self, size: int) -> Iterator[Reserve]:
        """Wait until a file can be held; yields a reserve for the memory that decoding it needs.

        A file above `file_bytes` is held and decoded alone: while holding one and waiting for more
        memory, each would wait for others doing the same.

        Raises:
            BudgetError: It is more than there is in all.
        """
        if size <= self.file_bytes:
            yield self.taken
            return
        _check(size, self.total)

        @contextlib.contextmanager
        def rest(n_bytes: int) -> Iterator[None]:
            _check(size + n_bytes, self.total)
            yield

        with self.taken(self.total):
            yield rest

    @contextlib.contextmanager
    def taken(self, n_bytes: int) -> Iterator[None]:
        """Wait until this much is free, and hold it; must not be nested.

        Raises:
            BudgetError: It is more than there is in all.
        """
        _check(n_bytes, self.total)
        parts = -(-n_bytes * _PARTS // self.total)
        free_out, free_in, turn_out, turn_in = self.descriptors
        # In turns: two that each held half of what they need would deadlock.
        turn = os.read(turn_out, 1)
        try:
            held = 0
            while held < parts:
                held += len(os.read(free_out, parts - held))
        finally:
            os.write(turn_in, turn)
        try:
            yield
        finally:
            os.write(free_in, bytes(parts))


def _check(n_bytes: int, total: int) -> None:
    if n_bytes > total:
        raise BudgetError(
            f"takes about {n_bytes / 1e9:.1f} GB, and {total / 1e9:.1f} GB may be used now"
        )
