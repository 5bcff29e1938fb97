"""A new champion: noticed, tried, swapped without a dropped request; a bad one stays out."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_onnx
from serving import RED, Blocked, ask, champion_of, client, laid, on_a_port

from catdog_search.answering.facts import Example
from catdog_search.answering.runtime import OnnxModel
from catdog_search.service.app import opened
from catdog_search.service.champion import Champion, Refused, Served
from catdog_search.service.settings import Settings

NEXT = tiny_onnx.content(name="catdog", version=4)
LYING = tiny_onnx.content(
    name="catdog", version=5, examples=(Example.of(tiny_onnx.RED, 0.5, None),)
)
UNTRIED = tiny_onnx.content(name="catdog", version=6, examples=())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catdog.onnx"


@pytest.fixture
def champion(path: Path) -> Champion:
    return champion_of(path)


def version(champion: Champion) -> int | None:
    assert champion.current
    return champion.current.model.facts.version


def test_new_file_answers_after_its_self_test(champion: Champion) -> None:
    laid(champion.path, NEXT)
    found = champion.look()
    assert isinstance(found, Served)
    assert found is champion.current
    assert version(champion) == 4


def test_file_is_loaded_once(path: Path) -> None:
    loads: list[Path] = []

    def counting(where: Path, threads: int) -> OnnxModel:
        loads.append(where)
        return OnnxModel.open(where, threads)

    champion = champion_of(path, open_model=counting)
    for _ in range(3):
        assert champion.look() is None
    laid(path, LYING)
    for _ in range(3):
        champion.look()
    assert len(loads) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LYING, "says 0.5 else of its example 0"),
        (UNTRIED, "carries no examples"),
        (b"", "can't be loaded"),
        (b"no model", "can't be loaded"),
        (NEXT[: len(NEXT) // 2], "can't be loaded"),
    ],
)
def test_file_that_fails_stays_out_and_why_is_said(
    champion: Champion, content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    laid(champion.path, content)
    with opened(Settings(), champion) as app:
        found = champion.look()
        assert isinstance(found, Refused)
        assert version(champion) == 3
        said = ask(app, "/ready").json()
        assert ask(app, "/predict", content=RED).json()["model"]["version"] == 3
    assert said["ready"] is True
    assert said["refused"]["file"] == "catdog.onnx"
    assert reason in said["refused"]["reason"]
    assert str(champion.path.parent) not in said["refused"]["reason"]
    assert "new model refused, catdog version 3" in caplog.text


def test_loading_that_breaks_in_any_way_ends_nothing(path: Path) -> None:
    champion = champion_of(path)

    def broken(*_: Any) -> OnnxModel:
        raise ZeroDivisionError

    champion._open = broken
    laid(path, NEXT)
    assert isinstance(champion.look(), Refused)
    assert version(champion) == 3


def test_good_file_after_a_bad_one_answers(champion: Champion) -> None:
    laid(champion.path, LYING)
    champion.look()
    laid(champion.path, NEXT)
    champion.look()
    assert version(champion) == 4
    assert champion.refused is None  # an alarm on it must end; the counter and the log remember


def test_file_that_goes_leaves_the_model(
    champion: Champion, caplog: pytest.LogCaptureFixture
) -> None:
    content = champion.path.read_bytes()
    champion.path.unlink()
    for _ in range(3):
        assert champion.look() is None
    assert version(champion) == 3
    assert caplog.text.count("the one that answers stays") == 1
    laid(champion.path, content)
    assert champion.look() is None  # the same model, which is not begun anew


def test_same_content_in_a_new_file_changes_nothing(champion: Champion) -> None:
    before = champion.current
    laid(champion.path, champion.path.read_bytes())
    assert champion.look() is None
    assert champion.current is before


@pytest.mark.parametrize("what", ["inode", "time", "size"])
def test_change_is_seen_by_any_sign(path: Path, what: str) -> None:
    loads = 0

    def counting(where: Path, threads: int) -> OnnxModel:
        nonlocal loads
        loads += 1
        return OnnxModel.open(where, threads)

    champion = champion_of(path, open_model=counting)
    stat = path.stat()
    if what == "inode":
        laid(path, path.read_bytes())
    elif what == "size":
        path.write_bytes(path.read_bytes() + b"\0")
    later = stat.st_mtime_ns + (10**9 if what == "time" else 0)
    os.utime(path, ns=(stat.st_atime_ns, later))
    champion.look()
    assert loads == 2


def test_file_that_is_replaced_while_it_is_read_is_read_again(path: Path) -> None:
    def late(where: Path, threads: int) -> OnnxModel:
        model = OnnxModel.open(where, threads)
        if model.facts.version == 3:
            laid(where, NEXT)
        return model

    champion = champion_of(path, open_model=late)
    assert version(champion) == 3
    champion.look()
    assert version(champion) == 4


def test_request_keeps_the_model_that_it_began_with(path: Path) -> None:
    champion = champion_of(path, open_model=Blocked.open)
    assert champion.current
    first = champion.current.model
    assert isinstance(first, Blocked)
    first.shut()

    async def swapped(app: Any) -> tuple[int, int]:
        async with client(app) as asking:
            waiting = asyncio.create_task(asking.post("/predict", content=RED))
            await asyncio.to_thread(first.entered.acquire)
            laid(path, NEXT)
            await asyncio.to_thread(champion.look)
            after = await asking.post("/predict", content=RED)
            first.may.set()
            return tuple(r.json()["model"]["version"] for r in (await waiting, after))

    with opened(Settings(workers=2), champion) as app:
        assert asyncio.run(swapped(app)) == (3, 4)


@pytest.fixture
def serving(champion: Champion) -> Iterator[httpx.Client]:
    with on_a_port(champion) as url, httpx.Client(base_url=url) as asking:
        yield asking


def eventually(asking: httpx.Client, path: str, **wanted: Any) -> dict[str, Any]:
    """What a path says as soon as it says so."""
    for _ in range(500):
        said: dict[str, Any] = asking.get(path).json()
        if all(said.get(key) == value for key, value in wanted.items()):
            return said
        threading.Event().wait(0.02)
    raise AssertionError(said)


def test_service_looks_by_itself_and_counts(serving: httpx.Client, path: Path) -> None:
    laid(path, LYING)
    while not serving.get("/ready").json()["refused"]:
        threading.Event().wait(0.02)
    laid(path, NEXT)
    eventually(serving, "/model", version=4)
    counted = serving.get("/metrics").text
    assert "catdog_model_refusals_total 1.0" in counted
    assert "catdog_model_swaps_total 2.0" in counted
    assert 'version="4"' in counted
    assert 'version="3"' not in counted


def test_first_model_may_come_late(path: Path) -> None:
    with on_a_port(Champion(path)) as url, httpx.Client(base_url=url) as asking:
        assert asking.get("/ready").status_code == 503
        laid(path, NEXT)
        eventually(asking, "/ready", ready=True)
        assert asking.post("/predict", content=RED).status_code == 200


def test_no_request_fails_while_models_are_swapped(serving: httpx.Client, path: Path) -> None:
    contents = [tiny_onnx.content(name="catdog", version=each) for each in range(10, 20)]
    found: list[tuple[int, int]] = []
    done = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=serving.base_url) as asking:
            while not done.is_set():
                got = asking.post("/predict", content=RED)
                found.append((got.status_code, got.json()["model"]["version"]))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number, content in enumerate(contents, 10):
        laid(path, content)
        eventually(serving, "/model", version=number)
    done.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in found} == {200}
    assert len({version for _, version in found}) > 5
