"""Serve MLflow's user interface for the right store."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator

from catdog_search.children import safe_environment
from catdog_search.errors import StateError
from catdog_search.tracking.located import locate
from catdog_search.tracking.shared_view import MODE, TAG, fragment
from catdog_search.tracking.store import Store, is_server, sqlite_file, sqlite_uri
from catdog_search.web import base_url, below, open_url

_START_S = 120
# Where `ui` serves, unless it is told otherwise.
ADDRESS = ("127.0.0.1", 5000)
# Address at which to reach a server that listens on all addresses.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  the user's choice


def page(base: str) -> str:
    """URL of the experiments, in MLflow's mode for machine learning."""
    return below(base, "", fragment=f"/experiments?{urllib.parse.urlencode(MODE)}")


def study_page(base: str, experiment_id: str) -> str:
    """URL of a study's runs, best first, as its shared view shows them."""
    return below(base, "", fragment=fragment(experiment_id))


def study_pages(store: Store, base: str) -> Iterator[tuple[str, str]]:
    """Each study that has runs in a store, with the URL of its page below `base`; newest first."""
    found = store.client().search_experiments(order_by=["last_update_time DESC"])
    for experiment in found:
        if TAG in experiment.tags:
            yield experiment.name, study_page(base, experiment.experiment_id)


def page_of(store: Store, study: str, uid: str) -> str | None:
    """URL of a study's page on the store's server, or where `ui` serves it; None if it has none.

    Args:
        store: MLflow store that keeps it.
        study: Study's name.
        uid: Its unique id, by which it is found whatever its experiment is called.
    """
    found = locate(store, study, uid)
    if found is None or TAG not in store.client().get_experiment(found.experiment_id).tags:
        return None
    return study_page(
        store.uri if is_server(store.uri) else base_url(*ADDRESS), found.experiment_id
    )


def serve_ui(store: Store, host: str, port: int, ready: Callable[[str], None]) -> int:
    """Run MLflow's server until it ends or is interrupted.

    Args:
        store: MLflow store to show, which must not be a server.
        host: Address to listen on.
        port: Port to listen on.
        ready: Callback with the base URL, once the server answers.

    Returns:
        The server's exit code; 0 if it was interrupted.

    Raises:
        StateError: The port is taken, or the server didn't start.
    """
    store.client()  # opens the store safely, before the server would migrate it in place
    _check_free(host, port)
    # Run in an empty folder: uvicorn imports from the current one, even with `python -P`.
    with tempfile.TemporaryDirectory(prefix="catdog-search-") as folder:
        server = subprocess.Popen(
            _command(store, host, port),
            env=_environment(store),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            _await(server, below(base_url(_EVERYWHERE.get(host, host), port), "health"))
            ready(base_url(host, port))
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            signal.signal(signal.SIGTERM, previous)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def _command(store: Store, host: str, port: int) -> list[str]:
    command = [sys.executable, "-P", "-m", "mlflow", "ui"]
    if store.artifacts:
        command += ["--default-artifact-root", store.artifacts.as_uri()]
    return [*command, "--host", host, "--port", str(port), "--workers", "1"]


def _environment(store: Store) -> dict[str, str]:
    """Environment of the server, with the store's URI.

    The URI may be secret: everybody can list the arguments of a process, but not its environment.
    """
    file = sqlite_file(store.uri_to_read)
    return {
        **safe_environment(),
        "MLFLOW_BACKEND_STORE_URI": sqlite_uri(file.resolve()) if file else store.uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 10 processes otherwise
    }


def _check_free(host: str, port: int) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise StateError(f"{host}:{port}: {error.strerror}; choose another with --port") from None


def _await(server: subprocess.Popen[bytes], health: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise StateError(f"MLflow's server exited with {server.returncode} before it answered")
        with contextlib.suppress(OSError, http.client.HTTPException):
            open_url(health, timeout=5, direct=True).close()
            return
        time.sleep(0.3)
    raise StateError(f"MLflow's server did not answer at {health} within {_START_S} s")
