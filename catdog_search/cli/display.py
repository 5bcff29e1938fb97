"""Display of a running study: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import statistics
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from catdog_search.cli.common import PULSE
from catdog_search.cli.pulse import LONGEST_SILENCE_S
from catdog_search.cli.words import counted, duration, say_params, say_plan
from catdog_search.outcomes import INTERRUPTED
from catdog_search.redact import redact
from catdog_search.search.events import (
    BatchDone,
    Best,
    EpochDone,
    Event,
    Notice,
    Planned,
    Ready,
    StudyOpened,
    TrialEnded,
    TrialStarted,
)
from catdog_search.search.limits import StudyEstimate
from catdog_search.study.config import StudyConfig
from catdog_search.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_ROWS = 15


class PlainDisplay:
    """One line per event.

    Args:
        config: Study's configuration.
        write: Function that prints a line.
    """

    def __init__(self, config: StudyConfig, write: Callable[[str], None]) -> None:
        self._config = config
        self._write = write
        self._wanted = 0
        self._epochs: dict[int, int] = {}  # by trial

    def context(self) -> AbstractContextManager[object]:
        """Nothing to set up."""
        return nullcontext()

    def __call__(self, event: Event) -> None:
        """Print what the event says."""
        line = self._within(event) if isinstance(event, BatchDone) else self._line(event)
        if line:
            self._write(line)
            PULSE.heard()

    def _within(self, event: BatchDone) -> str:
        """Progress within an epoch, but only after a long silence."""
        if PULSE.silent_s() < LONGEST_SILENCE_S / 2:
            return ""
        if event.epoch is None:
            return f"trial {event.number} features: {event.step} of {event.steps} photos"
        epoch = f"{event.epoch + 1}/{self._epochs[event.number]}"
        of = f" of {event.steps}" if event.steps else ""
        return f"trial {event.number} epoch {epoch}: step {event.step}{of}"

    def _line(self, event: Event) -> str:
        line = ""
        match event:
            case StudyOpened(finished=finished, wanted=wanted, best=best):
                self._wanted = wanted - finished
                line = f"{finished} of {counted(wanted, 'trial')} finished{_so_far(best)}"
                line += "; the worker is starting" if finished < wanted else ""
            case Ready(backend=backend, device=device):
                line = f"worker ready: {backend} on {device.name}"
            case Planned():
                line = f"plan: {say_plan(event, self._wanted)}"
            case TrialStarted(number=number):
                self._epochs[number] = event.epochs
                line = f"trial {number}{_origin(event)}: {say_params(event.varied)}"
            case EpochDone():
                epoch = _epoch(event, self._config.metric, self._epochs[event.number])
                line = f"trial {event.number} {epoch}"
            case TrialEnded():
                line = f"trial {event.number} {_ended(event)}{_so_far(event.best)}"
            case Notice(text=text):
                line = f"note: {text}"
        return line


def _origin(event: TrialStarted) -> str:
    recipe = f" (recipe {event.recipe})" if event.recipe else ""
    return recipe + (f" (attempt {event.attempt})" if event.attempt > 1 else "")


def _epoch(event: EpochDone, metric: str, epochs: int) -> str:
    metrics = event.metrics
    # A custom loop may not report a loss.
    loss = f"loss {metrics['loss']:.4f}, " if "loss" in metrics else ""
    return (
        f"epoch {event.epoch + 1}/{epochs}: "
        f"{metric} {metrics[metric]:.4f}, {loss}{metrics['seconds']:.1f} s"
    )


def _ended(event: TrialEnded) -> str:
    value = f" {event.value:.4f}{_scored_anew(event)}" if event.value is not None else ""
    words = event.ending.words
    reason = f" ({words})" if words not in ("", INTERRUPTED) else ""
    spent = f"{counted(event.epochs, 'epoch')}, {duration(event.seconds)}"
    return f"{event.ending.shown}{value}{reason} after {spent}"


def _scored_anew(event: TrialEnded) -> str:
    """Why a final value differs from the last epoch's line; empty where it doesn't."""
    if event.best_epoch is None:
        return ""
    if event.in_training is not None and f"{event.in_training:.4f}" != f"{event.value:.4f}":
        return (
            f" (val scored anew by the exported model, in float32; epoch {event.best_epoch} had "
            f"{event.in_training:.4f} in training)"
        )
    return f" (epoch {event.best_epoch})" if event.best_epoch != event.epochs else ""


def _so_far(best: Best | None) -> str:
    return f"; best so far {best.value:.4f} (trial {best.number})" if best else ""


@dataclass
class _Row:
    number: int
    params: str
    epochs: int
    state: str = "RUNNING"
    epoch: str = ""
    value: str = ""
    started: float = field(default_factory=time.monotonic)
    seconds: float | None = None


def _literal(*lines: str) -> Text:
    """Lines as they are: rich would take a name in brackets for markup."""
    from rich.text import Text

    return Text("\n".join(printable(redact(line)) for line in lines))


@contextmanager
def _without_echo() -> Iterator[None]:
    """Keep the terminal from echoing Ctrl-C as ^C, which would shift the table a line down."""
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):  # standard input isn't a terminal
        yield
        return
    changed = [*before]
    changed[3] &= ~termios.ECHOCTL
    termios.tcsetattr(terminal, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


class LiveDisplay:
    """A table that is refreshed several times a second.

    Args:
        config: Study's configuration.
        console: Console that shows it.
    """

    def __init__(self, config: StudyConfig, console: Console) -> None:
        self._config = config
        self._console = console
        self._rows: list[_Row] = []
        self._finished = self._wanted = 0
        self._best: Best | None = None
        self._device = "starting the worker"
        self._estimate: StudyEstimate | None = None
        self._concurrency = 1
        self._searched = set(config.space.searched)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Shows the table while it is open."""
        from rich.live import Live

        live = Live(
            get_renderable=self.render,
            console=self._console,
            refresh_per_second=4,
            # On the smallest of screens; elsewhere `render` sees to it.
            vertical_overflow="crop",
        )
        with PULSE.held(), _without_echo(), live:
            yield

    def __call__(self, event: Event) -> None:
        """Record the event; the next refresh shows it."""
        match event:
            case StudyOpened():
                self._finished, self._wanted = event.finished, event.wanted
                self._best = event.best
            case Ready(backend=backend, device=device):
                self._device = f"{backend} on {device.name}"
            case TrialStarted():
                self._start(event)
            case BatchDone() | EpochDone() | TrialEnded() if row := self._row(event.number):
                self._progress(row, event)
            case Planned():
                self._estimate, self._concurrency = event.estimate, event.concurrency
                plan = say_plan(event, self._wanted - self._finished)
                self._console.print(_literal(f"plan: {plan}"))
            case Notice(text=text):
                self._console.print(_literal(f"note: {text}"))

    def _row(self, number: int) -> _Row | None:
        return next((row for row in reversed(self._rows) if row.number == number), None)

    def _start(self, event: TrialStarted) -> None:
        if died := self._row(event.number):  # an earlier attempt
            self._rows.remove(died)
        self._rows.append(_Row(event.number, self._what_differs(event), event.epochs))

    def _what_differs(self, event: TrialStarted) -> str:
        """The params that differ from the best trial's, which the caption shows in full."""
        best = self._best.params if self._best else {}
        differs = {k: v for k, v in event.varied.items() if best.get(k) != v}
        return (say_params(differs) or "as the best") + _origin(event)

    def _progress(self, row: _Row, event: BatchDone | EpochDone | TrialEnded) -> None:
        of = row.epochs
        if isinstance(event, TrialEnded):
            self._end(row, event)
        elif isinstance(event, BatchDone):
            done = event.step / event.steps if event.steps else 0.0
            epoch = None if event.epoch is None else event.epoch + done
            row.epoch = f"features {done:.0%}" if epoch is None else f"{epoch:.1f}/{of}"
        else:
            row.epoch = f"{event.epoch + 1}/{of}"
            row.value = f"{event.metrics[self._config.metric]:.4f}"

    def _end(self, row: _Row, event: TrialEnded) -> None:
        row.state, row.seconds = event.ending.shown, event.seconds
        row.epoch = str(event.epochs)
        if event.value is not None:
            row.value = f"{event.value:.4f}"
        self._best = event.best
        self._finished += not event.ending.is_resumable

    def render(self) -> RenderableType:
        """The table as it stands, with as many of the latest trials as the screen has room for."""
        most = self._console.height - 1  # for the cursor
        for n_rows in range(_ROWS, 1, -1):
            table = self._table(n_rows)
            if len(self._console.render_lines(table, pad=False)) <= most:
                return table
        return self._table(1)

    def _table(self, n_rows: int) -> Table:
        from rich.table import Table

        caption = _literal(*self._summary())
        table = Table(title=_literal(f"study {self._config.name}"), caption=caption)
        for name in ("trial", "state", "what differs", "epoch", self._config.metric, "time"):
            table.add_column(name, overflow="fold")
        for row in self._rows[-n_rows:]:
            seconds = time.monotonic() - row.started if row.seconds is None else row.seconds
            best = self._best is not None and row.number == self._best.number
            cells = (str(row.number), row.state, row.params, row.epoch, row.value)
            shown = map(_literal, (*cells, duration(seconds)))
            table.add_row(*shown, style="bold green" if best else None)
        return table

    def _summary(self) -> tuple[str, ...]:
        best = (
            f"best {self._best.value:.4f} (trial {self._best.number})"
            if self._best
            else "no best yet"
        )
        parts = [f"{self._finished} of {counted(self._wanted, 'trial')}", best, self._device]
        if (left := self._seconds_left()) is not None:
            parts.append(f"about {duration(left)} left")
        if self._best:
            varied = {k: v for k, v in self._best.params.items() if k in self._searched}
            return " · ".join(parts), f"best: {say_params(varied)}"
        return (" · ".join(parts),)

    def _seconds_left(self) -> float | None:
        done = [row.seconds for row in self._rows if row.seconds is not None]
        estimate = self._estimate
        each = _typical(done, estimate)
        if each is None or self._finished >= self._wanted:
            return None
        once = estimate.once_seconds if estimate and not done else 0
        running = [time.monotonic() - row.started for row in self._rows if row.seconds is None]
        left = each * (self._wanted - self._finished) + once - sum(running)
        return max(left, 0) / self._concurrency


def _typical(done: list[float], estimate: StudyEstimate | None) -> float | None:
    """Seconds per trial: from finished ones, else as estimated."""
    if not done:
        return estimate.seconds if estimate else None
    # One trial may have computed what the others then found in the cache.
    shared = estimate is not None and estimate.once_seconds
    return statistics.median(done) if shared else statistics.fmean(done)
