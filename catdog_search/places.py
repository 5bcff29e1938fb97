"""Where things lie on disk: the state folder of studies and the cache of packed photos."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from catdog_search import identity
from catdog_search.errors import StateError
from catdog_search.text import printable

CACHE_LIMIT_GB = 20.0


@dataclass(frozen=True)
class State:
    """One state folder: MLflow's and Optuna's stores (never one file), artifacts, scratch."""

    root: Path

    @classmethod
    def at(cls, path: str | None) -> State:
        """The state folder at `path`, else at `CATDOG_STATE`, else `./mlruns`; made absolute.

        MLflow stores absolute artifact paths, so a relative folder would depend on where the
        next command is started. A second path to the same folder gives the one that is recorded.
        """
        given = Path(path or os.environ.get("CATDOG_STATE") or "mlruns").expanduser()
        if _leads_nowhere(given):
            return cls(given.absolute())  # not what it leads to, which nobody may make anew
        return cls(identity.canonical(given.resolve()))

    @property
    def mlflow_db(self) -> Path:
        """MLflow's tracking and registry store."""
        return self.root / identity.MLFLOW_DB

    @property
    def optuna_db(self) -> Path:
        """Optuna's storage."""
        return self.root / identity.OPTUNA_DB

    @property
    def artifacts(self) -> Path:
        """What MLflow's runs and models leave as files."""
        return self.root / identity.ARTIFACTS

    def scratch(self, study: str) -> Path:
        """Folder of a study for locks, worker logs and traces."""
        return self.root / "scratch" / study

    def require_home(self) -> None:
        """Refuse a state that was moved or copied; whoever opens one of its stores asks first.

        Raises:
            StateError: It was, and the cure is named; or it is a link to a folder that is gone.
        """
        if _leads_nowhere(self.root):
            raise StateError(
                f"state folder {self.root}: is a link to {self.root.readlink()}, which is gone"
            )
        identity.require_home(self.root)

    def create(self) -> None:
        """Make the folder, with an identity.

        Raises:
            StateError: It can't be made or written, or it was moved or copied.
        """
        self.require_home()
        if printable(str(self.root)).encode() != os.fsencode(self.root):
            # MLflow would keep its locations as another path.
            raise StateError(
                f"state folder {printable(str(self.root))}: its path is no plain UTF-8"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise StateError(f"state folder {self.root}: can't be written")
            identity.claim(self.root)
        except OSError as error:
            raise StateError(f"state folder {self.root}: {error.strerror}") from None

    @contextlib.contextmanager
    def in_use(self, *, alone: bool = False) -> Iterator[None]:
        """Keep the state where it is meanwhile.

        Args:
            alone: Whether nobody else may use it, which relocating wants.

        Raises:
            StateError: It is being relocated, or, for one who wants it alone, used.
        """
        lock = file_lock(self.root / "state.lock", wait=False, shared=not alone)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock)
            except BlockingIOError:
                what = "used by another process" if alone else "being relocated"
                raise StateError(
                    f"state folder {self.root} is {what}; try again when it rests"
                ) from None
            except OSError as error:
                # Where nobody can write, nobody can relocate it either.
                if alone or os.access(self.root, os.W_OK):
                    raise StateError(f"state folder {self.root}: {error.strerror}") from None
            yield


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


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
def file_lock(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold `path` against other processes; the kernel lets go when the holder dies.

    Args:
        path: The lock file; made where it is absent, never removed, because removing it while
            another process waits on it would let two in.
        wait: Whether to wait for another holder.
        shared: Whether others may hold it too, who share it likewise.

    Raises:
        BlockingIOError: Another process holds it and `wait` is off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
        yield
