"""Write docs/cli.md from the commands themselves; `make docs` runs it, `make docs-check` compares.

The page says what `--help` says, but for the wrapping, so that it is the same on every terminal.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from catdog_search import cli
from catdog_search.cli.examples import EXAMPLES

PAGE = Path(__file__).with_name("cli.md")
PROGRAM = "catdog-search"
HEAD = f"""\
# Command line

Written by `make docs` from the commands of `catdog_search/cli`; `make docs-check` compares. What
the commands are for, and which belong together, stands in the [README](../README.md#commands).

`{PROGRAM} --help` lists them, `{PROGRAM} --version` says the version; every command has `--help`,
or `-h`, too.
"""


def commands(group: click.Group = cli.main, above: str = PROGRAM) -> dict[str, click.Command]:
    """Every command that isn't a group, by its whole name, sorted."""
    found: dict[str, click.Command] = {}
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            found |= commands(command, f"{above} {name}")
        else:
            found[f"{above} {name}"] = command
    return found


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for each in commands().items() for line in _section(*each))])


def _section(name: str, command: click.Command) -> Iterator[str]:
    ctx = click.Context(command, info_name=name, help_option_names=[])
    yield f"## {name}\n"
    yield f"`{' '.join([name, *command.collect_usage_pieces(ctx)])}`\n"
    # Not the short help, which is cut to a width.
    yield f"{inspect.cleandoc(command.help or '')}\n"
    yield "| option | |\n|---|---|"
    options = [each for each in command.get_params(ctx) if isinstance(each, click.Option)]
    for record in sorted(filter(None, (each.get_help_record(ctx) for each in options))):
        yield f"| `{_cell(record[0])}` | {_cell(record[1])} |"
    if lines := EXAMPLES.get(name.removeprefix(f"{PROGRAM} ")):
        yield "\n```bash\n" + "\n".join(f"{PROGRAM} {line}" for line in lines) + "\n```"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
