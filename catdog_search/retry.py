"""Try again what waiting helps: a locked database, a server that restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from catdog_search import clock
from catdog_search.errors import CatdogError, StateError
from catdog_search.outside import is_absent, outside

_T = TypeVar("_T")
_PAUSE_S = 2.0


class Retry:
    """Calls what may fail for a cause outside; again while that may pass, which it says once.

    One that has given up waits no more until something has worked.

    Args:
        about: The database or server that is spoken to, for people.
        seconds: To try again for; 0 for not at all.
        say: Told a line when it begins to.
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
        """Wait no more until something has worked."""
        self._given_up = True

    def __call__(self, call: Callable[[], _T], again: Callable[[], _T] | None = None) -> _T:
        """What `call` returns.

        Args:
            call: What is tried.
            again: Tried instead, after the first time, where a call that failed may have worked.

        Raises:
            StateError: A cause outside, which doesn't pass, or hasn't in time.
        """
        began: float | None = None
        while True:
            try:
                found = call() if began is None or again is None else again()
            except CatdogError:
                raise
            except Exception as error:
                # That a thing is absent is an answer, which the caller asked for.
                cause = None if is_absent(error) else outside(error, self._about)
                if cause is None:
                    raise
                waited = 0.0 if began is None else clock.now() - began
                if not (cause.passes and self._may_wait(waited)):
                    self._given_up = True
                    tried = f" (tried again for {waited:.0f} s)" if waited else ""
                    raise StateError(f"{cause.text}{tried}") from error
                if began is None:
                    began = clock.now()
                    self._say(f"{cause.text}; trying again for up to {self._seconds:.0f} s")
                time.sleep(min(_PAUSE_S, self._seconds - waited))
            else:
                self._given_up = False
                return found

    def _may_wait(self, waited: float) -> bool:
        return waited < self._seconds and not self._given_up and not self._stopped()
