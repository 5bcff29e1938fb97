"""The service as a process: how it begins, listens, speaks HTTP, and ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tiny_onnx
from click.testing import CliRunner
from serving import RED, champion_of, laid, on_a_port

from catdog_search.cli import main
from catdog_search.service import run as running

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "catdog.onnx"
    return laid(path, tiny_onnx.content(name="catdog", version=3))


class Process:
    def __init__(self, command: Sequence[str], **more: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        self.port = int(self.url.rpartition(":")[2])

    def ended(self, how: int | None = None) -> tuple[int, str]:
        """Exit status and stderr, after a signal."""
        if how is not None:
            self.process.send_signal(how)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@contextlib.contextmanager
def started(command: Sequence[str], **more: Any) -> Iterator[Process]:
    found = Process(command, **more)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.communicate()


def served(*arguments: str) -> list[str]:
    return ["-m", "catdog_search", "serve", *arguments, "--port", "0"]


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_first_answer_comes_soon_without_keras_or_mlflow(model: Path) -> None:
    """Processor time, which a busy machine doesn't stretch as it does the clock's."""
    with started(served(str(model))) as process:
        assert httpx.post(f"{process.url}/predict", content=RED).status_code == 200
        used = psutil.Process(process.process.pid).cpu_times()
        maps = Path(f"/proc/{process.process.pid}/maps").read_text()
        assert process.ended(signal.SIGTERM)[0] == 0
    assert used.user + used.system < 1.2
    assert "onnxruntime" in maps
    assert not re.search("tensorflow|jaxlib|torch|sklearn|h5py", maps)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_what_has_begun_is_answered_before_the_end(model: Path, how: int) -> None:
    with started(served(str(model))) as process:
        httpx.get(f"{process.url}/health")  # it is up
        half = len(RED) // 2
        with socket.create_connection(("127.0.0.1", process.port)) as asking:
            head = f"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: {len(RED)}\r\n\r\n"
            asking.sendall(head.encode() + RED[:half])
            time.sleep(0.1)
            process.process.send_signal(how)

            def is_refused() -> bool:
                with socket.socket() as other:
                    return other.connect_ex(("127.0.0.1", process.port)) != 0

            until(is_refused)
            asking.sendall(RED[half:])
            answer = asking.makefile("rb").read()
        code, said = process.ended()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"answer":"dog"' in answer
    assert code == 0
    assert "POST /predict 200" in said
    assert "Traceback" not in said


def test_body_larger_than_allowed_is_refused_where_it_is_sent_whole(model: Path) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(400):
            yield bytes(50_000)

    with started(served(str(model), "--max-body-mb", "1")) as process:
        for content in (bytes(20_000_000), chunks()):
            got = httpx.post(f"{process.url}/predict", content=content)
            assert got.status_code == 413
        assert httpx.post(f"{process.url}/predict", content=RED).status_code == 200
        memory = psutil.Process(process.process.pid).memory_info().rss
    assert memory < 250e6


# The watcher


WATCHED = """
import os, pathlib, subprocess, sys, threading, time
def end_by_itself():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=end_by_itself, daemon=True).start()
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("anything", flush=True)
file = pathlib.Path(sys.argv[2])
lines = file.read_text() if file.exists() else ""
fresh = file.with_suffix(".fresh")
fresh.write_text(lines + f"{os.getpid()} {own.pid}\\n")
fresh.replace(file)
time.sleep(60)
"""
SERVING = """
import sys
from pathlib import Path
from catdog_search.service.champion import Champion
from catdog_search.service.run import listen, run
from catdog_search.service.settings import Settings
listening = listen("127.0.0.1", 0)
print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
run(Settings(), Champion(Path(sys.argv[1])), listening, ["watched", "--pids", sys.argv[2]])
"""


@pytest.fixture
def beside(model: Path, tmp_path: Path) -> Iterator[tuple[Process, Callable[[int], list[int]]]]:
    """A service with a process beside it; and the pids of the n-th of those."""
    (tmp_path / "watched.py").write_text(WATCHED)
    file = tmp_path / "pids"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)

    def pids(n: int) -> list[int]:
        until(lambda: file.exists() and file.read_text().count("\n") > n)
        return [int(pid) for pid in file.read_text().splitlines()[n].split()]

    command = ["-c", SERVING, str(model), str(file)]
    with started(command, env={**os.environ, "PYTHONPATH": path}) as process:
        yield process, pids


def are_gone(pids: Sequence[int]) -> bool:
    def lives(pid: int) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False

    return not any(map(lives, pids))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_watcher_ends_with_the_service_and_all_that_it_has_started(
    beside: tuple[Process, Callable[[int], list[int]]], how: int
) -> None:
    process, pids = beside
    first = pids(0)
    assert not are_gone(first)
    code, _ = process.ended(how)
    assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    until(lambda: are_gone(first))


def test_watcher_that_dies_is_started_again(
    beside: tuple[Process, Callable[[int], list[int]]],
) -> None:
    process, pids = beside
    watcher, own = pids(0)
    os.kill(watcher, signal.SIGKILL)
    second = pids(1)
    assert second[0] != watcher
    until(lambda: are_gone([own]))  # what a dead one has started isn't left behind
    assert "watched ended with -9; again in 1 s" in process.ended(signal.SIGTERM)[1]


# HTTP


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(running, "_HEAD_S", 0.3)
    with on_a_port(champion_of(tmp_path / "m.onnx"), timeout_s=2) as url:
        yield int(url.rpartition(":")[2])


def said_to(port: int, *parts: bytes, pause: float = 0) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as asking:
        asking.settimeout(10)
        for part in parts:
            asking.sendall(part)
            time.sleep(pause)
        return asking.makefile("rb").read()


HEAD = b"POST /predict HTTP/1.1\r\nhost: a\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nnot a length\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_json(port: int, request_: bytes) -> None:
    answer = said_to(port, request_)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/json" in answer
    assert b'{"error": "Invalid HTTP request received."' in answer


@pytest.mark.parametrize("parts", [(), (b"GET /",), (b"G", b"E", b"T", b" ", b"/", b"a" * 9)])
def test_head_that_doesnt_come_is_not_waited_for(port: int, parts: tuple[bytes, ...]) -> None:
    began = time.monotonic()
    # One who sends a little now and then wins nothing by it.
    with contextlib.suppress(ConnectionError):
        assert said_to(port, *parts, pause=0.05) == b""
    assert time.monotonic() - began < 3


def test_second_head_is_waited_for_no_longer_than_the_first(port: int) -> None:
    answer = said_to(port, b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /", pause=0.1)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


def test_connection_in_use_is_not_given_up(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as asking:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert asking.post("/predict", content=RED).status_code == 200


def test_body_that_is_sent_too_slowly_is_refused(port: int) -> None:
    answer = said_to(port, HEAD + b"content-length: 9\r\n\r\n", *[b"a"] * 3, pause=0.5)
    assert answer.startswith(b"HTTP/1.1 408")


# The command


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a command would have begun."""
    found: list[tuple[Any, ...]] = []

    def run(*args: Any) -> None:
        found.append(args)
        args[2].close()

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr(running, "say_to_log", lambda: None)
    monkeypatch.delenv("CATDOG_TOKEN", raising=False)
    return found


