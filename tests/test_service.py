"""The service: what is asked, answered and refused, in this process and without a network."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny_onnx
from serving import BLUE, RED, WHITE, Blocked, ask, champion_of, client, png
from starlette.types import ASGIApp

from catdog_search.answering import photos
from catdog_search.data import budget
from catdog_search.data.decode import decode
from catdog_search.service import answers, room
from catdog_search.service.app import PAGE, opened
from catdog_search.service.champion import Champion
from catdog_search.service.settings import Settings
from catdog_search.service.uploads import Upload

TOKEN = "let-me-in"
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return champion_of(tmp_path_factory.mktemp("model") / "catdog.onnx")


@pytest.fixture(scope="module")
def app(champion: Champion) -> Iterator[ASGIApp]:
    with opened(Settings(), champion) as found:
        yield found


@pytest.fixture(scope="module")
def locked(champion: Champion) -> Iterator[ASGIApp]:
    with opened(Settings(token=TOKEN), champion) as found:
        yield found


@pytest.fixture
def blocked(tmp_path: Path) -> Champion:
    """Its model answers when it may."""
    champion = champion_of(tmp_path / "m.onnx", open_model=Blocked.open)
    model_of(champion).shut()
    return champion


def model_of(champion: Champion) -> Blocked:
    assert champion.current
    assert isinstance(champion.current.model, Blocked)
    return champion.current.model


def ask_raw(app: ASGIApp, receive: Any, headers: dict[str, str] | None = None) -> int | None:
    """As a server asks, chunk by chunk; the status of the answer."""
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/predict", "headers": raw}
    scope |= {"query_string": b"", "http_version": "1.1", "raw_path": b"/predict"}
    asyncio.run(app(scope, receive, send))
    return next((message["status"] for message in said if "status" in message), None)


async def until_waiting(asking: httpx.AsyncClient, n: int) -> None:
    """The counters say that so many requests wait."""
    for _ in range(500):
        if f"catdog_queue_length {n}.0" in (await asking.get("/metrics")).text:
            return
        await asyncio.sleep(0.01)
    raise AssertionError


def files(*contents: bytes) -> Any:
    return [("photo", (f"{i}.png", content)) for i, content in enumerate(contents)]


# What is answered


def test_image_is_answered_with_the_model_that_answered(app: ASGIApp, champion: Champion) -> None:
    got = ask(app, "/predict", content=RED)
    assert got.status_code == 200
    assert champion.current
    model = champion.current.model
    assert got.json()["model"] == {"name": "catdog", "version": 3, "digest": model.digest}
    (row,) = got.json()["photos"]
    (answer,) = model.answer(decode(RED, tiny_onnx.SIDE)[None])
    assert row == {
        "name": None,
        "answer": "dog",
        "verdict": "answered",
        "label": "dog",
        "probability": answer.probability,
        "probabilities": answer.probabilities,
        "unlike": answer.unlike,
    }


def test_form_is_answered_file_by_file_in_its_order(app: ASGIApp) -> None:
    contents = (BLUE, b"no image", WHITE, RED)
    got = ask(app, "/predict", files=files(*contents))
    assert got.status_code == 200
    rows = got.json()["photos"]
    assert [row["name"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert [row.get("answer") for row in rows] == ["cat", None, "neither", "dog"]
    assert rows[1] == {"name": "1.png", "error": "not an image: text"}


def test_form_without_a_usable_file_is_refused_file_by_file(app: ASGIApp) -> None:
    got = ask(app, "/predict", files=files(b"no image", RED[:60]))
    assert got.status_code == 422
    assert "none of 2 files" in got.json()["error"]
    assert [row["name"] for row in got.json()["photos"]] == ["0.png", "1.png"]


@pytest.mark.parametrize("path", ["/predict", "/explain"])
def test_broken_image_is_refused_with_its_reason(app: ASGIApp, path: str) -> None:
    got = ask(app, path, content=RED[:60])
    assert got.status_code == 422
    assert got.json()["error"].startswith("truncated")


@pytest.mark.parametrize("as_form", [False, True])
def test_map_says_what_the_answer_rests_on(app: ASGIApp, as_form: bool) -> None:
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[:20, :20] = (255, 0, 0)
    body: Any = {"files": files(png(photo))} if as_form else {"content": png(photo)}
    found = ask(app, "/explain", **body).json()
    assert found["answer"]["name"] == ("0.png" if as_form else None)
    heat = np.array(found["map"])
    assert heat.shape == (found["rows"], found["columns"])
    assert heat.max() == heat[:4, :4].max() == 1
    assert heat[-1, -1] == 0
    assert found["range"] > 0


def test_name_of_a_file_comes_back_as_one_line(app: ASGIApp) -> None:
    body = b'--x\r\ncontent-disposition: form-data; name="a"; filename="\xff\x1b[1m.png"\r\n\r\n'
    got = ask(app, "/predict", content=body + RED + b"\r\n--x--\r\n", headers=FORM)
    assert got.json()["photos"][0]["name"] == "\\xff\\x1b[1m.png"


def test_score_that_is_no_number_is_sent_as_none(
    app: ASGIApp, champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert champion.current
    found = (np.array([0.9], np.float32), np.array([np.nan], np.float32))
    monkeypatch.setattr(champion.current.model, "run", lambda _photos: found)
    (row,) = ask(app, "/predict", content=RED).json()["photos"]
    assert (row["answer"], row["unlike"]) == ("neither", None)


def test_model_says_its_facts_but_for_its_examples(app: ASGIApp, champion: Champion) -> None:
    assert champion.current
    got = ask(app, "/model").json()
    assert got["digest"] == champion.current.model.digest
    assert got["class_names"] == ["cat", "dog"]
    assert got["neither_above"] == 9.0
    assert "examples" not in got


def test_ready_says_the_model_and_since_when(app: ASGIApp, champion: Champion) -> None:
    assert champion.current
    got = ask(app, "/ready")
    assert got.status_code == 200
    assert got.json()["ready"] is True
    assert got.json()["since"] == champion.current.since
    assert got.json()["refused"] is None


@pytest.mark.parametrize("path", ["/ready", "/model", "/predict"])
def test_without_a_model_nothing_is_answered_and_why_is_said(tmp_path: Path, path: str) -> None:
    with opened(Settings(), Champion(tmp_path / "m.onnx"), "it is being exported") as app:
        got = ask(app, path, **({"content": RED} if path == "/predict" else {}))
        assert got.status_code == 503
        assert got.json()["error"] == "no model answers yet: it is being exported"
        assert got.headers["retry-after"]
        assert ask(app, "/health").json() == {"status": "ok"}


# What is refused


PART = b'--x\r\ncontent-disposition: form-data; name="a"'
END = b"\r\n--x--\r\n"


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "says"),
    [
        ("GET", "/nothing", {}, b"", 404, "Not Found"),
        ("GET", "/predict/", {}, b"", 404, "Not Found"),
        ("GET", "/..%2f..%2fetc%2fpasswd", {}, b"", 404, "Not Found"),
        ("GET", "/docs", {}, b"", 404, "Not Found"),
        ("GET", "/predict", {}, b"", 405, "Method Not Allowed"),
        ("HEAD", "/predict", {}, b"", 405, ""),
        ("OPTIONS", "/predict", {}, b"", 405, "Method Not Allowed"),
        ("DELETE", "/health", {}, b"", 405, "Method Not Allowed"),
        ("TRACE", "/", {}, b"", 405, "Method Not Allowed"),
        ("BREW", "/predict", {}, RED, 405, "Method Not Allowed"),
        ("POST", "/metrics", {}, b"x", 405, "Method Not Allowed"),
        ("POST", "/predict", {}, b"", 400, "the body is empty"),
        ("POST", "/explain", {}, b"", 400, "the body is empty"),
        ("POST", "/predict", {"content-encoding": "gzip"}, RED, 415, "'gzip' isn't read"),
        ("POST", "/predict", {"content-type": "application/json"}, b"{}", 422, "not an image"),
        ("POST", "/predict", {"content-type": "\xff"}, b"?", 422, "not an image"),
        ("POST", "/predict", {"content-type": "multipart/form-data"}, b"x", 400, "name a boundary"),
        ("POST", "/predict", {"content-type": "multipart/mixed;boundary=x"}, b"x", 400, "boundary"),
        ("POST", "/predict", FORM, b"", 400, "the body is empty"),
        ("POST", "/predict", FORM, RED, 400, "can't be read"),
        ("POST", "/predict", FORM, b"--y\r\n", 400, "can't be read"),
        ("POST", "/predict", FORM, b"--x--\r\n", 400, "holds no file"),
        ("POST", "/predict", FORM, PART, 400, "ends before"),
        ("POST", "/predict", FORM, PART + b'; filename="b"\r\n\r\n' + RED, 400, "ends before"),
        ("POST", "/predict", FORM, PART + b"\r\n\r\ntext" + END, 400, "field 'a' holds no file"),
        ("POST", "/predict", FORM, b"--x\r\n\r\nnothing" + END, 400, "can't be read"),
        ("POST", "/predict", FORM, b"--x\r\n" + b"a: b\r\n" * 999 + b"\r\n" + END, 400, "read"),
        ("POST", "/predict", FORM, PART + b'; filename=""\r\n\r\n' + END, 422, "empty"),
        (
            *("POST", "/predict", FORM),
            PART + b'; filename="b"\r\ncontent-transfer-encoding: base64\r\n\r\n*' + END,
            *(400, "can't be read"),
        ),
        (
            *("POST", "/predict", FORM),
            PART + b'; filename="b"\r\ncontent-transfer-encoding: nonsense\r\n\r\n*' + END,
            *(400, "can't be read"),
        ),
    ],
)  # fmt: skip
def test_odd_request_is_refused_in_one_line(
    app: ASGIApp,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    says: str,
) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    got = ask(app, path, method, headers=raw, content=body)
    assert got.status_code == status
    if method == "HEAD":
        assert got.content == b""
        return
    assert says in got.json()["error"]
    assert "\n" not in got.json()["error"]
    assert got.json()["request_id"] == got.headers["x-request-id"]
    if status == 405:
        assert got.headers["allow"] in ("GET", "POST")


@pytest.mark.parametrize(("path", "n"), [("/predict", 101), ("/predict", 1000), ("/explain", 2)])
def test_more_files_than_allowed_are_refused(app: ASGIApp, path: str, n: int) -> None:
    got = ask(app, path, files=files(*[RED] * n))
    assert got.status_code == 400
    assert "the most for one request" in got.json()["error"]


def test_as_many_files_as_allowed_are_answered(app: ASGIApp) -> None:
    assert len(ask(app, "/predict", files=files(*[RED] * 100)).json()["photos"]) == 100


@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/metrics"])
def test_what_can_be_got_can_be_asked_about(app: ASGIApp, path: str) -> None:
    got = ask(app, path, "HEAD")
    assert got.status_code == 200
    assert got.content == b""


def test_bug_is_answered_as_one_and_logged_with_its_request(
    app: ASGIApp,
    champion: Champion,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_photos: Any) -> Any:
        raise ZeroDivisionError

    assert champion.current
    monkeypatch.setattr(champion.current.model, "run", broken)
    got = ask(app, "/predict", content=RED)
    assert got.status_code == 500
    assert got.json()["error"].startswith("a bug")
    assert f"{got.json()['request_id']}: a bug" in caplog.text
    assert "ZeroDivisionError" in caplog.text


# Limits


def test_body_that_says_that_it_is_too_large_is_not_read(champion: Champion) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("read")

    with opened(Settings(max_body_bytes=1000), champion) as app:
        assert ask_raw(app, receive, {"content-length": "1001"}) == 413
        got = ask(app, "/predict", content=bytes(1001))
    assert "more than 0.001 MB" in got.json()["error"]


@pytest.mark.parametrize("headers", [{}, FORM])
def test_body_is_read_no_further_than_allowed(champion: Champion, headers: dict[str, str]) -> None:
    """One that doesn't say how long it is."""
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 100
        return {"type": "http.request", "body": bytes(100), "more_body": True}

    with opened(Settings(max_body_bytes=1000), champion) as app:
        assert ask_raw(app, receive, headers) == 413
    assert read == 1100


