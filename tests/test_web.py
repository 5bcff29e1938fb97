"""Addresses, and who is asked through a proxy."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import requests.utils

from catdog_search.data.download import download, file_name
from catdog_search.errors import DataError
from catdog_search.tracking import ui
from catdog_search.web import (
    ask_loopback_directly,
    base_url,
    basic_auth,
    below,
    is_loopback,
    open_url,
    read_address,
)

DEAD_PROXY = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Site(BaseHTTPRequestHandler):
    """Says what it was asked; under /elsewhere it sends one on."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "/there")
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    Site.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment whose proxy is dead."""
    for name in PROXIES:
        monkeypatch.setenv(name, DEAD_PROXY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    return monkeypatch


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("", False),
    ],
)
def test_is_loopback_knows_this_machine(host: str, is_here: bool) -> None:
    assert is_loopback(host) == is_here


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.usefixtures("proxied")
def test_this_machine_is_asked_without_a_proxy(port: int, host: str) -> None:
    open_url(f"http://{host}:{port}/x", 5).close()
    assert Site.seen == [("/x", None)]


@pytest.mark.usefixtures("proxied")
def test_others_are_asked_through_the_proxy() -> None:
    with pytest.raises(OSError, match="refused"):
        open_url("http://192.0.2.1/x", 5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:5", "http://localhost:5", "http://[::1]:5"])
@pytest.mark.parametrize("known", ["", "intranet", "intranet, .example.org"])
def test_mlflows_client_asks_this_machine_without_a_proxy(
    proxied: pytest.MonkeyPatch, url: str, known: str
) -> None:
    proxied.setenv("NO_PROXY", known)
    ask_loopback_directly(read_address(url).host)
    assert requests.utils.get_environ_proxies(url, no_proxy=None) == {}
    assert requests.utils.get_environ_proxies("http://example.com", no_proxy=None) != {}
    for name in ("no_proxy", "NO_PROXY"):
        assert os.environ[name].startswith(known)
    before = os.environ["no_proxy"]
    ask_loopback_directly(read_address(url).host)
    assert os.environ["no_proxy"] == before


def test_another_machine_stays_behind_the_proxy(proxied: pytest.MonkeyPatch) -> None:
    ask_loopback_directly("example.com")
    assert os.environ["no_proxy"] == ""


def test_credentials_go_no_further_than_where_they_belong(port: int) -> None:
    open_url(f"http://127.0.0.1:{port}/elsewhere", 5, authorization="Basic x").close()
    assert Site.seen == [("/elsewhere", "Basic x"), ("/there", None)]


def test_basic_auth_takes_any_letters() -> None:
    word, value = basic_auth("us:er", "pässwörd").split()
    assert (word, base64.b64decode(value).decode()) == ("Basic", "us:er:pässwörd")


def test_base_url_puts_a_number_of_version_6_in_brackets() -> None:
    assert base_url("::1", 5000) == "http://[::1]:5000"
    assert base_url("localhost", 5000) == "http://localhost:5000"


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://h:1", "http://h:1/health"),
        ("https://[::1]/", "https://[::1]/health"),
        ("http://h/mlflow/", "http://h/mlflow/health"),
    ],
)
def test_address_below_another_keeps_its_path(url: str, whole: str) -> None:
    assert below(url, "health") == whole


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_taken_port_is_one_line(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as taken:
        try:
            taken.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no such addresses")
        taken.listen()
        with pytest.raises(ui.StateError, match="choose another with --port"):
            ui._check_free(host, taken.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/cats.zip", "cats.zip"),
        ("https://u:p@h/a/cats.zip?token=hunter2&x=/y#z", "cats.zip"),
        ("https://h/a/cats%20and%20dogs.zip", "cats and dogs.zip"),
        ("https://h/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://h/@me/cats.zip", "cats.zip"),
    ],
)
def test_file_is_named_by_the_path_of_its_address(url: str, name: str) -> None:
    assert file_name(url) == name


@pytest.mark.parametrize("url", ["https://h", "https://h/", "https://h/a/..", "https://h/%2E%2E"])
def test_address_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(DataError, match="names no file"):
        file_name(url)


def test_download_takes_user_and_password_and_prints_neither(port: int, tmp_path: Path) -> None:
    url = f"http://user:hunter2@127.0.0.1:{port}/cats.zip?sig=hunter3"
    with pytest.raises(DataError) as caught:
        download(url, "0" * 64, tmp_path / "cats.zip")
    assert Site.seen == [("/cats.zip?sig=hunter3", basic_auth("user", "hunter2"))]
    assert "is another file" in str(caught.value)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@host:port/x", "http://user:hunter2@/x", "http://h\u00f6st/x y"]
)
def test_download_from_no_address_is_one_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        download(url, "0" * 64, tmp_path / "cats.zip")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
