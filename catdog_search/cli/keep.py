"""`study`: the studies that a state folder keeps."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from catdog_search.cli.common import (
    WholeLines,
    json_option,
    say,
    say_json,
    say_table,
    state_option,
)
from catdog_search.cli.look import show
from catdog_search.text import in_a_line

if TYPE_CHECKING:
    from catdog_search.places import StateFolder
    from catdog_search.search.study.manage import Kept


@click.group(cls=WholeLines)
def study() -> None:
    """List, show, rename and delete the studies that a state folder keeps."""


study.add_command(copy.copy(show), "show")


@study.command("list")
@json_option
@state_option
def list_kept(as_json: bool, state: str | None) -> None:
    """List the studies that were run, with their trials, best score and photos."""
    from catdog_search.places import StateFolder
    from catdog_search.search.study.manage import kept

    where = StateFolder.at(state)
    found = kept(where)
    if as_json:
        say_json(
            {"state": str(where.root), "studies": [dataclasses.asdict(each) for each in found]}
        )
        return
    if not found:
        say(where.nothing)
        return
    say_table([("study", "best", "trials", "photos"), *map(_cells, found)])


def _cells(each: Kept) -> tuple[str, ...]:
    best = "" if each.best is None else f"{each.best:.4f}"
    return each.name, best, _trials(each), each.photos


def _trials(each: Kept) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(each.counts.items())) or "none"


@study.command("rename")
@click.argument("name")
@click.argument("new")
@state_option
def rename_study(name: str, new: str, state: str | None) -> None:
    """Give the study NAME the name NEW; its trials, runs and models stay.

    The study file keeps its own name, so running it again begins a new study.
    """
    from catdog_search.places import StateFolder
    from catdog_search.promotion.finalists import name_of
    from catdog_search.search.study.manage import rename
    from catdog_search.search.study.storage import existing_studies

    where = StateFolder.at(state)
    rename(where, name, new)
    if name_of(name) in existing_studies(where):
        rename(where, name_of(name), name_of(new))
    say(f"study {name} was renamed to {new}")


@study.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Delete it; without this, only say what would go.")
@state_option
def delete_study(name: str, yes: bool, state: str | None) -> None:
    """Delete the study NAME and its finalists; models in the registry stay.

    Its experiment goes to MLflow's trash, from where `mlflow gc` removes it for good.
    """
    from catdog_search.places import StateFolder
    from catdog_search.search.study.manage import delete

    where = StateFolder.at(state)
    found = list(_with_finalists(where, name))
    for each in found:
        tracked = f"; experiment {each.experiment!r}" if each.experiment else ""
        text = in_a_line(f"study {each.name}: trials {_trials(each)}{tracked}")
        say(text if yes else f"would delete {text}")
    if not yes:
        say("dry run: nothing was deleted; registered models stay in any case; --yes deletes")
        return
    for each in found:
        delete(where, each.name)
    say("deleted; the experiments are in MLflow's trash, and registered models stay")


def _with_finalists(state: StateFolder, name: str) -> Iterator[Kept]:
    from catdog_search.promotion.finalists import name_of
    from catdog_search.search.study.manage import look_at
    from catdog_search.search.study.storage import existing_studies

    yield look_at(state, name)
    if name_of(name) in existing_studies(state):
        yield look_at(state, name_of(name))
