"""What shows a study as it runs: a live table, plain lines, and numbers as people read them."""

from __future__ import annotations

import io
import os
import pty
import sys
import termios
from typing import Any

import pytest
from rich.console import Console

from catdog_search.cli.common import say_wrapped
from catdog_search.cli.display import LiveDisplay, PlainDisplay
from catdog_search.cli.words import duration, say_params
from catdog_search.outcomes import Ending
from catdog_search.search.events import (
    BatchDone,
    Best,
    EpochDone,
    Planned,
    Ready,
    StudyOpened,
    TrialEnded,
    TrialStarted,
)
from catdog_search.search.limits import StudyEstimate
from catdog_search.study import studies
from catdog_search.training.execution import PLAIN, Device

CONFIG = studies.parse(
    {
        "name": "s",
        "purpose": "p",
        "image_size": 32,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": 3,
        "space": {"dropout": {"low": 0.0, "high": 0.5}},
    },
    "f",
)
EPOCH = {"val_accuracy": 0.75, "loss": 0.5, "seconds": 1.5}
EVENTS: list[Any] = [
    StudyOpened(CONFIG, 1, 3, Best(0, 0.7, {}, "r"), "uri"),
    Ready("tensorflow", Device("CPU, 2 cores"), {}, 1e11),
    Planned(StudyEstimate((1000, 2_000_000, 3_000_000), 10**8, 30.0, 0.25), 4 * 10**9, PLAIN, 1),
    TrialStarted(1, {"dropout": 0.25}, "plain", 2, 10),
    BatchDone(1, 0, 5, 10),
    EpochDone(1, 0, EPOCH),
    TrialEnded(1, Ending.FINISHED, 0.75, 1, 61.0, Best(1, 0.75, {"dropout": 0.25}, "r")),
    TrialStarted(2, {"dropout": 0.5}, None, 1, 10),
    TrialEnded(2, Ending.DIVERGED, None, 1, 3.0, Best(1, 0.75, {"dropout": 0.25}, "r")),
]


def test_plain_display_says_a_line_an_event() -> None:
    lines: list[str] = []
    display = PlainDisplay(CONFIG, lines.append)
    with display.context():
        for event in EVENTS:
            display(event)
    assert lines == [
        "1 of 3 trials finished; best so far 0.7000 (trial 0); the worker is starting",
        "worker ready: tensorflow on CPU, 2 cores",
        "plan: 2 trials to go; 0.001 to 3 million weights (median 2); a step takes up to 0.1 GB, "
        "the worker may take 4; pixels streamed, float32, 1 step a call, no XLA; about 30 s a "
        "trial and 1 min 00 s in all, less what is stopped "
        "early; 25% of the space exceeds a limit",
        "trial 1 (recipe plain) (attempt 2): dropout=0.25",
        "trial 1 epoch 1/10: val_accuracy 0.7500, loss 0.5000, 1.5 s",
        "trial 1 COMPLETE 0.7500 after 1 epoch, 1 min 01 s; best so far 0.7500 (trial 1)",
        "trial 2: dropout=0.5",
        "trial 2 PRUNED (diverged) after 1 epoch, 3 s; best so far 0.7500 (trial 1)",
    ]


def test_displays_do_without_what_only_building_and_training_tell() -> None:
    unknown = EpochDone(1, 0, {"val_accuracy": 0.75, "seconds": 1.5})
    events = [Planned(None, 4 * 10**9, PLAIN, 1), EVENTS[3], unknown]
    lines: list[str] = []
    display = PlainDisplay(CONFIG, lines.append)
    for event in events:
        display(event)
    assert lines[0].endswith(
        "to go; the worker may take 4 GB; pixels streamed, float32, 1 step a call, no XLA"
    )
    assert lines[-1] == "trial 1 epoch 1/10: val_accuracy 0.7500, 1.5 s"
    assert "the worker may take 4 GB" in drawn_after([EVENTS[0], *events])


