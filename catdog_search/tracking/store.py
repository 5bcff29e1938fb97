"""Open MLflow's store, creating a new one safely."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from catdog_search import sqlite
from catdog_search.errors import StateError
from catdog_search.identity import ARTIFACTS, MLFLOW_DB
from catdog_search.places import StateFolder, make_database, require_folder
from catdog_search.redact import redact
from catdog_search.retry import Retry
from catdog_search.text import first_line, printable
from catdog_search.tracking.address import require_usable
from catdog_search.tracking.client import RetryingClient
from catdog_search.tracking.confine import as_location, is_stray, require_below
from catdog_search.web import (
    Address,
    ask_loopback_directly,
    basic_auth,
    below,
    is_http,
    open_url,
    read_address,
)

if TYPE_CHECKING:
    from catdog_search.tracking.own import Client

_PROBE_S = 10
_VARIABLE = "MLFLOW_TRACKING_URI"
# Variables in which MLflow's client looks for credentials.
_USER, _PASSWORD, _TOKEN = (f"MLFLOW_TRACKING_{n}" for n in ("USERNAME", "PASSWORD", "TOKEN"))
_VERSION = re.compile(r"\d+\.\d+")
# Retries and timeout of MLflow's own client; no retries, as it waits silently, unlike `Retry`.
_HTTP_RETRIES, _HTTP_TIMEOUT_S = 0, 60
# Longest that one call may take until MLflow gives up: 20 s with sqlite, or several requests to a
# server.
CALL_S = 3 * _HTTP_TIMEOUT_S


@dataclass(frozen=True)
class Store:
    """Where a study is tracked; small and picklable, for workers.

    Attributes:
        uri: MLflow's tracking URI; a server's holds no credentials, a database's may.
        artifacts: Folder for the artifacts of new experiments; None where a server decides.
        credentials: User and password of a server, if its address names them; else None.
    """

    uri: str
    artifacts: Path | None
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, state: StateFolder) -> Store:
        """`MLFLOW_TRACKING_URI`'s store if it is set, else the state folder's own.

        Raises:
            StateError: The state was moved or copied; or the variable names no kind of store that
                can be used here, is malformed, or is ambiguous.
        """
        state.require_home()
        given = os.environ.get(_VARIABLE)
        if not given:
            return cls(own_uri(state), state.artifacts)
        require_usable(given)
        if is_server(given):
            address = _server_address(given)
            return cls(address.url, None, _credentials(address))
        if (database := _database(given)) and not given.endswith(database):
            raise StateError(
                f"{_VARIABLE} {given}: may be read as {database}, and otherwise; write sqlite:/// "
                "and a plain path, without '?' and '%'"
            )
        return cls(given, state.artifacts)

    @property
    def shown(self) -> str:
        """The URI for people and records: without secrets."""
        return redact(self.uri)

    @property
    def about(self) -> str:
        """The store's name, for people."""
        return f"MLflow store {self.shown}"

    def client(self, retry: Retry | None = None, *, make: bool = False) -> Client:
        """A client of this store.

        Also points MLflow's module-level functions here, which model flavours use.

        Args:
            retry: Retry that makes every call; None tries each once.
            make: Whether to create the store if it is absent; readers shouldn't.

        Raises:
            StateError: The store is absent or can't be opened. The client's calls raise it too, if
                something outside this program keeps them from being answered.
        """
        if not make:
            self.require_there()
        quiet_mlflow()
        self._use_credentials()
        retry = retry or Retry(self.about)
        self._prepare()
        import mlflow
        from sqlalchemy.exc import SQLAlchemyError

        try:
            client = retry(self._open)
        except (mlflow.exceptions.MlflowException, SQLAlchemyError) as error:
            first = str(error).strip().splitlines()[0]
            raise StateError(f"{self.about}: {first}") from error
        return cast("Client", RetryingClient(client, retry))

    def is_absent(self) -> bool:
        """Whether there is no database yet, so that reading would create one.

        Raises:
            StateError: It existed, and is gone or damaged.
        """
        path = None if is_server(self.uri) else sqlite_file(self.uri)
        if path is not None and path == self.own_file:
            StateFolder(self._root).require_whole(path)
        return path is not None and not path.exists()

    def require_folder(self) -> None:
        """Refuse to continue if the state folder is gone; for workers, who were given its path.

        Raises:
            StateError: It is gone.
        """
        if self.artifacts is not None:
            require_folder(self._root)

    def require_there(self) -> None:
        """Refuse to read a store that is absent.

        Raises:
            StateError: It is absent; the message says what helps.
        """
        if not self.is_absent():
            return
        if not self.is_own:
            raise StateError(f"{self.about} isn't there; MLFLOW_TRACKING_URI names it")
        state = StateFolder(self._root)
        if not state.optuna_db.exists():
            raise StateError(state.nothing)
        cure = state.command("doctor --repair")
        raise StateError(f"{self.about} is gone; {cure} rebuilds it from what Optuna knows")

    def require_open(self) -> None:
        """Make sure that a store kept elsewhere can be opened, before anything is created for it.

        Raises:
            StateError: It can't be opened.
        """
        if is_server(self.uri) or not self.is_own:
            self.client(make=True)

    def _open(self) -> Client:
        import mlflow
        from mlflow.entities import ViewType

        from catdog_search.tracking.own import Client

        if not is_server(self.uri):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 1  # of opening a database: it would retry silently
        uri = self.uri_to_read
        with _kept_environment(_VARIABLE):
            mlflow.set_tracking_uri(uri)
        client = Client(uri, self.artifacts)
        found = client.search_experiments(view_type=ViewType.ALL, max_results=1)
        if is_server(self.uri) and not found:
            _require_mlflow(self)
        return client

    def _use_credentials(self) -> None:
        """Put credentials where MLflow's client looks for them, here and in later processes."""
        if self.credentials:
            os.environ[_USER], os.environ[_PASSWORD] = self.credentials

    def require_own_experiment(self, name: str) -> None:
        """Refuse an experiment whose artifacts are outside the state's, before it is used.

        In the state's own store, one without runs and models is given its proper place instead:
        MLflow creates the experiment `Default` in whatever folder a store is first opened from.

        Raises:
            StateError: They are, or the store can't be opened.
        """
        location = self.stray_experiment(name)
        if location is None or (self.is_own and self.place_experiment(name)):
            return
        cure = "give the study another name, or unset MLFLOW_TRACKING_URI"
        if self.is_own:
            cure = f"repair it with {StateFolder(self._root).command('doctor --repair')}"
        raise StateError(
            printable(
                f"experiment {name!r} keeps its artifacts in {location}, outside of this state's "
                f"{self.artifacts}; {cure}"
            )
        )

    def stray_experiment(self, name: str) -> str | None:
        """Where an experiment keeps its artifacts, if that is outside the state's; else None.

        Raises:
            StateError: The store can't be opened, or a link leads out of the state's artifacts.
        """
        from catdog_search.tracking import locations

        url = None if self.artifacts is None else locations.database(self.uri_to_read)
        if self.artifacts is None or url is None:  # a server manages its own artifacts
            return None
        location = locations.experiment_location(url, name)
        if location is None or is_stray(self.artifacts, location):
            return location
        require_below(self.artifacts, location)
        return None

    def place_experiment(self, name: str, *, in_use: bool = False) -> bool:
        """Make an experiment keep its artifacts among the state's own.

        Args:
            name: Experiment's name.
            in_use: Whether to do so even if the experiment has runs or models.

        Returns:
            Whether it was done.
        """
        from catdog_search.tracking import locations

        url = locations.database(self.uri)
        assert url is not None, "only a database's can be stray"
        location = as_location(self._root / ARTIFACTS / name)
        return locations.place_experiment(url, name, location, in_use=in_use)

    @property
    def is_own(self) -> bool:
        """Whether this is the state folder's own store."""
        return self.own_file is not None

    @property
    def uri_to_read(self) -> str:
        """The URI for readers: a copy's, if the state folder can't be written."""
        own = self.own_file
        if own is None or (path := StateFolder(self._root).to_read(own)) == own:
            return self.uri
        return sqlite_uri(path)

    @property
    def _root(self) -> Path:
        assert self.artifacts is not None, "a server has no folder of ours"
        return self.artifacts.parent

    def _prepare(self) -> None:
        if is_server(self.uri):
            ask_loopback_directly(read_address(self.uri).host)
            _probe(self.uri)
        elif path := sqlite_file(self.uri):
            if path == self.own_file:
                StateFolder(path.parent).require_whole(path)
            ensure_mlflow_db(path)

    @property
    def own_file(self) -> Path | None:
        """The state folder's own database; None if another store is used."""
        if self.artifacts is None:
            return None
        own = StateFolder(self._root).mlflow_db
        return own if sqlite_file(self.uri) == own else None

    def keep_copy(self) -> None:
        """Copy the state folder's own database, so that it can be restored."""
        if path := self.own_file:
            StateFolder(self._root).keep_copy(path)


