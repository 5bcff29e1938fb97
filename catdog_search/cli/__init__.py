"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import click

from catdog_search import __version__
from catdog_search.cli import (
    data,
    export,
    judge,
    keep,
    look,
    predict,
    promote,
    registry,
    run,
    serve,
    stores,
)
from catdog_search.cli.common import PULSE, WholeLines, say, say_lines
from catdog_search.cli.examples import add_examples
from catdog_search.errors import CatdogError, TrialFailedError
from catdog_search.redact import redact
from catdog_search.text import in_a_line, printable


class _Main(WholeLines):
    """Turns errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        _let_streams_take_any_text()
        _give_libraries_a_home()
        try:
            with PULSE.beating():
                return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise  # its message is a whole page of our help
        except click.ClickException as error:
            vars(error)["message"] = printable(redact(error.message))
            raise
        # On a broken pipe (the reader is gone, as with `| head`) click ends quietly.
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            say("interrupted; run again to resume", err=True)
            ctx.exit(run.INTERRUPTED)
        except CatdogError as error:
            _say_known(error, debug=bool(ctx.meta.get("debug")))
        except Exception as error:
            state = ctx.meta.get("state")
            _say_unexpected(error, state, debug=bool(ctx.meta.get("debug")))
        return ctx.exit(1)


def _say_known(error: CatdogError, *, debug: bool) -> None:
    if debug:
        say_lines(_details(error), err=True)
    for line in error.lines:
        say(f"error: {line}", err=True)


def _say_unexpected(error: Exception, state: str | None, *, debug: bool) -> None:
    from catdog_search.outside import outside_reason
    from catdog_search.places import StateFolder

    trace = traceback.format_exc()
    if debug:
        say_lines(trace, err=True)
    root = None
    with contextlib.suppress(CatdogError, OSError, RuntimeError):  # the error may be of its name
        root = StateFolder.at(state).root
    if reason := outside_reason(error, root):
        say(f"error: {reason}", err=True)
        return
    bug = f"{type(error).__name__}: {in_a_line(str(error))}"
    looks = "`catdog-search doctor` tells whether the state is damaged"
    say(f"bug: {bug}; {looks}; {_saved_trace(trace)}", err=True)


def _let_streams_take_any_text() -> None:
    """Spell out characters that a stream's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_libraries_a_home() -> None:
    """Where this user has no home folder, let libraries keep their files in the cache if named."""
    try:
        Path.home()
    except RuntimeError:  # no HOME, and a user not in /etc/passwd, as in a container
        if cache := os.environ.get("CATDOG_CACHE"):
            os.environ["HOME"] = str(Path(cache).absolute())


def _details(error: CatdogError) -> str:
    own = "".join(traceback.format_exception(error))
    return error.details + own if isinstance(error, TrialFailedError) else own


def _saved_trace(trace: str) -> str:
    try:
        return f"trace: {_save_trace(trace)}"
    except OSError as error:
        return f"its trace can't be kept ({error.strerror or error}); --debug shows it"


def _save_trace(trace: str) -> str:
    with tempfile.NamedTemporaryFile(
        "w",
        encoding="utf-8",
        errors="backslashreplace",
        prefix="catdog-search-",
        suffix=".trace.txt",
        delete=False,
    ) as file:
        file.write(redact(trace))
    return file.name


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="catdog-search")
def main() -> None:
    """Search, track and promote image classifiers of two classes."""


for _command in (
    run.run,
    look.list_studies,
    look.check,
    look.show,
    keep.study,
    judge.compare,
    judge.evaluate,
    promote.promote,
    registry.models,
    registry.rollback,
    export.model,
    predict.predict,
    serve.serve,
    stores.ui,
    stores.relocate,
    stores.doctor,
    data.data,
):
    main.add_command(_command)
add_examples(main)
