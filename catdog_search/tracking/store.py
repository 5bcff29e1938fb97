"""Open MLflow's store, made safely where it is new."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from catdog_search.errors import StateError
from catdog_search.places import State, file_lock
from catdog_search.retry import Retry
from catdog_search.tracking.address import require_usable, shown
from catdog_search.tracking.client import RetryingClient

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PROBE_S = 10
_VERSION = re.compile(r"\d+\.\d+")
# Of MLflow's own client, which waits without a word: `Retry` does it aloud.
_HTTP_RETRIES, _HTTP_TIMEOUT_S = 0, 60
# The longest that one call may take until MLflow gives up: sqlite's 20 s, or those of a server,
# of which a call may ask several things.
CALL_S = 3 * _HTTP_TIMEOUT_S


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
            StateError: It names no kind of store that can be used here.
        """
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state.mlflow_db}"
        require_usable(uri)
        return cls(uri, None if is_server(uri) else state.artifacts)

    @property
    def about(self) -> str:
        """What it is, for people."""
        return f"MLflow store {shown(self.uri)}"

    def client(self, retry: Retry | None = None) -> MlflowClient:
        """A client of this store, which is made first where it is absent.

        Also points MLflow's module-level functions here, which model flavours use.

        Args:
            retry: Makes every call; None makes each once.

        Raises:
            StateError: The store doesn't open. The client's calls raise it too, where something
                outside this program keeps them from being answered.
        """
        quiet_mlflow()
        retry = retry or Retry(self.about)
        self._prepare()
        import mlflow
        from sqlalchemy.exc import SQLAlchemyError

        try:
            client = retry(self._open)
        except (mlflow.exceptions.MlflowException, SQLAlchemyError) as error:
            first = str(error).strip().splitlines()[0]
            raise StateError(f"{self.about}: {first}") from error
        return cast("MlflowClient", RetryingClient(client, retry))

    def require_open(self) -> None:
        """Make sure of a store that somebody else keeps, before anything is made for it.

        Raises:
            StateError: It doesn't open.
        """
        if is_server(self.uri) or os.environ.get("MLFLOW_TRACKING_URI"):
            self.client()

    def _open(self) -> MlflowClient:
        import mlflow
        from mlflow.entities import ViewType

        if not is_server(self.uri):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 1  # of opening a database: it would say nothing meanwhile
        with _kept_environment("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(self.uri)
        client = mlflow.MlflowClient(self.uri)
        found = client.search_experiments(view_type=ViewType.ALL, max_results=1)
        if is_server(self.uri) and not found:
            _require_mlflow(self)
        return client

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
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(_HTTP_RETRIES))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_HTTP_TIMEOUT_S))
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


def _require_mlflow(store: Store) -> None:
    """Make sure of what answers: any JSON passes for a list of no experiments."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(store.uri), "/version", "GET")
    if not _VERSION.match(answer.text):
        raise StateError(
            f"{store.about} answers, but not as MLflow does; look at MLFLOW_TRACKING_URI, and "
            "whether it wants a login"
        )


def _probe(uri: str) -> None:
    """Find out at once that a server is away; MLflow's client would retry for minutes."""
    request = urllib.request.Request(uri.rstrip("/") + "/health")  # noqa: S310  http(s) only, see is_server
    try:
        urllib.request.urlopen(request, timeout=_PROBE_S).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in shows at the first call
    except OSError as error:
        raise StateError(f"MLFLOW_TRACKING_URI {uri}: no answer ({error})") from None
