"""Open MLflow's store, made safely where it is new."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catdog_search import sqlite
from catdog_search.errors import StateError
from catdog_search.places import State, file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
        """`MLFLOW_TRACKING_URI` where it is set, else the state folder's own."""
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state.mlflow_db}"
        return cls(uri, None if is_server(uri) else state.artifacts)

    def client(self) -> MlflowClient:
        """A client of this store, which is made first where it is absent.

        Also points MLflow's module-level functions here, which model flavours use.

        Raises:
            StateError: The store doesn't open.
        """
        quiet_mlflow()
        self._prepare()
        import mlflow
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with _kept_environment("MLFLOW_TRACKING_URI"):
                mlflow.set_tracking_uri(self.uri)
            client = mlflow.MlflowClient(self.uri)
            client.search_experiments(max_results=1)
        except (mlflow.exceptions.MlflowException, SQLAlchemyError) as error:
            first = str(error).strip().splitlines()[0]
            raise StateError(f"MLflow store {self.uri}: {first}") from error
        return client

    def _prepare(self) -> None:
        if is_server(self.uri):
            _probe(self.uri)
        elif path := self.own_file:
            State(path.parent).require_whole(path)
            ensure_mlflow_db(path)
        elif self.uri.startswith("sqlite:///"):
            ensure_mlflow_db(Path(self.uri.removeprefix("sqlite:///")))

    @property
    def own_file(self) -> Path | None:
        """The state folder's own database; None where another one is asked for."""
        if self.artifacts is None:
            return None
        own = State(self.artifacts.parent).mlflow_db
        return own if self.uri == f"sqlite:///{own}" else None

    def keep_copy(self) -> None:
        """Copy the state folder's own database, so that it can be brought back."""
        if path := self.own_file:
            with file_lock(sqlite.kept_copy(path).with_suffix(".lock")):
                sqlite.keep_copy(path)


def disconnect() -> None:
    """Let go of all databases, as before one is put in another's place.

    MLflow keeps a connection for as long as the process lives, and would go on with the old file.
    """
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    for store in (Tracking, Registry):
        for engine in store._engine_map.values():
            engine.dispose()


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