@pytest.mark.parametrize(
    ("best_epoch", "in_training", "said"),
    [
        (6, 0.5276, "COMPLETE 0.5276 after 6 epochs, 9 s"),
        (4, 0.5276, "COMPLETE 0.5276 (epoch 4) after 6 epochs, 9 s"),
        (
            6,
            0.5310,
            "COMPLETE 0.5276 (val scored anew by the exported model, in float32; epoch 6 had "
            "0.5310 in training) after 6 epochs, 9 s",
        ),
        (None, None, "COMPLETE 0.5276 after 6 epochs, 9 s"),
    ],
)
def test_end_of_a_trial_says_why_its_value_is_not_the_last_epochs(
    best_epoch: int | None, in_training: float | None, said: str
) -> None:
    ended = TrialEnded(1, Ending.FINISHED, 0.5276, 6, 9.0, None, best_epoch, in_training)
    lines: list[str] = []
    PlainDisplay(CONFIG, lines.append)(ended)
    assert lines == [f"trial 1 {said}"]


def test_live_display_keeps_the_terminal_from_echoing_an_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours, "wb"):
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(theirs)
        console = Console(force_terminal=True, file=io.StringIO())
        with LiveDisplay(CONFIG, console).context():
            assert not termios.tcgetattr(theirs)[3] & termios.ECHOCTL
        assert before[3] & termios.ECHOCTL
        assert termios.tcgetattr(theirs) == before


def drawn_after(events: list[Any]) -> str:
    console = Console(width=120, record=True, force_terminal=True, file=io.StringIO())
    display = LiveDisplay(CONFIG, console)
    for event in events:
        display(event)
    console.print(display.render())
    return console.export_text()


def test_live_display_shows_the_trial_in_flight() -> None:
    text = drawn_after(EVENTS[:5])
    assert "RUNNING" in text
    assert "0.5/10" in text
    assert "features 50%" in drawn_after([*EVENTS[:4], BatchDone(1, None, 5, 10)])
    assert "1 of 3 trials · best 0.7000 (trial 0) · tensorflow on CPU, 2 cores" in text


def test_live_display_tells_the_time_left_and_the_best() -> None:
    text = drawn_after(EVENTS[:7])
    assert "COMPLETE" in text
    assert "2 of 3 trials · best 0.7500 (trial 1)" in text
    assert "about 1 min 01 s left" in text
    assert "best: dropout=0.25" in text


def test_live_display_estimates_before_the_first_trial_is_over() -> None:
    text = drawn_after(EVENTS[:4])
    assert "about 1 min 00 s left" in text or "about 59 s left" in text
    assert "plain" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (120, 40), (80, 12), (40, 5)])
def test_live_display_fits_the_screen_and_shows_the_latest(width: int, height: int) -> None:
    console = Console(width=width, height=height, force_terminal=True, file=io.StringIO())
    display = LiveDisplay(CONFIG, console)
    for event in EVENTS[:3]:
        display(event)
    for number in range(30):
        display(TrialStarted(number, {"dropout": 0.1, "a_long_name": number}, None, 1, 10))
    drawn = [
        "".join(piece.text for piece in line) for line in console.render_lines(display.render())
    ]
    fits = len(drawn) < height
    assert fits or height == 5  # which has no room for one trial
    assert sum("RUNNING" in line for line in drawn) <= 15
    assert any(line.strip("│ ").startswith("29 ") for line in drawn)
    assert any("of 3 trials" in line for line in drawn)


def test_live_display_replaces_an_attempt_that_died() -> None:
    again = TrialStarted(1, {"dropout": 0.25}, "plain", 3, 10)
    text = drawn_after([*EVENTS[:4], again])
    assert "(attempt 3)" in text
    assert "(attempt 2)" not in text


@pytest.mark.parametrize(
    ("seconds_", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (7800, "2 h 10 min")]
)
def test_duration_is_for_people(seconds_: float, text: str) -> None:
    assert duration(seconds_) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3, "x=0.3"),
        (1e-05, "x=1e-05"),
        (0.123456, "x=0.123456"),  # a step; in four digits its neighbours would read alike
        (0.12345678901, "x=0.1235"),
        (0.0, "x=0"),
        (3, "x=3"),
        (True, "x=True"),
    ],
)
def test_params_are_printed_as_they_are_spelled(value: Any, text: str) -> None:
    assert say_params({"x": value}) == text


def test_long_line_is_wrapped_on_a_terminal_and_whole_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    line = " ".join(f"word-{number}" for number in range(30))
    say_wrapped(line)
    assert capsys.readouterr().out == f"{line}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    say_wrapped(line)
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 60
    assert " ".join(part.strip() for part in shown) == line