def disconnect() -> None:
    """Close all database connections, for example before a database is replaced.

    MLflow keeps a connection for as long as the process lives, and would keep using the old file.
    """
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    for store in (Tracking, Registry):
        for engine in store._engine_map.values():
            engine.dispose()


@contextlib.contextmanager
def _kept_environment(name: str) -> Iterator[None]:
    """Restore a variable to which MLflow writes its URI; the next state folder would find it."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def tracking_uri(state: StateFolder) -> str:
    """`MLFLOW_TRACKING_URI` if it is set, else the URI of the state folder's own store."""
    return os.environ.get(_VARIABLE) or own_uri(state)


def own_uri(state: StateFolder) -> str:
    """Tracking URI of a state folder's own store."""
    return sqlite_uri(state.mlflow_db)


def sqlite_uri(path: Path) -> str:
    """The URI of a sqlite file, as both SQLAlchemy and MLflow's own parsing read it.

    MLflow takes the path out of the URI literally and creates its folder; if the URI were
    percent-encoded, that would be the wrong one. `StateFolder` refuses paths that need encoding.
    """
    from sqlalchemy import URL

    return unquote(URL.create("sqlite", database=str(path)).render_as_string())


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite URI; None for any other store, and for one in memory.

    Raises:
        StateError: It isn't the URI of a database.
    """
    database = _database(uri)
    return Path(database) if database and database != ":memory:" else None


def _database(uri: str) -> str | None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if not uri.startswith("sqlite:"):
        return None
    try:
        return make_url(uri).database
    except (ArgumentError, ValueError) as error:
        raise StateError(f"MLflow store {uri}: {error}") from None


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Report errors of MLflow, or of the files that it reads, in one line.

    Args:
        what: What failed, for people: `model catdog: can't be loaded`.

    Raises:
        StateError: There was such an error.
    """
    import mlflow

    try:
        yield
    except (mlflow.exceptions.MlflowException, OSError, ValueError) as error:
        raise StateError(f"{what}: {first_line(error)}") from error


