"""Where things are kept on disk: the state folder of studies and the cache of packed photos."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

import platformdirs

from catdog_search import identity, sqlite
from catdog_search.errors import StateError
from catdog_search.text import printable

CACHE_LIMIT_GB = 20.0
_OTHERWISE = "fix that, or choose another with --state"
# Control characters, and bytes of a name that isn't UTF-8.
_NO_TEXT = ("Cc", "Cs")
# Bytes of a file's name, with room for a suffix.
_LONGEST_STEM = 200


@dataclass(frozen=True)
class StateFolder:
    """One state folder: MLflow's and Optuna's stores (never one file), artifacts, scratch.

    Raises:
        StateError: MLflow would misread its path.
    """

    root: Path

    def __post_init__(self) -> None:
        if reason := _misread(str(self.root)):
            raise StateError(
                f"state folder {printable(str(self.root))}: {reason}; choose another with --state"
            )

    @classmethod
    def at(cls, path: str | None) -> StateFolder:
        """The state folder at `path`, else at `CATDOG_STATE`, else `./mlruns`; made absolute.

        MLflow stores absolute artifact paths, so a relative folder would depend on where the
        next command is started. A different path to the same folder gives the recorded one.
        """
        given = Path(path or os.environ.get("CATDOG_STATE") or identity.DEFAULT_NAME).expanduser()
        if _leads_nowhere(given):
            return cls(given.absolute())  # not its target, which must not be recreated
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
        """The files of MLflow's runs and models."""
        return self.root / identity.ARTIFACTS

    def served(self, model: str) -> Path:
        """The champion of a registered model as one self-sufficient file.

        It is replaced by moving a whole one into its place.
        """
        # A name in the registry has no slash, and up to 256 characters of any kind.
        is_long = len(os.fsencode(model)) > _LONGEST_STEM
        stem = hashlib.sha256(model.encode()).hexdigest() if is_long else model
        return self.root / "served" / f"{stem}.onnx"

    def scratch(self, study: str) -> Path:
        """Folder of a study for locks, worker logs and traces."""
        return self.root / "scratch" / study

    def command(self, words: str) -> str:
        """A command line for this state, to copy into a terminal or script."""
        return f"`catdog-search {words} --state {shlex.quote(str(self.root))}`"

    def to_read(self, path: Path) -> Path:
        """A database in this folder for reading; a copy of it if the folder is read-only."""
        if not path.exists() or (os.access(path, os.W_OK) and os.access(self.root, os.W_OK)):
            return path
        return sqlite.copy_to_read(path)

    @property
    def elsewhere(self) -> str:
        """What to append to a message that there is no study here: states nearby, if any."""
        if self.optuna_db.exists():
            return ""
        found = [f"--state {shlex.quote(str(path))}" for path in identity.nearby(self.root)]
        return f"; found nearby: {' or '.join(found)}" if found else ""

    @property
    def nothing(self) -> str:
        """The message for commands that only read, where there is no state."""
        cure = self.elsewhere or "; `catdog-search run` makes one, --state names another"
        return f"no state in {self.root}{cure}"

    def require_whole(self, path: Path, *, thorough: bool = False) -> None:
        """Refuse a damaged store before a library mistakes it for a new one.

        Args:
            path: Path of a store in this folder; one that never existed is whole.
            thorough: See `sqlite.damage`.

        Raises:
            StateError: It is damaged; the message names the cure.
        """
        kept = sqlite.kept_copy(path)
        if not path.exists() and not kept.exists():
            return
        if what := sqlite.damage(path, thorough=thorough):
            raise StateError(f"{path}: {what}; {self.cure_of(path)}")

    def keep_copy(self, path: Path) -> None:
        """Copy a store in this folder, so that it can be restored after damage.

        Raises:
            StateError: The folder is gone; a copy would recreate it.
        """
        require_folder(self.root)
        with file_lock(sqlite.kept_copy(path).with_suffix(".lock")):
            sqlite.keep_copy(path)

    def cure_of(self, path: Path) -> str:
        """What `doctor --repair` does about a damaged store, for display."""
        kept = sqlite.kept_copy(path)
        command = self.command("doctor --repair")
        if not kept.exists():
            return f"no copy is kept; {command} sets it aside"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.stat().st_mtime))
        return f"{command} brings back its copy of {when} and keeps what is there beside it"

    def require_home(self) -> None:
        """Refuse a state that was moved or copied; called before any of its stores is opened.

        Raises:
            StateError: It was, and the message names the cure; or it links to a missing folder.
        """
        if _leads_nowhere(self.root):
            raise StateError(
                f"state folder {self.root}: is a link to {self.root.readlink()}, which is gone"
            )
        identity.require_home(self.root)

    def create(self) -> None:
        """Create the folder, with an identity.

        Raises:
            StateError: It can't be created or written, or it was moved or copied.
        """
        self.require_home()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise StateError(f"state folder {self.root}: can't be written; {_OTHERWISE}")
            identity.claim(self.root)
        except OSError as error:
            raise StateError(f"state folder {self.root}: {error.strerror}; {_OTHERWISE}") from None

    @contextlib.contextmanager
    def in_use(self, *, alone: bool = False) -> Iterator[None]:
        """Keep the state from being relocated; one that doesn't exist needs no keeping.

        Args:
            alone: Whether nobody else may use it, as relocating requires.

        Raises:
            StateError: It is being relocated; or, with `alone`, it is in use.
        """
        if not self.root.is_dir():
            yield
            return
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
                # In a read-only folder nobody can relocate it either.
                if alone or os.access(self.root, os.W_OK):
                    raise StateError(f"state folder {self.root}: {error.strerror}") from None
            yield

    @contextlib.contextmanager
    def registering(self) -> Iterator[None]:
        """Lock the registry against other processes of this state; wait for one that holds it.

        A folder that doesn't exist or can't be written locks nobody out: only a server's registry
        can be changed from there, which others may reach in other ways.
        """
        with contextlib.ExitStack() as held:
            if self.root.is_dir() and os.access(self.root, os.W_OK):
                held.enter_context(self.in_use())
                held.enter_context(file_lock(self.root / "registry.lock"))
            yield


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _misread(path: str) -> str | None:
    """Why MLflow, which parses a database's path from its URL by hand, would misread the path."""
    if any(unicodedata.category(char) in _NO_TEXT for char in path):
        return "its path is not plain text"
    if "?" in path:
        return "its path holds a '?', which ends the path in a database's URL"
    if unquote(path) != path:
        return "its path holds a '%' that reads as an escape in a URL"
    return None


