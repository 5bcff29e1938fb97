"""Which requests are let in, and what the answering threads may use: places, memory, time."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from catdog_search.data.budget import Budget
from catdog_search.machine.memory import free_bytes
from catdog_search.service.problems import Problem, too_busy
from catdog_search.service.settings import Settings

_T = TypeVar("_T")

# Share of free memory that all bodies may take; decoding may take half of it on top.
_BODIES_SHARE = 0.2
# A body is held as it came and again as the files in it.
_COPIES = 2
# Weight of the newest request in the running average of how long one takes.
_NEWEST = 0.1
_LONGEST_WAIT_S = 60


class Room:
    """The places of a service and the threads behind them.

    Used from one event loop; only what is passed to `run` runs in threads.

    Args:
        settings: How many places and threads there are.
        budget: Memory that decoding may take.
    """

    def __init__(self, settings: Settings, budget: Budget) -> None:
        self.reserve = budget.taken
        self._workers = settings.workers
        self._places = settings.workers + settings.queue
        self._inside = 0
        self._body_bytes = max(int(_BODIES_SHARE * free_bytes()), _COPIES * settings.max_body_bytes)
        self._pool = ThreadPoolExecutor(settings.workers, "answers")
        # A map takes a hundred times as long as an answer, so maps leave threads for answers.
        self.maps = asyncio.Semaphore(max(settings.workers // 2, 1))
        self._usual_s = 0.0

    @classmethod
    @contextlib.contextmanager
    def opened(cls, settings: Settings) -> Iterator[Room]:
        """A room within the memory that is free; its threads end with the context."""
        with Budget.of_free_memory(settings.workers) as budget:
            room = cls(settings, budget)
            try:
                yield room
            finally:
                room._pool.shutdown(cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Requests beyond those that can be answered at once."""
        return max(self._inside - self._workers, 0)

    @contextlib.contextmanager
    def place(self) -> Iterator[Body]:
        """Hold a place, and memory for a body, for as long as a request takes.

        Raises:
            Problem: All are taken.
        """
        if self._inside >= self._places:
            raise self.busy(f"{self._inside} requests are being answered or wait, which is all")
        self._inside += 1
        began = asyncio.get_running_loop().time()
        body = Body(self)
        try:
            yield body
        finally:
            self._inside -= 1
            self._body_bytes += body.held
            took = asyncio.get_running_loop().time() - began
            self._usual_s += _NEWEST * (took - self._usual_s)

    def busy(self, text: str) -> Problem:
        """Refuse for now; waiting requests should be done by the time to retry."""
        # A request's usual time includes its waiting, as long as about as many wait.
        return too_busy(text, min(max(math.ceil(self._usual_s), 1), _LONGEST_WAIT_S))

    def take_bytes(self, n_bytes: int) -> None:
        """Reserve this much more memory for bodies.

        Raises:
            Problem: It isn't available.
        """
        if n_bytes > self._body_bytes:
            raise self.busy("the bodies that are being read take all of the memory for them")
        self._body_bytes -= n_bytes

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, in a thread as soon as one is free.

        If cancelled after it has begun, it runs on and its result is dropped; there are never more
        of those than threads.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


class Body:
    """The memory that one request's body takes.

    Attributes:
        held: Bytes of memory.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self.held = 0

    def grow(self, n_bytes: int) -> None:
        """This many more bytes have come; see `Room.take_bytes`."""
        self._room.take_bytes(_COPIES * n_bytes)
        self.held += _COPIES * n_bytes
