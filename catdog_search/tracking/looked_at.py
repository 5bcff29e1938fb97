"""Logged models, loaded again, and which photos their trainings have looked at."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from catdog_search.answering.facts import ModelFacts, ScoreOnTest
from catdog_search.errors import StateError
from catdog_search.machine.memory import free_bytes
from catdog_search.space import did_you_mean
from catdog_search.streams import stderr_aside
from catdog_search.text import first_line, name_key
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.filters import all_pages
from catdog_search.tracking.models import MODEL_URI, NEITHER_FILE, ONNX_FILE, model_id_of
from catdog_search.tracking.store import Store

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

_RUN = "run:"
# Files of a logged model that are read, where MLflow's Keras flavour writes them.
_SAYS, _MODEL = "MLmodel", "data/model.keras"
# Ours has 2 KB; YAML is slow to read.
_MOST_SAID_BYTES = 100_000
_MOST_AT_ONCE = 256


@dataclass(frozen=True)
class Loaded:
    """A model as MLflow keeps it.

    Attributes:
        model: Network: uint8 RGB (batch, any height, any width, 3) -> probability of class 1
            (batch, 1).
        uri: Model's URI in MLflow, for people.
        run_id: Run id of the trial that trained it, as the store says.
        model_id: Id of the logged model, whatever name it was asked for by; `NAME/VERSION` of one
            that was registered without.
        facts: What it says of itself.
        batch_size: Number of photos in a batch, from 1.
    """

    model: keras.Model
    uri: str
    run_id: str
    model_id: str
    facts: ModelFacts
    batch_size: int


class LoggedModels:
    """The models that a store keeps, and what their studies have looked at.

    Args:
        store: MLflow store that keeps them.

    Raises:
        StateError: It doesn't open.
    """

    def __init__(self, store: Store) -> None:
        self._client = store.client()

    def load(self, name: str) -> Loaded:
        """Load a model, see `load_model`."""
        return load_model(self._client, name)

    def known_photos(self, run_id: str) -> Mapping[str, list[str]] | None:
        """Photos by split that the study of a run knows; None where it didn't say."""
        return split_hashes(self._client, run_id)

    def note_look(self, run_id: str, text: str) -> None:
        """Say on the run that trained a model that the model was shown photos of test."""
        self._client.set_tag(run_id, words.TEST_LOOKED_AT, text)


def load_model(client: MlflowClient, name: str) -> Loaded:
    """Load a model: what `models.loading` takes, and nothing else that lies beside it.

    Args:
        client: Client of the store.
        name: Model's name: `NAME`, `NAME@alias` or `NAME/version` in the registry, or `run:ID`.

    Raises:
        StateError: There is none, it can't be loaded, or it is not one of ours.
    """
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = _uri(client, name)
    _require_registered(client, name)
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = _Files(get_artifact_repository(uri), Path(folder))
            run_id, model_id = _origin(client, files.repository, uri)
            said = _said_of(files.path(_SAYS, _MOST_SAID_BYTES))
            path = files.path(_MODEL, free_bytes())
            model, batch_size = _load(path, said.image_size)
    except (mlflow.exceptions.MlflowException, OSError, ValueError) as error:
        raise StateError(f"model {name}: can't be loaded: {first_line(error)}") from error
    return Loaded(
        model=model,
        uri=uri,
        run_id=run_id,
        model_id=model_id,
        facts=said,
        batch_size=batch_size,
    )


@dataclass(frozen=True)
class Fetched:
    """The files of a model, and what is known of it.

    Attributes:
        facts: What it says of itself, and what the registry says of it.
        model: Path of the Keras model, not checked by anybody.
        neither: Path of the score of how unlike train a photo is; None for none.
        onnx: Path of the same as ONNX; None for none.
    """

    facts: ModelFacts
    model: Path
    neither: Path | None
    onnx: Path | None


