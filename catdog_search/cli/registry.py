"""`models`, `rollback`: what is in the registry, and how to go back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from catdog_search.cli.common import (
    MODEL,
    Whole,
    ask,
    json_option,
    on_terminal,
    say,
    say_json,
    say_lines,
    say_table,
    state_option,
)
from catdog_search.markup import without_escapes
from catdog_search.text import printable

if TYPE_CHECKING:
    from catdog_search.promotion.versions import ModelRows, VersionRow
    from catdog_search.tracking.moves import Move


@click.command()
@click.argument("name", required=False)
@click.option(
    "--version",
    type=Whole(min=1),
    metavar="V",
    help="Version of NAME to show  [default: the champion, else the newest].",
)
@json_option
@state_option
def models(name: str | None, version: int | None, as_json: bool, state: str | None) -> None:
    """List registered model versions, or show one with its model card."""
    from catdog_search.places import StateFolder
    from catdog_search.promotion.versions import card_of, find_version, list_models
    from catdog_search.tracking.store import nothing_in, tracking_uri

    where = StateFolder.at(state)
    if name is not None:
        found = find_version(where, name, version)
        _say_version(found, card_of(where, found.versions[0]), as_json)
        return
    if version is not None:
        raise click.UsageError("--version wants the NAME of a model.")
    rows = list_models(where)
    if as_json:
        say_json({"models": [_as_json(model) for model in rows]})
    elif rows:
        _say_models(rows)
    else:
        place = nothing_in(tracking_uri(where))
        say(f"no model is registered {place}; `catdog-search promote` registers one")


def _say_models(rows: list[ModelRows]) -> None:
    head = (
        *("model", "version", "aliases", "study", "trial", "on val", "on test", "registered"),
        "moved",
    )
    say_table([head, *(_cells(model, row) for model in rows for row in model.versions)])
    for model in rows:
        if not model.versions:
            say(f"{model.name}: has no version")
        for row in model.versions:
            for line in row.gone:
                say(f"{model.name} version {row.version}: {line}")
        if model.unfinished:
            say(f"{model.name}: {_unfinished(model.unfinished)}")


def _cells(model: ModelRows, row: VersionRow) -> tuple[str, ...]:
    score = f"{row.metric or ''} {'' if row.value is None else f'{row.value:.4f}'}".strip()
    trial = f"{row.trial or ''}{' on new seeds' if row.trained_as else ''}"
    shown = (str(row.version), ", ".join(row.aliases), row.study or "", trial, score)
    return (model.name, *shown, _on_test(row), row.registered_at, _moved(model, row))


def _on_test(row: VersionRow) -> str:
    if row.test is None:
        return ""
    low, high = row.test.interval
    looks = f"{row.test.looks} look{'s' if row.test.looks != 1 else ''}"
    return f"{row.test.accuracy:.4f} ({low:.4f} to {high:.4f}; {looks})"


def _moved(model: ModelRows, row: VersionRow) -> str:
    if row.move is None:
        return "not recorded" if row.version == model.champion else ""
    note = row.move.note
    why = f": {note.reason}" if note.reason else ""
    return f"{note.command} by {note.by} at {note.at}{why}"


def _unfinished(move: Move) -> str:
    return f"{move} was begun and didn't happen; the next promote or rollback marks it so"


def _say_version(model: ModelRows, card: str | None, as_json: bool) -> None:
    (row,) = model.versions
    if as_json:
        say_json({**_version_as_json(row), "moves": _moves_as_json(model), "card": card})
        return
    aliases = f" ({', '.join(row.aliases)})" if row.aliases else ""
    say(f"version {row.version} of {model.name!r}{aliases}, registered at {row.registered_at}")
    for line in _facts(row):
        say(line)
    for key, value in sorted(row.tags.items()):
        say(f"tag {key}: {value}")
    for line in (*_moves(model, row), *row.gone):
        say(line)
    if model.unfinished:
        say(_unfinished(model.unfinished))
    if card is not None:
        say("")
        say_lines(without_escapes(card))


def _moves(model: ModelRows, row: VersionRow) -> Iterator[str]:
    for move, outcome in model.moves:
        if row.version in (move.before, move.to):
            why = f": {move.note.reason}" if move.note.reason else ""
            yield f"move, {outcome}: {move}{why}"
    if row.version == model.champion and row.move is None:
        yield "move: who made it champion isn't recorded"


def _facts(row: VersionRow) -> Iterator[str]:
    if row.study is not None:
        score = "" if row.value is None else f", {row.metric or 'objective'} {row.value:.4f} on val"
        params = f"trial {row.trial} of {row.study}"
        yield (
            f"{row.trained_as}, with the params of {params}{score}"
            if row.trained_as
            else (f"{params}{score}")
        )
    if row.test is not None:
        yield f"on {row.test.n} photos of test: accuracy {_on_test(row)}"
    yield f"run {row.run_id or 'unknown'}; model {row.model_id or 'unknown'}"
    if row.said.class_names:
        yield f"classes {', '.join(row.said.class_names)}; {row.said.image_size} px"
    if row.dataset_digest:
        yield f"dataset digest {row.dataset_digest}"


def _as_json(model: ModelRows) -> dict[str, Any]:
    return {
        "name": model.name,
        "champion": model.champion,
        "previous": model.previous,
        "versions": [_version_as_json(row) for row in model.versions],
        "moves": _moves_as_json(model),
    }


def _version_as_json(row: VersionRow) -> dict[str, Any]:
    facts = dataclasses.asdict(row)
    said = facts.pop("said")
    del said["missing"]  # among what is gone
    facts.update(said)
    facts["move"] = row.move and _move_as_json(row.move)
    return facts


def _moves_as_json(model: ModelRows) -> list[dict[str, Any]]:
    return [{**_move_as_json(move), "outcome": outcome} for move, outcome in model.moves]


def _move_as_json(move: Move) -> dict[str, Any]:
    return {"from": move.before, "to": move.to, **dataclasses.asdict(move.note)}


@click.command()
@click.option(
    "--model", default=MODEL, show_default=True, help="Name in the registry.", metavar="NAME"
)
@click.option(
    "--to",
    type=Whole(min=1),
    metavar="V",
    help="Version to go back to  [default: the one that was champion before].",
)
@click.option("--reason", required=True, metavar="TEXT", help="The reason, which is recorded.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@json_option
@state_option
def rollback(
    model: str, to: int | None, reason: str, yes: bool, as_json: bool, state: str | None
) -> None:
    """Make an earlier version champion again."""
    from catdog_search.places import StateFolder
    from catdog_search.promotion.rollback import rollback as roll_back

    def agree(target: int, before: int | None) -> None:
        if not yes and on_terminal():
            question = f"version {target} of {printable(model)!r} instead of version {before}?"
            ask(f"make champion {question}")

    done = roll_back(StateFolder.at(state), model, reason, to, agree)
    if as_json:
        say_json(dataclasses.asdict(done))
        return
    instead = f", instead of version {done.before}" if done.before else ""
    if done.moved:
        say(f"version {done.version} of {model!r} is champion{instead}: {done.reason}")
    else:
        say(f"version {done.version} of {model!r} is champion already; nothing was moved")
    if done.unserved is not None:
        say(f"note: not where it is served from yet: {done.unserved}")
    say(f"tracking URI: {done.tracking_uri}")
    say(done.uri)
