"""Memory that threads and processes share: each takes what it is about to need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from catdog_search.machine.memory import free_bytes

Reserve = Callable[[int], AbstractContextManager[None]]

# Of what is free when it is made; the rest is for pixels on their way, and for others.
_SHARE = 0.5
# Where nothing seems to be free: what any photo from a phone needs, and no machine misses.
_LEAST_BYTES = 256 * 1024**2
# Of the total, what files may take that are held beside it.
_FILES_SHARE = 0.25
# A pipe holds 64 KiB by itself, a byte for a part.
_PARTS = 4096


class BudgetError(MemoryError):
    """More than the whole budget is asked for."""


def unlimited(n_bytes: int) -> AbstractContextManager[None]:
    """A reserve that never waits nor refuses."""
    del n_bytes
    return nullcontext()


@dataclass(frozen=True)
class Budget:
    """Bytes from which threads take, and processes that inherit `descriptors`.

    A pipe holds a byte for every part that is free: it needs no server, a process that is killed
    leaves no lock behind, and who waits for it takes no processor.

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
        """A share of what is free now; nobody may use it any more when the context ends.

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
        """Wait until a file can be held, and have what decoding it needs taken from the rest.

        One that is larger than most is held and decoded alone: who holds it and waits for more
        would wait for others that do the same.

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
        """Wait until so much is free, and have it; not a second time within.

        Raises:
            BudgetError: It is more than there is in all.
        """
        _check(n_bytes, self.total)
        parts = -(-n_bytes * _PARTS // self.total)
        free_out, free_in, turn_out, turn_in = self.descriptors
        # In turns: two that each hold half of what they need would wait for each other.
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
