"""Retry what may work after waiting: a locked database, a restarting server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from catdog_search import clock
from catdog_search.errors import CatdogError, StateError
from catdog_search.outside import Outside, is_absent, outside

_T = TypeVar("_T")
_PAUSE_S = 2.0
# A call that fails sooner is first repeated at once and silently: servers close idle connections.
_QUICK_S = 1.0


class Retry:
    """Calls what may fail for an outside cause; retries while that may pass, and says so once.

    Once it has given up, it doesn't wait again until a call has worked.

    Args:
        about: The database or server concerned, for display.
        seconds: Seconds to retry for; 0 for not at all.
        say: Callback given a line when it begins to retry.
        stopped: Whether there is no more time for it.
    """

    def __init__(
        self,
        about: str,
        seconds: float = 0,
        say: Callable[[str], None] = lambda text: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._about = about
        self._seconds = seconds
        self._say = say
        self._stopped = stopped
        self._given_up = False

    def give_up(self) -> None:
        """Don't wait again until a call has worked."""
        self._given_up = True

    def __call__(self, call: Callable[[], _T], again: Callable[[], _T] | None = None) -> _T:
        """Return what `call` returns.

        Args:
            call: Function to try.
            again: Function to try instead after the first time, for calls that may have taken
                effect although they failed.

        Raises:
            StateError: An outside cause that doesn't pass, or hasn't passed in time.
        """
        failed: _Failing | None = None
        while True:
            began = clock.now()
            try:
                found = call() if failed is None or again is None else again()
            except CatdogError:
                raise
            except Exception as error:
                # That a thing is absent is an answer, which the caller wants.
                cause = None if is_absent(error) else outside(error, self._about)
                if cause is None:
                    raise
                failed = failed or _Failing(clock.now(), clock.now() - began)
                self._wait(failed, cause, error)
            else:
                self._given_up = False
                return found

    def _wait(self, failed: _Failing, cause: Outside, error: Exception) -> None:
        waited = clock.now() - failed.since
        over = waited >= self._seconds or self._given_up or self._stopped()
        if over or not cause.passes:
            self._given_up = True
            in_vain = f" (tried again for {waited:.0f} s)" if failed.said else ""
            raise StateError(f"{cause.text}{in_vain}") from error
        if failed.first_s < _QUICK_S:
            failed.first_s = _QUICK_S
            return
        if not failed.said:
            failed.said = True
            self._say(f"{cause.text}; trying again for up to {self._seconds:.0f} s")
        time.sleep(min(_PAUSE_S, self._seconds - waited))


@dataclass
class _Failing:
    """A failing call.

    Attributes:
        since: Time of the first failure, in seconds of `clock.now`.
        first_s: Seconds that the first failing call took; raised after the immediate repetition.
        said: Whether the user was told.
    """

    since: float
    first_s: float
    said: bool = False
