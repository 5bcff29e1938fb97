"""A service's whole life: listen, load, answer, and end when told to."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import signal
import socket
from collections.abc import Sequence

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from catdog_search.errors import RequestError
from catdog_search.service.app import opened
from catdog_search.service.beside import beside
from catdog_search.service.champion import Champion
from catdog_search.service.settings import Settings

# Seconds within which a request's head must arrive.
_HEAD_S = 10.0
_BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Bind to an address.

    Args:
        host: Name or number of an address of this machine.
        port: Port; 0 for any free one.

    Raises:
        RequestError: It can't be bound.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, proto)
    except OSError as error:
        raise RequestError(f"--host {host}: {error.strerror}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise RequestError(
            f"{host}:{port}: {error.strerror}; choose another with --host and --port"
        ) from None
    return found


def run(
    settings: Settings,
    champion: Champion,
    listening: socket.socket,
    watcher: Sequence[str] | None = None,
    starting: str = "",
) -> None:
    """Answer until SIGTERM or Ctrl-C; requests being answered then are finished.

    Args:
        settings: What is allowed.
        champion: The model.
        listening: See `listen`.
        watcher: What fetches new models, see `beside`; None for nothing.
        starting: What is being done while there is no model.
    """
    with opened(settings, champion, starting) as app:
        server = server_of(app if watcher is None else _with(app, watcher), settings.timeout_s)
        # uvicorn stops on a signal, and then raises it again for the previous handler.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: setattr(server, "should_exit", True))
        server.run(sockets=[listening])


def server_of(app: ASGIApp, timeout_s: float) -> uvicorn.Server:
    """The HTTP server of an application.

    Args:
        app: Application.
        timeout_s: Seconds that reading a request may take, and as many for answering it; on
            shutdown, running requests are given both.
    """
    config = uvicorn.Config(
        app,
        http=_Patient,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(2 * timeout_s),
    )
    return uvicorn.Server(config)


def say_to_log() -> None:
    """Log to stderr, one line per request."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    # Both would log what is odd about each odd request, the second one with its content.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def _with(app: ASGIApp, watcher: Sequence[str]) -> ASGIApp:
    """The application, with a process beside it for as long as it lives."""

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        async with beside(watcher):
            await app(scope, receive, send)

    return both


class _Patient(H11Protocol):
    """HTTP/1.1 that doesn't wait forever for a request's head, and refuses in JSON."""

    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_asked():
            self._stop_waiting()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # in the middle of an answer
            return
        body = json.dumps({"error": msg, "request_id": ""}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_asked(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if self._giving_up is None:
            self._giving_up = self.loop.call_later(_HEAD_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        self._giving_up = None
        if not self._is_asked() and not self.transport.is_closing():
            self.transport.close()
