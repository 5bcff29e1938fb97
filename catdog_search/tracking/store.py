"""Open MLflow's store, made safely where it is new."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catdog_search.errors import StateError
from catdog_search.identity import ARTIFACTS
from catdog_search.places import State, file_lock
from catdog_search.text import printable
from catdog_search.tracking.confine import as_location, is_stray, require_below, require_folder

if TYPE_CHECKING:
    from catdog_search.tracking.own import Client

_PROBE_S = 10


@dataclass(frozen=True)
class Store:
    """Where a study is tracked; small and picklable, for workers.

    Attributes:
        uri: MLflow's tracking URI.
        artifacts: Folder for the artifacts of new experiments; None where a server decides.
    """

    uri: str
    artifacts: Path | None

    @classmethod
    def of(cls, state: State) -> Store:
        """`MLFLOW_TRACKING_URI` where it is set, else the state folder's own.

        Raises:
            StateError: The state was moved or copied.
        """
        state.require_home()
        uri = tracking_uri(state)
        return cls(uri, None if is_server(uri) else state.artifacts)

    def client(self, *, make: bool = True) -> Client:
        """A client of this store.

        Also points MLflow's module-level functions here, which model flavours use.

        Args:
            make: Whether it is made where it is absent; a worker finds one that was made.

        Raises:
            StateError: The store doesn't open, or the state folder is gone.
        """
        if not make and self.artifacts is not None:
            require_folder(self._root)
        quiet_mlflow()
        self._prepare()
        import mlflow
        from sqlalchemy.exc import SQLAlchemyError

        from catdog_search.tracking.own import Client

        try:
            with _kept_environment("MLFLOW_TRACKING_URI"):
                mlflow.set_tracking_uri(self.uri)
            client = Client(self.uri, self.artifacts)
            client.search_experiments(max_results=1)
        except (mlflow.exceptions.MlflowException, SQLAlchemyError) as error:
            first = str(error).strip().splitlines()[0]
            raise StateError(f"MLflow store {self.uri}: {first}") from error
        return client

    def require_own_experiment(self, name: str) -> None:
        """Refuse an experiment whose artifacts lie outside of the state's, before it is used.

        In the state's own store one without runs and models is given its place instead: MLflow
        makes the experiment `Default` in whatever folder a store is first opened from.

        Raises:
            StateError: They do, or the store doesn't open.
        """
        location = self.stray_experiment(name)
        if location is None or (self.is_own and self.place_experiment(name)):
            return
        cure = "give the study another name, or unset MLFLOW_TRACKING_URI"
        if self.is_own:
            doctor = f"catdog-search doctor --repair --state {shlex.quote(str(self._root))}"
            cure = f"mend that with `{doctor}`"
        raise StateError(
            printable(
                f"experiment {name!r} keeps its artifacts in {location}, outside of this state's "
                f"{self.artifacts}; {cure}"
            )
        )

    def stray_experiment(self, name: str) -> str | None:
        """Where an experiment keeps its artifacts, if that is outside of the state's; else None.

        Raises:
            StateError: The store doesn't open, or a link leads out of the state's artifacts.
        """
        from catdog_search.tracking import locations

        url = None if self.artifacts is None else locations.database(self.uri)
        if self.artifacts is None or url is None:  # a server's are its own
            return None
        location = locations.experiment_location(url, name)
        if location is None or is_stray(self.artifacts, location):
            return location
        require_below(self.artifacts, location)
        return None

    def place_experiment(self, name: str, *, in_use: bool = False) -> bool:
        """Let an experiment keep its artifacts among the state's own.

        Args:
            name: Of the experiment.
            in_use: Whether one that has runs or models too.

        Returns:
            Whether that was done.
        """
        from catdog_search.tracking import locations

        url = locations.database(self.uri)
        assert url is not None, "only a database's can be stray"
        location = as_location(self._root / ARTIFACTS / name)
        return locations.place_experiment(url, name, location, in_use=in_use)

    @property
    def is_own(self) -> bool:
        """Whether this is the state folder's own store."""
        return self.artifacts is not None and self.uri == own_uri(State(self._root))

    @property
    def _root(self) -> Path:
        assert self.artifacts is not None, "a server has no folder of ours"
        return self.artifacts.parent

    def _prepare(self) -> None:
        if is_server(self.uri):
            _probe(self.uri)
        elif self.uri.startswith("sqlite:///"):
            ensure_mlflow_db(Path(self.uri.removeprefix("sqlite:///")))


@contextlib.contextmanager
def _kept_environment(name: str) -> Iterator[None]:
    """MLflow writes its URI into the environment, where the next state folder would find it."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def tracking_uri(state: State) -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else that of the state folder's own store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_uri(state)


def own_uri(state: State) -> str:
    """Tracking URI of a state folder's own store."""
    return sqlite_uri(state.mlflow_db)


def sqlite_uri(path: Path) -> str:
    """Tracking URI of a sqlite file."""
    return f"sqlite:///{path}"


def is_server(uri: str) -> bool:
    """Whether a tracking URI is that of a server."""
    return uri.startswith(("http://", "https://"))


def quiet_mlflow() -> None:
    """Telemetry, pickle loading and chatter off, for this process and those it starts.

    MLflow reads these while it is imported, so this comes first.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # With a server, MLflow prints links to stdout, which is `--json`'s.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    # It prints the trace of every error that it raises, which is said once, in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def ensure_mlflow_db(path: Path) -> None:
    """Make MLflow's sqlite store, whole or not at all.

    MLflow's own first start migrates in place: two at once, or a kill in the middle, leave a file
    that never opens again. Here it is made aside, under a lock, and moved into place.
    """
    path = path.resolve()
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_suffix(".lock")):
        if path.exists():
            return
        fresh = path.with_suffix(".new")
        for leftover in path.parent.glob(f"{fresh.name}*"):  # and its journal
            leftover.unlink()
        import sqlalchemy
        from mlflow.store.db import utils

        engine = sqlalchemy.create_engine(f"sqlite:///{fresh}")
        utils._initialize_tables(engine)  # what `mlflow db upgrade` calls on an empty store
        engine.dispose()
        enable_wal(fresh)
        fresh.replace(path)


def enable_wal(path: Path) -> None:
    """Let readers and a writer of a sqlite file work at once; stays with the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode=wal")


def _probe(uri: str) -> None:
    """Find out at once that a server is away; MLflow's client would retry for minutes."""
    request = urllib.request.Request(uri.rstrip("/") + "/health")  # noqa: S310  http(s) only, see is_server
    try:
        urllib.request.urlopen(request, timeout=_PROBE_S).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in shows at the first call
    except OSError as error:
        raise StateError(f"MLFLOW_TRACKING_URI {uri}: no answer ({error})") from None
