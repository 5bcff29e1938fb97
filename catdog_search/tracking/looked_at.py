"""Logged models, loaded again, and which photos their trainings have looked at."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog_search.errors import StateError
from catdog_search.space import did_you_mean
from catdog_search.tracking.runs import PARENT_TAG

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

SPLITS_FILE = "data/splits.json"
_RUN = "run:"


@dataclass(frozen=True)
class Loaded:
    """A model as MLflow keeps it.

    Attributes:
        model: uint8 RGB (batch, any height, any width, 3) -> probability of class 1 (batch, 1).
        uri: MLflow's, for people.
        run_id: Of the trial that trained it.
        class_names: Index 1 is positive.
        image_size: Side that it resizes to.
    """

    model: keras.Model
    uri: str
    run_id: str
    class_names: tuple[str, str]
    image_size: int


def load_model(client: MlflowClient, name: str) -> Loaded:
    """Load a model.

    Args:
        client: Of the store.
        name: `NAME` or `NAME@alias` or `NAME/version` in the registry, or `run:ID`.

    Raises:
        StateError: There is none, it can't be loaded, or it is not one of ours.
    """
    import mlflow

    uri = _uri(client, name)
    _require_registered(client, name)
    with stderr_aside():
        # Imports Keras, whose backend says of itself what nobody asked.
        from catdog_search.models.defaults import pin_defaults
    pin_defaults()
    try:
        info = mlflow.models.get_model_info(uri)
        model = mlflow.keras.load_model(uri)
    except (mlflow.exceptions.MlflowException, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise StateError(f"model {name}: can't be loaded: {first}") from error
    facts: Mapping[str, Any] = info.metadata or {}
    if "class_names" not in facts or "image_size" not in facts:
        raise StateError(f"model {name}: doesn't say its classes and size; it is not of this house")
    negative, positive = facts["class_names"]
    return Loaded(model, uri, info.run_id, (negative, positive), int(facts["image_size"]))


@contextlib.contextmanager
def stderr_aside() -> Iterator[None]:
    """Hold back what is written to stderr meanwhile, by C++ too; it is shown where this fails."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _require_registered(client: MlflowClient, name: str) -> None:
    """MLflow's own word of an absent one doesn't say what there is."""
    if name.startswith((_RUN, "models:/")):
        return
    plain = re.split("[@/]", name, maxsplit=1)[0]
    known = [model.name for model in client.search_registered_models()]
    if plain not in known:
        there = did_you_mean(plain, known, "registered") if known else "no model is registered"
        raise StateError(
            f"model {name}: {there}; catdog-search promote registers one, run:ID names a run's"
        )


def _uri(client: MlflowClient, name: str) -> str:
    if name.startswith(_RUN):
        run_id = name.removeprefix(_RUN)
        import mlflow

        try:
            outputs = client.get_run(run_id).outputs
        except mlflow.exceptions.MlflowException:
            raise StateError(f"{name}: there is no such run") from None
        models = outputs.model_outputs if outputs else []
        if not models:
            raise StateError(f"{name}: the run keeps no model")
        return f"models:/{models[-1].model_id}"
    if name.startswith("models:/"):
        return name
    return f"models:/{name}" if "@" in name or "/" in name else f"models:/{name}@champion"


def split_hashes(client: MlflowClient, run_id: str) -> Mapping[str, list[str]] | None:
    """The photos that the study of a run knows, as `Manifest.hashes`; None where it didn't say."""
    parent = client.get_run(run_id).data.tags.get(PARENT_TAG)
    folder = SPLITS_FILE.split("/", maxsplit=1)[0]
    if not parent or SPLITS_FILE not in {f.path for f in client.list_artifacts(parent, folder)}:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        path = client.download_artifacts(parent, SPLITS_FILE, temporary)
        hashes: Mapping[str, list[str]] = json.loads(Path(path).read_text(encoding="utf-8"))
        return hashes
