"""What can go wrong, by kind. A message says where, what came and what was allowed."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from catdog_search.redact import redact
from catdog_search.text import printable

# What sqlite and MLflow's client say of a full disk and a server that is gone.
_DISK_FULL = "disk is full"
_GONE = ("Max retries exceeded", "Connection refused")


class CatdogError(Exception):
    """Base of all errors that a user can cause or mend; the command line prints it as one line.

    Its message is one line without secrets that any terminal may print, whatever it was made of.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(redact(message)))


class StudyFileError(CatdogError, ValueError):
    """A study file says something that can't be done."""


class DataError(CatdogError, ValueError):
    """A source of photos can't be used."""


class CacheLostError(DataError):
    """What the cache held of a source is gone or damaged; it can be made again from the source."""


class StateError(CatdogError, RuntimeError):
    """The state folder, or a study in it, isn't as this call needs it."""


class StudyLockedError(StateError):
    """Another coordinator is running this study."""


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
    """An error, what caused it, what caused that, and so on."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def outside_reason(error: BaseException) -> str | None:
    """What a full disk or a server that is gone says, in a line; None where neither is to blame."""
    for seen in causes(error):
        line = " ".join(str(seen).split())[:300]
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or _DISK_FULL in line:
            return "the disk is full"
        # A broken pipe is that of whoever reads what is printed.
        lost = isinstance(seen, ConnectionError) and not isinstance(seen, BrokenPipeError)
        if lost or any(words in line for words in _GONE):
            return line
    return None