def _state_of(uri: str) -> StateFolder | None:
    """The state folder whose own store a URI names; None for another store."""
    file = sqlite_file(uri)
    if file is None or file.name != MLFLOW_DB:
        return None
    return StateFolder(sqlite.original(file).parent)


def command_for(uri: str, words: str) -> str:
    """A command line for the state whose own store a URI names, to copy into a terminal."""
    state = _state_of(uri)
    return state.command(words) if state else f"`catdog-search {words}`"


def nothing_in(uri: str) -> str:
    """End of a message that says where nothing was found: the place, and the states nearby."""
    state = _state_of(uri)
    if state is None:
        return f"in {redact(uri)}"
    if state.optuna_db.exists() and not state.mlflow_db.exists():
        cure = state.command("doctor --repair")
        return f"in {state.root}, whose {MLFLOW_DB} isn't there; {cure} rebuilds it"
    return f"in {state.root}{state.elsewhere}"


def is_server(uri: str) -> bool:
    """Whether a tracking URI is that of a server."""
    return is_http(uri)


def _server_address(given: str) -> Address:
    try:
        address = read_address(given)
        if any(mark in address.url for mark in "?#"):
            raise ValueError("has a query or a fragment, which MLflow's client can't send")
        # An @ there means that a password contained a slash.
        if "@" in address.path:
            raise ValueError("has an @ after its host; percent-encode it as %40")
    except ValueError as error:
        raise StateError(f"{_VARIABLE}: {error}") from None
    return address


def _credentials(address: Address) -> tuple[str, str] | None:
    """Credentials of an address; a user alone takes the password from the environment."""
    if address.user is None:
        return None
    password = address.password or os.environ.get(_PASSWORD)
    if not address.user or not password:
        raise StateError(
            f"{_VARIABLE}: names a user or a password alone; give both, as USER:PASSWORD@ or in "
            f"{_USER} and {_PASSWORD}"
        )
    return address.user, password


def quiet_mlflow() -> None:
    """Turn off telemetry, pickle loading and chatter, for this process and those it starts.

    MLflow reads these settings when it is imported, so call this first.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # With a server, MLflow prints links to stdout, which is reserved for `--json`.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(_HTTP_RETRIES))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_HTTP_TIMEOUT_S))
    # It prints the traceback of every error that it raises; we report errors once, in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def ensure_mlflow_db(path: Path) -> None:
    """Create MLflow's sqlite store atomically if it doesn't exist."""
    make_database(path.resolve(), _initialize)


def _initialize(fresh: Path) -> None:
    import sqlalchemy
    from mlflow.store.db import utils

    engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(fresh)))
    utils._initialize_tables(engine)  # what `mlflow db upgrade` calls on an empty store
    engine.dispose()


def _require_mlflow(store: Store) -> None:
    """Make sure that MLflow answers: any JSON would pass for an empty list of experiments."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(store.uri), "/version", "GET")
    if not _VERSION.match(answer.text):
        raise StateError(
            f"{store.about} answers, but not as MLflow does; look at MLFLOW_TRACKING_URI, and "
            "whether it wants a login"
        )


def _probe(uri: str) -> None:
    """Find out early that a server is down; MLflow's client would retry for minutes."""
    try:
        open_url(below(uri, "health"), _PROBE_S, authorization=_authorization()).close()
    except urllib.error.HTTPError:
        return  # it answers; the first call shows whether it lets us in
    except (OSError, http.client.HTTPException) as error:
        raise StateError(f"{_VARIABLE} {uri}: no answer ({error})") from None


def _authorization() -> str:
    """The header that MLflow's client sends, by the same precedence; empty without credentials."""
    user, password, token = (os.environ.get(name) for name in (_USER, _PASSWORD, _TOKEN))
    if user and password:
        return basic_auth(user, password)
    return f"Bearer {token}" if token else ""
