"""Causes outside the program: told apart from bugs, in a line that says whose they are."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import sqlite3
import ssl
import tempfile
import urllib.error
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import sqlalchemy
import urllib3
from mlflow.exceptions import MlflowException, RestException
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from catdog_search import outside as module
from catdog_search.outside import is_absent, outside, outside_reason


def system(number: int, path: str | None = None, onto: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path, None, onto)


@pytest.mark.parametrize(
    ("number", "says", "passes"),
    [
        (errno.ENOSPC, "the disk is full (No space left on device)", False),
        (errno.EDQUOT, "a disk quota is used up", False),
        (errno.EROFS, "is on a read-only file system", False),
        (errno.EIO, "the disk fails (I/O error)", False),
        (errno.ESTALE, "network file system that lost it", True),
        (errno.ENOTCONN, "a mount that is gone", True),
        (errno.ETIMEDOUT, "network file system that lost it", True),
        (errno.EACCES, "permission denied", False),
        (errno.EPERM, "not permitted", False),
        (errno.ENOENT, "is gone", False),
        (errno.EISDIR, "is a folder", False),
        (errno.ENOLCK, "without locks", False),
        (errno.EXDEV, "can't be used (Invalid cross-device link)", False),
    ],
)
def test_error_about_a_file_names_the_file(number: int, says: str, passes: bool) -> None:
    found = outside(system(number, "/some/where/file"))
    assert found is not None
    assert says in found.text
    assert "/some/where/file" in found.text
    assert found.passes is passes


@pytest.mark.parametrize(
    ("error", "says", "passes"),
    [
        (system(errno.EMFILE, "/any"), "ulimit -n", False),
        (system(errno.ENFILE), "on this machine", True),
        (system(errno.EAGAIN), "ulimit -u", False),
        (RuntimeError("can't start new thread"), "ulimit -u", False),
        (FileNotFoundError(2, "No usable temporary directory found"), "set TMPDIR", False),
        (system(errno.EROFS), "is on a read-only file system", False),
        (system(errno.EIO), "the disk fails", False),
        (OSError("Can't write data (errno = 5, message = 'Input/output error')"), "fails", False),
        (RuntimeError("file.h5: No space left on device"), "the disk is full", False),
        (ValueError("Invalid `floatx` configuration. Expected one of"), "keras.json", False),
    ],
)  # fmt: skip
def test_error_about_no_file_says_what_to_do(error: Exception, says: str, passes: bool) -> None:
    found = outside(error)
    assert found is not None
    assert says in found.text
    assert found.passes is passes


def assert_told(error: Exception, says: str, passes: bool) -> None:
    found = outside(error, "the tracking server there")
    assert found is not None
    assert found.text.startswith("the tracking server there ")
    assert says in found.text
    assert found.passes is passes


@pytest.mark.parametrize(
    ("error", "says", "passes"),
    [
        (system(errno.ETIMEDOUT), "doesn't answer in time", True),
        (TimeoutError("timed out"), "doesn't answer in time", True),
        (system(errno.ENETUNREACH), "can't be reached", True),
        (system(errno.EHOSTUNREACH), "can't be reached", True),
        (system(errno.ECONNREFUSED), "can't be reached", True),
        (system(errno.ECONNRESET), "can't be reached", True),
        (system(errno.ENOTCONN), "can't be reached", True),
        (system(errno.EPIPE), "can't be reached", True),
        (socket.gaierror(-2, "Name or service not known"), "(DNS)", True),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "(DNS)", True),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "doesn't speak TLS", False),
        (ssl.SSLCertVerificationError(1, "self-signed"), "isn't trusted", False),
        (urllib.error.URLError(socket.gaierror(-2, "unknown")), "(DNS)", True),
        (requests.ConnectionError("Max retries exceeded"), "can't be reached", True),
        (requests.ReadTimeout("read timed out"), "doesn't answer in time", True),
        (requests.exceptions.MissingSchema("no scheme"), "has an address that is none", False),
        (requests.exceptions.ChunkedEncodingError("cut"), "can't be reached", True),
        (urllib3.exceptions.ProtocolError("Connection aborted."), "can't be reached", True),
        (OperationalError("q", {}, Exception("server closed the connection")), "closed", True),
    ],
)
def test_error_of_a_connection_names_its_other_end(
    error: Exception, says: str, passes: bool
) -> None:
    assert_told(error, says, passes)


def answered(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError(f"{status} Error: for url", response=answer)


@pytest.mark.parametrize(
    ("error", "says", "passes"),
    [
        (MlflowException("API request to endpoint /x failed with error code 401 != 200. "
                         "Response body: '<html>no</html>'"), "who we are (HTTP 401)", False),
        (MlflowException("API … failed with error code 403 != 200. …"), "(HTTP 403)", False),
        (MlflowException("API … failed with error code 404 != 200. …"), "no MLflow server", False),
        (MlflowException("API … failed with error code 302 != 200. …"), "(HTTP 302)", False),
        (MlflowException("API request to endpoint was successful but the response body was not in "
                         "a valid JSON format. Response body: '<html>log in'"), "a login", False),
        (MlflowException("… (Caused by ResponseError('too many 503 error responses'))"),
         "at the moment (HTTP 503)", True),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "x"}), "(HTTP 403)", False),
        (RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "x"}), "503", True),
        (RestException({"message": "Unauthorized"}), "(INTERNAL_ERROR: Unauthorized)", False),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "run x"}),
         "see who deleted it", False),
        (MlflowException("The run x must be in the 'active' state. Current state is deleted."),
         "see who deleted it", False),
        (answered(401), "who we are (HTTP 401)", False),
        (answered(502), "at the moment (HTTP 502)", True),
        (urllib.error.HTTPError("http://x", 407, "no", None, None), "behind a proxy", False),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_a_server_answers_is_told_by_its_status(
    error: Exception, says: str, passes: bool
) -> None:
    assert_told(error, says, passes)


def lock(path: Path) -> sqlite3.Connection:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin exclusive")
    return holder


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    path.write_bytes(content)


SQLITE: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "locked": (lock, "is locked by another program", True),
    "no database": (lambda path: path.write_bytes(b"x" * 5000), "is damaged", False),
    "malformed": (corrupt, "is damaged", False),
    "folder gone": (lambda path: shutil.rmtree(path.parent), "can't be opened", False),
    "read-only": (lambda path: None, "can't be written", False),
}


@pytest.mark.parametrize("kind", SQLITE)
def test_trouble_of_sqlite_is_told_by_its_codes_through_every_wrapper(
    tmp_path: Path, kind: str
) -> None:
    damage, says, passes = SQLITE[kind]
    path = tmp_path / "folder" / "x.db"
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("create table t (a); insert into t values (1);")
    held = damage(path)
    mode = "?mode=ro&uri=true" if kind == "read-only" else "?uri=true"
    engine = sqlalchemy.create_engine(f"sqlite:///file:{path}{mode}", connect_args={"timeout": 0})
    with pytest.raises(sqlalchemy.exc.DatabaseError) as caught, engine.begin() as open_:
        open_.execute(sqlalchemy.text("insert into t values (2)"))
    engine.dispose()
    if isinstance(held, sqlite3.Connection):
        held.close()
    for wrap in (lambda error: error, wrapped_by_mlflow, wrapped_by_optuna):
        found = outside(wrap(caught.value), "the database")
        assert found is not None
        assert found.text.startswith("the database ")
        assert says in found.text
        assert "\n" not in found.text
        assert found.passes is passes


def wrapped_by_mlflow(error: Exception) -> Exception:
    try:
        raise MlflowException(error) from error  # type: ignore[arg-type]
    except MlflowException as wrapped:
        return wrapped


def wrapped_by_optuna(error: Exception) -> Exception:
    try:
        raise StorageInternalError("An exception is raised during the commit.") from error
    except StorageInternalError as wrapped:
        return wrapped


def test_words_of_sqlite_are_enough_where_the_error_itself_is_lost() -> None:
    lost = MlflowException("(sqlite3.OperationalError) database is locked\n[SQL: insert …]")
    assert outside_reason(lost) == (
        "a database is locked by another program; end that program, or wait for it"
    )


def bug_while_a_file_was_missing() -> None:
    try:
        Path("/no/such/file").read_text()
    except OSError:
        {}["a bug"]


BUGS: dict[str, Exception] = {
    "arithmetic": ZeroDivisionError("division by zero"),
    "value": ValueError("too many values to unpack"),
    "no number": OSError("cannot identify image file"),
    "no such file": FileNotFoundError("which, it doesn't say"),
    "broken pipe": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "MLflow's own": MlflowException("Param value is too long"),
    "refused by MLflow": RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "x"}),
    "memory": MemoryError("no more"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_bug_is_no_cause_outside(bug: str) -> None:
    assert outside(BUGS[bug]) is None


def test_bug_is_one_also_while_something_outside_is_handled() -> None:
    with pytest.raises(KeyError) as caught:
        bug_while_a_file_was_missing()
    assert outside(caught.value) is None


def test_absent_thing_is_an_answer() -> None:
    assert is_absent(MlflowException("x", error_code=5)) is False
    assert is_absent(RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "x"}))


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Says what is free, in MB, where the state, temporary files and the cache lie."""

    def have(**free: int) -> Path:
        folders = {name: tmp_path / name for name in ("state", "temporary", "cache")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folders["temporary"]))
        monkeypatch.setenv("CATDOG_CACHE", str(folders["cache"]))

        def statvfs(path: Any) -> Any:
            megabytes = free.get(Path(path).name, 10**6)
            files = 0 if megabytes < 0 else 1
            return SimpleNamespace(
                f_bavail=abs(megabytes) * 1000, f_frsize=1000, f_files=1, f_favail=files
            )

        monkeypatch.setattr(module.os, "statvfs", statvfs)
        return folders["state"]

    return have


