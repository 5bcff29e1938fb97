"""A sign of life: the command line prints a line at least every ten seconds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A little less than promised, for a busy machine.
LONGEST_SILENCE_S = 9.0


class Pulse:
    """Says that the command is still at work when nothing else has been printed for long.

    Args:
        say: Function that prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begun = self._heard = time.monotonic()
        self._held = 0

    def heard(self) -> None:
        """A line was printed."""
        self._begun = self._heard = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since a line was printed."""
        return time.monotonic() - self._heard

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Watch the silence while this is open."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="pulse", daemon=True)
        self.heard()
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Allow silence: something moves on the terminal, or a question is open."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self.heard()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(LONGEST_SILENCE_S / 10):
            if self._held or self.silent_s() < LONGEST_SILENCE_S:
                continue
            begun = self._begun
            # The reader may be gone; the command will notice.
            with contextlib.suppress(OSError, ValueError):
                self._say(f"… still at work, {time.monotonic() - begun:.0f} s")
            self.heard()
            self._begun = begun  # start of the step, which the last printed line names
