"""The download, against a server of our own: progress, resume, size and checksum."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from catdog_search import cli
from catdog_search.data.download import download
from catdog_search.errors import DataError

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; what the path says goes wrong, does."""

    ranges: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        start = 0
        if asked and not self.path.startswith("/no-ranges"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path.startswith("/short") else body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def forget_ranges() -> None:
    Handler.ranges.clear()


def test_download_fetches_checks_and_reports(site: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "cats.zip"
    download(f"{site}/cats.zip", SHA256, target, lambda *progress: seen.append(progress))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in target.parent.iterdir()] == ["cats.zip"]


def test_download_goes_on_where_it_stopped(site: str, tmp_path: Path) -> None:
    target = tmp_path / "cats.zip"
    with pytest.raises(DataError, match=r"ended|IncompleteRead|run it again to go on"):
        download(f"{site}/short", SHA256, target)
    half = (tmp_path / "cats.zip.partial").stat().st_size
    assert 0 < half < len(CONTENT)
    assert not target.exists()
    download(f"{site}/cats.zip", SHA256, target)
    assert Handler.ranges == [None, f"bytes={half}-"]
    assert target.read_bytes() == CONTENT


def test_download_begins_anew_where_the_server_knows_no_ranges(site: str, tmp_path: Path) -> None:
    (tmp_path / "cats.zip.partial").write_bytes(b"something else")
    download(f"{site}/no-ranges", SHA256, tmp_path / "cats.zip")
    assert (tmp_path / "cats.zip").read_bytes() == CONTENT


def test_download_stopped_before_its_check_is_finished(site: str, tmp_path: Path) -> None:
    (tmp_path / "cats.zip.partial").write_bytes(CONTENT)
    download(f"{site}/cats.zip", SHA256, tmp_path / "cats.zip")
    assert (tmp_path / "cats.zip").read_bytes() == CONTENT


def test_download_begins_anew_where_more_is_left_than_there_is(site: str, tmp_path: Path) -> None:
    (tmp_path / "cats.zip.partial").write_bytes(CONTENT + b"more")
    download(f"{site}/cats.zip", SHA256, tmp_path / "cats.zip")
    assert (tmp_path / "cats.zip").read_bytes() == CONTENT


def test_download_with_an_empty_checksum_is_refused(site: str, tmp_path: Path) -> None:
    arguments = ["--to", str(tmp_path), "--url", f"{site}/cats.zip", "--sha256", ""]
    done = CliRunner().invoke(cli.main, ["data", "download", *arguments])
    assert done.exit_code == 1
    assert "'' is not a SHA-256 digest" in done.output
    assert list(tmp_path.iterdir()) == []


def test_download_removes_another_file(site: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is another file; it is removed"):
        download(f"{site}/cats.zip", "0" * 64, tmp_path / "cats.zip")
    assert list(tmp_path.iterdir()) == []


def test_download_fetches_nothing_that_is_there(site: str, tmp_path: Path) -> None:
    (tmp_path / "cats.zip").write_bytes(CONTENT)
    download(f"{site}/cats.zip", SHA256, tmp_path / "cats.zip")
    assert Handler.ranges == []


def test_download_keeps_a_file_of_the_same_name(site: str, tmp_path: Path) -> None:
    (tmp_path / "cats.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match="is there already, but is another file"):
        download(f"{site}/cats.zip", SHA256, tmp_path / "cats.zip")
    assert (tmp_path / "cats.zip").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("{site}/missing", "404"),
        ("http://127.0.0.1:9/x", "run it again to go on"),
        ("ftp://h/x", "neither an http nor an https"),
        ("file:///etc/passwd", "neither an http nor an https"),
    ],
)
def test_download_that_cannot_be_is_one_line(
    site: str, tmp_path: Path, url: str, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        download(url.format(site=site), SHA256, tmp_path / "cats.zip")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_download_command_takes_another_place(site: str, tmp_path: Path) -> None:
    arguments = ["data", "download", "--to", str(tmp_path), "--url", f"{site}/cats.zip"]
    run = CliRunner()
    assert run.invoke(cli.main, arguments).exit_code == 2
    done = run.invoke(cli.main, [*arguments, "--sha256", SHA256])
    assert done.exit_code == 0, done.output
    assert "100 %" in done.output
    assert "complete, checksum right" in done.output
    assert (tmp_path / "cats.zip").read_bytes() == CONTENT


def test_two_downloads_at_once_fetch_it_once(site: str, tmp_path: Path) -> None:
    target = tmp_path / "cats.zip"
    counted: list[int] = []

    def fetch() -> Path:
        return download(f"{site}/cats.zip", SHA256, target, lambda n, _: counted.append(n))

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(fetch) for _ in range(2)]
        assert [call.result() for call in calls] == [target, target]
    assert counted.count(max(counted)) == 1
    assert list(tmp_path.iterdir()) == [target]
