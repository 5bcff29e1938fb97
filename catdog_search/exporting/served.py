"""The champion of a registered model as one file in the state folder, for a service.

It is put there as soon as a promotion or a rollback has moved the alias, so that a service can
answer without first asking MLflow; `watch` keeps it up to date where others move the alias.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
from pathlib import Path

import psutil

from catdog_search.answering.facts import ModelFacts
from catdog_search.answering.runtime import OnnxModel
from catdog_search.errors import StateError
from catdog_search.exporting import keras_files
from catdog_search.exporting.onnx_file import OnnxFile, missing, to_onnx
from catdog_search.exporting.proof import ExportError
from catdog_search.places import StateFolder
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.looked_at import Fetched, fetch
from catdog_search.tracking.store import Store


def why_not_served(state: StateFolder, store: Store, name: str) -> str | None:
    """Put the champion where it is served from; returns why it can't be, or None if it is there.

    One whose promotion wrote no ONNX is left to `refresh`, which takes a while.
    """
    try:
        refresh(state, store, name, converting=False)
    except StateError as error:
        return str(error)
    return None


def refresh(state: StateFolder, store: Store, name: str, *, converting: bool = True) -> bool:
    """Put the champion where it is served from, unless it is there.

    Args:
        state: State folder that it is served from.
        store: MLflow store with the registry.
        name: Name of the registered model.
        converting: Whether one without ONNX is converted, for which Keras is imported.

    Returns:
        Whether a new one was put there.

    Raises:
        StateError: There is no champion, it is not one of ours, or it can't be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(store.client(), f"{name}@{words.CHAMPION}", Path(folder))
        path = state.served(name)
        if _is_served(path, fetched.facts):
            return False
        if fetched.onnx is None and not converting:
            raise StateError(f"version {fetched.facts.version} of {name!r} has no ONNX file")
        content = content_of(fetched)
        OnnxModel(content, fetched.facts.model_id or name).self_test()
        write_whole(path, content)
    return True


def content_of(fetched: Fetched) -> bytes:
    """A model as ONNX, with its facts: the one its promotion wrote, or a new one.

    Raises:
        ExportError: There is none and none can be written.
        StateError: It is not one of ours.
    """
    if fetched.onnx is None:
        return convert(fetched).content
    absent = missing(("onnx", "onnxruntime"))
    if absent is not None:
        raise ExportError(absent)
    import onnx

    from catdog_search.exporting.graph import with_facts

    written = OnnxModel.open(fetched.onnx)
    facts = fetched.facts.model_copy(update={"examples": written.facts.examples})
    return with_facts(onnx.load(fetched.onnx), facts)


def convert(fetched: Fetched) -> OnnxFile:
    """Write a model as ONNX, and compare it with the Keras model.

    Raises:
        ExportError: It can't be written, or answers differently.
        StateError: It is not one of ours.
    """
    networks = keras_files.read(fetched)
    return to_onnx(networks.model, networks.neither, fetched.facts)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file atomically, or leave what is there.

    Raises:
        StateError: It can't be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StateError(f"{path}: can't be written: {error.strerror}") from None


def _remove_left(path: Path) -> None:
    """Remove what a kill left half written."""
    mark = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.partial")
    for each in path.parent.iterdir():
        if (found := mark.fullmatch(each.name)) and not psutil.pid_exists(int(found[1])):
            each.unlink(missing_ok=True)


def _is_served(path: Path, facts: ModelFacts) -> bool:
    """Whether the file is of exactly this version; False where it can't be read."""
    try:
        stat = path.stat()
    except OSError:
        return False
    served = _facts_in(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return served is not None and served.model_copy(update={"examples": ()}) == facts


@functools.lru_cache(maxsize=1)
def _facts_in(path: Path, _identity: tuple[int, int, int]) -> ModelFacts | None:
    """A served file's facts; None where it can't be read. Cached: a watcher asks often."""
    try:
        return OnnxModel.open(path).facts
    except StateError:
        return None
