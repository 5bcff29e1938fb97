"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from catdog_search import __version__
from catdog_search.errors import CatdogError, TrialFailedError

if TYPE_CHECKING:
    from catdog_search.config import StudyConfig
    from catdog_search.data.dataset import Dataset
    from catdog_search.places import State
    from catdog_search.search.coordinator import Report
    from catdog_search.search.history import StudyView, TrialRow
    from catdog_search.terminal import LiveDisplay, PlainDisplay

INTERRUPTED = 130
F = TypeVar("F", bound=Callable[..., Any])


class _Main(click.Group):
    """Turns errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted; run again to go on", err=True)
            ctx.exit(INTERRUPTED)
        except CatdogError as error:
            if ctx.meta.get("debug"):
                click.echo(_details(error), err=True)
            click.echo(f"error: {error}", err=True)
        except Exception as error:
            trace = traceback.format_exc()
            if ctx.meta.get("debug"):
                click.echo(trace, err=True)
            message = " ".join(str(error).split())
            path = _save_trace(trace)
            click.echo(f"bug: {type(error).__name__}: {message}; trace: {path}", err=True)
        return ctx.exit(1)


def _details(error: CatdogError) -> str:
    own = "".join(traceback.format_exception(error))
    return error.details + own if isinstance(error, TrialFailedError) else own


def _save_trace(trace: str) -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="catdog-search-", suffix=".trace.txt", delete=False
    ) as file:
        file.write(trace)
    return file.name


def _set_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["debug"] = True


def _debug_option(command: F) -> F:
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        help="Show the trace of an error.",
    )(command)


def _state_option(command: F) -> F:
    return click.option(
        "--state",
        metavar="DIR",
        help="Folder of stores and artifacts [CATDOG_STATE; default: ./mlruns].",
    )(_debug_option(command))


def _json_option(command: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
    )(command)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="catdog-search")
def main() -> None:
    """Search, track and promote image classifiers of two classes."""


@main.command()
@click.option("--study", required=True, metavar="NAME|FILE", help="Study to run or continue.")
@click.option(
    "--data",
    metavar="PATH",
    help="Folder or zip of photos [CATDOG_DATA; default: built-in drawn pictures].",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="Finished trials wanted, earlier calls and recipes included [default: the study file's].",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop after so long; run again to go on.",
)
@_json_option
@_state_option
def run(
    study: str,
    data: str | None,
    trials: int | None,
    timeout: float | None,
    as_json: bool,
    state: str | None,
) -> None:
    """Run a study, or continue it where it stopped."""
    from catdog_search import studies
    from catdog_search.places import State
    from catdog_search.search.coordinator import run_study

    path = studies.find(study)
    config = studies.load(str(path))
    wanted = trials or config.trials
    write = _writer(as_json)
    where = State.at(state)
    write(f"study {config.name} ({path}): {config.purpose}")
    dataset = _load_data(config, data, write)
    write(f"state: {where.root}")
    display = _display(config, as_json, write)
    with display.context():
        report = run_study(
            config,
            dataset,
            where,
            display,
            trials=wanted,
            timeout=timeout or config.timeout,
            study_file=path.read_text(encoding="utf-8"),
        )
    if as_json:
        click.echo(json.dumps(_run_as_json(report)))
    else:
        _say_report(report, wanted, where)
    if report.end == "interrupt":
        click.get_current_context().exit(INTERRUPTED)


def _writer(as_json: bool) -> Callable[[str], None]:
    """Prints a line: to stderr where stdout is for the one object."""

    def write(line: str) -> None:
        click.echo(line, err=as_json)
        # Pipes and logs are for reading along.
        (sys.stderr if as_json else sys.stdout).flush()

    return write


def _load_data(config: StudyConfig, given: str | None, write: Callable[[str], None]) -> Dataset:
    from catdog_search import places
    from catdog_search.data import cache, dataset
    from catdog_search.data.sources import DRAWN_NOTICE, choose_source

    source = choose_source(config.data, given)
    write(f"data: {DRAWN_NOTICE}" if source.kind == "synthetic" else f"data: {source.location}")
    folder, limit = places.cache_folder(), places.cache_limit_bytes()

    def progress(done: int, total: int) -> None:
        if done == total or done % 2048 == 0:
            write(f"packing {done} of {total} at {config.image_size} px")

    loaded = dataset.load(source, config.image_size, folder, limit, progress)
    manifest = loaded.manifest
    splits = ", ".join(f"{k} {sum(v.values())}" for k, v in manifest.counts().items())
    names = " and ".join(manifest.class_names)
    write(f"dataset: {len(manifest.photos)} {names}: {splits}; digest {manifest.digest}")
    for key, reason in manifest.left_out[:5]:
        write(f"left out: {key}: {reason}")
    if (more := len(manifest.left_out) - 5) > 0:
        write(f"left out: {more} more; the study's run lists them in data/left_out.json")
    write(f"cache: {folder}, {cache.size_bytes(folder) / 1e6:.0f} MB of at most {limit / 1e9:g} GB")
    return loaded


def _display(
    config: StudyConfig, as_json: bool, write: Callable[[str], None]
) -> LiveDisplay | PlainDisplay:
    from rich.console import Console

    from catdog_search.terminal import LiveDisplay, PlainDisplay

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


def _say_report(report: Report, wanted: int, state: State) -> None:
    from catdog_search.terminal import duration, say_params

    view = report.view
    done = view.finished
    if report.end == "done":
        click.echo(f"study {view.name} is finished: {done} of {wanted} trials")
    else:
        why = "interrupted" if report.end == "interrupt" else "out of time"
        click.echo(f"study {view.name} stopped, {why}: {done} of {wanted} trials; run it to go on")
    counts = ", ".join(f"{n} {name}" for name, n in sorted(view.counts.items()))
    click.echo(f"trials: {counts}; this call took {duration(report.seconds)}")
    if view.best:
        click.echo(f"best: trial {view.best.number}, {view.best.value:.4f} on val")
        click.echo(f"  {say_params(view.best.params)}")
    command, flag = _own_command(), _state_flag(state)
    click.echo(f"look:    {command} show --study {view.name}{flag}")
    click.echo(f"browse:  {command} ui{flag}")
    click.echo(f"promote: {command} promote --study {view.name}{flag}")


def _own_command() -> str:
    """How this program can be called from here: by name where that is on the PATH."""
    import shutil

    called = sys.argv[0]
    if shutil.which("catdog-search") or not called.endswith("catdog-search"):
        return "catdog-search"
    return called


def _state_flag(state: State) -> str:
    from catdog_search.places import State

    return "" if state == State.at(None) else f" --state {state.root}"


@main.command("studies")
@_json_option
@_debug_option
def list_studies(as_json: bool) -> None:
    """List the studies that can be run."""
    from catdog_search import studies

    rows = []
    for name, path in sorted(studies.available().items()):
        try:
            config = studies.load(str(path))
            rows.append({"study": name, "trials": config.trials, "purpose": config.purpose})
        except CatdogError as error:
            rows.append({"study": name, "trials": None, "purpose": f"can't be read: {error}"})
        rows[-1]["file"] = str(path)
    if as_json:
        click.echo(json.dumps({"studies": rows}))
        return
    for row in rows:
        click.echo(f"{row['study']} ({row['file']}, {row['trials'] or '?'} trials)")
        click.echo(f"    {row['purpose']}")


@main.command()
@click.argument("study", metavar="NAME|FILE")
@_json_option
@_debug_option
def check(study: str, as_json: bool) -> None:
    """Check a study file and print its space and size."""
    from catdog_search import config as cfg
    from catdog_search import studies

    path = studies.find(study)
    config = studies.load(str(path))
    size = config.space.size()
    if as_json:
        space = {"combinations": size.combinations, "continuous": list(size.continuous)}
        fingerprint = config.fingerprint()
        click.echo(json.dumps({"study": config.name, "file": str(path), **space, **fingerprint}))
        return
    click.echo(f"study {config.name} ({path}): {config.purpose}")
    click.echo(
        f"{config.trials} trials of at most {config.training.epochs} epochs at "
        f"{config.image_size} px; {config.direction} {config.metric}; "
        f"sampler {config.sampler.name}, pruner {config.pruner.name}, seed {config.seed}"
    )
    knobs = cfg.knobs(config.family)
    rows = [(name, values, when and f"if {when}") for name, values, when in config.space.describe()]
    default = [
        (n, f"{k.default} (default)", "")
        for n, k in knobs.items()
        if n not in config.space.dimensions
    ]
    _say_table([(*row, knobs[row[0]].doc) for row in rows + default])
    for name, params in config.recipes.items():
        click.echo(f"recipe {name}: " + " ".join(f"{k}={v}" for k, v in params.items()))
    continuous = f" times the continuous {', '.join(size.continuous)}" if size.continuous else ""
    click.echo(f"size: {size.combinations} combinations{continuous}")


def _say_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  " + "  ".join([*cells, row[-1]]).rstrip())


@main.command()
@click.option("--study", required=True, metavar="NAME", help="Study to show.")
@click.option(
    "--top", type=click.IntRange(min=1), default=10, help="Trials to list.", show_default=True
)
@_json_option
@_state_option
def show(study: str, top: int, as_json: bool, state: str | None) -> None:
    """Show a study's best trials and what became of the others."""
    from catdog_search.places import State
    from catdog_search.search import history

    view = history.view(State.at(state), study)
    if as_json:
        click.echo(json.dumps(_view_as_json(view)))
        return
    counts = ", ".join(f"{n} {name}" for name, n in sorted(view.counts.items())) or "none"
    click.echo(f"study {view.name}: {view.direction}; trials: {counts}")
    click.echo(f"dataset digest {view.dataset_digest}; tracked at {view.tracking_uri}")
    rows = [_show_row(row) for row in view.ranked()[:top]]
    if rows:
        _say_table([("trial", "value", "epochs", "time", "model", "params"), *rows])
    for row in view.trials:
        if row.error:
            click.echo(f"trial {row.number} {row.state}: {row.error}")


