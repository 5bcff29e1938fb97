"""`compare`: recipes and best trials side by side, what the curves say, and floors."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from tiny_study import call, run

from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SyntheticSource
from catdog_search.evaluation.floors import majority, probe
from catdog_search.places import StateFolder
from catdog_search.report.compare import verdict
from catdog_search.search.study import views

PUBLISHED = {"plain": {"train_accuracy": 0.95, "val_accuracy": 0.78}}


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, pictures: Dataset, empty_mlflow: Path
) -> StateFolder:
    """Two studies: one with a published recipe on three seeds, one of a sampler alone."""
    state = StateFolder.at(str(tmp_path_factory.mktemp("compared")))
    shutil.copy(empty_mlflow, state.mlflow_db)
    run(state, pictures, 6, table={"published": PUBLISHED}, seeds=3)
    run(state, pictures, 2, table={"name": "other", "recipes": {}})
    return state


def test_compare_sets_recipes_beside_what_was_published_and_floors(
    compared: StateFolder, tmp_path: Path
) -> None:
    where = ["--state", str(compared.root)]
    found = json.loads(call("compare", "tiny", "other", "--json", *where).stdout)
    entries = {(e["study"], e["name"]): e for e in found["entries"]}
    plain = entries["tiny", "plain"]
    rows = [row for row in views.load_view(compared, "tiny").trials if row.recipe]
    assert plain["numbers"] == [row.number for row in rows]
    assert plain["published"] == PUBLISHED["plain"]
    values = [row.value for row in rows if row.value is not None]
    assert plain["val_accuracy"]["mean"] == pytest.approx(sum(values) / 3)
    assert plain["val_accuracy"]["deviation"] == pytest.approx(0, abs=1e-9)
    assert plain["n_weights"] == 42
    assert [len(curve) for curve in plain["curves"]] == [3, 3, 3]
    best = views.load_view(compared, "other").best
    assert best is not None
    assert ("other", f"best (trial {best.number})") in entries
    assert found["floors"][0]["name"] == "majority class"

    page = tmp_path / "page.html"
    table = call("compare", "tiny", "--markdown", "--html", str(page), *where)
    assert "| tiny: plain | 3 | 0.95 / 0.78 |" in table.stdout
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "http" not in text.replace("http-equiv", "")
    everything = call("compare", "--figures", str(tmp_path / "figures"), *where)
    assert "tiny: plain" in everything.stdout
    assert "other: best" in everything.stdout
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"accuracy.png", "curves.png"}


def test_compare_says_what_is_missing(compared: StateFolder, tmp_path: Path) -> None:
    where = ["--state", str(compared.root)]
    assert "no study 'tony'" in call("compare", "tony", *where, code=1).output
    both = call("compare", "tiny", "--json", "--markdown", *where, code=2)
    assert "give one of them" in both.output
    empty = call("compare", "--state", str(tmp_path / "none"), code=1)
    assert "holds no study" in empty.output
    nowhere = str(tmp_path / "no" / "page.html")
    assert "--html" in call("compare", "tiny", "--html", nowhere, *where, code=1).output


def curve(train: list[float], val: list[float]) -> list[dict[str, float]]:
    return [
        {"accuracy": a, "val_accuracy": b, "loss": 1 - a} for a, b in zip(train, val, strict=True)
    ]


@pytest.mark.parametrize(
    ("train", "val", "best", "words"),
    [
        ([0.6, 0.8, 0.99], [0.6, 0.78, 0.77], 2, "overfits: train is 22.0 points above val"),
        ([0.6, 0.7, 0.8], [0.6, 0.7, 0.8], 2, "underfits: val gained 10.0 points an epoch in"),
        ([0.8, 0.9, 0.9], [0.8, 0.7, 0.9], 2, "fits: val is level with train"),  # a dip
        ([0.7, 0.8, 0.8], [0.7, 0.8, 0.79], 1, "fits: val is level with train"),
        ([0.7, 0.8], [0.7, 0.79], 1, "fits: val is 1.0 points below train"),
        ([0.7, 0.8], [0.7, 0.82], 1, "fits: val is 2.0 points above train"),
        ([0.7, math.nan, 0.8], [0.7, 0.8, 0.79], 1, "diverged"),
        ([], [], None, "no curves"),
    ],
)
def test_verdict_names_what_the_curves_show(
    train: list[float], val: list[float], best: int | None, words: str
) -> None:
    assert verdict([(curve(train, val), best)]).startswith(words)


def test_verdict_without_trains_accuracy_is_none() -> None:
    assert verdict([([{"loss": 0.5, "val_accuracy": 0.5}], 0)]).startswith("no curves")


def test_floors_are_those_of_val(shared_cache: Path) -> None:
    from catdog_search.data import packing

    packed = packing.load(SyntheticSource(300), 32, shared_cache, 10**9)
    x, y = packed.split("val")
    share = float(y.mean())
    (floor,) = majority(packed.manifest.counts())
    assert floor.n == len(x)
    assert floor.accuracy in (pytest.approx(share), pytest.approx(1 - share))
    assert probe(packed).n == floor.n
    assert probe(packed).accuracy > min(share, 1 - share)
