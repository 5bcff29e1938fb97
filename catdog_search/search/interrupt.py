"""Ctrl-C, SIGTERM and time limits, as something that a loop can poll."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Literal

from catdog_search import clock

Cause = Literal["interrupt", "timeout"]


class StopRequest:
    """Notes SIGINT and SIGTERM instead of dying from them, and keeps a deadline.

    The first signal asks to stop; the second raises KeyboardInterrupt on the spot.

    Args:
        timeout: Time from now, in s, not counting time in which the process was suspended; None
            for no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else clock.now() + timeout
        self._signalled = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True

    @property
    def cause(self) -> Cause | None:
        """Why to stop; None to continue."""
        if self._signalled:
            return "interrupt"
        if self._deadline is not None and clock.now() >= self._deadline:
            return "timeout"
        return None
