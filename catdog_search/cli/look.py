"""`studies`, `check`, `show`: read-only commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catdog_search.cli.common import (
    Whole,
    debug_option,
    json_option,
    say,
    say_json,
    say_table,
    say_wrapped,
    state_option,
    study_option,
)
from catdog_search.cli.run import browse_hint
from catdog_search.errors import CatdogError, StateError
from catdog_search.outcomes import Ending
from catdog_search.text import in_a_line

if TYPE_CHECKING:
    from catdog_search.families.hypermodel import Hypermodel
    from catdog_search.places import StateFolder
    from catdog_search.search.limits import StudyEstimate
    from catdog_search.search.study.insight import Insight
    from catdog_search.search.study.views import StudyView, TrialRow
    from catdog_search.study.config import StudyConfig

# A study that takes more than a day gets a hint.
_LONG_S = 24 * 3600
# Photos of train out of 20,000 photos.
_PHOTOS = 14_000


def _family(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from catdog_search.families import registry
    from catdog_search.space import did_you_mean

    if value is not None and value not in registry.names():
        raise click.BadParameter(f"{value!r}; {did_you_mean(value, registry.names())}")
    return value


@click.command("studies")
@json_option
@debug_option
def list_studies(as_json: bool) -> None:
    """List the studies that can be run."""
    from catdog_search.study import studies

    rows: list[dict[str, Any]] = []
    for name, path in sorted(studies.available().items()):
        try:
            trials, purpose = studies.outline(path)
            rows.append({"study": name, "trials": trials, "purpose": purpose})
        except CatdogError as error:
            rows.append({"study": name, "trials": None, "purpose": f"can't be read: {error}"})
        rows[-1]["file"] = str(path)
    if as_json:
        say_json({"studies": rows})
        return
    for row in rows:
        say(f"{row['study']} ({row['file']}, {_n_trials(row['trials'])})")
        say(f"    {in_a_line(str(row['purpose']))}")


def _n_trials(trials: int | None) -> str:
    from catdog_search.cli.words import counted

    return "? trials" if trials is None else counted(trials, "trial")


@click.command(no_args_is_help=True)
@click.argument("study", metavar="[NAME|FILE]", required=False)
@click.option(
    "--params",
    "family",
    metavar="FAMILY",
    callback=_family,
    help="List all that a study file of a family may say, with its range, choices and default: "
    "cnn, resnet50, hypermodel or any.",
)
@click.option(
    "--photos",
    type=Whole(min=2),
    metavar="N",
    help="Photos of train, for the estimate of time [default: the study's own number, or 14000].",
)
@json_option
@debug_option
def check(study: str | None, family: str | None, photos: int | None, as_json: bool) -> None:
    """Check a study file, print its search space and estimate its cost.

    Whatever is wrong with the file is told at once, a line for each mistake.
    """
    if (study is None) == (family is None):
        raise click.UsageError("give a study, NAME or FILE, or --params FAMILY")
    if study is not None:
        _check(study, photos, as_json)
    elif family is not None:
        _list(family, as_json)


def _list(family: str, as_json: bool) -> None:
    from catdog_search.cli import params
    from catdog_search.families import registry

    if as_json:
        facts = {
            "params": params.as_json(family, registry.knobs(family)),
            "keys": params.keys_as_json(),
        }
        say_json({"family": family, **facts})
    else:
        params.say_all(family)


def _check(study: str, photos: int | None, as_json: bool) -> None:
    from catdog_search.cli import params
    from catdog_search.cli.words import counted, say_params
    from catdog_search.data.manifest import TRAIN_BELOW
    from catdog_search.study import studies

    path = studies.find(study)
    config = studies.load(str(path))
    size = config.space.size()
    saved = round(config.data.synthetic_n * TRAIN_BELOW)
    own = config.data.subset or (saved if config.data.source == "synthetic" else _PHOTOS)
    photos = photos or own
    estimate = _estimate(config, photos)
    if as_json:
        space = {"combinations": size.combinations, "continuous": list(size.continuous)}
        fingerprint = config.fingerprint()
        facts = {"study": config.name, "file": str(path), **space, **fingerprint}
        listed = {"params": params.as_json(config.family, config.knobs())}
        notes = {} if config.found is None else {"notes": list(config.found.notes)}
        known = estimate and dataclasses.asdict(estimate)
        say_json({**facts, **listed, "estimate": known, **notes})
        return
    say_wrapped(f"study {config.name} ({path}): {in_a_line(config.purpose)}")
    say_wrapped(
        f"{counted(config.wanted(), 'trial')} of at most "
        f"{counted(config.most_epochs, 'epoch')} at "
        f"{config.image_size} px; {config.direction} {config.metric}; "
        f"sampler {config.sampler.name}, pruner {config.pruner.name}, seed {config.seed}"
    )
    params.say_params_of(config.space, config.family, config.knobs())
    for name, chosen in config.recipes.items():
        say_wrapped(f"recipe {name}: {say_params(chosen)}")
    continuous = f" times the continuous {', '.join(size.continuous)}" if size.continuous else ""
    say_wrapped(f"size: {counted(size.combinations, 'combination')}{continuous}")
    if config.found is not None:
        _say_found(config.found)
    if estimate is not None:
        _say_estimate(config, estimate, photos)


def _say_found(code: Hypermodel) -> None:
    fewest, most = code.weights
    say_wrapped(f"hypermodel {code.name}: source {code.source}")
    say_wrapped(f"weights: {fewest} to {most} in the networks that were built to look")
    for note in code.notes:
        say_wrapped(f"note: {note}")


def _estimate(config: StudyConfig, photos: int) -> StudyEstimate | None:
    """Estimate of the study on this machine's CPU, whatever else it has."""
    from catdog_search.search.estimate import estimate_study
    from catdog_search.search.limits import Limits, memory_limit
    from catdog_search.training.device import processor_rate

    limits = Limits(config, photos, memory_limit(config.limits))
    limits.learn_device(processor_rate(), None)
    return estimate_study(config, limits)


