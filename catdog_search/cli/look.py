"""`studies`, `check`, `show`: read, and change nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from catdog_search.cli.common import debug_option, json_option, say_table, state_option
from catdog_search.errors import CatdogError

if TYPE_CHECKING:
    from catdog_search.search.history import StudyView, TrialRow


@click.command("studies")
@json_option
@debug_option
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


@click.command()
@click.argument("study", metavar="NAME|FILE")
@json_option
@debug_option
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
    say_table([(*row, knobs[row[0]].doc) for row in rows + default])
    for name, params in config.recipes.items():
        click.echo(f"recipe {name}: " + " ".join(f"{k}={v}" for k, v in params.items()))
    continuous = f" times the continuous {', '.join(size.continuous)}" if size.continuous else ""
    click.echo(f"size: {size.combinations} combinations{continuous}")


@click.command()
@click.option("--study", required=True, metavar="NAME", help="Study to show.")
@click.option(
    "--top", type=click.IntRange(min=1), default=10, help="Trials to list.", show_default=True
)
@json_option
@state_option
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
        say_table([("trial", "value", "epochs", "time", "model", "params"), *rows])
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
