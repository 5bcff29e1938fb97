"""`predict`: a model's answers to photos."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catdog_search.cli.common import PULSE, ends_with_a_word, say, state_option
from catdog_search.text import printable

if TYPE_CHECKING:
    from catdog_search.answering.facts import ModelFacts
    from catdog_search.answering.sorting import Sorter
    from catdog_search.answering.stream import Answering, Row

_ONNX, _KERAS = ".onnx", ".keras"
# Rows between two progress lines where the rows themselves aren't shown.
_EVERY = 500
# Width of the answers' column; a class may have a longer name.
_WIDEST = 10


@click.command()
@click.argument("model", metavar="MODEL|FILE.onnx")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header.")
@click.option(
    "--sort-into",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Copy each photo into a folder of DIR that is named after its answer.",
)
@click.option("--link", is_flag=True, help="With --sort-into: symbolic links, not copies.")
@click.option("--strict", is_flag=True, help="Exit with 1 if any file can't be answered.")
@state_option
@ends_with_a_word
def predict(  # noqa: PLR0913, PLR0917  one argument for each option
    model: str,
    paths: tuple[str, ...],
    as_json: bool,
    as_csv: bool,
    folder: Path | None,
    link: bool,
    strict: bool,
    state: str | None,
) -> None:
    """Classify photos: a class, "not sure" or "neither".

    MODEL is a name in the registry, whose champion is meant unless it says NAME@alias or
    NAME/version; run:ID is the model of a run; FILE.onnx is what `model export` wrote, and needs
    neither Keras nor MLflow.

    A PATH is a photo, or a folder or zip of photos; - is standard input: a photo, or paths, a line
    or a NUL each. A file that can't be used is a row with its reason, and the exit code 0 unless no
    file could be answered.
    """
    from catdog_search.answering.photos import given
    from catdog_search.answering.sorting import Sorter
    from catdog_search.answering.stream import answers

    if as_json and as_csv:
        raise click.UsageError("--json and --csv: give one of them")
    if link and folder is None:
        raise click.UsageError("--link says how --sort-into puts photos; give it too")
    sorter = None
    if folder is not None:
        sorter = Sorter(folder, linking=link)
        sorter.require_apart(paths)
    answering = _open(model, state)
    facts = answering.facts
    names = ", ".join(facts.class_names)
    say(f"model {model}: {names}; {facts.image_size} px, {answering.by}", err=True)
    if facts.warning is not None:
        say(f"note: {facts.warning}", err=True)
    write = _writer(facts, as_json=as_json, as_csv=as_csv)
    counts = _count(_sorted(answers(answering, given(paths)), sorter), write)
    say(_summary(counts), err=True)
    if folder is not None:
        how = "linked" if link else "copied"
        say(f"{how} into {folder}: {counts.total() - counts[None]}", err=True)
        if sorter is not None and sorter.moved:
            say(f"moved from where an earlier answer had put them: {sorter.moved}", err=True)
    failed = counts[None]
    if failed == counts.total() or (strict and failed):
        click.get_current_context().exit(1)


def _open(model: str, state: str | None) -> Answering:
    from catdog_search.answering.runtime import OnnxModel

    if model.endswith(_KERAS):
        raise click.UsageError(
            f"predict {model}: takes FILE.onnx, or the name of a registered model"
        )
    if model.endswith(_ONNX):
        return OnnxModel.open(Path(model).expanduser())
    from catdog_search.exporting.open import open_model
    from catdog_search.places import StateFolder

    return open_model(StateFolder.at(state), model)


def _sorted(rows: Iterable[Row], sorter: Sorter | None) -> Iterator[Row]:
    from catdog_search.answering.photos import Given

    for row in rows:
        if sorter is not None and row.answer is not None and isinstance(row.file, Given):
            sorter.put(row.file, row.answer)
        yield row


def _count(rows: Iterable[Row], write: Callable[[Row], None]) -> Counter[str | None]:
    """Write rows and count them by answer; None stands for those without one."""
    counts: Counter[str | None] = Counter()
    is_seen = sys.stdout.isatty()
    for row in rows:
        write(row)
        PULSE.heard()
        counts[None if row.answer is None else row.answer.text] += 1
        if not is_seen and counts.total() % _EVERY == 0:
            say(f"answering: {counts.total()} so far", err=True)
    return counts


def _summary(counts: Counter[str | None]) -> str:
    if not counts.total():
        return "no photo was found"
    answered = Counter({text: n for text, n in counts.items() if text is not None})
    said = ", ".join(f"{n} {text}" for text, n in answered.most_common())
    files = "1 file" if counts.total() == 1 else f"{counts.total()} files"
    return f"{files}: {said or 'none answered'}; {counts[None]} can't be used"


def _writer(facts: ModelFacts, *, as_json: bool, as_csv: bool) -> Callable[[Row], None]:
    if as_json:
        return lambda row: _print(json.dumps(_as_json(row), ensure_ascii=True))
    if as_csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        classes = [f"p({name})" for name in facts.class_names]
        rows.writerow(
            ["path", "answer", "verdict", "label", "probability", *classes, "unlike", "error"]
        )
        return lambda row: _csv_row(rows, facts, row)
    if sys.stdout.isatty():
        say(f"{'answer':{_WIDEST}} {'means':>16}  file")
    return lambda row: _print(_in_a_line(row))


def _print(text: str) -> None:
    say(text)
    if not sys.stdout.isatty():
        sys.stdout.flush()  # so that a pipe can be followed


def _as_json(row: Row) -> dict[str, Any]:
    # The path unchanged, so that it can be opened: JSON escapes what can't be printed.
    said = {"error": row.reason} if row.answer is None else row.answer.plain
    return {"path": row.file.name, **said}


def _csv_row(rows: Any, facts: ModelFacts, row: Row) -> None:
    name = printable(row.file.name)
    if row.answer is None:
        rows.writerow([name, *[""] * (5 + len(facts.class_names)), row.reason])
        return
    answer = row.answer
    shares = [f"{answer.probabilities[name]:.6f}" for name in facts.class_names]
    unlike = "" if answer.unlike is None else f"{answer.unlike:.4g}"
    said = (answer.text, answer.verdict, answer.label, f"{answer.probability:.6f}")
    rows.writerow([name, *said, *shares, unlike, ""])


def _in_a_line(row: Row) -> str:
    name = printable(row.file.name)
    if row.answer is None:
        return f"{'-':{_WIDEST}} {'':>16}  {name}: {row.reason}"
    answer = row.answer
    leaning = f"{answer.label} {answer.probability:.1%}"
    return f"{answer.text:{_WIDEST}} {leaning:>16}  {name}"
