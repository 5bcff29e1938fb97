"""Check what a study needs before it needs it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog_search import identity, places, sqlite
from catdog_search.children import ChildError, run_python
from catdog_search.data import cache
from catdog_search.data.sources import open_source
from catdog_search.errors import CatdogError, StateError, StudyLockedError
from catdog_search.machine.backends import BACKENDS, choose_backend
from catdog_search.outside import outside_reason
from catdog_search.places import StateFolder
from catdog_search.search.study.copies import lost
from catdog_search.search.study.storage import existing_studies
from catdog_search.tracking.store import Store, disconnect, sqlite_file

_PACKAGES = ("keras", "mlflow", "optuna", "scikit-learn", "matplotlib", "numpy", "pillow")
_LOW_DISK_GB = 5
# For a backend; from a cold disk it takes half a minute.
_LONGEST_START_S = 300.0


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: Name of the thing.
        ok: Whether a study can run with it.
        text: Finding, and the remedy if something is wrong.
    """

    name: str
    ok: bool
    text: str


def examine(state: StateFolder) -> Iterator[Check]:
    """Check one thing after another; nothing is created or changed."""
    looks: dict[str, Callable[[], str]] = {
        "python": _python,
        "packages": _packages,
        "backend": _backend,
        "device": _device,
        "state": lambda: _state(state),
        "studies": lambda: ", ".join(existing_studies(state)) or "none yet",
        "mlflow": lambda: _mlflow(state),
        "cache": _cache,
        "data": _data,
    }
    said = set()
    for name, look in looks.items():
        try:
            yield Check(name, True, look())
        # Of any kind: each thing may fail in its own way.
        except Exception as error:
            text = str(error) if isinstance(error, CatdogError) else outside_reason(error)
            if text is None:
                raise
            # A displaced state is reported once, not for each of its stores.
            if text not in said:
                yield Check(name, False, text)
            said.add(text)


@dataclass(frozen=True)
class Difference:
    """Something that Optuna and MLflow disagree about.

    Attributes:
        study: Study concerned.
        text: Line that says what they disagree about.
        mend: Line that gives the remedy.
        mended: Whether it was repaired.
        mendable: Whether `--repair` can do it.
    """

    study: str
    text: str
    mend: str
    mended: bool
    mendable: bool = True


# What a repair uncovers, such as runs of a study that was in the trash, is repaired too.
_PASSES = 3


def check_files(state: StateFolder, *, repair: bool) -> Iterator[Difference]:
    """Check whether the stores are intact; a repair replaces a damaged one by its copy.

    Those of a state that was moved or copied are left alone; `examine` reports that.

    Raises:
        StateError: Something uses the state, and `repair` would take its stores from it.
    """
    with contextlib.suppress(StateError):
        if identity.displaced(state.root):
            return
    for path in (state.optuna_db, state.mlflow_db):
        if what := _damage(state, path):
            if repair:
                _bring_back(state, [path])
            yield Difference("", f"{path}: {what}", state.cure_of(path), mended=repair)


def _damage(state: StateFolder, path: Path) -> str | None:
    if not path.exists() and not sqlite.kept_copy(path).exists():
        return None
    if what := sqlite.damage(path, thorough=True):
        return what
    return "; ".join(lost(state, thorough=True)) if path == state.optuna_db else None


def _bring_back(state: StateFolder, paths: list[Path]) -> None:
    disconnect()
    with state.in_use(alone=True):
        for path in paths:
            if sqlite.kept_copy(path).exists():
                sqlite.restore(path)
            else:
                sqlite.set_aside(path)


def compare_stores(state: StateFolder, *, repair: bool) -> Iterator[Difference]:
    """Compare the stores study by study; a running study is skipped and reported as such."""
    before: list[Difference] = []
    for _ in range(_PASSES if repair else 1):
        found = [d for name in existing_studies(state) for d in _compared(state, name, repair)]
        if found == before:
            return
        yield from found
        before = found


def _compared(state: StateFolder, name: str, repair: bool) -> Iterator[Difference]:
    from catdog_search.search.study.reconcile import reconcile

    try:
        found = reconcile(state, name, repair=repair)
    except StudyLockedError as error:
        yield Difference(name, str(error), "nothing to repair", mended=True)
    # A damaged row may raise anything.
    except Exception as error:
        if outside_reason(error) or isinstance(error, StateError):
            raise
        text = f"study {name}: its rows can't be understood ({type(error).__name__}: {error})"
        if repair:
            _bring_back(state, [state.optuna_db, state.mlflow_db])
        yield Difference(name, text, state.cure_of(state.optuna_db), mended=repair)
    else:
        for finding in found:
            can = finding.repair is not None
            text = f"study {name}: {finding.text}"
            yield Difference(name, text, finding.mend, repair and can, can)


def _python() -> str:
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise CatdogError(f"{version} is not one of 3.11 to 3.13")
    return version


def _packages() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)


def _backend() -> str:
    chosen = choose_backend()
    others = [name for name in BACKENDS if name != chosen and importlib.util.find_spec(name)]
    also = f"; also installed: {', '.join(others)}" if others else ""
    return f"{chosen} {importlib.metadata.version(chosen)}{also}"


def _device() -> str:
    """What `run` would train on: whether the backend starts shows where it is started."""
    try:
        said = run_python(["-m", "catdog_search.training.look"], _LONGEST_START_S)
    except ChildError as error:
        raise CatdogError(f"{choose_backend()} doesn't start: {error}") from None
    return said.splitlines()[-1]


def _state(state: StateFolder) -> str:
    state.require_home()
    existing = next(p for p in (state.root, *state.root.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise CatdogError(f"{state.root} can't be written; choose another with --state")
    free = shutil.disk_usage(existing).free / 1e9
    if free < _LOW_DISK_GB:
        raise CatdogError(
            f"{state.root}: {free:.1f} GB free; below {_LOW_DISK_GB} GB is too little"
        )
    new = "" if state.root.exists() else f" (not made yet{state.elsewhere})"
    return f"{state.root}{new}, {free:.0f} GB free"


def _mlflow(state: StateFolder) -> str:
    store = Store.of(state)
    file = sqlite_file(store.uri)
    if file is not None and not file.exists():
        return f"{store.shown} (not made yet)"
    store.client()
    return f"{store.shown} opens"


def _cache() -> str:
    folder, limit = places.cache_folder(), places.cache_limit_bytes()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise CatdogError(f"{folder} can't be written; choose another with CATDOG_CACHE")
    return f"{folder}: {cache.size_bytes(folder) / 1e6:.0f} MB of at most {limit / 1e9:g} GB"


def _data() -> str:
    path = os.environ.get("CATDOG_DATA")
    if not path:
        return "CATDOG_DATA is not set: studies use built-in drawn pictures unless --data is given"
    source = open_source(path)
    return f"CATDOG_DATA: {len(source.labels)} files, classes {' and '.join(source.class_names)}"