def _say_estimate(config: StudyConfig, estimate: StudyEstimate, photos: int) -> None:
    from catdog_search.cli.words import say_time

    fewest, median, most = estimate.parameters
    say_wrapped(f"weights: {fewest} to {most}, median {median}")
    say_wrapped(f"memory: a step takes up to {estimate.memory_bytes / 1e9:.2f} GB")
    if estimate.seconds is not None:
        say_wrapped(
            f"time: {say_time(estimate, config.wanted())} on this machine's processors, for "
            f"{photos} photos of train, less what is stopped early"
        )
        if estimate.seconds * config.wanted() + estimate.once_seconds > _LONG_S:
            say_wrapped("hint: for less, run with --trials, --timeout or --subset; or use a GPU")
    if estimate.too_large:
        say_wrapped(f"limits: {estimate.too_large:.0%} of the space exceeds one and isn't trained")


@click.command()
@study_option("Study to show.")
@click.option("--top", type=Whole(min=1), default=10, help="Trials to list.", show_default=True)
@click.option("--trial", type=Whole(min=0), metavar="N", help="Show this trial alone.")
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw the figures of the study, or of --trial, into a folder.",
)
@json_option
@state_option
def show(
    study: str,
    top: int,
    trial: int | None,
    figures: Path | None,
    as_json: bool,
    state: str | None,
) -> None:
    """Show a study's best trials, what failed, what mattered and what is noise; or one trial."""
    from catdog_search.places import StateFolder
    from catdog_search.search.study import insight

    where = StateFolder.at(state)
    seen = insight.read(where, study)
    row = None if trial is None else _row(seen.view, trial)
    saved = [] if figures is None else _plot(where, seen, row, figures)
    if as_json:
        facts = _as_json(seen) if row is None else _trial_as_json(seen.view, row)
        say_json({**facts, "figures": [str(path) for path in saved]})
        return
    if row is None:
        _say_study(seen, top)
        say(f"browse: {browse_hint(where, seen.view)}")
    else:
        _say_trial(seen.view, row)
    for path in saved:
        say(f"figure: {path}")


def _row(view: StudyView, number: int) -> TrialRow:
    if number >= len(view.trials):
        n = len(view.trials)
        few = "trial 0 alone" if n else "none"
        known = f"its trials are 0 to {n - 1}" if n > 1 else f"it has {few}"
        raise StateError(f"study {view.name!r} has no trial {number}; {known}")
    return view.trials[number]


def _plot(state: StateFolder, seen: Insight, row: TrialRow | None, folder: Path) -> list[Path]:
    from catdog_search.report import plots

    try:
        if row is None:
            return plots.plot_study(seen, folder)
        done = plots.plot_trial(state, seen.view, row, folder)
    except OSError as error:
        raise StateError(f"--figures {folder}: {error.strerror}") from None
    if done.missing:
        say(f"note: {done.missing}", err=True)
    return done.paths