def fetch(client: MlflowClient, name: str, folder: Path) -> Fetched:
    """Have the files of a model at hand; none of them is loaded.

    Args:
        client: Client of the store.
        name: Model's name, as for `load_model`.
        folder: Folder for those that are downloaded.

    Raises:
        StateError: There is no such model, or it is not one of ours.
    """
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = _uri(client, name)
    _require_registered(client, name)
    try:
        files = _Files(get_artifact_repository(uri), folder)
        run_id, model_id = _origin(client, files.repository, uri)
        facts = _said_of(files.path(_SAYS, _MOST_SAID_BYTES))
        return Fetched(
            facts.model_copy(
                update={
                    "run_id": run_id,
                    "model_id": model_id,
                    **_registered_as(client, files.repository),
                }
            ),
            files.path(_MODEL, sys.maxsize),
            files.find(NEITHER_FILE),
            files.find(ONNX_FILE),
        )
    except (mlflow.exceptions.MlflowException, OSError, ValueError) as error:
        raise StateError(f"model {name}: can't be had: {first_line(error)}") from error


def _registered_as(client: MlflowClient, repository: Any) -> dict[str, Any]:
    """What the registry says of the version that was asked for; nothing of one without."""
    if repository.model_name is None:
        return {}
    name, number = str(repository.model_name), int(repository.model_version)
    version = client.get_model_version(name, str(number))
    made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "name": name,
        "version": number,
        "registered_at": made.isoformat(timespec="seconds"),
        "test": tested(version.tags),
    }


def tested(tags: Mapping[str, str]) -> ScoreOnTest | None:
    """What a version's tags say of test; None where they don't, or nonsense."""
    try:
        low, high = map(float, tags[words.TEST_INTERVAL].split())
        return ScoreOnTest(
            accuracy=float(tags[words.TEST_ACCURACY]),
            low=low,
            high=high,
            n=int(tags[words.TEST_N]),
            looks=int(tags[words.TEST_LOOKS]),
        )
    except (KeyError, ValueError):
        return None


def said_of(uri: str) -> tuple[tuple[str, ...], int]:
    """The class names and the image size that a model says of itself; its network isn't looked at.

    Args:
        uri: Model's URI in MLflow.

    Raises:
        ValueError: It doesn't say what ours say, or its files are not its own, or not there.
        OSError: They are gone.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tempfile.TemporaryDirectory() as folder:
        files = _Files(get_artifact_repository(uri), Path(folder))
        said = _said_of(files.path(_SAYS, _MOST_SAID_BYTES))
        files.require(_MODEL)
        return said.class_names, said.image_size


def _load(path: Path, image_size: int) -> tuple[keras.Model, int]:
    with stderr_aside():
        # Its backend says of itself what nobody asked.
        from catdog_search.models import loading
        from catdog_search.models.defaults import pin_defaults
    pin_defaults()
    model = loading.load_exported(path, image_size)
    return model, loading.photos_at_once(model, image_size, _MOST_AT_ONCE)


@dataclass(frozen=True)
class _Files:
    """Files of a logged model, one by one: what else there is stays where it is.

    Attributes:
        repository: MLflow's artifact repository of the model.
        folder: Folder that they are downloaded to.
    """

    repository: Any
    folder: Path

    def path(self, name: str, most_bytes: int) -> Path:
        """Path of one file.

        Args:
            name: File's path within the model.
            most_bytes: Largest size that it may have, in bytes.

        Raises:
            ValueError: It is too large, or lies elsewhere.
        """
        path = self._here(name)
        if path is None:
            _check_size(name, self._listed(name), most_bytes)
            path = Path(self.repository.download_artifacts(name, str(self.folder)))
        _check_size(name, path.stat().st_size, most_bytes)
        return path

    def find(self, name: str) -> Path | None:
        """Path of one file, of any size; None where the model has none of this name.

        Raises:
            ValueError: It lies elsewhere.
        """
        try:
            return self.path(name, sys.maxsize) if self._has(name) else None
        except FileNotFoundError:
            return None

    def _has(self, name: str) -> bool:
        return self._here(name) is not None or self._listed(name) is not None

    def require(self, name: str) -> None:
        """Refuse a model without a file, which isn't downloaded.

        Raises:
            ValueError: The file is absent, or lies elsewhere.
            OSError: It is gone.
        """
        if self._here(name) is None:
            _check_size(name, self._listed(name), sys.maxsize)

    def _here(self, name: str) -> Path | None:
        """Where a file is on this machine; None where it has to be downloaded."""
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        where = getattr(self.repository, "repo", self.repository)
        if not isinstance(where, LocalArtifactRepository):
            return None
        root = Path(where.artifact_dir).resolve()
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root) or not path.is_file():
            raise ValueError(f"its {name} is no file of its own")
        return path

    def _listed(self, name: str) -> int | None:
        """Bytes that a server says a file has; None where it lists none."""
        folder = name.rpartition("/")[0] or None
        return {f.path: f.file_size for f in self.repository.list_artifacts(folder)}.get(name)


def _check_size(name: str, n_bytes: int | None, most: int) -> None:
    if n_bytes is None:
        raise ValueError(f"it holds no {name}")
    if n_bytes > most:
        raise ValueError(f"its {name} has {n_bytes / 1e6:.1f} MB, at most {most / 1e6:.1f}")


def _said_of(path: Path) -> ModelFacts:
    """What a model's MLmodel file says of it.

    Raises:
        ValueError: It says none, or such as no study has.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"its {_SAYS} can't be read: {type(error).__name__}") from None
    facts = said.get("metadata") if isinstance(said, dict) else None
    if not isinstance(facts, dict) or not {"class_names", "image_size"} <= set(facts):
        raise ValueError("it doesn't say its classes and size; it is not of this house")
    return ModelFacts.of(facts)


