"""Every benchmark can still be started; what it measures is measured by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("common"))


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_imports_and_says_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module(name)
    assert callable(module.main)
    assert f"benchmarks/{name}.py" in (module.__doc__ or "")


@pytest.mark.parametrize("path", sorted((FOLDER / "results").glob("*.json")), ids=lambda p: p.stem)
def test_result_says_how_it_was_measured(path: Path) -> None:
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "hardware", "versions"} <= set(facts)


def test_ratio_is_that_of_pairs_with_an_interval_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    common = importlib.import_module("common")
    got = common.ratio([2.0, 4.2, 6.0, 8.0], [2.0, 4.0, 5.0, 8.0])
    assert got["low"] <= got["median"] <= got["high"]
    assert got == {"median": 1.025, "low": 1.0, "high": 1.2}
