"""`run`: a study from its file to its last trial."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from catdog_search.cli.common import (
    MODEL,
    Number,
    Whole,
    duplicates_option,
    ends_with_a_word,
    execution_options,
    json_option,
    keep_splits_option,
    labels_options,
    say,
    say_json,
    state_option,
    study_option,
    writer,
)

if TYPE_CHECKING:
    from catdog_search.cli.display import LiveDisplay, PlainDisplay
    from catdog_search.places import StateFolder
    from catdog_search.search.coordinator import Report
    from catdog_search.search.study.views import StudyView
    from catdog_search.study.config import Duplicates, StudyConfig
    from catdog_search.training.execution import ForcedExecution

INTERRUPTED = 130


@click.command()
@study_option(
    "Study to run or resume; with --hypermodel the name that it gets.",
    metavar="NAME|FILE",
    required=False,
)
@click.option(
    "--hypermodel",
    metavar="pkg.module:NAME",
    help="Search KerasTuner's HyperModel or build(hp) instead of a study file. It is imported, "
    "here or where it is installed: importing code is running it.",
)
@click.option(
    "--data",
    metavar="PATH",
    help="Folder or zip of photos [CATDOG_DATA; default: built-in drawn pictures].",
)
@click.option(
    "--subset",
    type=Whole(min=2),
    metavar="N",
    help="Train on N photos of train, the same first N for every larger N.",
)
@labels_options
@keep_splits_option
@duplicates_option
@click.option(
    "--trials",
    type=Whole(min=1),
    help="Finished trials wanted, earlier calls and recipes included [default: the study file's].",
)
@click.option(
    "--timeout",
    type=Number(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop after this long; run again to resume.",
)
@click.option(
    "--seeds",
    type=Whole(min=1),
    metavar="N",
    help="Train each recipe N times, each time on another seed [default: the study file's].",
)
@click.option(
    "--weights",
    metavar="imagenet|none|FILE",
    help="Of ResNet50's backbone; FILE is a Keras weights file [default: the study file's].",
)
@execution_options
@json_option
@state_option
@ends_with_a_word
def run(  # noqa: PLR0913, PLR0917  one for each option
    study: str | None,
    hypermodel: str | None,
    data: str | None,
    subset: int | None,
    labels: str | None,
    classes: str | None,
    keep_splits: bool | None,
    duplicates: Duplicates | None,
    trials: int | None,
    timeout: float | None,
    seeds: int | None,
    weights: str | None,
    concurrency: int,
    forced: ForcedExecution,
    deterministic: bool,
    as_json: bool,
    state: str | None,
) -> None:
    """Run a study, or resume it where it stopped."""
    from catdog_search.errors import RequestError, StateError
    from catdog_search.places import StateFolder
    from catdog_search.search.coordinator import run_study
    from catdog_search.search.prepare import Request, prepare

    write = writer(as_json)
    request = Request(
        study=study,
        state=StateFolder.at(state),
        hypermodel=hypermodel,
        data=data,
        subset=subset,
        labels=labels,
        classes=classes,
        keep_splits=keep_splits,
        duplicates=duplicates,
        weights=weights,
        trials=trials,
        timeout=timeout,
        seeds=seeds,
        concurrency=concurrency,
        deterministic=deterministic,
        forced=forced,
    )
    try:
        prepared = prepare(request, write)
    except RequestError as error:
        raise click.UsageError(str(error)) from None
    display = display_of(prepared.config, as_json, write)
    with display.context():
        report = run_study(
            prepared.config, prepared.dataset, prepared.state, display, prepared.options
        )
    if as_json:
        say_json(_run_as_json(report))
    else:
        named = f"--hypermodel {hypermodel}" if hypermodel else f"--study {shlex.quote(str(study))}"
        class_names = prepared.dataset.manifest.class_names
        say_report(report, prepared.wanted, prepared.state, class_names, named)
    if report.end == "interrupt":
        click.get_current_context().exit(INTERRUPTED)
    if report.view.best is None and report.end in ("done", "exhausted"):
        command = prepared.state.command(f"show --study {prepared.config.name}")
        raise StateError(f"no trial of {prepared.config.name} is COMPLETE; {command} says why")


def display_of(
    config: StudyConfig, as_json: bool, write: Callable[[str], None]
) -> LiveDisplay | PlainDisplay:
    """The display of a running study: a live table, or lines where there is no terminal."""
    from rich.console import Console

    from catdog_search.cli.display import LiveDisplay, PlainDisplay

    console = Console(stderr=as_json)
    return LiveDisplay(config, console) if console.is_terminal else PlainDisplay(config, write)


def _run_as_json(report: Report) -> dict[str, Any]:
    view, best = report.view, report.view.best
    return {
        "study": view.name,
        "best": None
        if best is None
        else {
            "number": best.number,
            "value": best.value,
            "params": best.params,
            "run_id": best.run_id,
        },
        "counts": view.counts,
        "seconds": round(report.seconds, 3),
        "dataset_digest": view.dataset_digest,
        "tracking_uri": report.tracking_uri,
        "parent_run_id": view.parent_run_id,
    }


def say_report(
    report: Report,
    wanted: int,
    state: StateFolder,
    class_names: tuple[str, ...],
    again: str = "",
) -> None:
    """Print how a call ended, the best trial, and possible next steps.

    Args:
        report: How it ended.
        wanted: Number of finished trials that it wanted.
        state: State folder that keeps the study.
        class_names: Class names of its photos.
        again: How the call named what it ran, for a command line; empty for the study's name.
    """
    from catdog_search.cli.words import counted, duration, say_params
    from catdog_search.study.config import DRAWN

    view = report.view
    done = view.finished
    wanted = max(wanted, done)  # an earlier call may have asked for more
    if report.end == "done":
        say(f"study {view.name} is finished: {_done(done, wanted)}")
    elif report.end == "exhausted":
        say(f"study {view.name} is finished: nothing is left to try after {counted(done, 'trial')}")
    else:
        why = "interrupted" if report.end == "interrupt" else "out of time"
        say(f"study {view.name} stopped, {why}: {_done(done, wanted)}; run it again to resume")
    counts = ", ".join(f"{n} {name}" for name, n in sorted(view.counts.items()))
    say(f"trials: {counts}; this call took {duration(report.seconds)}")
    if view.best:
        floor = f"; {view.floor}" if view.floor else ""
        say(f"best: trial {view.best.number}, {view.best.value:.4f} on val{floor}")
        say(f"  {say_params(view.best.params)}")
    command, flag = own_command(), state_flag(state)
    if (study := view.name.removesuffix(DRAWN)) != view.name:
        of = again or f"--study {study}"
        say(f"these were drawn pictures; on photos: {command} run {of} --data PATH{flag}")
    say(f"look:    {command} show --study {view.name}{flag}")
    if view.best:
        say(f"draw:    {command} show --study {view.name} --figures figures{flag}")
    say(f"browse:  {browse_hint(state, view)}")
    if view.best:
        named = _name_of_model(state, view.name, class_names)
        say(f"promote: {command} promote --study {view.name}{named}{flag}")


def _name_of_model(state: StateFolder, study: str, class_names: tuple[str, ...]) -> str:
    """The option of `promote` that names another model; empty where the usual one can take it."""
    from catdog_search.errors import CatdogError
    from catdog_search.promotion.versions import champion_of_others
    from catdog_search.tracking.store import Store

    try:
        is_taken = champion_of_others(Store.of(state), MODEL, class_names) is not None
    except CatdogError:
        return ""  # `promote` says it
    return f" --model {study}" if is_taken else ""


def _done(done: int, wanted: int) -> str:
    """`3 of 12 trials`; says so if a call wanted fewer than there are."""
    from catdog_search.cli.words import counted

    if done > wanted:
        return f"{counted(done, 'trial')}, {wanted} asked for"
    return f"{done} of {counted(wanted, 'trial')}"


def browse_hint(state: StateFolder, view: StudyView) -> str:
    """The command that starts MLflow's interface, and a study's address there."""
    from catdog_search.tracking.store import Store
    from catdog_search.tracking.ui import page_of

    page = page_of(Store.of(state), view.name, view.uid) if view.uid else None
    return f"{own_command()} ui{state_flag(state)}" + (f", then {page}" if page else "")


def own_command() -> str:
    """How to call this program from here: by name if that is on the PATH."""
    import shutil

    called = sys.argv[0]
    if shutil.which("catdog-search") or not called.endswith("catdog-search"):
        return "catdog-search"
    return shlex.quote(called)


def state_flag(state: StateFolder) -> str:
    """The option that names a state, where it isn't the usual one; empty or after a space."""
    from catdog_search.places import StateFolder

    return "" if state == StateFolder.at(None) else f" --state {shlex.quote(str(state.root))}"
