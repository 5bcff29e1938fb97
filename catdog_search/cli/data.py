"""`data`: look at photos, prepare them, fetch them, and mind the cache."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from catdog_search.cli.common import (
    Whole,
    WholeLines,
    choice_options,
    debug_option,
    duplicates_option,
    ends_with_a_word,
    json_option,
    say,
    say_json,
    writer,
)
from catdog_search.text import printable

if TYPE_CHECKING:
    from catdog_search.data.labels import Choice
    from catdog_search.data.manifest import Manifest
    from catdog_search.data.sources import Source
    from catdog_search.study.config import Duplicates

AUDIT_SIZE = 64


@click.group(cls=WholeLines)
def data() -> None:
    """Look at photos, prepare them, fetch them, and mind the cache."""


@data.command()
@click.argument("path", metavar="PATH")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("audit.png"),
    show_default=True,
    help="Where to draw the photos of each split and the duplicates.",
)
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the report, pictures included, as one self-contained page.",
)
@choice_options(with_splits=True)
@duplicates_option
@json_option
@debug_option
@click.pass_context
@ends_with_a_word
def audit(
    ctx: click.Context,
    path: str,
    picture: Path,
    page: Path | None,
    choice: Choice,
    duplicates: Duplicates | None,
    as_json: bool,
) -> None:
    """Audit a folder or zip of photos: broken files, oddities, duplicates, class balance."""
    from catdog_search import places
    from catdog_search.data import audit as report
    from catdog_search.data import packing as packed
    from catdog_search.data import telling
    from catdog_search.data.sources import open_source

    source = open_source(path, choice)
    progress = telling.counting("packing", writer(as_json), f" at {AUDIT_SIZE} px")
    cache = places.cache_folder(), places.cache_limit_bytes()
    dataset = packed.load(source, AUDIT_SIZE, *cache, progress, duplicates=duplicates or "near")
    files = {"picture": picture} if page is None else {"picture": picture, "html": page}
    problems = report.write(dataset, source.notes, picture, page)
    written = {name: str(file) for name, file in files.items() if name not in problems}
    if as_json:
        say_json({**_facts(source, dataset.manifest), **written})
    else:
        _say_audit(source, dataset.manifest)
        for name, file in written.items():
            say(f"{name}: {file}")
    # Reported last, so that an unwritable folder doesn't hide the findings.
    asked = ctx.get_parameter_source("picture") is not ParameterSource.DEFAULT
    for name, problem in problems.items():
        said = printable(f"--{name} {files[name]}: {problem}")
        if name == "html" or asked:
            raise click.UsageError(said)
        say(f"no picture was drawn: {said}", err=True)


def _facts(source: Source, manifest: Manifest) -> dict[str, Any]:
    from catdog_search.data.audit import summary

    left_out = [{"key": key, "reason": reason} for key, reason in manifest.left_out]
    return {**summary(manifest), **source.facts, "files_left_out": left_out}


def _say_audit(source: Source, manifest: Manifest) -> None:
    from catdog_search.data import causes
    from catdog_search.data.audit import lines

    for line in (*source.notes, *lines(manifest)):
        say(line)
    for line in causes.lines(manifest.left_out, "--json lists them"):
        say(line)


@data.command()
@click.argument("path", metavar="PATH")
@click.option(
    "--image-size",
    "image_sizes",
    type=Whole(8, 1024),
    multiple=True,
    default=(64,),
    show_default=True,
    help="Side in pixels; may be given several times.",
)
@choice_options(with_splits=True)
@duplicates_option
@debug_option
@ends_with_a_word
def prepare(
    path: str, image_sizes: tuple[int, ...], choice: Choice, duplicates: Duplicates | None
) -> None:
    """Decode every photo into the cache, so that a study starts immediately."""
    from catdog_search.data import telling
    from catdog_search.data.sources import open_source

    source = open_source(path, choice)
    telling.load(source, image_sizes, writer(False), duplicates=duplicates or "near")


@data.command()
@click.option("--clear", is_flag=True, help="Remove everything in it.")
@json_option
@debug_option
def cache(clear: bool, as_json: bool) -> None:
    """Show the cache of packed photos and of features, or clear it."""
    from catdog_search import places
    from catdog_search.data import cache as packed
    from catdog_search.training import features

    folder, limit = places.cache_folder(), places.cache_limit_bytes()
    kept = places.features_folder()
    removed = packed.evict(folder, 0) if clear else []
    if clear:
        features.clear(kept)
    entries = packed.entries(folder)
    total = sum(entry.size for entry in entries)
    if as_json:
        rows = [
            {
                "path": str(entry.path),
                "bytes": entry.size,
                "used": entry.used,
                "in_use": packed.in_use(entry.path),
            }
            for entry in entries
        ]
        facts = {"folder": str(folder), "bytes": total, "limit": limit, "entries": rows}
        facts["features_bytes"] = features.size_bytes(kept)
        say_json({**facts, "removed": len(removed)})
        return
    if clear:
        say(f"removed {len(removed)} datasets")
        if arrays := features.n_arrays(kept):
            say(f"kept: in use by a running study: {arrays} arrays of features")
    for entry in entries:
        stays = ""
        if clear:  # and some of it is still there
            held = packed.in_use(entry.path)
            stays = "kept: in use by a running study: " if held else "kept: can't be removed: "
        say(f"{stays}{entry.size / 1e6:8.0f} MB  {packed.describe(entry)}")
    say(f"{folder}: {total / 1e6:.0f} MB of at most {limit / 1e9:g} GB")
    say(f"{kept}: {features.size_bytes(kept) / 1e6:.0f} MB of at most {limit / 1e9:g} GB")


@data.command()
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="this folder",
    help="Folder to save the zip in.",
)
@click.option("--url", help="Another URL to download the zip from.")
@click.option("--sha256", help="Expected checksum of a zip from another URL.")
@debug_option
@ends_with_a_word
def download(folder: Path, url: str | None, sha256: str | None) -> None:
    """Download Microsoft's zip of 25,000 cats and dogs (about 800 MB), resuming if interrupted."""
    from catdog_search.data import download as fetch

    if (url is None) != (sha256 is None):
        raise click.UsageError("--url and --sha256 go together")
    address = url or fetch.URL
    write, shown = writer(False), [-1]

    def progress(done: int, total: int | None) -> None:
        percent = -1 if not total else done * 100 // total
        # A line every 5 per cent, or every 50 MB where the size isn't known.
        mark = percent // 5 if total else done // 50_000_000
        if mark != shown[0]:
            shown[0] = mark
            write(f"{done / 1e6:.0f} MB" + (f" of {total / 1e6:.0f}, {percent} %" if total else ""))

    target = folder / fetch.file_name(address)
    fetch.download(address, fetch.SHA256 if sha256 is None else sha256, target, progress)
    write(f"{target}: complete, checksum right; use it with --data {shlex.quote(str(target))}")
