"""A clock that pauses with this process: when it is stopped or frozen, or the machine sleeps."""

from __future__ import annotations

import functools
import threading
import time

_TICK_S = 0.1
# A tick that comes later than this was held up.
_LATE_S = 1.0


class _Clock:
    """Adds up the time between ticks of a thread, except gaps in which the process did nothing.

    Ctrl-Z, SIGSTOP, Slurm's suspension and a frozen container all leave such a gap, and no other
    trace. If instead the GIL was held for as long, the CPU was busy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ran = 0.0
        self._seen, self._used = time.monotonic(), time.process_time()
        threading.Thread(target=self._tick, name="clock", daemon=True).start()

    def _tick(self) -> None:
        while True:
            time.sleep(_TICK_S)
            self.now()

    def now(self) -> float:
        with self._lock:
            seen, used = time.monotonic(), time.process_time()
            gap, busy = seen - self._seen, used - self._used
            if gap <= _LATE_S or busy > gap / 2:
                self._ran += gap
            self._seen, self._used = seen, used
            return self._ran


@functools.cache
def _clock() -> _Clock:
    return _Clock()


def now() -> float:
    """Seconds that this process has been running since the first call."""
    return _clock().now()
