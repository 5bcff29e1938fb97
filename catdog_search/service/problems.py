"""What a request is refused with: a status and one line."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse

from catdog_search.text import printable


class Problem(Exception):  # noqa: N818  as RFC 9457 calls it
    """A request can't be answered.

    Attributes:
        status: HTTP status.
        text: Why, in one line: what came, what is allowed.
        headers: Headers of the response.
    """

    def __init__(
        self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = printable(text)
        self.headers = dict(headers or {})

    def response(self, request_id: str, **more: object) -> JSONResponse:
        """The response: `error`, `request_id` and whatever else is given."""
        content = {"error": self.text, "request_id": request_id, **more}
        return JSONResponse(content, self.status, self.headers)


def too_busy(text: str, retry_after_s: int) -> Problem:
    """A problem that may not occur on another try."""
    headers = {"Retry-After": str(retry_after_s)}
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, f"{text}; try again in {retry_after_s} s", headers)
