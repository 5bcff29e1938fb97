"""A service in this process, asked without a network; or one behind a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import tiny_onnx
from PIL import Image
from starlette.types import ASGIApp

from catdog_search.answering.runtime import OnnxModel
from catdog_search.service.app import opened
from catdog_search.service.champion import Champion
from catdog_search.service.run import listen, server_of
from catdog_search.service.settings import Settings


def png(photo: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(photo).save(out, "PNG")
    return out.getvalue()


RED, BLUE, WHITE = map(png, (tiny_onnx.RED, tiny_onnx.BLUE, tiny_onnx.WHITE))


class Blocked(OnnxModel):
    """Answers as soon as it may, once it is `shut`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.may, self.entered = threading.Event(), threading.Semaphore(0)
        self.may.set()
        super().__init__(*args, **kwargs)

    def run(self, photos: Any) -> Any:
        self.entered.release()
        assert self.may.wait(20)
        return super().run(photos)

    def shut(self) -> None:
        self.may.clear()
        while self.entered.acquire(blocking=False):
            pass


def laid(path: Path, content: bytes) -> Path:
    """A file, replaced as a promotion replaces it."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)
    return path


def champion_of(path: Path, **others: Any) -> Champion:
    champion = Champion(laid(path, tiny_onnx.content(name="catdog", version=3)), **others)
    champion.look()
    assert champion.current
    return champion


def client(app: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


def ask(app: ASGIApp, path: str, method: str | None = None, **request: Any) -> httpx.Response:
    """One request; POST where it has a body."""
    method = method or ("POST" if {"content", "files"} & set(request) else "GET")

    async def once() -> httpx.Response:
        async with client(app) as asking:
            return await asking.request(method, path, **request)

    return asyncio.run(once())


@contextlib.contextmanager
def on_a_port(champion: Champion, **settings: Any) -> Iterator[str]:
    """The address of a service that runs in a thread."""
    chosen = Settings(look_every_s=0.02, **settings)
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with opened(chosen, champion) as app:
        server = server_of(app, chosen.timeout_s)
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
