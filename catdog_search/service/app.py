"""The application: what can be asked, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from catdog_search import __version__
from catdog_search.service.answers import Json, Photos, Unusable
from catdog_search.service.champion import Champion, Served
from catdog_search.service.door import GONE, Door
from catdog_search.service.metrics import Metrics
from catdog_search.service.problems import Problem
from catdog_search.service.room import Room
from catdog_search.service.routes import HEALTH, add_routes
from catdog_search.service.settings import Settings
from catdog_search.service.uploads import Upload, is_multipart, read_body, read_parts

_T = TypeVar("_T")

PAGE = Path(__file__).with_name("page")
_INDEX = "index.html"
_UNUSABLE = "unusable"


class Service:
    """Answers requests with a champion, in a room.

    Args:
        settings: What is allowed.
        champion: The model.
        room: Places, threads and memory.
        starting: What is being done while there is no model, for `/ready`.
    """

    def __init__(
        self, settings: Settings, champion: Champion, room: Room, starting: str = ""
    ) -> None:
        self._settings = settings
        self._champion = champion
        self._room = room
        self._starting = starting or f"{champion.path.name} is not there"
        self._photos = Photos(settings.max_pixels, room.reserve)
        self.metrics = Metrics(lambda: room.waiting)
        self.metrics.model(champion.current)

    async def keep_looking(self) -> None:
        """Load what is put in the champion's file, until cancelled."""
        while True:
            # Not in one of the room's threads: those go on answering.
            self.metrics.model(await asyncio.to_thread(self._champion.look))
            await asyncio.sleep(self._settings.look_every_s)

    async def predict(self, request: Request) -> Response:
        """Which class photos show.

        The body is one image, or a form of one file or several.
        """
        with self._room.place() as body:
            served = self._served()
            uploads = await self._uploads(request, body.grow, self._settings.max_photos)
            found = await self._in_time(self._all(served, uploads))
        for each in found:
            self.metrics.photo(_UNUSABLE if isinstance(each, Unusable) else each["answer"])
        unusable = [each for each in found if isinstance(each, Unusable)]
        if len(unusable) < len(found):
            rows = [each.row if isinstance(each, Unusable) else each for each in found]
            return JSONResponse({"model": served.named, "photos": rows})
        problem = unusable[0].problem
        if is_multipart(request):
            text = f"none of {len(found)} files can be used; the first is {problem.text}"
            problem = Problem(HTTPStatus.UNPROCESSABLE_ENTITY, text)
        return problem.response(_id(request), photos=[each.row for each in unusable])

    async def explain(self, request: Request) -> Response:
        """Which class a photo shows, and which places of it speak for that.

        The body is one image, or a form of one file.
        """
        with self._room.place() as body:
            served = self._served()
            (upload,) = await self._uploads(request, body.grow, 1)
            found = await self._in_time(self._mapped(served, upload))
        if isinstance(found, Unusable):
            self.metrics.photo(_UNUSABLE)
            raise found.problem
        self.metrics.photo(found["answer"]["answer"])
        return JSONResponse({"model": served.named, **found})

    async def health(self) -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether a model answers, since when, and the last new one that stayed out."""
        refused = self._champion.refused
        facts = {"refused": refused and dataclasses.asdict(refused)}
        served = self._champion.current
        if served is None:
            return self._no_model().response(_id(request), ready=False, **facts)
        said = {"ready": True, "model": served.named, "since": served.since}
        return JSONResponse({**said, **facts})

    async def counted(self) -> Response:
        """Counters and gauges, as Prometheus reads them."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def model(self) -> Response:
        """All that the model says of itself."""
        model = self._served().model
        said = model.facts.model_dump(mode="json", exclude={"examples"})
        return JSONResponse({"digest": model.digest, **said})

    def _served(self) -> Served:
        if self._champion.current is None:
            raise self._no_model()
        return self._champion.current

    def _no_model(self) -> Problem:
        refused = self._champion.refused
        why = refused.reason if refused else self._starting
        headers = {"Retry-After": "5"}
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"no model answers yet: {why}", headers)

    async def _uploads(
        self, request: Request, grow: Callable[[int], None], most: int
    ) -> list[Upload]:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                body = await read_body(request, self._settings.max_body_bytes, grow)
        except TimeoutError:
            text = f"the body didn't come within {self._settings.timeout_s:g} s"
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, text, {"Connection": "close"}) from None
        if not is_multipart(request):
            return [Upload(None, body)]
        return await self._in_time(self._room.run(lambda: read_parts(request, body, most)))

    async def _all(self, served: Served, uploads: list[Upload]) -> list[Json | Unusable]:
        # No more photos of one request at a time than threads, so that others get a turn.
        turn = asyncio.Semaphore(self._settings.workers)

        async def one(upload: Upload) -> Json | Unusable:
            async with turn:
                return await self._room.run(lambda: self._photos.answer(served.model, upload))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(upload)) for upload in uploads]
        return [task.result() for task in tasks]

    async def _mapped(self, served: Served, upload: Upload) -> Json | Unusable:
        async with self._room.maps:
            return await self._room.run(lambda: self._photos.explain(served.model, upload))

    async def _in_time(self, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await work
        except TimeoutError:
            text = f"not answered within {self._settings.timeout_s:g} s"
            raise Problem(HTTPStatus.GATEWAY_TIMEOUT, text) from None


@contextlib.contextmanager
def opened(settings: Settings, champion: Champion, starting: str = "") -> Iterator[ASGIApp]:
    """The application behind its door; its threads end with the context.

    Args:
        settings: What is allowed.
        champion: The model; need not be loaded yet.
        starting: See `Service`.
    """
    with Room.opened(settings) as room:
        service = Service(settings, champion, room, starting)

        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            looking = asyncio.create_task(service.keep_looking())
            try:
                yield
            finally:
                looking.cancel()

        app = FastAPI(
            title="catdog-search",
            version=__version__,
            lifespan=lifespan,
            openapi_url=None,  # ours says more, and its pages would load third-party scripts
            redirect_slashes=False,
        )
        app.add_exception_handler(Problem, _say_problem)
        app.add_exception_handler(HTTPException, _say_http)
        app.add_exception_handler(ClientDisconnect, _say_nothing)
        app.add_exception_handler(Exception, _say_bug)
        has_token = settings.token is not None
        add_routes(app, service, most=settings.max_photos, has_token=has_token)
        # The page holds no private data, and asks for the token itself.
        free = (HEALTH, *_add_page(app))
        yield Door(app, service.metrics, settings.token, free)


def _id(request: Request) -> str:
    return str(request.scope["request_id"])


def _say_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response(_id(request))


def _say_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{HTTPStatus(error.status_code).phrase}: /openapi.json says what can be asked"
    problem = Problem(HTTPStatus(error.status_code), text, error.headers)
    return problem.response(_id(request))


def _say_nothing(_request: Request, _error: Exception) -> Response:
    return Response(status_code=GONE)


def _say_bug(request: Request, _error: Exception) -> Response:
    problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug; the log has its trace")
    return problem.response(_id(request))


def _add_page(app: FastAPI) -> list[str]:
    """Add the page's files, each under its name; returns their paths."""
    files = {path.name: path for path in sorted(PAGE.iterdir()) if path.is_file()}
    places = {"/" if name == _INDEX else f"/{name}": path for name, path in files.items()}
    for place, path in places.items():
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        send = _sender(path.read_bytes(), kind)
        app.add_api_route(place, send, methods=["GET"], include_in_schema=False)
    return list(places)


def _sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(content, media_type=kind)

    return send
