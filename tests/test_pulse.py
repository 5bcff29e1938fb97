"""No command is silent for more than ten seconds."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from test_cli_display import CONFIG, EVENTS

from catdog_search import cli
from catdog_search.cli import pulse
from catdog_search.cli.common import PULSE, ask, say
from catdog_search.cli.display import LiveDisplay, PlainDisplay
from catdog_search.search.events import BatchDone


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pulse, "time", clock)
    return clock


def test_lines_within_an_epoch_come_before_ten_seconds_of_silence(clock: Clock) -> None:
    lines: list[tuple[float, str]] = []
    display = PlainDisplay(CONFIG, lambda line: lines.append((clock.now, line)))
    display(EVENTS[3])
    for n in range(100):
        clock.now += 0.4
        display(BatchDone(1, None, n, 100))
    for n in range(50):
        clock.now += 2.3
        display(BatchDone(1, 0, n, 100))
    said = [when for when, _ in lines]
    assert max(b - a for a, b in zip(said, [*said[1:], clock.now], strict=True)) < 10
    assert len(lines) < 40  # not one an event
    assert lines[1][1] == "trial 1 features: 11 of 100 photos"
    assert lines[-1][1].startswith("trial 1 epoch 1/10: step ")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], str]]:
    """Runs a function as a command of the command line, whose seconds are short; its stderr."""
    monkeypatch.setattr(pulse, "LONGEST_SILENCE_S", 0.1)

    def run(body: Callable[[], None]) -> str:
        cli.main.add_command(click.Command("as-a-test", callback=body))
        found = CliRunner().invoke(cli.main, ["as-a-test"])
        assert found.exit_code == 0, found.output
        return found.stderr

    yield run
    cli.main.commands.pop("as-a-test", None)


def test_silent_command_says_that_it_is_at_work(command: Callable[..., str]) -> None:
    assert command(lambda: time.sleep(0.5)).count("still at work") >= 2


def test_command_that_says_something_is_left_alone(command: Callable[..., str]) -> None:
    def body() -> None:
        for _ in range(10):
            time.sleep(0.02)
            say("a line")

    assert "still at work" not in command(body)


def test_a_question_and_a_live_table_wait_in_silence(
    command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click, "confirm", lambda *_, **__: time.sleep(0.4))
    console = Console(file=io.StringIO(), force_terminal=True)

    def body() -> None:
        ask("go on?")
        with LiveDisplay(CONFIG, console).context():
            time.sleep(0.4)

    assert "still at work" not in command(body)
    assert PULSE.silent_s() < 60
