"""Requests broken in every way, in this process; benchmarks/fuzz_service.py sends more of them."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from pathlib import Path

import pytest
from serving import champion_of, client

from catdog_search.service.app import opened
from catdog_search.service.settings import Settings

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_no_broken_request_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fuzz = importlib.import_module("fuzz_service")

    async def ask_all() -> Counter[int]:
        found: Counter[int] = Counter()
        async with client(app) as asking:
            for _, each in zip(range(600), fuzz.requests(seed=7), strict=False):
                got = await asking.request(
                    each.method, each.path, content=each.body, headers=each.headers
                )
                assert got.status_code < 500, (each, got.text)
                found[got.status_code] += 1
        return found

    with opened(Settings(max_body_bytes=10_000_000), champion_of(tmp_path / "m.onnx")) as app:
        statuses = asyncio.run(ask_all())
    assert {200, 400, 404, 405, 422} <= set(statuses)
