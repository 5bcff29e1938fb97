"""Options and output that several commands share."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import click

from catdog_search.cli.pulse import Pulse
from catdog_search.redact import redact, redact_all
from catdog_search.text import printable

F = TypeVar("F", bound=Callable[..., Any])

# The registered model, unless another name is given.
MODEL = "catdog"
# Longer than the help of any command.
_NO_LIMIT = 10_000


def _set_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["debug"] = True


def debug_option(command: F) -> F:
    """Add `--debug` to a command."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        help="Show the traceback of an error.",
    )(command)


class WholeLines(click.Group):
    """Lists its commands with the first sentence of their help, which is wrapped and never cut."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, but without truncation."""
        del ctx
        rows = [
            (name, command.get_short_help_str(limit=_NO_LIMIT))
            for name, command in sorted(self.commands.items())
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Whole(click.IntRange):
    """A whole number within bounds, with error messages in plain words."""

    name = "n"  # as shown in help

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        return _converted(super().convert, "a whole number", self, value, param, ctx)


class Number(click.FloatRange):
    """A number within bounds, with error messages in plain words."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        return _converted(super().convert, "a number", self, value, param, ctx)


def _converted(
    convert: Callable[..., Any],
    kind: str,
    bounds: Whole | Number,
    value: Any,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    import math

    try:
        read = convert(value, param, ctx)
        if math.isfinite(read):
            return read
    except click.BadParameter:
        pass
    raise click.BadParameter(
        f"{value!r} is not allowed; it must be {kind}{_within(bounds)}", ctx=ctx, param=param
    )


def _within(bounds: Whole | Number) -> str:
    low, high = bounds.min, bounds.max
    least = "" if low is None else f" above {low:g}" if bounds.min_open else f" of at least {low:g}"
    if high is None:
        return least
    if least and not bounds.min_open:
        return f" from {low:g} to {high:g}"
    return f"{least}, at most {high:g}" if least else f" of at most {high:g}"


def study_option(says: str, *, metavar: str = "NAME", required: bool = True) -> Callable[[F], F]:
    """Let a command take its study as an argument or as `--study`, which mean the same.

    Args:
        says: Help of the option.
        metavar: What may be given.
        required: Whether it must be given.
    """

    def add(command: F) -> F:
        @functools.wraps(command)
        def with_study(*args: Any, study: str | None, named: str | None, **rest: Any) -> Any:
            if study is not None and named is not None and study != named:
                raise click.UsageError(f"{named} and --study {study}: give one of them.")
            chosen = study or named
            if chosen is None and required:
                raise click.UsageError(
                    f"Missing study: give {metavar.replace('|', ' or ')}, "
                    "as an argument or as --study."
                )
            return command(*args, study=chosen, **rest)

        option = click.option("--study", metavar=metavar, help=f"{says} The argument is the same.")
        argument = click.argument("named", metavar=f"[{metavar}]", required=False)
        return cast(F, argument(option(with_study)))

    return add


def ends_with_a_word(command: F) -> F:
    """Let SIGTERM end a command as Ctrl-C does, with a message."""

    @functools.wraps(command)
    def ended(*args: Any, **options: Any) -> Any:
        # A caller that runs it in a thread, or ignores the signal, handles this itself.
        is_ours = threading.current_thread() is threading.main_thread()
        if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return command(*args, **options)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return command(*args, **options)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return cast(F, ended)


def _note_state(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    ctx.meta["state"] = value  # for errors that don't say which disk is full
    return value


def state_option(command: F) -> F:
    """Add `--state`, and `--debug`, to a command."""
    return click.option(
        "--state",
        metavar="DIR",
        callback=_note_state,
        help="Folder of the databases and artifacts [CATDOG_STATE; default: ./mlruns].",
    )(debug_option(command))


def json_option(command: F) -> F:
    """Add `--json` to a command."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."
    )(command)


def duplicates_option(command: F) -> F:
    """Add `--duplicates`; None where it isn't given."""
    return click.option(
        "--duplicates",
        type=click.Choice(["near", "exact", "off"]),
        help="Which duplicates share a split: photos that look the same, exact copies, or none "
        "[default: the study's; near].",
    )(command)


def execution_options(command: F) -> F:
    """Add options for how trainings run: arguments `concurrency`, `forced` and `deterministic`."""

    @functools.wraps(command)
    def with_forced(
        *args: Any,
        pixels: Any,
        precision: Any,
        steps_per_call: int | None,
        xla: bool | None,
        **rest: Any,
    ) -> Any:
        from catdog_search.training.execution import ForcedExecution

        forced = ForcedExecution(pixels, precision, steps_per_call, xla)
        return command(*args, forced=forced, **rest)

    options = (
        click.option(
            "--trials-per-gpu",
            "concurrency",
            type=Whole(min=1),
            default=1,
            metavar="N",
            help="Train N trials at once, each within its share of memory [default: 1].",
        ),
        click.option(
            "--pixels",
            type=click.Choice(["device", "stream"]),
            help="Where photos are kept during training [default: on the GPU if they fit, "
            "otherwise streamed].",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
            help="Numeric precision of training [default: mixed_bfloat16 where the device supports "
            "it].",
        ),
        click.option(
            "--steps-per-call",
            type=Whole(min=1),
            metavar="N",
            help="Training steps per call from the host [default: 16 on a GPU, 1 on PyTorch].",
        ),
        click.option(
            "--xla/--no-xla",
            default=None,
            help="Compile the training step with XLA [default: on a GPU; JAX always does].",
        ),
        click.option(
            "--deterministic",
            is_flag=True,
            help="Make a trial reproducible bit for bit on the same machine; slower.",
        ),
    )
    wrapped: Any = with_forced
    for option in reversed(options):
        wrapped = option(wrapped)
    return cast(F, wrapped)


