"""Confine paths to a state's own artifacts."""

from __future__ import annotations

import itertools
import os
import shlex
from pathlib import Path

from catdog_search.errors import StateError
from catdog_search.identity import local_path
from catdog_search.places import require_folder
from catdog_search.text import printable


def as_location(path: Path) -> str:
    """A folder as MLflow records it."""
    return path.absolute().as_uri()


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path leads to something in a folder, following links."""
    # Not `resolve`, which raises on circular links.
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def is_stray(artifacts: Path, location: str, owner: str = "") -> bool:
    """Whether a location, as written, isn't its owner's place below a state's artifacts.

    Args:
        artifacts: State's own folder of artifacts.
        location: Location of artifacts, as MLflow keeps it.
        owner: Id of the run or model that its folder is named after; empty for an experiment's.
    """
    path = local_path(location)
    if path is None or (owner and owner not in path.parts):
        return True
    return not is_below(path, artifacts) and artifacts not in Path(os.path.normpath(path)).parents


def require_below(artifacts: Path, location: str, *inside: str, owner: str = "") -> Path:
    """Refuse a place outside a state's own artifacts, before anything happens there.

    Args:
        artifacts: State's own folder of artifacts.
        location: Location of artifacts, as MLflow keeps it.
        inside: Parts of a path below it.
        owner: Id of the run or model, as in `is_stray`.

    Returns:
        The file or folder that is meant.

    Raises:
        StateError: It is outside, or a link on the way may lead elsewhere; or the state folder is
            gone, which writing would recreate.
    """
    require_folder(artifacts.parent)
    path = local_path(location)
    if path is None or is_stray(artifacts, location, owner):
        cure = f"catdog-search doctor --repair --state {shlex.quote(str(artifacts.parent))}"
        whose = f", or not that of {owner}" if owner else ""
        raise StateError(
            printable(
                f"{path or location} is outside of this state's {artifacts}{whose}, so nothing was "
                f"written or deleted there; `{cure}` says what repairs it"
            )
        )
    full, own = Path(os.path.normpath(Path(path, *inside))), os.path.realpath(artifacts)
    on_the_way = itertools.takewhile(
        lambda step: os.path.realpath(step) != own, (full, *full.parents)
    )
    if link := next((step for step in on_the_way if step.is_symlink()), None):
        raise StateError(
            printable(
                f"{link} is a link, and inside of a state's artifacts nothing is written or "
                f"deleted through one; put what it leads to in its place: `{_unlinked(link)}`"
            )
        )
    if not is_below(full, artifacts):
        raise StateError(f"{full} is outside of this state's {artifacts}")
    return full


def _unlinked(link: Path) -> str:
    """The command that replaces a link by a copy of its target; a broken link is removed."""
    old, new = shlex.quote(str(link)), shlex.quote(f"{link}.own")
    return f"cp -aL {old} {new} && rm {old} && mv {new} {old}" if link.exists() else f"rm {old}"


def copy_here(path: Path, to: Path) -> str:
    """The command that copies files from outside to their place."""
    made = f"mkdir -p {shlex.quote(str(to.parent))}"
    return f"copy them here: `{made} && cp -a {shlex.quote(str(path))} {shlex.quote(str(to))}`"
