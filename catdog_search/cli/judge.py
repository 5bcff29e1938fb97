"""`compare` and `evaluate`: what studies and models are worth."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catdog_search.cli.common import (
    choice_options,
    ends_with_a_word,
    json_option,
    say,
    say_json,
    say_table,
    state_option,
    writer,
)
from catdog_search.errors import DataError, StateError
from catdog_search.markup import as_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from catdog_search.data.labels import Choice
    from catdog_search.evaluation.evaluate import Evaluation
    from catdog_search.figures.comparison import Bar
    from catdog_search.report.compare import Comparison, Entry, Spread

_HEAD = (
    "recipe",
    "seeds",
    "published train/val",
    "train",
    "val",
    "precision",
    "recall",
    "weights",
    "time",
    "device",
    "curves",
)


@click.command()
@click.argument("studies", metavar="[STUDY…]", nargs=-1)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as Markdown.")
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one self-contained page with the table and the figures.",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw the figures into a folder.",
)
@json_option
@state_option
@ends_with_a_word
def compare(
    studies: tuple[str, ...],
    as_markdown: bool,
    page: Path | None,
    figures: Path | None,
    as_json: bool,
    state: str | None,
) -> None:
    """Compare recipes and best trials of studies with published scores and simple baselines.

    Without a STUDY, all that the state folder holds.
    """
    from catdog_search.places import StateFolder
    from catdog_search.report.compare import compare as side_by_side
    from catdog_search.search.study.storage import existing_studies

    if as_markdown and as_json:
        raise click.UsageError("--markdown and --json: give one of them")
    where = StateFolder.at(state)
    names = studies or existing_studies(where)
    if not names:
        raise StateError(f"{where.root} holds no study to compare{where.elsewhere}")
    found = side_by_side(where, names)
    if not found.entries:
        raise StateError(f"no COMPLETE trial to compare in {', '.join(names)}")
    rows = [_HEAD, *_floor_rows(found), *map(_row, found.entries)]
    if as_json:
        say_json(dataclasses.asdict(found))
    elif as_markdown:
        for line in _markdown(rows):
            say(line)
    else:
        say_table(rows)
    for note in found.notes:
        say(f"note: {note}", err=as_json or as_markdown)
    _write(found, rows, page, figures)


def _write(
    found: Comparison, rows: list[tuple[str, ...]], page: Path | None, folder: Path | None
) -> None:
    from catdog_search.figures import comparison as plots

    if page is None and folder is None:
        return
    bars = [_bar(entry) for entry in found.entries]
    floors = {floor.name: floor.accuracy for floor in found.floors}
    figures = {"accuracy": plots.accuracies(bars, floors), "curves": plots.curves(bars)}
    names = sorted({entry.study for entry in found.entries})
    if page is not None:
        text = plots.page(f"Comparison of {', '.join(names)}", rows, found.notes, figures)
        try:
            page.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise StateError(f"--html {page}: {error.strerror}") from None
        say(f"page: {page}", err=True)
    if folder is not None:
        _save(figures, folder, "--figures")


def _save(figures: dict[str, Figure], folder: Path, option: str, *, err: bool = True) -> None:
    from catdog_search.data.own import MARK
    from catdog_search.figures.style import plain_style

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            path = folder / f"{name}.png"
            with plain_style():
                figure.savefig(path, dpi=110, metadata=dict(MARK))
            say(f"figure: {path}", err=err)
    except OSError as error:
        raise StateError(f"{option} {folder}: {error.strerror}") from None


def _bar(entry: Entry) -> Bar:
    from catdog_search.figures.comparison import Bar

    return Bar(
        name=f"{entry.study}: {entry.name}",
        val=entry.val_accuracy.mean,
        deviation=entry.val_accuracy.deviation,
        train=entry.train_accuracy.mean if entry.train_accuracy else None,
        published=entry.published.get("val_accuracy"),
        curves=entry.curves,
    )


def _floor_rows(found: Comparison) -> list[tuple[str, ...]]:
    blank = ("",) * (len(_HEAD) - 5)
    several = len({entry.study for entry in found.entries}) > 1
    of = f"{found.floors_of}: " if several else ""
    return [
        (
            f"{of}{f.name}" + (f": {f.answer}" if f.answer else ""),
            *("",) * 3,
            f"{f.accuracy:.3f}",
            *blank,
        )
        for f in found.floors
    ]


def _row(entry: Entry) -> tuple[str, ...]:
    from catdog_search.cli.words import duration

    published = [entry.published.get(name) for name in ("train_accuracy", "val_accuracy")]
    said = " / ".join("?" if value is None else f"{value:.2f}" for value in published)
    return (
        f"{entry.study}: {entry.name}",
        str(len(entry.numbers)),
        said if entry.published else "",
        _say(entry.train_accuracy),
        _say(entry.val_accuracy),
        _say(entry.precision),
        _say(entry.recall),
        "" if entry.n_weights is None else f"{entry.n_weights / 1e6:.2f} M",
        "" if entry.seconds is None else duration(entry.seconds.mean),
        entry.device or "",
        entry.verdict,
    )


def _say(spread: Spread | None) -> str:
    if spread is None:
        return ""
    around = "" if spread.deviation is None else f" ± {spread.deviation:.3f}"
    return f"{spread.mean:.3f}{around}"


def _markdown(rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(map(as_markdown, row)) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


@click.command()
@click.argument("model", metavar="MODEL|run:ID")
@click.option("--data", metavar="PATH", help="Folder or zip of labelled photos.")
@click.option(
    "--split",
    type=click.Choice(["train", "calibration", "val", "test"]),
    help="Photos of that split of the model's study alone; without --data, as the cache holds "
    "them.",
)
@choice_options(with_splits=False)
@click.option(
    "--force",
    is_flag=True,
    help="Look at photos of the test split among others, or of test once more by the same model; "
    "it is recorded.",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw the confusion matrix and the most wrong photos into a folder.",
)
@json_option
@state_option
@ends_with_a_word
def evaluate(  # noqa: PLR0913, PLR0917  one argument for each option
    model: str,
    data: str | None,
    split: str | None,
    choice: Choice,
    force: bool,
    figures: Path | None,
    as_json: bool,
    state: str | None,
) -> None:
    """Score a logged or registered model on labelled photos.

    MODEL is a name in the registry, whose champion is meant unless it says NAME@alias or
    NAME/version; run:ID is the model of a run.

    Photos of test are those of the test split of the model's study, and those that anybody has
    looked at as such. Each look at them is recorded before it happens, in the registry and here,
    and the numbers say how many looks the photos have had.
    """
    from catdog_search.data.sources import open_source
    from catdog_search.data.telling import counting
    from catdog_search.evaluation.evaluate import evaluate as score
    from catdog_search.machine.backends import use_backend
    from catdog_search.places import StateFolder

    if data is None and split is None:
        raise click.UsageError("--data PATH or --split NAME: say which photos.")
    if data is None and (choice.labels or choice.classes):
        raise click.UsageError("--labels and --classes say how --data is read; give it too.")
    use_backend()
    write = writer(as_json)

    where = StateFolder.at(state)
    try:
        source = None if data is None else open_source(data, choice)
    except DataError as error:
        predict = where.command(f"predict {shlex.quote(model)} {shlex.quote(str(data))}")
        raise DataError(f"{error}; photos without labels: {predict}") from None
    for note in source.notes if source else ():
        write(note)
    done = score(
        where,
        model,
        source,
        split=split,
        force=force,
        progress=counting("decoding", write),
    )
    if as_json:
        say_json(_as_json(done))
    else:
        _say_evaluation(done)
    if figures is not None:
        named = {Path(name).stem: figure for name, figure in done.figures.items()}
        _save(named, figures, "--figures", err=as_json)


def _as_json(done: Evaluation) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(done) if f.name != "figures"]
    before = [dataclasses.asdict(look) for look in done.looks.known]
    unknown = [dataclasses.asdict(look) for look in done.looks.unknown]
    return {
        **{name: getattr(done, name) for name in names},
        "by_split": {name: dataclasses.asdict(part) for name, part in done.by_split.items()},
        "looks": {"n": len(before), "looks": before, "unknown": unknown},
        "look": done.look and dataclasses.asdict(done.look),
    }


def _taken(done: Evaluation) -> str:
    if done.trained_on is None:
        return ""
    return f" (its training took {done.trained_on} photos of train; which ones isn't recorded)"


def _looks(done: Evaluation) -> Iterator[str]:
    """Lines on the looks at the test photos among those scored."""
    if done.kept:
        yield "answers: those that its promotion kept, so that test was not looked at again"
        yield f"looks: {done.looks}"
        return
    if done.look is None:
        if done.looks.unknown:
            yield f"looks: {done.looks}"
        return
    n = done.look.n
    yield f"looks: {'' if n == done.n else f'{n} of the photos are of test; '}{done.looks}"
    if done.look.again:
        yield "looks: this model was shown them before; the look is recorded as one more by it"


def _say_evaluation(done: Evaluation) -> None:
    from catdog_search.cli.words import counted
    from catdog_search.data import causes
    from catdog_search.evaluation.floor import always

    of = f" of {done.split}" if done.split else ""
    say(f"model {done.uri} (run {done.run_id}) on {counted(done.n, 'photo')}{of}")
    if done.warning:
        say(f"note: {done.warning}")
    if done.not_found:
        say(f"not found: {counted(done.not_found, 'photo')} of {done.split}")
    if done.seen is None:
        say("seen before: its study didn't keep which photos it had")
    else:
        seen = done.seen
        calibration = f"{seen['calibration']} in calibration, " if seen["calibration"] else ""
        say(
            f"seen before: {seen['train']} in train{_taken(done)}, {calibration}{seen['val']} in "
            f"val, {seen['test']} in test; new to it: {seen['new']}"
        )
    for line in _looks(done):
        say(line)
    for line in causes.lines(done.left_out, "--json lists them"):
        say(line)
    low, high = done.interval
    counts = {name: sum(row) for name, row in zip(done.class_names, done.confusion, strict=True)}
    floor = always("val_accuracy", counts)
    said = f"accuracy: {done.scores['accuracy']:.4f} (95 %: {low:.4f} to {high:.4f})"
    say(f"{said}; {floor}" if floor else said)
    if done.by_split:
        each = (
            f"{name} {part.accuracy:.4f} ({counted(part.n, 'photo')})"
            for name, part in done.by_split.items()
        )
        say(f"accuracy by split: {', '.join(each)}")
    others = ("balanced_accuracy", "precision", "recall", "f1", "auc", "loss", "calibration_error")
    for name in others:
        say(f"{name}: {done.scores[name]:.4f}")
    rows: list[tuple[str, ...]] = [("", *(f"predicted {name}" for name in done.class_names))]
    rows += [
        (f"true {name}", *map(str, counts))
        for name, counts in zip(done.class_names, done.confusion, strict=True)
    ]
    say_table(rows)