def _origin(client: MlflowClient, repository: Any, uri: str) -> tuple[str, str]:
    """The run that logged a model, and the model, by id, as the store says: a file could name any.

    Raises:
        ValueError: None did.
    """
    if repository.model_name is None:
        model_id = uri.removeprefix(MODEL_URI)
        run_id = client.get_logged_model(model_id).source_run_id
    else:
        name, number = repository.model_name, repository.model_version
        version = client.get_model_version(name, number)
        run_id = version.run_id
        model_id = model_id_of(version.source or "") or f"{name}/{number}"
    if not run_id:
        raise ValueError("no run has logged it")
    return str(run_id), model_id


def registered_names(client: MlflowClient) -> list[str]:
    """Names of the registered models; the ledger is none."""
    found = all_pages(client.search_registered_models)
    return [each.name for each in found if not is_ledger(each.name)]


def is_ledger(name: str) -> bool:
    """Whether a registered model is the ledger, also where a database takes any case for it."""
    return name_key(name) == name_key(words.LEDGER)


def _require_registered(client: MlflowClient, name: str) -> None:
    """MLflow's own word of an absent one doesn't say what there is."""
    if name.startswith((_RUN, MODEL_URI)):
        return
    plain = re.split("[@/]", name, maxsplit=1)[0]
    known = registered_names(client)
    if plain not in known:
        there = "no model is registered"
        if known:
            there = f"is not registered; {did_you_mean(plain, known, 'registered')}"
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
        return f"{MODEL_URI}{models[-1].model_id}"
    if name.startswith(MODEL_URI):
        return name
    return f"{MODEL_URI}{name}" if "@" in name or "/" in name else f"{MODEL_URI}{name}@champion"


def split_hashes(client: MlflowClient, run_id: str) -> Mapping[str, list[str]] | None:
    """The photos that the study of a run knows, as `Manifest.hashes`; None where it didn't say."""
    tags = client.get_run(run_id).data.tags
    parent = tags.get(words.TRAINED_IN) or tags.get(words.PARENT)
    folder = words.SPLITS_FILE.split("/", maxsplit=1)[0]
    if not parent or words.SPLITS_FILE not in {
        f.path for f in client.list_artifacts(parent, folder)
    }:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        path = client.download_artifacts(parent, words.SPLITS_FILE, temporary)
        hashes = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(hashes, dict) or not all(map(_is_list_of_texts, hashes.values())):
        raise StateError(f"run {parent}: its {words.SPLITS_FILE} doesn't say which photos it had")
    return hashes


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
