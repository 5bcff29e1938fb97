"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import tempfile
import traceback
from typing import Any

import click

from catdog_search import __version__
from catdog_search.cli import data, judge, look, run, stores
from catdog_search.errors import CatdogError, TrialFailedError, outside_reason
from catdog_search.text import printable


class _Main(click.Group):
    """Turns errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        # A broken pipe: nobody reads on, as with `| head`, and click ends quietly.
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted; run again to go on", err=True)
            ctx.exit(run.INTERRUPTED)
        except CatdogError as error:
            if ctx.meta.get("debug"):
                click.echo(_details(error), err=True)
            click.echo(f"error: {printable(str(error))}", err=True)
        except Exception as error:
            _say_unexpected(error, debug=bool(ctx.meta.get("debug")))
        return ctx.exit(1)


def _say_unexpected(error: Exception, *, debug: bool) -> None:
    trace = traceback.format_exc()
    if debug:
        click.echo(trace, err=True)
    if reason := outside_reason(error):
        click.echo(f"error: {reason}", err=True)
        return
    message = " ".join(str(error).split())
    said = printable(f"{type(error).__name__}: {message}")
    click.echo(f"bug: {said}; trace: {_save_trace(trace)}", err=True)


def _details(error: CatdogError) -> str:
    own = "".join(traceback.format_exception(error))
    return error.details + own if isinstance(error, TrialFailedError) else own


def _save_trace(trace: str) -> str:
    with tempfile.NamedTemporaryFile(
        "w",
        prefix="catdog-search-",
        suffix=".trace.txt",
        delete=False,
        encoding="utf-8",
        errors="backslashreplace",
    ) as file:
        file.write(trace)
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
    judge.compare,
    judge.evaluate,
    stores.promote,
    stores.ui,
    stores.doctor,
    data.data,
):
    main.add_command(_command)