def _show_row(row: TrialRow) -> tuple[str, ...]:
    from catdog_search.terminal import duration, say_params

    return (
        str(row.number),
        f"{row.value:.4f}",
        str(row.epochs),
        duration(row.seconds or 0),
        "kept" if row.model_id else "",
        say_params(row.varied) + (f" (recipe {row.recipe})" if row.recipe else ""),
    )


def _view_as_json(view: StudyView) -> dict[str, Any]:
    import dataclasses

    best = view.best
    return {
        "study": view.name,
        "direction": view.direction,
        "best": best and dataclasses.asdict(best),
        "counts": view.counts,
        "dataset_digest": view.dataset_digest,
        "tracking_uri": view.tracking_uri,
        "parent_run_id": view.parent_run_id,
        "trials": [dataclasses.asdict(row) for row in view.trials],
    }


@main.command()
@click.option("--study", required=True, metavar="NAME", help="Study whose best trial to promote.")
@click.option(
    "--model", default="catdog", show_default=True, help="Name in the registry.", metavar="NAME"
)
@_json_option
@_state_option
def promote(study: str, model: str, as_json: bool, state: str | None) -> None:
    """Register the best trial's model and make it the champion."""
    from catdog_search.places import State
    from catdog_search.promotion.promote import promote as promote_best

    done = promote_best(State.at(state), study, model)
    registered, best = done.registered, done.best
    if as_json:
        facts = {
            "uri": registered.uri,
            "version": registered.version,
            "study": study,
            "trial": best.number,
            "value": best.value,
            "run_id": best.run_id,
            "tracking_uri": done.tracking_uri,
        }
        click.echo(json.dumps(facts))
        return
    how = "registered" if registered.created else "was registered before"
    was = f", before it version {registered.previous}" if registered.previous else ""
    click.echo(
        f"trial {best.number} of {study} ({best.value:.4f} on val) {how}: "
        f"version {registered.version} of {model!r} is champion{was}"
    )
    click.echo(f"tracking URI: {done.tracking_uri}")
    click.echo(registered.uri)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5000,
    show_default=True,
    help="Port to listen on.",
)
@_state_option
def ui(host: str, port: int, state: str | None) -> None:
    """Open MLflow's user interface on the state folder."""
    from catdog_search.places import State
    from catdog_search.tracking.store import Store, is_server
    from catdog_search.tracking.ui import page, serve_ui

    store = Store.of(State.at(state))
    if is_server(store.uri):
        click.echo(f"MLFLOW_TRACKING_URI names a server that is running: {page(store.uri)}")
        return
    click.echo(f"MLflow on {store.uri}; starting takes up to half a minute")
    code = serve_ui(store, host, port, lambda url: click.echo(f"{url}\nCtrl-C ends it"))
    click.get_current_context().exit(code)


@main.command()
@_json_option
@_state_option
def doctor(as_json: bool, state: str | None) -> None:
    """Look whether everything a study needs is there and well."""
    import dataclasses

    from catdog_search.doctor import examine
    from catdog_search.places import State

    checks = []
    for found in examine(State.at(state)):
        checks.append(found)
        if not as_json:
            click.echo(f"{'ok  ' if found.ok else 'FAIL'}  {found.name}: {found.text}")
    well = all(found.ok for found in checks)
    if as_json:
        click.echo(json.dumps({"ok": well, "checks": [dataclasses.asdict(c) for c in checks]}))
    click.get_current_context().exit(0 if well else 1)
