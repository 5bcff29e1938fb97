"""What passes by itself is tried again, for a bounded time and aloud; nothing else is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from catdog_search import retry as module
from catdog_search.errors import StateError
from catdog_search.retry import Retry


class Clock:
    """Time that passes where the one under test waits; other threads sleep as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(module, "clock", self)
        monkeypatch.setattr(module, "time", self)

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def failing(time: Clock, until: float, took: float = 0.0, number: int = errno.ECONNREFUSED) -> (
    Callable[[], str]
):  # fmt: skip
    def call() -> str:
        time.seconds += took
        if time.seconds < until:
            raise OSError(number, os.strerror(number))
        return "done"

    return call


def test_what_passes_is_tried_again_and_said_once(time: Clock) -> None:
    said: list[str] = []
    assert Retry("the store", 60, said.append)(failing(time, 30)) == "done"
    assert 30 <= time.seconds < 33
    (line,) = said
    assert line.startswith("the store can't be reached")
    assert line.endswith("; trying again for up to 60 s")


def test_what_does_not_pass_in_time_is_told_with_the_time(time: Clock) -> None:
    with pytest.raises(StateError, match=r"the store can't be reached.*\(tried again for 60 s\)"):
        Retry("the store", 60)(failing(time, 1000))
    assert 60 <= time.seconds < 63


def test_hiccup_is_not_worth_a_word(time: Clock) -> None:
    said: list[str] = []
    calls = iter([OSError(errno.ECONNRESET, "reset"), None])

    def call() -> None:
        if error := next(calls):
            raise error

    Retry("the store", 60, said.append)(call)
    assert (said, time.seconds) == ([], 0)


def test_one_told_to_give_up_waits_no_more_until_something_works(time: Clock) -> None:
    retry = Retry("the store", 60)
    retry.give_up()
    with pytest.raises(StateError, match="the store can't be reached"):
        retry(failing(time, 30))
    assert time.seconds == 0
    assert retry(lambda: "done") == "done"
    assert retry(failing(time, 30)) == "done"


def test_call_that_was_slow_to_fail_is_said_at_once(time: Clock) -> None:
    said: list[str] = []
    Retry("the store", 60, said.append)(failing(time, 45, took=20))
    assert len(said) == 1
    assert time.seconds == 20 + 2 + 20 + 2 + 20


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_what_does_not_pass_by_itself_is_told_at_once(time: Clock, number: int) -> None:
    said: list[str] = []
    with pytest.raises(StateError):
        Retry("the store", 60, said.append)(failing(time, 1000, number=number))
    assert (said, time.seconds) == ([], 0)


def test_bug_is_raised_as_it_is(time: Clock) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Retry("the store", 60)(bug)
    assert time.seconds == 0


def test_one_that_has_given_up_waits_no_more_until_something_works(time: Clock) -> None:
    retry = Retry("the store", 60)
    with pytest.raises(StateError):
        retry(failing(time, 1000))
    waited = time.seconds
    with pytest.raises(StateError):
        retry(failing(time, 1000))
    assert time.seconds == waited
    assert retry(failing(time, 0)) == "done"
    with pytest.raises(StateError):
        retry(failing(time, 1000))
    assert time.seconds >= waited + 60


def test_nobody_waits_who_was_told_to_stop(time: Clock) -> None:
    with pytest.raises(StateError):
        Retry("the store", 60, stopped=lambda: True)(failing(time, 1000))
    assert time.seconds == 0


def test_call_that_may_have_worked_is_repeated_in_its_own_way(time: Clock) -> None:
    made: list[str] = []

    def make() -> str:
        made.append("thing")
        raise OSError(errno.ECONNRESET, "the answer was lost")

    assert Retry("the store", 60)(make, lambda: made[0]) == "thing"
    assert made == ["thing"]
