"""Photos from the body of a request, which may be anything of any length."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from catdog_search.service.problems import Problem
from catdog_search.text import printable

_MULTIPART = b"multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """One file.

    Attributes:
        name: Its name as sent, made printable; None where it had none.
        content: Its bytes.
    """

    name: str | None
    content: bytes


def is_multipart(request: Request) -> bool:
    """Whether a request declares a multipart body."""
    return _content_type(request)[0].startswith(b"multipart/")


async def read_body(request: Request, most: int, grow: Callable[[int], None]) -> bytes:
    """Read a body, but no more of it than is allowed, whatever its header says.

    Args:
        request: Request that hasn't been read yet.
        most: Maximum number of bytes.
        grow: Called with the size of each piece; may refuse it.

    Raises:
        Problem: It is too large, empty, or encoded.
        ClientDisconnect: The client has gone.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        text = f"Content-Encoding {encoding!r} isn't read here; send the image as it is"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(most)
    chunks: list[bytes] = []
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > most:
            raise _too_large(most)
        grow(len(chunk))
        chunks.append(chunk)
    if not total:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is empty; send an image")
    return b"".join(chunks)


def _too_large(most: int) -> Problem:
    text = f"the body has more than {most / 1e6:g} MB, which is the most that is read"
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)


def read_parts(request: Request, body: bytes, most: int) -> list[Upload]:
    """The files of a multipart body.

    Args:
        request: Request whose header says where a part ends.
        body: The whole body.
        most: Maximum number of files.

    Raises:
        Problem: It can't be read, or holds anything but files, no files, or too many.
    """
    kind, options = _content_type(request)
    boundary = options.get(b"boundary")
    if kind != _MULTIPART or not boundary:
        raise _unreadable("its Content-Type must be multipart/form-data and name a boundary")
    found: list[Upload] = []
    ended: list[bool] = []

    def on_file(file: File) -> None:
        if len(found) == most:
            text = (
                f"the body holds more than {most} file{'s'[: most - 1]}, the most for one request"
            )
            raise Problem(HTTPStatus.BAD_REQUEST, text)
        found.append(_upload(file))

    parser = FormParser(
        _MULTIPART.decode(),
        _no_field,
        on_file,
        lambda: ended.append(True),
        boundary,
        config={"MAX_MEMORY_FILE_SIZE": math.inf, "UPLOAD_ERROR_ON_BAD_CTE": True},
    )
    try:
        parser.write(body)
        parser.finalize()
    # Covers FormParserError and the errors of decoding a part's transfer encoding.
    except ValueError as error:
        raise _unreadable(str(error)) from None
    if not ended:
        raise _unreadable("it ends before its last boundary")
    if not found:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body holds no file; send at least one image")
    return found


def _content_type(request: Request) -> tuple[bytes, dict[bytes, bytes]]:
    kind, options = parse_options_header(request.headers.get("content-type"))
    return kind.strip(), {name.lower(): value for name, value in options.items()}


def _unreadable(why: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, f"the multipart body can't be read: {why}")


def _no_field(field: Field) -> None:
    name = (field.field_name or b"").decode(errors="backslashreplace")
    text = f"field {name!r} holds no file; send images as files and nothing else"
    raise Problem(HTTPStatus.BAD_REQUEST, text)


def _upload(file: File) -> Upload:
    stream = file.file_object
    stream.seek(0)
    name = (file.file_name or b"").decode(errors="surrogateescape")
    return Upload(printable(name) or None, stream.read())