def say(line: str, *, err: bool = False) -> None:
    """Print one line without secrets or anything that a terminal would act on.

    All output of the command line goes through here; texts of several lines, through `say_lines`.
    """
    # The stream is explicit, or click would choose its own encoding for an ASCII one.
    click.echo(printable(redact(line)), file=sys.stderr if err else sys.stdout)
    PULSE.heard()


# On stderr, as stdout may be reserved for one object or for answers.
PULSE = Pulse(functools.partial(say, err=True))


def say_lines(text: str, *, err: bool = False) -> None:
    """Print our own text of several lines."""
    for line in text.splitlines():
        say(line, err=err)


def say_json(facts: Mapping[str, Any]) -> None:
    """Print the one object: text unchanged, since JSON escapes it, but without secrets."""
    click.echo(json.dumps(redact_all(facts)), file=sys.stdout)


def _absolute(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from catdog_search.study.config import absolute_labels

    return None if value is None else absolute_labels(value)


def _one_spelling(
    _ctx: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    from catdog_search.text import one_spelling

    try:
        return None if value is None else one_spelling(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def labels_options(command: F) -> F:
    """Add `--labels` and `--classes`; None where they aren't given."""
    labels = click.option(
        "--labels",
        metavar="folders|names|FILE.csv",
        callback=_absolute,
        help="Where labels come from; FILE has two columns, a path or name and a label "
        "[default: whatever splits the photos into two classes].",
    )
    classes = click.option(
        "--classes",
        metavar="FOUND[=OURS],…",
        callback=_one_spelling,
        help="Classes to use, and what to call them: cats=cat,dogs=dog; one name for several "
        "merges them; others are left out.",
    )
    return labels(classes(command))


def keep_splits_option(command: F) -> F:
    """Add `--keep-splits`; None where it isn't given."""
    return click.option(
        "--keep-splits/--no-keep-splits",
        default=None,
        help="Keep photos in the split their folder is named after: train, val, test "
        "[default: split by content].",
    )(command)


def choice_options(*, with_splits: bool) -> Callable[[F], F]:
    """Add `--labels`, `--classes` and maybe `--keep-splits`, as one argument `choice`."""

    def add(command: F) -> F:
        @functools.wraps(command)
        def with_choice(
            *args: Any,
            labels: str | None,
            classes: str | None,
            keep_splits: bool | None = None,
            **rest: Any,
        ) -> Any:
            from catdog_search.data.labels import Choice

            return command(*args, choice=Choice(labels, classes, bool(keep_splits)), **rest)

        with_splits_too = keep_splits_option(with_choice) if with_splits else with_choice
        return cast(F, labels_options(with_splits_too))

    return add


def on_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def ask(question: str) -> None:
    """Ask whether to go on.

    Raises:
        click.Abort: The answer is no.
    """
    with PULSE.held():
        click.confirm(question, abort=True, err=True)


def writer(as_json: bool) -> Callable[[str], None]:
    """A function that prints a line, to stderr where stdout is reserved for the one object."""

    def write(line: str) -> None:
        say(line, err=as_json)
        # Flushed, so that pipes and logs can be followed.
        (sys.stderr if as_json else sys.stdout).flush()

    return write


def say_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows with their columns aligned."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        say("  " + "  ".join([*cells, row[-1]]).rstrip())


# Width of wrapped text where the terminal's isn't known, and the least width left for it.
_WIDTH, _LEAST_WIDTH = 100, 30


def say_wrapped(line: str) -> None:
    """Print a line, wrapped at words to the terminal's width; whole where there is no terminal."""
    if not sys.stdout.isatty():
        say(line)
        return
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    for part in textwrap.wrap(
        printable(line),
        max(width, _LEAST_WIDTH),
        break_on_hyphens=False,
        break_long_words=False,
        subsequent_indent="    ",
    ):
        say(part)


def say_entries(rows: Iterable[tuple[str, str]]) -> None:
    """Print names with a text beside each, wrapped to the terminal's width."""
    rows = [(printable(name), printable(text)) for name, text in rows]
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    longest = max((len(name) for name, _ in rows), default=0)
    indent = 4 + min(longest, max(width - _LEAST_WIDTH - 4, 0), width // 3)
    for name, text in rows:
        lines = textwrap.wrap(text, max(width - indent, _LEAST_WIDTH), break_on_hyphens=False)
        head = f"  {name}"
        if len(head) + 2 > indent:
            say(head)
            head = ""
        for line in lines or [""]:
            say(f"{head:{indent}}{line}".rstrip())
            head = ""
