"""Causes outside this program, told apart from its bugs: what failed, where, and what to do.

Recognised by errno, sqlite's and HTTP's codes and the names of exception types, so that nothing
heavy is imported; by the message's text only where a library has thrown the rest away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog_search.errors import CatdogError
from catdog_search.places import cache_folder
from catdog_search.text import printable

_MOST_CHARS = 300


@dataclass(frozen=True)
class Outside:
    """A cause outside this program.

    Attributes:
        text: Line that says what failed, and what to do.
        passes: Whether it may pass by itself, so that trying again helps.
    """

    text: str
    passes: bool = False


@dataclass(frozen=True)
class _Kind:
    says: str
    advice: str
    passes: bool = False

    def of(self, subject: str) -> Outside:
        return Outside(f"{subject} {self.says}; {self.advice}", self.passes)


_RIGHTS = "give this user the right to write it and its folder"
_SYSTEM_LOG = "look at the system's log, or use another disk"
_NETWORK = "look at the network and at its other end"
_CREDENTIALS = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_ADDRESS = "look at MLFLOW_TRACKING_URI"

_LOCKED = _Kind("is locked by another program", "end that program, or wait for it", passes=True)
_DAMAGED = _Kind("is damaged", "`catdog-search doctor --repair` brings back its copy")
_SQLITE_FULL = "FULL"
# By the second part of sqlite's codes.
_SQLITE = {
    "BUSY": _LOCKED,
    "LOCKED": _LOCKED,
    "PROTOCOL": _LOCKED,
    "READONLY": _Kind("can't be written, it is read-only", _RIGHTS),
    "PERM": _Kind("can't be written", _RIGHTS),
    "IOERR": _Kind("can't be read or written, the disk fails (disk I/O error)", _SYSTEM_LOG),
    "CANTOPEN": _Kind("can't be opened", "look at its folder, and at who may write there"),
    "CORRUPT": _DAMAGED,
    "NOTADB": _DAMAGED,
}
# By sqlite's messages, where its codes are lost.
_SQLITE_SAYS = {
    "is locked": "BUSY",
    "locking protocol": "PROTOCOL",
    "readonly database": "READONLY",
    "disk I/O error": "IOERR",
    "unable to open database file": "CANTOPEN",
    "database or disk is full": _SQLITE_FULL,
    "disk image is malformed": "CORRUPT",
    "file is not a database": "NOTADB",
}

_UNREACHABLE = _Kind("can't be reached", _NETWORK, passes=True)
_TIMED_OUT = _Kind("doesn't answer in time", _NETWORK, passes=True)
_FOREIGN = _Kind("answers, but not as MLflow does", f"{_ADDRESS}, and whether it wants a login")
_BAD_ADDRESS = _Kind("has an address that is none", _ADDRESS)
_BAD_DATABASE = _Kind("doesn't serve us", "look at the database's log", passes=True)
_NOT_STORED = _Kind("can't store files", "look at where its artifacts go, and at the credentials")
# By type name, the first in an exception's MRO, so that none of these is imported.
_TYPES = {
    "socket.gaierror": _Kind("isn't found: its name isn't known (DNS)", _NETWORK, passes=True),
    "ssl.SSLCertVerificationError": _Kind(
        "has a certificate that isn't trusted", "set MLFLOW_TRACKING_SERVER_CERT_PATH"
    ),
    "ssl.SSLError": _Kind("doesn't speak TLS as we do", _ADDRESS),
    "requests.exceptions.InvalidURL": _BAD_ADDRESS,
    "requests.exceptions.MissingSchema": _BAD_ADDRESS,
    "requests.exceptions.InvalidSchema": _BAD_ADDRESS,
    "mlflow.exceptions.InvalidUrlException": _BAD_ADDRESS,
    "requests.exceptions.InvalidJSONError": _FOREIGN,
    "google.protobuf.json_format.ParseError": _FOREIGN,
    "requests.exceptions.Timeout": _TIMED_OUT,
    "urllib3.exceptions.TimeoutError": _TIMED_OUT,
    "builtins.TimeoutError": _TIMED_OUT,
    "requests.exceptions.RequestException": _UNREACHABLE,
    "urllib3.exceptions.HTTPError": _UNREACHABLE,
    "urllib.error.URLError": _UNREACHABLE,
    "http.client.HTTPException": _UNREACHABLE,
    "builtins.ConnectionError": _UNREACHABLE,
    "sqlalchemy.exc.OperationalError": _BAD_DATABASE,
    "sqlalchemy.exc.InterfaceError": _BAD_DATABASE,
    "botocore.exceptions.BotoCoreError": _NOT_STORED,
    "botocore.exceptions.ClientError": _NOT_STORED,
    "google.api_core.exceptions.GoogleAPIError": _NOT_STORED,
    "azure.core.exceptions.AzureError": _NOT_STORED,
}

_LOST = _Kind("is on a network file system that lost it", "mount it again", passes=True)
_UNMOUNTED = _Kind("is on a device or a mount that is gone", "mount it again", passes=True)
_NO_FILES = "too many files are open"
# A disk with fewer bytes free counts as full.
_LITTLE = 16 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NET = {
    errno.ETIMEDOUT: _TIMED_OUT,
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.EHOSTDOWN: _UNREACHABLE,
    errno.ENETUNREACH: _UNREACHABLE,
    errno.ENETDOWN: _UNREACHABLE,
    errno.ENETRESET: _UNREACHABLE,
    errno.ECONNREFUSED: _UNREACHABLE,
    errno.ECONNRESET: _UNREACHABLE,
    errno.ECONNABORTED: _UNREACHABLE,
    errno.ENOTCONN: _UNREACHABLE,
    errno.ESHUTDOWN: _UNREACHABLE,
    errno.EADDRNOTAVAIL: _UNREACHABLE,
}
_FILES = {
    errno.EROFS: _Kind("is on a read-only file system", "make it writable, or use another"),
    errno.EIO: _Kind("can't be read or written, the disk fails (I/O error)", _SYSTEM_LOG),
    errno.EREMOTEIO: _LOST,
    errno.ESTALE: _LOST,
    errno.ENOTCONN: _UNMOUNTED,
    errno.ENODEV: _UNMOUNTED,
    errno.ENXIO: _UNMOUNTED,
    errno.ETIMEDOUT: _LOST,
    errno.EHOSTDOWN: _LOST,
    errno.EACCES: _Kind("is not for this user (permission denied)", "change its rights"),
    errno.EPERM: _Kind("is not for this user (not permitted)", "change its rights"),
    errno.ENOENT: _Kind("is gone (no such file or folder)", "see who removed it"),
    errno.ENOTDIR: _Kind("lies in what is no folder", "see who replaced it"),
    errno.EISDIR: _Kind("is a folder where a file is wanted", "move it away"),
    errno.ENOLCK: _Kind("is on a file system without locks", "use a disk of this machine"),
    errno.EOPNOTSUPP: _Kind("is on a file system without locks", "use a disk of this machine"),
    errno.EFBIG: _Kind("is too large for its file system or a limit", "see `ulimit -f`"),
}
# These say nothing without the name of a file.
_OF_A_NAME = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_PROCESS = {
    errno.EMFILE: Outside(f"{_NO_FILES} in this process; raise its limit (`ulimit -n`)"),
    errno.ENFILE: Outside(f"{_NO_FILES} on this machine; close some", passes=True),
    errno.EAGAIN: Outside("no more processes may be started; raise the limit (`ulimit -u`)"),
    errno.ENOMEM: Outside("this machine is out of memory; end other programs"),
}
# For errors of any type: HDF5, TensorFlow and others drop the number and keep the words.
_SPELLED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
)
_SAYS = {
    "Could not determine home directory": Outside(
        "no home folder is known for this user, or for one that a path begins with (~name); set "
        "HOME or CATDOG_CACHE, and write paths without a ~"
    ),
    "can't start new thread": _PROCESS[errno.EAGAIN],
    "No usable temporary directory": Outside(
        "no folder for temporary files can be written; set TMPDIR to one that can"
    ),
    "` configuration. Expected ": Outside(
        "Keras doesn't take its own settings; fix keras.json in KERAS_HOME or ~/.keras"
    ),
}

_STATUS = re.compile(r"failed with error code (\d{3})\b|too many (\d{3}) error responses")
_NO_JSON = "not in a valid JSON format"
_MLFLOW = "mlflow.exceptions.MlflowException"
_REST = "mlflow.exceptions.RestException"
# MLflow's server's codes for trouble that isn't the caller's fault.
_REST_CODES = {
    "UNAUTHENTICATED": 401,
    "CUSTOMER_UNAUTHORIZED": 401,
    "PERMISSION_DENIED": 403,
    "ENDPOINT_NOT_FOUND": 404,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL_ERROR": 500,
    "TEMPORARILY_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_STATUSES = {
    401: ("doesn't know who we are", _CREDENTIALS),
    403: ("doesn't let us in", _CREDENTIALS),
    404: ("has no such page, so it is no MLflow server", _ADDRESS),
    407: ("is behind a proxy that wants a login", "look at http_proxy and https_proxy"),
}
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_DELETED = "Current state is deleted"

# Modules whose exceptions only pass on the one being handled, often without `from`.
_WRAPPERS = ("mlflow.", "requests.", "urllib3.", "urllib.", "sqlalchemy.", "optuna.", "http.")


def outside_reason(error: BaseException, state: Path | None = None) -> str | None:
    """As `outside`, but only the line."""
    found = outside(error, state=state)
    return found.text if found else None


def outside(error: BaseException, about: str = "", state: Path | None = None) -> Outside | None:
    """The cause of an error outside this program; None where it may be a bug of ours.

    Args:
        error: Exception as it was caught.
        about: The database or server concerned, for display; empty where that isn't known.
        state: The state folder, where known: the system doesn't say which disk is full.
    """
    for seen in reversed(list(_handed_on(error))):
        if found := _look_at(seen, about, state):
            return found
    return None


def is_outside(error: BaseException) -> bool:
    """Whether an error has an outside cause, or is one of ours that reports it in a line."""
    return isinstance(error, CatdogError) or outside(error) is not None


def is_absent(error: BaseException) -> bool:
    """Whether MLflow says that it has no such thing: an answer, not a failure."""
    names = _names(error)
    return _MLFLOW in names and getattr(error, "error_code", None) in _ABSENT


def was_deleted(error: BaseException) -> bool:
    """Whether an error comes from something that was deleted in MLflow."""
    return any(
        is_absent(seen) or (_MLFLOW in _names(seen) and _DELETED in str(seen))
        for seen in _handed_on(error)
    )


def _handed_on(error: BaseException) -> Iterator[BaseException]:
    """An error and the chain of its declared causes.

    An error that was merely being handled doesn't count: a bug in an `except` is a bug.
    """
    known: set[int] = set()
    seen: BaseException | None = error
    while seen is not None and id(seen) not in known:
        known.add(id(seen))
        yield seen
        told = [seen.__cause__, getattr(seen, "orig", None), getattr(seen, "reason", None)]
        named = next((each for each in told if isinstance(each, BaseException)), None)
        wraps = type(seen).__module__.startswith(_WRAPPERS) and not seen.__suppress_context__
        seen = named or (seen.__context__ if wraps else None)


def _names(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def _look_at(seen: BaseException, about: str, state: Path | None) -> Outside | None:
    names = _names(seen)
    return (
        _of_sqlite(seen, about, state)
        or _of_http(seen, names, about)
        or _of_type(seen, names, about)
        or _of_system(seen, about, state)
        or _of_words(str(seen), state)
    )


def _of_sqlite(seen: BaseException, about: str, state: Path | None) -> Outside | None:
    text = str(seen)
    if not isinstance(seen, sqlite3.Error) and "sqlite3." not in text:
        return None
    # SQLITE_BUSY_SNAPSHOT is a kind of SQLITE_BUSY.
    code = f"{getattr(seen, 'sqlite_errorname', '')}__".split("_")[1]
    if code not in (*_SQLITE, _SQLITE_FULL):
        code = next((code for says, code in _SQLITE_SAYS.items() if says in text), "")
    if code == _SQLITE_FULL:
        return _full(None, state)
    kind = _SQLITE.get(code)
    return kind.of(about or "a database") if kind else None


def _of_http(seen: BaseException, names: list[str], about: str) -> Outside | None:
    server = about or "the tracking server"
    if _MLFLOW in names:
        said = str(seen)
        if _NO_JSON in said:
            return _FOREIGN.of(server)
        if is_absent(seen) or _DELETED in said:
            return Outside(
                f"{about or 'MLflow'} has it no longer ({_line(seen)}); see who deleted it"
            )
    if _REST in names and "error_code" not in getattr(seen, "json", {}):
        return Outside(f"{server} {_FOREIGN.says} ({_line(seen)}); {_FOREIGN.advice}")
    status = _status(seen, names)
    return _of_status(status).of(server) if status else None


def _status(seen: BaseException, names: list[str]) -> int | None:
    if _REST in names:
        return _REST_CODES.get(getattr(seen, "error_code", ""))
    answer = getattr(seen, "response", seen)
    for name, attribute in (
        ("requests.exceptions.HTTPError", "status_code"),
        ("urllib.error.HTTPError", "code"),
    ):
        if name in names:
            return getattr(answer, attribute, None)
    found = _STATUS.search(str(seen))
    return int(found[1] or found[2]) if found else None


def _of_status(status: int) -> _Kind:
    passes = status in _TRANSIENT
    otherwise = "doesn't serve us at the moment" if passes else "doesn't take what we send"
    says, advice = _STATUSES.get(status, (otherwise, f"{_ADDRESS}, and at the server's log"))
    return _Kind(f"{says} (HTTP {status})", advice, passes)


def _of_type(seen: BaseException, names: list[str], about: str) -> Outside | None:
    # A broken pipe is that of the reader of our output, unless a server is concerned.
    if isinstance(seen, OSError) and (seen.filename or (seen.errno == errno.EPIPE and not about)):
        return None
    kind = next((_TYPES[name] for name in names if name in _TYPES), None)
    if kind is None:
        return None
    found = kind.of(about or "the other end of a connection")
    if kind in (_BAD_DATABASE, _NOT_STORED):
        found = Outside(f"{found.text} ({_line(seen)})", found.passes)
    return found


def _of_system(seen: BaseException, about: str, state: Path | None) -> Outside | None:
    if not isinstance(seen, OSError) or seen.errno is None or seen.errno == errno.EPIPE:
        return None
    path = next((p for p in (seen.filename2, seen.filename) if isinstance(p, str | bytes)), None)
    return _of_errno(seen.errno, None if path is None else Path(os.fsdecode(path)), about, state)


def _of_errno(number: int, path: Path | None, about: str, state: Path | None) -> Outside | None:
    if number in _PROCESS:
        return _PROCESS[number]
    if number in _FULL:
        return _full(path, state, number)
    if path is None:
        kinds = {**_FILES, **_NET}
        kind = kinds.get(number) if number not in _OF_A_NAME else None
        other = "the other end of a connection" if number in _NET else _one_of_all(state)
        return kind.of(about or other) if kind else None
    # An error about a named file is the file system's, whatever its number.
    kind = _FILES.get(number, _Kind(f"can't be used ({os.strerror(number)})", "look at it"))
    found = kind.of(_named(path, state))
    return Outside(f"{found.text}{_instead(path, state)}", found.passes)


def _of_words(text: str, state: Path | None) -> Outside | None:
    for number in _SPELLED:
        if os.strerror(number) in text:
            return _of_errno(number, None, "", state)
    return next((found for says, found in _SAYS.items() if says in text), None)


def _full(path: Path | None, state: Path | None, number: int = errno.ENOSPC) -> Outside:
    """Say which disk is full; where the system names no file, the one without space."""
    what = "the disk is full" if number == errno.ENOSPC else "a disk quota is used up"
    what += f" ({os.strerror(number)})"
    if path is None:
        path = min((folder for _, folder in _folders(state)), key=_free)
        if _free(path) > _LITTLE:  # what filled it may already be gone
            return Outside(f"{what} that holds {_one_of_all(state)}; make room there")
    mount = printable(str(_mount(path)))
    return Outside(
        f"{what}: {mount}, which holds {_named(path, state)}; make room there"
        f"{_instead(path, state)}"
    )


def _folders(state: Path | None) -> list[tuple[str, Path]]:
    """The folders that this program writes to, each with the setting that chooses another."""
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError:  # none is writable
        temporary = Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108  only named
    found = [("TMPDIR", temporary)]
    with contextlib.suppress(CatdogError):  # where no home folder is known
        found.append(("CATDOG_CACHE", cache_folder()))
    return [("--state", state), *found] if state else found


def _one_of_all(state: Path | None) -> str:
    named = [f"{printable(str(folder))} ({name})" for name, folder in _folders(state)]
    return f"one of {', '.join(named)}"


def _owner(path: Path, state: Path | None) -> str | None:
    """Which of the folders a path is in, or is a parent of."""
    whole = path.absolute()
    for name, folder in _folders(state):
        on_the_way = whole != whole.parent and folder.is_relative_to(whole)
        if whole.is_relative_to(folder) or on_the_way:
            return name
    return None


def _named(path: Path, state: Path | None) -> str:
    owner = _owner(path, state)
    return printable(str(path)) if owner is None else f"{printable(str(path))} ({owner})"


def _instead(path: Path, state: Path | None) -> str:
    owner = _owner(path, state)
    return "" if owner is None else f", or choose another folder with {owner}"


def _existing(path: Path) -> Path:
    return next((each for each in (path, *path.parents) if os.path.exists(each)), Path("/"))


def _mount(path: Path) -> Path:
    there = _existing(path.absolute())
    return next((each for each in (there, *there.parents) if os.path.ismount(each)), Path("/"))


def _free(path: Path) -> int:
    """Bytes that can still be written at a path; 0 where no more files can be created."""
    try:
        found = os.statvfs(_existing(path.absolute()))
    except OSError:
        return 0
    no_files = found.f_files > 0 and found.f_favail == 0
    return 0 if no_files else found.f_bavail * found.f_frsize


def _line(error: BaseException) -> str:
    """An error's text in one line. All external text passes through here."""
    text = printable(" ".join(str(error).split()))
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]} …"