def _say_study(seen: Insight, top: int) -> None:
    from catdog_search.search.study import insight

    view = seen.view
    counts = ", ".join(f"{n} {name}" for name, n in sorted(view.counts.items())) or "none"
    say(f"study {view.name}: {view.direction} {view.metric}; trials: {counts}")
    say(f"dataset digest {view.dataset_digest}; tracked at {view.tracking_uri}")
    rows = [_show_row(row) for row in view.ranked()[:top]]
    if view.floor:
        say(f"floor: {view.floor}")
    if rows:
        say_table([("trial", "value", "epochs", "time", "model", "params"), *rows])
    for ending, numbers in insight.ended_early(view).items():
        listed = ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")  # noqa: PLR2004
        say(f"stopped early, {ending.words}: {len(numbers)} (trials {listed})")
        for error, times in insight.most_common_errors(view, ending):
            say(f"  {times} x {error}")
    found = seen.importance
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found.shares.items())
    say(f"importance: {shares} ({found.note})" if shares else f"importance: {found.note}")
    for line in insight.noise(view):
        say(f"noise: {line}")


def _say_trial(view: StudyView, row: TrialRow) -> None:
    from catdog_search.cli.words import counted, duration, say_params

    recipe = f" (recipe {row.recipe})" if row.recipe else ""
    spent = "" if row.seconds is None else f", {duration(row.seconds)}"
    epochs = counted(row.epochs, "epoch")
    value = "".join(f", {part}" for part in _value(view, row))
    say(f"trial {row.number} of {view.name}{recipe}: {row.state}{value}, {epochs}{spent}")
    if why := _why(view, row):
        say(f"why: {why}")
    say(f"params: {say_params(row.used)}")
    if row.outside:
        say(f"outside the space, which has changed since: {say_params(row.outside)}")
    if row.best_epoch is not None:
        say(f"weights kept: those of epoch {row.best_epoch}{_in_training(view, row)}")
    for name, score in row.scores.items():
        say(f"{name}: {score:.4f}")
    if row.train_scores:
        said = ", ".join(f"{name} {score:.4f}" for name, score in row.train_scores.items())
        say(f"train: {said}, in epoch {row.best_epoch or row.epochs} while it trained")
    if row.n_weights:
        say(f"weights: {row.n_weights}")
    say(f"run {row.run_id}; model {row.model_id or 'not kept'}")


def _value(view: StudyView, row: TrialRow) -> Iterator[str]:
    """A trial's value and rank; for one that isn't COMPLETE, its score so far."""
    metric = view.metric or "objective"
    if row.value is not None:
        floor = f" ({view.floor})" if view.floor else ""
        yield f"{metric} {row.value:.4f}{floor}"
        yield f"rank {view.rank(row)} of {view.counts['COMPLETE']}"
    elif row.last is not None:
        yield f"{metric} {row.last:.4f} so far, after epoch {row.epochs}"


def _why(view: StudyView, row: TrialRow) -> str:
    """Why a trial ended early; empty where it didn't."""
    if row.error or row.ending is None:
        return row.error or ""
    if row.ending is Ending.PRUNED:
        pruner = f"the pruner, {view.pruner}," if view.pruner else "the pruner"
        return f"{pruner} stopped it after epoch {row.epochs}, by what other trials had there"
    return row.ending.words


def _in_training(view: StudyView, row: TrialRow) -> str:
    if row.in_training is None or f"{row.in_training:.4f}" == f"{row.value:.4f}":
        return ""
    return (
        f", which had {view.metric} {row.in_training:.4f} in training; val is scored anew by the "
        "exported model, in float32"
    )


def _trial_as_json(view: StudyView, row: TrialRow) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "rank": view.rank(row), "why": _why(view, row) or None}


def _show_row(row: TrialRow) -> tuple[str, ...]:
    from catdog_search.cli.words import duration, say_params

    return (
        str(row.number),
        f"{row.value:.4f}",
        str(row.epochs),
        duration(row.seconds or 0),
        "kept" if row.model_id else "",
        say_params(row.varied)
        + (f" (recipe {row.recipe})" if row.recipe else "")
        + (" (outside the space now)" if row.outside else ""),
    )


def _as_json(seen: Insight) -> dict[str, Any]:
    from catdog_search.search.study import insight

    view, best = seen.view, seen.view.best
    return {
        "study": view.name,
        "direction": view.direction,
        "metric": view.metric,
        "best": best and dataclasses.asdict(best),
        "floor": view.floor and dataclasses.asdict(view.floor),
        "counts": view.counts,
        "failures": insight.ended_early(view),
        "importance": dataclasses.asdict(seen.importance),
        "replicates": [dataclasses.asdict(group) for group in insight.replicates(view)],
        "noise": list(insight.noise(view)),
        "dataset_digest": view.dataset_digest,
        "tracking_uri": view.tracking_uri,
        "parent_run_id": view.parent_run_id,
        "trials": [dataclasses.asdict(row) for row in view.trials],
    }
