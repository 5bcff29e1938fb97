"""What can go wrong, by kind. A message says where, what came and what was allowed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from catdog_search.redact import redact
from catdog_search.text import printable


class CatdogError(Exception):
    """Base of all errors that a user can cause or fix; the command line prints it as one line.

    Its message is one line without secrets that is safe on any terminal, whatever it was made from.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(redact(message)))

    @property
    def lines(self) -> tuple[str, ...]:
        """The message, with a line for each thing that is wrong."""
        return (str(self),)


class StudyFileError(CatdogError, ValueError):
    """A study file asks for something that can't be done.

    Args:
        mistakes: One or more, a line each; all of them are the message.
    """

    def __init__(self, *mistakes: str) -> None:
        super().__init__("; ".join(mistakes))
        self._lines = tuple(printable(redact(line)) for line in mistakes)

    @property
    def lines(self) -> tuple[str, ...]:
        """Every mistake."""
        return self._lines


class Mistakes:
    """Collects the mistakes of a study file, so that one call reports them all.

    Attributes:
        found: Every mistake so far, a line each.
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Record an error raised inside, and carry on after it."""
        try:
            yield
        except StudyFileError as error:
            self.found += error.lines

    def require_none(self) -> None:
        """Raise if there are any.

        Raises:
            StudyFileError: All of them.
        """
        if self.found:
            raise StudyFileError(*self.found)


class DataError(CatdogError, ValueError):
    """A source of photos can't be used."""


class CacheLostError(DataError):
    """What the cache held of a source is gone or damaged; it can be rebuilt from the source."""


class StateError(CatdogError, RuntimeError):
    """The state folder, or a study in it, isn't as this call needs it."""


class StudyLockedError(StateError):
    """Another coordinator is running this study."""


class RequestError(CatdogError, ValueError):
    """What a call asks for doesn't fit the study that it is about."""


class UnfitParamsError(CatdogError):
    """A trial's params make a network that can't be trained, or can't be used.

    Attributes:
        excess: By how much, above 0, where that is known: what the sampler learns from.
        is_too_large: Whether it exceeds a limit of the study.
    """

    def __init__(self, message: str, excess: float = 1.0, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.excess = excess
        self.is_too_large = is_too_large


class BackendError(CatdogError, RuntimeError):
    """No Keras backend, or not the one asked for."""


class TrialFailedError(CatdogError, RuntimeError):
    """A trial ended in a bug, or its worker died; the study stopped.

    Attributes:
        trace: Path of the full trace, None where there is none.
        details: The trace itself, for `--debug`.
    """

    def __init__(self, message: str, trace: str | None = None, details: str = "") -> None:
        super().__init__(message)
        self.trace = trace
        self.details = details


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
