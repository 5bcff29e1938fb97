"""A small server that keeps the service's contract, and fails when it is told to.

The real service can't be made to be busy, broken or without a model at a given moment; what the
page says then is tried on this one.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import tiny_onnx

import catdog_search
from catdog_search.answering.heat import heat
from catdog_search.answering.runtime import OnnxModel
from catdog_search.data.decode import UndecodableError, decode

PAGE = Path(catdog_search.__file__).parent / "service" / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Reply:
    """What is answered instead of what would be right."""

    status: int
    said: dict[str, Any] = field(default_factory=lambda: {"error": "told to"})
    headers: dict[str, str] = field(default_factory=dict)


class StandIn:
    """Args: the bytes of a model.

    Attributes:
        url: Where it is.
        token: What has to be sent along; None for nothing.
        delay: Seconds that each answer takes at least.
        replies: Faults by path, each used once.
        seen: Path of every request.
        most_at_once: Largest number of requests that were answered at a time.
    """

    def __init__(self, content: bytes) -> None:
        self.model = OnnxModel(content, "stand-in", threads=1)
        self.token: str | None = None
        self.delay = 0.0
        self.replies: dict[str, deque[Reply]] = defaultdict(deque)
        self.seen: list[str] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def facts(self) -> dict[str, Any]:
        """What `/model` says."""
        facts = self.model.facts.model_dump(mode="json", exclude={"examples"})
        return {**facts, "digest": self.model.digest}

    def swap(self, **facts: Any) -> None:
        """Answer with another model from now on."""
        said = {**self.model.facts.model_dump(exclude={"examples"}), **facts}
        self.model = OnnxModel(tiny_onnx.content(**said), "swapped", threads=1)

    def reply(self, path: str, body: bytes, authorization: str | None) -> Reply:
        with self._lock:
            self.seen.append(path)
            self._at_once += path == "/predict"
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.delay)
            if self.replies[path]:
                return self.replies[path].popleft()
            if self.token is not None and authorization != f"Bearer {self.token}":
                return Reply(401, {"error": "a bearer token is asked for"})
            return self._right(path, body)
        except UndecodableError as error:
            return Reply(422, {"error": str(error)})
        finally:
            with self._lock:
                self._at_once -= path == "/predict"

    def _right(self, path: str, body: bytes) -> Reply:
        ways: dict[str, Callable[[bytes], dict[str, Any]]] = {
            "/model": lambda _: self.facts(),
            "/predict": self._predict,
            "/explain": self._explain,
        }
        return Reply(200, ways[path](body)) if path in ways else Reply(404, {"error": "not here"})

    def _predict(self, body: bytes) -> dict[str, Any]:
        facts = self.model.facts
        model = {"name": facts.name, "version": facts.version, "digest": self.model.digest}
        return {"model": model, "photos": [self._row(body)]}

    def _explain(self, body: bytes) -> dict[str, Any]:
        found = heat(self.model, decode(body, self.model.facts.image_size))
        return {"answer": self._row(body), **asdict(found), "map": found.map.tolist()}

    def _row(self, body: bytes) -> dict[str, Any]:
        (answer,) = self.model.answer(decode(body, self.model.facts.image_size)[None])
        return {"name": None, "answer": answer.text, **asdict(answer)}


def _handler(service: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path in FILES:
                name, kind = FILES[self.path]
                self._send(200, (PAGE / name).read_bytes(), {"Content-Type": kind})
            else:
                self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes) -> None:
            reply = service.reply(self.path, body, self.headers["Authorization"])
            kind = {"Content-Type": "application/json", "X-Request-ID": "f00"}
            self._send(reply.status, json.dumps(reply.said).encode(), {**kind, **reply.headers})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            everywhere = {
                "Content-Security-Policy": POLICY,
                "X-Content-Type-Options": "nosniff",
                "Content-Length": str(len(content)),
            }
            for name, value in {**everywhere, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    return Handler
