"""Secrets: a server behind a password works, and nothing that we write or say names it."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit

import optuna
import pytest
from click.testing import CliRunner
from tiny_study import run

from catdog_search import cli
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.redact import redact, redact_all
from catdog_search.search.events import Event
from catdog_search.search.study import schema, views
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
    state = StateFolder.at(str(tmp_path / "state"))
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


@pytest.fixture
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "")
    return monkeypatch


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("at http://user:hunter2@host:5000/x, no", "at http://host:5000/x, no"),
        ("http://user:hun@ter2@host", "http://host"),
        ("http://hunter2@[::1]:5000", "http://[::1]:5000"),
        ("postgresql+psycopg://u:hunter2@h/db?sslmode=on", "postgresql+psycopg://h/db?sslmode=on"),
        ("'http://u:hunter2@a' and 'https://u:hunter2@b'", "'http://a' and 'https://b'"),
        ("https://h/x.zip?a=1&sig=hunter2&b=2", "https://h/x.zip?a=1&sig=***&b=2"),
        ("https://h/x?X-Amz-Signature=hunter2#f", "https://h/x?X-Amz-Signature=***#f"),
        ("https://h/x?access_token=hunter2", "https://h/x?access_token=***"),
        ("mssql://h/?odbc_connect=DRIVER;PWD=hunter2", "mssql://h/?odbc_connect=***;PWD=***"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("models:/catdog@champion", "models:/catdog@champion"),
        ("https://h/x?design=new&monkey=1", "https://h/x?design=new&monkey=1"),
        ("dropout=0.3 token", "dropout=0.3 token"),
    ],
)
def test_redact_takes_secrets_out_of_addresses_and_nothing_else(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "hunter2", "it said hunter2 twice: hunter2"),
        ("MLFLOW_TRACKING_TOKEN", "hun/ter2", "hun/ter2 and hun%2Fter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2", "key hunter2"),
        ("MLFLOW_TRACKING_URI", "http://user:hunter2@h", "the password hunter2"),
        ("MLFLOW_TRACKING_URI", "http://user:hunter%322@h", "decoded hunter22"),
        ("MLFLOW_TRACKING_URI", "http://user:hun/ter2@h:1", "no host in http://user:hun/ter2@h:1"),
        ("MLFLOW_TRACKING_URI", "http://user:12/ter2@h:1", "no host in http://user:12/ter2@h:1"),
        ("http_proxy", "http://proxy:hunter2@p:3128", "proxy hunter2"),
    ],
)
def test_redact_knows_what_the_environment_keeps_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str
) -> None:
    monkeypatch.setenv(name, value)
    assert not any(part in redact(text) for part in ("hunter2", "ter2", "hunter22"))


@pytest.mark.parametrize("value", ["true", "", "1"])
def test_redact_leaves_words_alone(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("USE_TOKEN", value)
    assert redact("it is true, 1 of 10") == "it is true, 1 of 10"


def test_redact_all_goes_through_a_structure() -> None:
    facts = {"a": ["http://u:p@h", ("https://u:p@h", 1)], "b": {"c": "x"}, "d": None}
    assert redact_all(facts) == {"a": ["http://h", ["https://h", 1]], "b": {"c": "x"}, "d": None}


@pytest.mark.parametrize(
    ("given", "uri", "credentials"),
    [
        ("http://user:hunter2@host:5000", "http://host:5000", ("user", "hunter2")),
        ("http://user:hunter2@host", "http://host", ("user", "hunter2")),
        (
            "https://user:hunter2@[::1]:5000/mlflow/",
            "https://[::1]:5000/mlflow/",
            ("user", "hunter2"),
        ),
        ("http://us%40er:hun%2Fter2@host/", "http://host/", ("us@er", "hun/ter2")),
        ("HTTP://host:5000", "HTTP://host:5000", None),
        ("http://host:5000/", "http://host:5000/", None),
    ],
)
def test_server_is_kept_without_its_credentials(
    no_secrets: pytest.MonkeyPatch,
    tmp_path: Path,
    given: str,
    uri: str,
    credentials: tuple[str, str] | None,
) -> None:
    no_secrets.setenv("MLFLOW_TRACKING_URI", given)
    store = Store.of(StateFolder.at(str(tmp_path)))
    assert (store.uri, store.credentials, store.artifacts) == (uri, credentials, None)
    assert "hunter2" not in repr(store)


def test_user_of_the_address_takes_the_password_of_the_environment(
    no_secrets: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_secrets.setenv("MLFLOW_TRACKING_URI", "http://user@host")
    no_secrets.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    assert Store.of(StateFolder.at(str(tmp_path))).credentials == ("user", "hunter2")


@pytest.mark.parametrize(
    "given",
    [
        "http://user:hunter2@",
        "http://user:hunter2@:5000",
        "http://user:hunter2@host:port",
        "http://user:hunter2@host:99999",
        "http://user:hun/ter2@host:5000",
        "http://user:12/hunter2@host:5000",
        "http://user:hun#ter2@host:5000",
        "http://user:12?hunter2@host:5000",
        "http://user:hunter2@[::1",
        "http://user:hunter2@host:5000?x=1",
        "http://user:hunter2@ho st",
        "http://hunter2@host",
        "http://:hunter2@host",
        "http://user:@host",
        "http://user:hunter2@127.0.0.1:9",
        "http://user:hunter2@127.0.0.1:9/prefix/",
        "postgresql://user:hunter2@127.0.0.1:9/db",
        "postgresql://user:hun/ter2@127.0.0.1:9/db",
        "nonsense://user:hunter2@host",
    ],
)
def test_tracking_uri_that_cannot_be_is_one_line_without_its_secret(
    no_secrets: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    no_secrets.setenv("MLFLOW_TRACKING_URI", given)
    with pytest.raises(StateError) as caught:
        Store.of(StateFolder.at(str(tmp_path))).client()
    said = str(caught.value) + redact("".join(traceback.format_exception(caught.value)))
    assert not any(secret in said for secret in ("hunter2", "ter2"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--debug"], ["--json"]])
def test_no_secret_is_printed(
    no_secrets: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    no_secrets.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9")
    for command in ("doctor", "ui"):
        if command == "ui" and "--json" in options:
            continue
        done = CliRunner().invoke(cli.main, [command, "--state", str(tmp_path / "s"), *options])
        assert "127.0.0.1:9" in done.output
        assert "hunter2" not in done.output


def test_trace_that_is_saved_holds_no_secret(
    no_secrets: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_secrets.setattr("tempfile.tempdir", str(tmp_path))

    def fail(*_: object) -> None:
        raise ZeroDivisionError("at http://user:hunter2@host, file b\udce9b")

    no_secrets.setattr("catdog_search.study.studies.available", fail)
    done = CliRunner().invoke(cli.main, ["studies", "--debug"])
    assert "bug: ZeroDivisionError: at http://host, file b\\xe9b; `catdog" in done.output
    (trace,) = tmp_path.glob("*.trace.txt")
    assert "hunter2" not in done.output + trace.read_text()


def test_uri_that_an_older_version_stored_is_read_without_credentials() -> None:
    study = optuna.create_study()
    study.set_user_attr(schema.TRACKING_URI, "http://user:hunter2@host:5000")
    assert views.view_of(study).tracking_uri == "http://host:5000"
    views.note_tracking(study, "http://host:5000")
    assert "hunter2" not in str(study.user_attrs)
    assert schema.TRACKED not in study.user_attrs
