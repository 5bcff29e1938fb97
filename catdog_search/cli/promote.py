"""`promote`: from a study to its champion."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from catdog_search.cli.common import (
    MODEL,
    Whole,
    ask,
    ends_with_a_word,
    execution_options,
    json_option,
    on_terminal,
    say,
    say_json,
    say_table,
    state_option,
    study_option,
    writer,
)
from catdog_search.cli.run import INTERRUPTED, display_of, own_command, state_flag

if TYPE_CHECKING:
    from catdog_search.places import StateFolder
    from catdog_search.promotion.finalists import Plan
    from catdog_search.promotion.gates import Gate
    from catdog_search.promotion.promote import Promotion
    from catdog_search.search.coordinator import Report
    from catdog_search.training.execution import ForcedExecution


@click.command()
@study_option("Study whose champion to find.", metavar="NAME|FILE")
@click.option(
    "--model", default=MODEL, show_default=True, help="Name in the registry.", metavar="NAME"
)
@click.option(
    "--data", metavar="PATH", help="Where the study's photos are now [default: where they were]."
)
@click.option(
    "--weights",
    metavar="imagenet|none|FILE",
    help="Of ResNet50's backbone [default: those that the study loaded last].",
)
@click.option(
    "--finalists",
    type=Whole(min=1, max=100),
    metavar="K",
    help="Best trials to train again [default: the study file's; 3].",
)
@click.option(
    "--seeds",
    type=Whole(min=1, max=100),
    metavar="N",
    help="New seeds of each; with one finalist and one seed the best trial goes on as it is "
    "[default: the study file's; 3].",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show every gate without training, looking at test or moving anything.",
)
@click.option(
    "--yes", is_flag=True, help="Don't ask before training; without a terminal nothing is asked."
)
@execution_options
@json_option
@state_option
@ends_with_a_word
def promote(  # noqa: PLR0913, PLR0917  one for each option
    study: str,
    model: str,
    data: str | None,
    weights: str | None,
    finalists: int | None,
    seeds: int | None,
    dry_run: bool,
    yes: bool,
    concurrency: int,
    forced: ForcedExecution,
    deterministic: bool,
    as_json: bool,
    state: str | None,
) -> None:
    """Find a study's champion and register it.

    Its best trials are trained again on new seeds, the best of them by val is calibrated, test is
    looked at once, and what passes the gates of [promotion] is registered and made the champion.
    """
    from catdog_search.errors import RequestError
    from catdog_search.machine.backends import use_backend
    from catdog_search.places import StateFolder
    from catdog_search.promotion.promote import Hooks
    from catdog_search.promotion.promote import promote as find_champion
    from catdog_search.search.prepare import Request

    write = writer(as_json)
    use_backend()
    # It warns about every retraced function; a promotion has many small ones.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    request = Request(
        study=study,
        state=StateFolder.at(state),
        data=data,
        weights=weights,
        concurrency=concurrency,
        deterministic=deterministic,
        forced=forced,
    )
    hooks = Hooks(
        write,
        lambda plan: write(_plan(plan)),
        lambda plan: _agree("train them?", yes),
        lambda question: _agree(question, yes),
        lambda plan: _train(plan, as_json, write),
    )
    try:
        done = find_champion(
            request, model, hooks, n_finalists=finalists, n_seeds=seeds, dry_run=dry_run
        )
    except RequestError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        say_json(_promotion_as_json(done))
    else:
        _say_promotion(done, model, request.state, dry_run=dry_run)
    if done.interrupted:
        click.get_current_context().exit(INTERRUPTED)
    if done.failed and not dry_run:
        click.get_current_context().exit(1)


def _plan(plan: Plan) -> str:
    from catdog_search.cli.words import counted, duration

    took = "how long isn't known"
    if plan.seconds is not None:
        took = f"about {duration(plan.seconds)}, if each takes as long as its trial did"
    n = len(plan.finalists)
    each = f"{counted(n, 'finalist')} x {counted(plan.wanted, 'seed')}"
    first = f", after {plan.left} that an earlier call left waiting" if plan.left else ""
    return (
        f"{_left_out(plan)}finalists: {plan.missing} of {n * plan.wanted} trainings to go "
        f"({each}){first}; {took}; "
        f"{plan.calibration} of {plan.train} photos of train are set aside for calibration; "
        "then come calibration and checks"
    )


def _left_out(plan: Plan) -> str:
    numbers = ", ".join(map(str, plan.outside))
    return (
        f"left out, being outside of the space as it is now: trial {numbers}; " if numbers else ""
    )


def _agree(question: str, yes: bool) -> None:
    if not yes and on_terminal():
        ask(question)


def _train(plan: Plan, as_json: bool, write: Callable[[str], None]) -> Report:
    from catdog_search.promotion.finalists import train

    display = display_of(plan.prepared.config, as_json, write)
    with display.context():
        return train(plan, display)


def _promotion_as_json(done: Promotion) -> dict[str, Any]:
    from catdog_search.promotion.gates import as_facts

    registered = done.registered
    return {
        "uri": registered and registered.uri,
        "version": registered and registered.version,
        "created": registered and registered.created,
        "previous": registered and registered.previous,
        "study": done.study,
        "trial": done.facts.get("choice", {}).get("best_trial", done.best.number),
        "value": done.best.value,
        "run_id": done.run_id,
        "tracking_uri": done.tracking_uri,
        "promoted": registered is not None,
        "interrupted": done.interrupted,
        **done.facts,
        "gates": as_facts(done.gates),
    }


_MARKS = {"passed": "passed", "failed": "FAILED", "open": "not looked at", "off": "not asked"}


def _say_promotion(done: Promotion, model: str, state: StateFolder, *, dry_run: bool) -> None:
    if done.interrupted:
        say("stopped; promote again to go on")
        return
    for line in _found(done):
        say(line)
    say_table([("gate", "", "found and asked"), *map(_gate_cells, done.gates)])
    registered = done.registered
    if registered is None:
        for line in _why_not(done, dry_run=dry_run):
            say(line)
        return
    how = "registered" if registered.created else "was registered before"
    was = f", before it version {registered.previous}" if registered.previous else ""
    trials = ", ".join(map(str, done.facts["choice"]["trials"]))
    say(
        f"trial {trials} of {done.facts['choice']['trained_in']} {how}: version "
        f"{registered.version} of {model!r} is champion{was}"
    )
    command, name, flag = own_command(), shlex.quote(model), state_flag(state)
    say(f"card:    {command} models {name} --version {registered.version}{flag}")
    say(f"ask:     {command} predict {name} PHOTO…{flag}")
    say(f"serve:   {command} serve {name}{flag}")
    say(f"tracking URI: {done.tracking_uri}")
    say(registered.uri)


def _gate_cells(gate: Gate) -> tuple[str, ...]:
    return gate.name, _MARKS[gate.verdict], gate.text


def _why_not(done: Promotion, *, dry_run: bool) -> Iterator[str]:
    if dry_run:
        yield "dry run: nothing was looked at, registered or moved"
    else:
        names = ", ".join(gate.name for gate in done.failed)
        yield f"not promoted, and nothing was moved: {names} failed; run {done.run_id} keeps it all"


def _found(done: Promotion) -> Iterator[str]:
    facts = done.facts
    if not facts:
        return
    chosen = facts["choice"]
    for each in chosen["finalists"]:
        said = ", ".join(f"{value:.4f}" for value in each["values"])
        mark = " (chosen)" if each["name"] == chosen["name"] else ""
        first = "" if each["first_value"] is None else f", its trial had {each['first_value']:.4f}"
        yield f"finalist {each['name']}: mean {each['mean']:.4f} on val ({said}){first}{mark}"
    if chosen["noise"] is not None:
        ties = f"; ties: {', '.join(chosen['ties'])}" if len(chosen["ties"]) > 1 else ""
        yield f"one seed's noise: {chosen['noise']:.4f}{ties}"
    yield f"what goes on: {chosen['form']}"
    fitted = facts["calibration"]
    where = f"{fitted['n']} photos of {facts['fitted_on']}"
    sure = "" if facts["guaranteed"] else ", which chose too, so nothing of this is guaranteed"
    yield (
        f"calibrated on {where}{sure}: temperature {fitted['temperature']:.3f}, calibration error "
        f"{fitted['error_before']:.4f} before and {fitted['error_after']:.4f} after"
    )
    yield _not_sure(facts)
    if (test := facts["test"]) is not None:
        low, high = test["interval"]
        yield f"test: {test['accuracy']:.4f} on {test['n']} photos (95 %: {low:.4f} to {high:.4f})"
        yield f"looks: {facts['looks']['text']}"


def _not_sure(facts: dict[str, Any]) -> str:
    band, rate = facts["band"], facts["error_rate"]
    if band is None:
        return (
            f"not sure: no band keeps the error of what is answered at most {rate:.2%} on these "
            "photos, so every photo is answered"
        )
    said = (
        f"not sure: between {band['low']:.4f} and {band['high']:.4f}; {band['coverage']:.1%} are "
        f"answered, at most {band['upper']:.2%} of them wrongly"
    )
    found = facts["covered"]
    if found is None:
        return said
    return f"{said}; on test {found['coverage']:.1%}, {found['error']:.2%} wrongly"
