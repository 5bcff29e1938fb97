"""MLflow in a real browser: a study, a trial's curves, the champion and its card."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

STUDY = """
name = "easy"
purpose = "Whether red is told from blue."
image_size = 12
metric = "val_accuracy"
direction = "maximize"
trials = 2

[training]
epochs = 4

[promotion]
finalists = 1
seeds = 1

[space]
n_blocks = 1
filters = { choices = [4, 8] }
dense_units = 4
learning_rate = 1e-2
"""


def call(*arguments: str) -> str:
    command = [sys.executable, "-m", "catdog_search", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with a study and its champion."""
    folder = tmp_path_factory.mktemp("easy")
    chance = np.random.default_rng(1)
    for label, name in enumerate(("cat", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(120):
            noise = chance.integers(0, 160, (20, 20, 3), np.uint8)
            noise[:, :, 2 * label] += 90
            Image.fromarray(noise).save(folder / "photos" / name / f"{number}.png")
    (folder / "easy.toml").write_text(STUDY)
    where = ["--study", str(folder / "easy.toml"), "--state", str(folder / "state")]
    call("run", *where, "--data", str(folder / "photos"))
    call("promote", *where)
    return folder / "state"


@pytest.fixture(scope="module")
def trial(state: Path) -> dict[str, Any]:
    shown = json.loads(call("show", "--study", "easy", "--json", "--state", str(state)))
    (best,) = [row for row in shown["trials"] if row["number"] == shown["best"]["number"]]
    return dict(best)


@pytest.fixture(scope="module")
def address(state: Path) -> Iterator[str]:
    """Where `catdog-search ui` says that it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "catdog_search", "ui", "--state", str(state), "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        try:
            yield next(line.strip() for line in lines if line.startswith("http"))
        finally:
            server.terminate()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def test_study_trial_and_champion_are_seen(
    address: str, trial: dict[str, Any], page: Page, shots: Path
) -> None:
    page.goto(address)
    expect(page.get_by_role("link", name="easy", exact=True)).to_be_visible()
    base, mode = address.partition("#")[0], "?workflowType=machine_learning"

    study = page.get_by_role("link", name="easy", exact=True).get_attribute("href")
    assert study is not None
    experiment = study.partition("experiments/")[2].partition("?")[0].partition("/")[0]
    page.goto(f"{base}#/experiments/{experiment}/runs{mode}")
    expect(page.get_by_role("link", name="promotion")).to_be_visible()
    page.screenshot(path=shots / "mlflow-study.png")

    page.goto(f"{base}#/experiments/{experiment}/runs/{trial['run_id']}/model-metrics{mode}")
    expect(page.get_by_text(f"trial-{trial['number']:04d}").first).to_be_visible()
    section = page.get_by_test_id("experiment-view-compare-runs-section-header")
    section.filter(has_text="Model metrics").scroll_into_view_if_needed()
    page.mouse.move(500, 500)
    page.mouse.wheel(0, 900)
    curves = page.locator(".js-plotly-plot .scatterlayer .trace")  # by epoch, not a bar
    expect(curves.first).to_be_visible()
    page.screenshot(path=shots / "mlflow-trial.png")

    page.goto(f"{base}#/models/catdog/versions/1")
    expect(page.get_by_text("champion").first).to_be_visible()
    for words in ("catdog: cat or dog, from study easy", "Numbers", "Gates", "round trip"):
        expect(page.get_by_text(words).first).to_be_visible()
    page.screenshot(path=shots / "mlflow-champion.png", full_page=True)
