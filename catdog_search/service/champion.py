"""The model that answers: loaded from a file, and replaced when that file is replaced."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from catdog_search.answering.runtime import OnnxModel
from catdog_search.errors import StateError

_LOG = logging.getLogger(__name__)

# Inode, time of the last change in ns, size.
_Identity = tuple[int, int, int]


@dataclass(frozen=True)
class Served:
    """A model that passed its self-test.

    Attributes:
        model: The model.
        since: When it began to answer, ISO 8601 in UTC.
    """

    model: OnnxModel
    since: str

    @property
    def named(self) -> dict[str, str | int | None]:
        """What accompanies each answer: which model gave it."""
        facts = self.model.facts
        return {"name": facts.name, "version": facts.version, "digest": self.model.digest}

    def __str__(self) -> str:
        facts = self.model.facts
        name = facts.name or "an unregistered model"
        version = "" if facts.version is None else f" version {facts.version}"
        return f"{name}{version} ({self.model.digest[:12]})"


@dataclass(frozen=True)
class Refused:
    """A file that was not taken.

    Attributes:
        file: Its name.
        reason: Why.
        at: When it was tried, ISO 8601 in UTC.
    """

    file: str
    reason: str
    at: str


class Champion:
    """The model in a file, always the newest that passed its self-test.

    `look` may run in a thread beside those that answer with `current`: a request takes it once and
    keeps it until it is done.

    Args:
        path: The file; it is replaced by moving a whole one into its place.
        threads: Number of cores that one call of a model may use.
        open_model: Opens a file.

    Attributes:
        path: The file.
        current: The model that answers; None before there is one.
        refused: The last file that was not taken; None where there was none.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        open_model: Callable[[Path, int], OnnxModel] = OnnxModel.open,
    ) -> None:
        self.path = path
        self.current: Served | None = None
        self.refused: Refused | None = None
        self._threads = threads
        self._open = open_model
        self._seen: _Identity | None = None
        self._is_gone = False

    def look(self) -> Served | Refused | None:
        """Load the file if it has changed.

        Returns:
            The new model, or why the file was not taken; None where there is nothing new.
        """
        found = self._identity()
        if found is None or found == self._seen:
            return None
        # Taken before reading: a file put there in the meantime is seen the next time.
        self._seen = found
        try:
            model = self._open(self.path, self._threads)
            model.self_test()
        except StateError as error:
            return self._refuse(str(error).replace(str(self.path), self.path.name))
        # Any other failure to load or ask a new model mustn't end the one that answers.
        except Exception as error:
            _LOG.exception("model %s stays out", self.path.name)
            return self._refuse(f"model {self.path.name}: {type(error).__name__}")
        return self._swap(model)

    def _identity(self) -> _Identity | None:
        try:
            stat = self.path.stat()
        except OSError as error:
            if self._seen and not self._is_gone:
                _LOG.warning("model %s: %s; the one that answers stays", self.path, error.strerror)
            self._is_gone = True
            return None
        self._is_gone = False
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _refuse(self, reason: str) -> Refused:
        self.refused = Refused(self.path.name, reason, _now())
        stays = f"{self.current} stays" if self.current else "there is none yet"
        _LOG.error("new model refused, %s: %s", stays, reason)
        return self.refused

    def _swap(self, model: OnnxModel) -> Served | None:
        if self.current and self.current.model.digest == model.digest:
            return None
        self.refused = None
        before, self.current = self.current, Served(model, _now())
        _LOG.info("%s answers%s", self.current, f", instead of {before}" if before else "")
        return self.current


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
