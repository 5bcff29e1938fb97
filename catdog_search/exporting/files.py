"""A model written as files for others, which are kept only if they answer as it does."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catdog_search.answering.facts import ModelFacts
from catdog_search.errors import StateError
from catdog_search.exporting import keras_files, proof
from catdog_search.exporting.keras_files import Networks
from catdog_search.exporting.onnx_file import to_onnx
from catdog_search.exporting.proof import ExportError, Proof
from catdog_search.exporting.round_trip import load_afresh
from catdog_search.exporting.served import write_whole
from catdog_search.places import StateFolder
from catdog_search.tracking.looked_at import fetch
from catdog_search.tracking.store import Store


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: Paths, the model's first.
        facts: What they say of themselves.
        proof: How they compared with the model.
    """

    files: tuple[Path, ...]
    facts: ModelFacts
    proof: Proof


def export(state: StateFolder, name: str, form: str, path: Path) -> Exported:
    """Write a model as files.

    Args:
        state: State folder with the registry and runs.
        name: Model's name, as for `tracking.looked_at.load_model`.
        form: `onnx` or `keras`.
        path: Path of the file, in an existing folder; an existing file is replaced at the end.

    Raises:
        StateError: There is no such model, or the file can't be written.
        ExportError: It answers differently from the model, or can't be converted.
    """
    # Before spending minutes on what can't be written there.
    if not os.access(path.parent, os.W_OK | os.X_OK) or not path.parent.is_dir():
        raise StateError(f"{path}: {path.parent} is no folder that can be written to")
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(Store.of(state).client(), name, Path(folder))
        networks = keras_files.read(fetched)
        if form == "keras":
            return _as_keras(networks, fetched.facts, path, Path(folder))
        made = to_onnx(networks.model, networks.neither, fetched.facts)
        write_whole(path, made.content)
        return Exported((path,), fetched.facts, made.proof)


def _as_keras(networks: Networks, facts: ModelFacts, path: Path, folder: Path) -> Exported:
    shown = list(proof.photos())
    saved = {path: folder / "saved.keras"}
    networks.model.save(saved[path])
    if networks.neither is not None:
        beside = path.with_suffix(".neither.keras")
        saved[beside] = folder / "saved.neither.keras"
        networks.neither.save(saved[beside])
    told = [load_afresh(file, shown).answers.astype(np.float32) for file in saved.values()]
    found = proof.compare(networks.model, networks.neither, facts, shown, told)
    if not found.passed:
        raise ExportError(f"saved and loaded again it answers otherwise: {found}")
    for target, file in saved.items():
        write_whole(target, file.read_bytes())
    said = path.with_suffix(".json")
    write_whole(said, facts.model_dump_json(indent=2, exclude={"examples"}).encode())
    return Exported((*saved, said), facts, found)
