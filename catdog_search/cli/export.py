"""`model export`: a model as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catdog_search.cli.common import (
    WholeLines,
    ends_with_a_word,
    json_option,
    say,
    say_json,
    state_option,
)

if TYPE_CHECKING:
    from catdog_search.exporting.files import Exported


_FORMATS = ("onnx", "keras")


@click.group(cls=WholeLines)
def model() -> None:
    """Work on one model."""


@model.command()
@click.argument("name", metavar="MODEL")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="Format of the file  [default: as its name ends].",
)
@click.option(
    "--to",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="File to write; an existing one is replaced.",
)
@json_option
@state_option
@ends_with_a_word
def export(name: str, form: str | None, path: Path, as_json: bool, state: str | None) -> None:
    """Export a model as one self-contained file: a photo in, its probability out.

    MODEL is a name in the registry, whose champion is meant unless it says NAME@alias or
    NAME/version; run:ID is the model of a run.

    ONNX is the photo's resize, the network, and the score of what is neither class, with all that
    the answers mean in the file's metadata. Keras is stock layers alone; the score lies beside it
    as FILE.neither.keras, and what the answers mean as FILE.json. A file is only left behind where
    it gives the answers of the model on 200 photos of many shapes.
    """
    from catdog_search.exporting.files import export as write
    from catdog_search.places import StateFolder

    form = form or path.suffix.removeprefix(".")
    if form not in _FORMATS:
        raise click.UsageError(
            f"{path}: its name doesn't end in .onnx or .keras; say which with --format"
        )
    if path.suffix.removeprefix(".") in _FORMATS and path.suffix != f".{form}":
        raise click.UsageError(f"--format {form}: {path} is named like another format")
    say(f"writing {name} as {form}, and asking it about 200 pictures", err=True)
    done = write(StateFolder.at(state), name, form, path)
    if as_json:
        say_json(_as_json(done))
        return
    for file in done.files:
        say(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    say(f"held against the model: {done.proof}")


def _as_json(done: Exported) -> dict[str, Any]:
    import dataclasses

    facts = done.facts.model_dump(mode="json", exclude={"examples"})
    proof = dataclasses.asdict(done.proof)
    return {"files": [str(file) for file in done.files], "facts": facts, "proof": proof}
