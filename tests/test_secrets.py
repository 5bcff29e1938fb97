"""Secrets: a server behind a password works, and nothing that we write or say names it."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit

import pytest
from click.testing import CliRunner
from tiny_study import run

from catdog_search import cli
from catdog_search.data.dataset import Dataset
from catdog_search.places import State
from catdog_search.search.messages import Event
from catdog_search.tracking.store import Store

USER, PASSWORD = "an:user", "hunter2/@?#ü"
AS_WRITTEN = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"


# What is for one connection alone.
DROPPED = ("Authorization", "Host", "Transfer-Encoding", "Content-Length")


class Guard(BaseHTTPRequestHandler):
    """Passes on to another server what names user and password, and refuses the rest."""

    behind: ClassVar[str] = ""
    refused: ClassVar[list[str]] = []

    def _pass_on(self) -> None:
        body = self._body()
        right = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != right:
            self.refused.append(self.path)
            self.send_error(401)
            return
        place = urlsplit(self.behind)
        sent = {k: v for k, v in self.headers.items() if k not in DROPPED}
        upstream = http.client.HTTPConnection(place.hostname or "", place.port)
        upstream.request(self.command, self.path, body, sent)
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def guarded(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """HOST:PORT of a server that wants a password, and a proxy that is nobody."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy-user:proxy-secret@127.0.0.1:9")
    Guard.behind = server
    Guard.refused.clear()
    guard = ThreadingHTTPServer(("127.0.0.1", 0), Guard)
    thread = threading.Thread(target=guard.serve_forever)
    thread.start()
    yield f"127.0.0.1:{guard.server_address[1]}"
    guard.shutdown()
    guard.server_close()
    thread.join()


def secrets_in(text: str) -> list[str]:
    known = (
        PASSWORD,
        quote(PASSWORD, safe=""),
        "hunter2",
        "proxy-secret",
        USER,
        quote(USER, safe=""),
    )
    return [secret for secret in known if secret in text]


def test_study_on_a_server_with_a_password_names_it_nowhere(
    guarded: str, tmp_path: Path, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{AS_WRITTEN}@{guarded}/")
    state = State.at(str(tmp_path / "state"))
    state.create()
    said: list[Event] = []
    report = run(state, pictures, 2, listener=said.append)
    assert report.view.counts == {"COMPLETE": 2}
    assert Guard.refused == []
    assert report.tracking_uri == f"http://{guarded}/"
    client = Store.of(state).client()
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    everything = [str(said), str(report), *(str(run.to_dictionary()) for run in runs)]
    assert secrets_in("\n".join(everything)) == []
    for path in state.root.rglob("*"):
        if path.is_file():
            assert secrets_in(path.read_bytes().decode("utf-8", "replace")) == [], path
    shown = CliRunner().invoke(
        cli.main, ["show", "--study", "tiny", "--json", "--state", str(state.root)]
    )
    assert json.loads(shown.output)["tracking_uri"] == f"http://{guarded}/"
    client.delete_experiment(runs[0].info.experiment_id)