def call(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["serve", *arguments, "--port", "0"])


def test_command_says_where_it_listens(ran: list[Any], model: Path) -> None:
    done = call(str(model), "--queue", "3", "--max-body-mb", "2", "--timeout", "7")
    assert done.exit_code == 0
    assert re.match(r"http://127\.0\.0\.1:\d+\n", done.stdout)
    assert "warning" not in done.output
    (settings, champion, _, watcher, _), *_ = ran
    assert (settings.queue, settings.max_body_bytes, settings.timeout_s) == (3, 2_000_000, 7)
    assert champion.path == model
    assert watcher is None


@pytest.mark.parametrize(
    ("host", "token", "says"),
    [
        ("0.0.0.0", None, "without any token"),
        ("", None, "without any token"),
        ("0.0.0.0", "let-me-in", "with the token"),
    ],
)
def test_command_says_aloud_what_another_address_opens(
    ran: list[Any], model: Path, host: str, token: str | None, says: str
) -> None:
    done = call(str(model), "--host", host, *(("--token", token) if token else ()))
    assert done.exit_code == 0
    assert "warning: " in done.stderr
    assert "whoever reaches port" in done.stderr
    assert says in done.stderr
    assert "let-me-in" not in done.output
    assert ran[0][0].token == token


def test_command_takes_the_token_from_the_environment(
    ran: list[Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_TOKEN", "let-me-in")
    assert call(str(model)).exit_code == 0
    assert ran[0][0].token == "let-me-in"


@pytest.mark.parametrize("token", ["", "a b", "é", "a\nb"])
def test_command_refuses_a_token_that_no_header_holds(
    ran: list[Any], model: Path, token: str
) -> None:
    done = call(str(model), "--token", token)
    assert done.exit_code == 2
    assert "printable ASCII" in done.stderr
    assert not ran


def test_token_that_is_set_and_empty_does_not_open_the_service(
    ran: list[Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_TOKEN", "")
    done = call(str(model))
    assert done.exit_code == 2
    assert "CATDOG_TOKEN" in done.stderr
    assert not ran


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str, Path | None], list[list[str]]]:
    """The registry, asked by the process that `serve` starts: says something, may lay a file."""

    def answering(code: int, said: str, path: Path | None) -> list[list[str]]:
        commands: list[list[str]] = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            commands.append(command)
            if path is not None:
                path.parent.mkdir(parents=True)
                path.write_bytes(tiny_onnx.content())
            return subprocess.CompletedProcess(command, code, "", said)

        monkeypatch.setattr("catdog_search.children.subprocess.run", run)
        return commands

    return answering


def test_command_without_a_file_has_the_registry_asked_and_watched(
    ran: list[Any], tmp_path: Path, asked: Callable[..., list[list[str]]]
) -> None:
    path = tmp_path / "served" / "pets.onnx"
    commands = asked(0, "", path)
    done = call("pets", "--state", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert commands[0][3:] == ["--once", "--model", "pets", "--state", str(tmp_path)]
    assert "asking for the champion of 'pets'" in done.stderr
    (_, champion, _, watcher, _), *_ = ran
    assert champion.path == path
    assert champion.current
    assert watcher[1:] == ["--model", "pets", "--state", str(tmp_path)]
    assert call("pets", "--state", str(tmp_path)).exit_code == 0
    assert len(commands) == 1  # the file is there


def test_wrong_name_ends_before_anything_is_answered(
    ran: list[Any], tmp_path: Path, asked: Callable[..., list[list[str]]]
) -> None:
    asked(1, "a warning\nmodel pest: is not registered", None)
    done = call("pest", "--state", str(tmp_path))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "error: model pest: is not registered"
    assert not ran


@pytest.mark.parametrize("name", ["run:0123", "pets@champion"])
def test_what_is_no_name_of_a_registered_model_is_refused(ran: list[Any], name: str) -> None:
    done = call(name)
    assert done.exit_code == 2
    assert "takes the name of a registered model" in done.stderr
    assert not ran


@pytest.mark.parametrize("content", [None, b"nonsense", tiny_onnx.content(examples=())])
def test_command_refuses_a_file_that_cant_answer(
    ran: list[Any], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    done = call(str(path))
    assert done.exit_code == 1
    assert re.search(r"error: model .*m\.onnx: ", done.stderr)
    assert done.stderr.count("\n") == 1
    assert not ran


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "0.0.0.0"])
def test_command_refuses_an_address_that_cant_be_had(
    ran: list[Any], model: Path, host: str
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(main, ["serve", str(model), "--host", host, "--port", port])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert "--host" in done.stderr
    assert not ran


def test_service_does_what_its_document_says(model: Path, tmp_path: Path) -> None:
    with started(served(str(model), "--token", "let-me-in")) as process:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run"]
        command += [f"{process.url}/openapi.json", "--max-examples", "5", "--seed", "1"]
        command += ["--header", "Authorization: Bearer let-me-in"]
        # Its configuration lies there; what it leaves lies elsewhere.
        (tmp_path / "schemathesis.toml").symlink_to(ROOT / "schemathesis.toml")
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        code, said = process.ended(signal.SIGTERM)
    assert done.returncode == 0, done.stdout[-3000:]
    assert code == 0
    assert "Traceback" not in said
