"""Where things lie on disk: the state folder of studies and the cache of packed photos."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from catdog_search.errors import StateError

CACHE_LIMIT_GB = 20.0


@dataclass(frozen=True)
class State:
    """One state folder: MLflow's and Optuna's stores (never one file), artifacts, scratch."""

    root: Path

    @classmethod
    def at(cls, path: str | None) -> State:
        """The state folder at `path`, else at `CATDOG_STATE`, else `./mlruns`; made absolute.

        MLflow stores absolute artifact paths, so a relative folder would depend on where the
        next command is started.
        """
        return cls(Path(path or os.environ.get("CATDOG_STATE") or "mlruns").expanduser().resolve())

    @property
    def mlflow_db(self) -> Path:
        """MLflow's tracking and registry store."""
        return self.root / "mlflow.db"

    @property
    def optuna_db(self) -> Path:
        """Optuna's storage."""
        return self.root / "optuna.db"

    @property
    def artifacts(self) -> Path:
        """What MLflow's runs and models leave as files."""
        return self.root / "artifacts"

    def scratch(self, study: str) -> Path:
        """Folder of a study for locks, worker logs and traces."""
        return self.root / "scratch" / study

    def create(self) -> None:
        """Make the folder.

        Raises:
            StateError: It can't be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"state folder {self.root}: {error.strerror}") from None
        if not os.access(self.root, os.W_OK):
            raise StateError(f"state folder {self.root}: can't be written")


def cache_folder() -> Path:
    """`CATDOG_CACHE`, else the platform's cache folder."""
    given = os.environ.get("CATDOG_CACHE")
    return Path(given or platformdirs.user_cache_dir("catdog-search")).expanduser().resolve()


def features_folder() -> Path:
    """Where features of frozen backbones lie."""
    return cache_folder() / "features"


def cache_limit_bytes() -> int:
    """What packed photos, and as much again what features may take.

    `CATDOG_CACHE_LIMIT_GB` as bytes, by default 20 GB.

    Raises:
        StateError: It is not a positive number.
    """
    given = os.environ.get("CATDOG_CACHE_LIMIT_GB", str(CACHE_LIMIT_GB))
    try:
        limit = float(given)
    except ValueError:
        limit = 0
    if not 0 < limit < float("inf"):
        raise StateError(f"CATDOG_CACHE_LIMIT_GB: {given!r} is not a number above 0")
    return int(limit * 1e9)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold `path` against other processes; the kernel lets go when the holder dies.

    Args:
        path: The lock file; made where it is absent, never removed. Where somebody removes it
            while others wait, they don't take the removed one for the lock, but wait for the one
            that is there.
        wait: Whether to wait for another holder.

    Raises:
        BlockingIOError: Another process holds it and `wait` is off.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, handle.fileno()):
                yield
                return


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one that lies at `path`, not a removed or replaced one."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class Hold:
    """A file in use: others may use it too, but `nobody_holds` says no until all let go.

    It ends with `close`, with its context, with the object, or with the process.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: It is gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        while True:
            self._descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if self.is_valid():
                return
            self.close()  # somebody removed or replaced it while we waited

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_valid(self) -> bool:
        """Whether it is still the file at its path that is held."""
        return self._descriptor >= 0 and _is_at(self._path, self._descriptor)

    def close(self) -> None:
        """Let go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


@contextlib.contextmanager
def nobody_holds(paths: Iterable[Path]) -> Iterator[bool]:
    """Whether no process has a `Hold` on any of some files; none comes to it meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            for path in paths:
                # For writing: network file systems give an exclusive lock for nothing less.
                handle = stack.enter_context(path.open("r+b"))
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use; or somebody else is removing them, or owns them
            stack.close()
            yield False
        else:
            yield True
