"""The service's routes, and how the OpenAPI document describes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from catdog_search.service import shapes
from catdog_search.service.door import REQUEST_ID

if TYPE_CHECKING:
    from catdog_search.service.app import Service

_Json = dict[str, Any]

# For load balancers, which have no token; it says only that the process lives.
HEALTH = "/health"

_BINARY = {"type": "string", "format": "binary"}
_DESCRIPTION = """\
Photos are answered with a class, with `not sure`, or with `neither` where they show something else.
An error says in `error` what came and what is allowed; `request_id` finds it in the service's log.
"""
# How any photo may be refused.
_OF_PHOTOS = {
    400: (
        "The body is empty, or a form that can't be read, or holds no file or too many.",
        shapes.Failed,
    ),
    408: ("The body didn't come in time.", shapes.Failed),
    413: ("The body or the photo is too large.", shapes.Failed),
    415: ("The body is compressed as a whole.", shapes.Failed),
    422: ("Not an image, or one that can't be used.", shapes.Failed),
    429: ("All places are taken; Retry-After says when to try again.", shapes.Failed),
    503: ("There is no model yet.", shapes.Failed),
    504: ("Not answered in time.", shapes.Failed),
}
_OF_SEVERAL = _OF_PHOTOS | {422: ("None of the files can be used.", shapes.FailedPhotos)}


def add_routes(app: FastAPI, service: Service, *, most: int, has_token: bool) -> None:
    """Add the routes for programs, and `/openapi.json`, which describes them.

    Args:
        app: Application.
        service: What answers.
        most: Maximum number of photos per request.
        has_token: Whether a token is required.
    """

    def add(path: str, answer: Any, good: Any, *, method: str = "GET", **more: Any) -> None:
        others = more.pop("others", {})
        responses = {200: {"model": good} if isinstance(good, type) else good} | {
            status: {"description": text, "model": model}
            for status, (text, model) in others.items()
        }
        app.add_api_route(
            path,
            answer,
            methods=[method],
            responses=responses,
            response_model=None,
            operation_id=path.strip("/"),
            **more,
        )

    one = _body("photo", _BINARY)
    several = _body(
        "photos",
        {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": most},
    )
    add(
        "/predict", service.predict, shapes.Predicted,
        method="POST", others=_OF_SEVERAL, openapi_extra=several,
    )  # fmt: skip
    add(
        "/explain", service.explain, shapes.Explained,
        method="POST", others=_OF_PHOTOS, openapi_extra=one,
    )  # fmt: skip
    add(HEALTH, service.health, shapes.Health)
    no_model = ("No model answers yet.", shapes.NotReady)
    add("/ready", service.ready, shapes.Ready, others={503: no_model})
    add("/model", service.model, shapes.Said, others={503: (no_model[0], shapes.Failed)})
    add("/metrics", service.counted, {"content": {"text/plain": {"schema": {"type": "string"}}}})
    document = _document(app, has_token=has_token)

    async def say_document() -> Response:
        return JSONResponse(document)

    app.add_api_route("/openapi.json", say_document, methods=["GET"], include_in_schema=False)


def _body(name: str, files: _Json) -> _Json:
    """A body that is one image or a form; its field may have any name."""
    form = {
        "type": "object",
        "properties": {name: files},
        "required": [name],
        "additionalProperties": False,
    }
    image = {"schema": {**_BINARY, "minLength": 1}}
    kinds = {"image/*": image, "application/octet-stream": image}
    return {
        "requestBody": {
            "required": True,
            "content": {**kinds, "multipart/form-data": {"schema": form}},
        }
    }


def _document(app: FastAPI, *, has_token: bool) -> _Json:
    document: _Json = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes
    )
    if has_token:
        schemes = document["components"].setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if has_token and path != HEALTH:
                operation["security"] = [{"token": []}]
                failed = {"schema": {"$ref": "#/components/schemas/Failed"}}
                operation["responses"][str(HTTPStatus.UNAUTHORIZED.value)] = {
                    "description": "The token is missing or wrong.",
                    "content": {"application/json": failed},
                }
            for status, response in operation["responses"].items():
                response["headers"] = _headers(status)
    return document


def _headers(status: str) -> _Json:
    text = {"schema": {"type": "string"}}
    found = {REQUEST_ID: {"description": "Names the request in the log.", **text}}
    if status == str(HTTPStatus.TOO_MANY_REQUESTS.value):
        found["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer"}}
    return found
