"""What every request passes through: its id, the token, headers, the log, the counters."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catdog_search.service.metrics import Metrics
from catdog_search.service.problems import Problem

_LOG = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
_OWN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Route of requests that match none of ours: their path is not logged, it may be a file's name.
_NO_ROUTE = "none"
# Everything comes from this origin, nothing embeds the page; photos are shown from the page's own
# memory.
CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="catdog-search"'}
# The client had gone, in nginx's numbering; seen in the log and the counters only.
GONE = 499


class Door:
    """Wraps the application.

    Args:
        app: Answers what is let in; puts its route into the scope.
        metrics: Counters.
        token: Token that a client must show; None for none.
        free: Paths that need no token.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, token: str | None, free: Collection[str]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._open = frozenset(free)
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        passed = _Passed(scope)
        try:
            await self._pass(passed, receive, send)
        finally:
            took = time.perf_counter() - began
            self._metrics.answered(passed.route, passed.status, took)
            _LOG.info(
                "%s %s %s %d %.0f ms",
                passed.request_id,
                scope["method"] if scope["method"] in _METHODS else "other",
                passed.route,
                passed.status,
                1000 * took,
            )

    async def _pass(self, passed: _Passed, receive: Receive, send: Send) -> None:
        async def outward(message: Message) -> None:
            await send(passed.outward(message))

        if not self._is_welcome(passed.scope):
            problem = Problem(HTTPStatus.UNAUTHORIZED, _NO_TOKEN, _CHALLENGE)
            await problem.response(passed.request_id)(passed.scope, receive, outward)
            return
        try:
            await self._app(passed.scope, receive, outward)
        # A bug, already answered as one; the trace shows code and no content.
        except Exception:
            _LOG.exception("%s: a bug", passed.request_id)

    def _is_welcome(self, scope: Scope) -> bool:
        if self._token is None or scope["path"] in self._open:
            return True
        scheme, _, shown = Headers(scope=scope).get("authorization", "").partition(" ")
        # In constant time, whatever a wrong token has in common with the right one.
        is_right = hmac.compare_digest(shown.strip().encode("latin-1"), self._token)
        return is_right and scheme.lower() == "bearer"


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"))
_NO_TOKEN = "a token is wanted: send the header 'Authorization: Bearer TOKEN'"  # noqa: S105


class _Passed:
    """One request on its way through."""

    def __init__(self, scope: Scope) -> None:
        given = Headers(scope=scope).get(REQUEST_ID, "")
        self.request_id = given if _OWN_ID.fullmatch(given) else uuid.uuid4().hex
        self._has_no_body = scope["method"] == "HEAD"
        self.scope: Scope = {
            **scope,
            "request_id": self.request_id,
            # HEAD works wherever GET does.
            "method": "GET" if self._has_no_body else scope["method"],
        }
        self.status = GONE

    @property
    def route(self) -> str:
        route = self.scope.get("route")
        return str(getattr(route, "path", _NO_ROUTE))

    def outward(self, message: Message) -> Message:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers[REQUEST_ID] = self.request_id
        elif self._has_no_body:
            return {**message, "body": b""}
        return message