def test_photo_of_too_many_pixels_is_refused_before_it_is_decoded(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(photos, "decode", never)
    with opened(Settings(max_pixels=1000), champion) as app:
        got = ask(app, "/predict", content=RED)
        rows = ask(app, "/predict", files=files(RED)).json()["photos"]
    assert got.status_code == 413
    assert got.json()["error"] == "too large: 30x40 pixels, at most 0.001 million"
    assert rows == [{"name": "0.png", "error": got.json()["error"]}]


def test_photos_are_decoded_within_the_memory_that_is_free(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_LEAST_BYTES", 1000)
    monkeypatch.setattr(budget, "free_bytes", lambda: 1000)
    with opened(Settings(), champion) as app:
        got = ask(app, "/predict", content=RED)
    assert got.status_code == 413
    assert "too little memory" in got.json()["error"]


def test_photos_that_are_too_large_together_are_decoded_in_turns(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    upload = Upload(None, png(photo))
    decoding, most = 0, 0
    monkeypatch.setattr(budget, "_LEAST_BYTES", 6_000_000)  # for one of them
    monkeypatch.setattr(budget, "free_bytes", lambda: 0)
    with budget.Budget.of_free_memory(4) as shared, ThreadPoolExecutor(4) as threads:

        @contextlib.contextmanager
        def counted(n_bytes: int) -> Iterator[None]:
            nonlocal decoding, most
            with shared.taken(n_bytes):
                decoding += 1
                most = max(most, decoding)
                yield
                decoding -= 1

        photos = answers.Photos(10**6, counted)
        assert champion.current
        model = champion.current.model
        found = list(threads.map(lambda _: photos.answer(model, upload), range(12)))
    assert not any(isinstance(each, answers.Unusable) for each in found)
    assert most == 1


def test_bodies_are_held_within_the_memory_that_is_free(
    blocked: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda: 0)

    async def three(app: ASGIApp) -> list[httpx.Response]:
        async with client(app) as asking:
            first = asyncio.create_task(asking.post("/predict", content=photo))
            await asyncio.to_thread(model_of(blocked).entered.acquire)
            refused = await asking.post("/predict", content=photo)
            model_of(blocked).may.set()
            return [await first, refused, await asking.post("/predict", content=photo)]

    photo = RED + bytes(1000 - len(RED))
    with opened(Settings(max_body_bytes=1000), blocked) as app:
        got = asyncio.run(three(app))
    assert [each.status_code for each in got] == [200, 429, 200]
    assert "memory" in got[1].json()["error"]


def test_more_requests_than_may_wait_are_told_when_to_try_again(blocked: Champion) -> None:
    async def four(app: ASGIApp) -> tuple[list[int], httpx.Response]:
        async with client(app) as asking:
            first = [asyncio.create_task(asking.post("/predict", content=RED)) for _ in range(3)]
            await asyncio.to_thread(model_of(blocked).entered.acquire)
            await until_waiting(asking, 2)
            refused = await asking.post("/predict", content=RED)
            model_of(blocked).may.set()
            return [(await each).status_code for each in first], refused

    with opened(Settings(workers=1, queue=2), blocked) as app:
        answered, refused = asyncio.run(four(app))
        after = ask(app, "/predict", content=RED)
    assert answered == [200, 200, 200]
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "try again in" in refused.json()["error"]
    assert after.status_code == 200


def test_answer_that_takes_too_long_is_given_up(blocked: Champion) -> None:
    with opened(Settings(timeout_s=0.7, queue=0, workers=1), blocked) as app:
        got = ask(app, "/predict", content=RED)
        assert got.status_code == 504
        assert got.json()["error"] == "not answered within 0.7 s"
        model_of(blocked).may.set()
        assert ask(app, "/predict", content=RED).status_code == 200


def test_body_that_takes_too_long_is_given_up(champion: Champion) -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(20)
        raise AssertionError

    with opened(Settings(timeout_s=0.1), champion) as app:
        assert ask_raw(app, receive) == 408


def test_body_that_is_cut_off_is_nobodys_fault(
    app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    caplog.set_level(logging.INFO)
    ask_raw(app, receive)
    assert "POST /predict 499" in caplog.text
    assert "Traceback" not in caplog.text


def test_no_more_of_one_request_is_answered_at_a_time_than_there_are_threads(
    blocked: Champion,
) -> None:
    """So that another request's photo comes in between."""

    async def both(app: ASGIApp) -> list[str]:
        done: list[str] = []

        async def one(name: str, n: int) -> None:
            got = await asking.post("/predict", files=files(*[RED] * n))
            assert got.status_code == 200
            done.append(name)

        async with client(app) as asking:
            many = asyncio.create_task(one("many", 50))
            await asyncio.to_thread(model_of(blocked).entered.acquire)
            single = asyncio.create_task(one("single", 1))
            await until_waiting(asking, 1)
            model_of(blocked).may.set()
            await asyncio.gather(many, single)
        return done

    with opened(Settings(workers=1), blocked) as app:
        assert asyncio.run(both(app)) == ["single", "many"]


def test_maps_leave_threads_for_answers(blocked: Champion, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may = threading.Semaphore(0), threading.Event()
    inner = answers.heat

    def slow(*args: Any) -> Any:
        began.release()
        assert may.wait(20)
        return inner(*args)

    async def both(app: ASGIApp) -> int:
        async with client(app) as asking:
            maps = [asyncio.create_task(asking.post("/explain", content=RED)) for _ in range(4)]
            await asyncio.to_thread(began.acquire)
            status = (await asking.post("/predict", content=RED)).status_code
            may.set()
            assert [(await each).status_code for each in maps] == [200] * 4
            return status

    monkeypatch.setattr(answers, "heat", slow)
    model_of(blocked).may.set()
    with opened(Settings(workers=2), blocked) as app:
        assert asyncio.run(both(app)) == 200


# Id, log, token, headers, counters


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        *(("a-1.B_2", True), ("x" * 64, True), ("x" * 65, False), ("", False), ("a b", False)),
        *(("a\xe9", False), ("{evil}", False)),
    ],
)
def test_request_id_is_the_clients_where_it_is_plain(
    app: ASGIApp, given: str, is_kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers = {"x-request-id": given.encode("latin-1")}
    got = ask(app, "/predict", content=b"?", headers=headers)
    found = got.headers["x-request-id"]
    assert (found == given) is is_kept
    assert re.fullmatch(r"[\w.-]{1,64}", found, re.ASCII)
    assert got.json()["request_id"] == found
    assert f"{found} POST /predict 422" in caplog.text


def test_log_holds_neither_names_nor_content(
    app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "catdog_search")
    ask(app, "/predict", files=[("secretfield", ("secretname.png", RED))])
    ask(app, "/predict", files=[("secretfield", ("secretname.png", b"secretbytes"))])
    ask(app, "/predict?secretquery=1", content=b"secretbytes", headers={"x-a": "secretheader"})
    ask(app, "/secretpath")
    ask(app, "/health", "SECRETMETHOD")
    lines = [record.getMessage() for record in caplog.records if "service" in record.name]
    assert [re.sub(r"^\w+ |\d+ ms", "", line).strip() for line in lines] == [
        "POST /predict 200",
        "POST /predict 422",
        "POST /predict 422",
        "GET none 404",
        "other /health 405",
    ]


@pytest.mark.parametrize(
    "shown",
    [
        *("", "Bearer", "Bearer ", "Bearer \xff", TOKEN),
        *(f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/ready", "/metrics", "/openapi.json", "/nothing"])
def test_without_the_token_nothing_is_answered(locked: ASGIApp, path: str, shown: str) -> None:
    body = {"content": RED} if path == "/predict" else {}
    got = ask(locked, path, headers={"authorization": shown.encode("latin-1")}, **body)
    assert got.status_code == 401
    assert got.headers["www-authenticate"].startswith("Bearer")
    assert got.json()["request_id"] == got.headers["x-request-id"]
    assert TOKEN not in got.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_all_is_answered(locked: ASGIApp, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {TOKEN}"}
    assert ask(locked, "/predict", content=RED, headers=headers).status_code == 200
    document = ask(locked, "/openapi.json", headers=headers).json()
    secured = {
        path: "security" in next(iter(of.values())) for path, of in document["paths"].items()
    }
    assert [path for path, is_so in secured.items() if not is_so] == ["/health"]


@pytest.mark.parametrize("path", ["/health", "/", "/page.js", "/page.css"])
def test_health_and_the_page_which_asks_for_it_take_no_token(locked: ASGIApp, path: str) -> None:
    assert ask(locked, path).status_code == 200


def test_token_is_not_among_what_settings_show() -> None:
    assert TOKEN not in repr(Settings(token=TOKEN))


@pytest.mark.parametrize("path", sorted(path.name for path in PAGE.iterdir()))
def test_file_of_the_page_is_served_under_a_strict_policy(app: ASGIApp, path: str) -> None:
    got = ask(app, "/" if path == "index.html" else f"/{path}")
    assert got.content == (PAGE / path).read_bytes()
    policy = dict(each.split(" ", 1) for each in got.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["referrer-policy"] == "no-referrer"


def series(app: ASGIApp) -> dict[str, float]:
    lines = ask(app, "/metrics").text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_counters_count(champion: Champion) -> None:
    with opened(Settings(), champion) as app:
        ask(app, "/predict", files=files(RED, BLUE, BLUE, WHITE, b"?"))
        ask(app, "/predict", content=b"?")
        found = series(app)
    assert found['catdog_requests_total{route="/predict",status="200"}'] == 1
    assert found['catdog_requests_total{route="/predict",status="422"}'] == 1
    assert found['catdog_request_seconds_count{route="/predict"}'] == 2
    for answer, n in {"dog": 1, "cat": 2, "neither": 1, "unusable": 2}.items():
        assert found[f'catdog_photos_total{{answer="{answer}"}}'] == n
    assert champion.current
    digest = champion.current.model.digest
    assert found[f'catdog_model{{digest="{digest}",name="catdog",version="3"}}'] == 1
    assert found["catdog_model_refusals_total"] == 0


def test_whoever_asks_makes_no_new_series(app: ASGIApp) -> None:
    def odd(name: str) -> None:
        ask(app, f"/{name}", name.upper())
        ask(app, "/predict", name.upper())
        ask(app, f"/predict?{name}", headers={"x-request-id": name}, files=[(name, (name, RED))])

    odd("one")
    series(app)  # asking for them makes the first of that route
    before = set(series(app))
    for name in ("two", "three", "four"):
        odd(name)
    assert set(series(app)) == before


def test_document_names_every_status_that_is_answered(app: ASGIApp) -> None:
    paths = ask(app, "/openapi.json").json()["paths"]
    said = set(paths["/predict"]["post"]["responses"])
    assert said == {"200", "400", "408", "413", "415", "422", "429", "503", "504"}
    assert set(paths) == {"/predict", "/explain", "/health", "/ready", "/model", "/metrics"}