@pytest.mark.parametrize(
    ("free", "full", "option"),
    [
        ({"temporary": 0}, "temporary", "TMPDIR"),
        ({"temporary": 5}, "temporary", "TMPDIR"),  # what filled it is gone again
        ({"cache": 0}, "cache", "CATDOG_CACHE"),
        ({"state": 0}, "state", "--state"),
        ({"cache": -500}, "cache", "CATDOG_CACHE"),  # room, and no inodes
    ],
)
def test_full_disk_that_the_system_does_not_name_is_found(
    disks: Callable[..., Path], free: dict[str, int], full: str, option: str
) -> None:
    state = disks(**free)
    line = str(outside_reason(system(errno.ENOSPC), state))
    assert str(state.parent / full) in line
    assert line.endswith(f"or choose another folder with {option}")
    assert line.count(str(state.parent)) == 1  # no other is named


def test_full_disk_is_the_one_that_was_copied_to(disks: Callable[..., Path]) -> None:
    state = disks()
    copied = system(errno.ENOSPC, str(state.parent / "temporary" / "a"), str(state / "b"))
    assert f"holds {state / 'b'} (--state); make room there" in str(outside_reason(copied, state))


def test_full_disk_that_nobody_knows_is_one_of_three(disks: Callable[..., Path]) -> None:
    state = disks()
    for number in (errno.ENOSPC, errno.EDQUOT):
        line = str(outside_reason(system(number), state))
        assert all(f"({name})" in line for name in ("--state", "TMPDIR", "CATDOG_CACHE"))


def test_home_that_can_not_be_written_is_told_with_the_way_round_it(
    disks: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = disks()
    home = state.parent / "home"
    monkeypatch.setenv("CATDOG_CACHE", str(home / ".cache" / "catdog-search"))
    line = str(outside_reason(system(errno.EACCES, str(home)), state))
    assert line == (
        f"{home} (CATDOG_CACHE) is not for this user (permission denied); change its rights, or "
        "choose another folder with CATDOG_CACHE"
    )


def test_names_of_others_can_not_write_to_the_terminal() -> None:
    line = str(outside_reason(system(errno.EIO, "/a\x1b[31m\nb")))
    assert "\x1b" not in line
    assert "\n" not in line
