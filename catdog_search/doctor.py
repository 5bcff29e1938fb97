"""Look at what a study needs before it needs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog_search import places
from catdog_search.data import cache
from catdog_search.data.sources import open_source
from catdog_search.errors import CatdogError, StudyLockedError
from catdog_search.places import State
from catdog_search.search.storage import existing_studies
from catdog_search.search.worker import BACKENDS, choose_backend
from catdog_search.tracking.store import Store, is_server

_PACKAGES = ("keras", "mlflow", "optuna", "scikit-learn", "matplotlib", "numpy", "pillow")
_LOW_DISK_GB = 5


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What.
        ok: Whether a study can run with it.
        text: What was found, and how to mend it where it isn't well.
    """

    name: str
    ok: bool
    text: str


def examine(state: State) -> Iterator[Check]:
    """Look at one thing after another; nothing is made or changed."""
    looks: dict[str, Callable[[], str]] = {
        "python": _python,
        "packages": _packages,
        "backend": _backend,
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
        except CatdogError as error:
            # A state that isn't at home is told once, not for each of its stores.
            if str(error) not in said:
                yield Check(name, False, str(error))
            said.add(str(error))


@dataclass(frozen=True)
class Difference:
    """Something that Optuna and MLflow don't agree about.

    Attributes:
        study: Where.
        text: What.
        mend: What mends it.
        mended: Whether it was mended.
        mendable: Whether `--repair` can.
    """

    study: str
    text: str
    mend: str
    mended: bool
    mendable: bool = True


def compare_stores(state: State, *, repair: bool) -> Iterator[Difference]:
    """Compare the stores study by study; a study that is running is passed over, and said so."""
    from catdog_search.search.reconcile import reconcile

    for name in existing_studies(state):
        try:
            found = reconcile(state, name, repair=repair)
        except StudyLockedError as error:
            yield Difference(name, str(error), "nothing to mend", mended=True)
            continue
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
    return f"{chosen} {importlib.metadata.version(chosen)}{also}; `run` names the device it uses"


def _state(state: State) -> str:
    state.require_home()
    existing = next(p for p in (state.root, *state.root.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise CatdogError(f"{state.root} can't be written; choose another with --state")
    free = shutil.disk_usage(existing).free / 1e9
    if free < _LOW_DISK_GB:
        raise CatdogError(
            f"{state.root}: {free:.1f} GB free; below {_LOW_DISK_GB} GB is too little"
        )
    new = "" if state.root.exists() else " (not made yet)"
    return f"{state.root}{new}, {free:.0f} GB free"


def _mlflow(state: State) -> str:
    store = Store.of(state)
    path = Path(store.uri.removeprefix("sqlite:///"))
    if not is_server(store.uri) and store.uri.startswith("sqlite:///") and not path.exists():
        return f"{store.uri} (not made yet)"
    store.client()
    return f"{store.uri} opens"


def _cache() -> str:
    folder, limit = places.cache_folder(), places.cache_limit_bytes()
    return f"{folder}: {cache.size_bytes(folder) / 1e6:.0f} MB of at most {limit / 1e9:g} GB"


def _data() -> str:
    path = os.environ.get("CATDOG_DATA")
    if not path:
        return "CATDOG_DATA is not set: studies use built-in drawn pictures unless --data is given"
    source = open_source(path)
    return f"CATDOG_DATA: {len(source.labels)} files, classes {' and '.join(source.class_names)}"