def require_folder(root: Path) -> None:
    """Refuse to go on where a state folder is gone; writing there would recreate it."""
    if not root.is_dir():
        raise StateError(f"state folder {root} is gone; was it moved meanwhile?")


def make_database(path: Path, make: Callable[[Path], object]) -> None:
    """Create a database atomically where it is absent.

    The libraries initialise in place: two at once, or a kill in the middle, leave a file that never
    opens again. Here it is created elsewhere, under a lock, and moved into place.

    Args:
        path: Path of the database.
        make: Creates it at another path, and closes it.
    """
    if path.exists():
        return
    with file_lock(path.with_suffix(".lock")):
        if path.exists():
            return
        fresh = path.with_suffix(".new")
        for leftover in path.parent.glob(f"{fresh.name}*"):  # and its journal
            leftover.unlink()
        make(fresh)
        sqlite.enable_wal(fresh)
        fresh.replace(path)


def cache_folder() -> Path:
    """`CATDOG_CACHE`, else the platform's cache folder.

    Raises:
        StateError: There is no home folder that it could be in.
    """
    given = os.environ.get("CATDOG_CACHE")
    try:
        return Path(given or platformdirs.user_cache_dir("catdog-search")).expanduser().resolve()
    except RuntimeError:  # no HOME, and a user not in /etc/passwd, as in a container
        raise StateError(
            f"no home folder is known for this user (uid {os.getuid()}), and so no cache; set "
            "HOME, or CATDOG_CACHE to a folder"
        ) from None


def features_folder() -> Path:
    """The folder of frozen backbones' features."""
    return cache_folder() / "features"


def cache_limit_bytes() -> int:
    """Bytes that packed photos may take, and features as much again.

    `CATDOG_CACHE_LIMIT_GB` in bytes, 20 GB by default.

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
    """Lock `path` against other processes; the kernel releases it when the holder dies.

    Args:
        path: The lock file; created if absent, never removed. If it is removed while others wait,
            they don't mistake the removed one for the lock, but wait for the one that is there.
        wait: Whether to wait for another holder.
        shared: Whether others may hold it too, if they also share it.

    Raises:
        BlockingIOError: Another process holds it and `wait` is off.
        StateError: There is a folder in its place.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock_file(path) as handle:
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
            if _is_at(path, handle.fileno()):
                yield
                return


def _lock_file(path: Path) -> TextIO:
    try:
        return path.open("a")
    except IsADirectoryError:
        there, aside = shlex.quote(str(path)), shlex.quote(f"{path}.aside")
        cure = printable(f"`mv {there} {aside}`")
        raise StateError(f"{path} is a folder where a lock is wanted; {cure}") from None


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at `path`, not a removed or replaced one."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class Hold:
    """A file in use: others may use it too, but `nobody_holds` yields False until all let go.

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
            self.close()  # it was removed or replaced while we waited

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_valid(self) -> bool:
        """Whether the held file is still the one at its path."""
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
    """Whether no process has a `Hold` on any of the files; none can get one within the context."""
    with contextlib.ExitStack() as stack:
        try:
            for path in paths:
                # Open for writing: network file systems require that for an exclusive lock.
                handle = stack.enter_context(path.open("r+b"))
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, being removed by another process, or not ours
            stack.close()
            yield False
        else:
            yield True
