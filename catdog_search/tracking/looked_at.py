"""Load logged models, and tell which photos their trainings have looked at."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml

from catdog_search.answering.facts import ModelFacts, ScoreOnTest
from catdog_search.errors import StateError
from catdog_search.machine.memory import free_bytes
from catdog_search.outside import is_absent
from catdog_search.space import did_you_mean
from catdog_search.streams import stderr_aside
from catdog_search.text import name_key
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.filters import all_pages
from catdog_search.tracking.models import MODEL_URI, NEITHER_FILE, ONNX_FILE, model_id_of
from catdog_search.tracking.recorded import hashes_of
from catdog_search.tracking.store import Store, command_for, nothing_in, told

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

_RUN = "run:"
# Files read from a logged model, at the paths where MLflow's Keras flavour writes them.
_SAYS, _MODEL = "MLmodel", "data/model.keras"
# Ours have 2 KB, and YAML is slow to parse.
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
        model_id: Id of the logged model, whatever name it was requested by; `NAME/VERSION` if it
            was registered without one.
        facts: Facts that it states about itself.
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
        StateError: It can't be opened.
    """

    def __init__(self, store: Store) -> None:
        self._client = store.client()

    def load(self, name: str) -> Loaded:
        """Load a model, see `load_model`."""
        return load_model(self._client, name)

    def known_photos(self, run_id: str) -> Mapping[str, list[str]] | None:
        """Photos by split that the study of a run knows; None where it didn't say."""
        return split_hashes(self._client, run_id)

    def photos_taken(self, run_id: str) -> int | None:
        """Number of photos of train that the study of a run uses; None for all of them."""
        parent = _study_of(self._client, run_id)
        taken = self._client.get_run(parent).data.params.get(words.SUBSET) if parent else None
        return int(taken) if taken is not None and taken.isdecimal() else None

    def note_look(self, run_id: str, text: str) -> None:
        """Note on the run that trained a model that the model was shown photos of test."""
        self._client.set_tag(run_id, words.TEST_LOOKED_AT, text)


def load_model(client: MlflowClient, name: str) -> Loaded:
    """Load a model: only the files that `models.loading` takes, and no others beside them.

    Args:
        client: Client of the store.
        name: Model's name: `NAME`, `NAME@alias` or `NAME/version` in the registry, or `run:ID`.

    Raises:
        StateError: There is no such model, it can't be loaded, or it is not one of ours.
    """
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(client, name, Path(folder))
        path, side = fetched.model, fetched.facts.image_size
        loading = keras_loading()
        with _loading(client, name):
            model = loading.load_exported(path, side)
            batch_size = loading.photos_at_once(model, side, _MOST_AT_ONCE)
    return Loaded(
        model=model,
        uri=fetched.uri,
        run_id=fetched.run_id,
        model_id=fetched.model_id,
        facts=fetched.facts,
        batch_size=batch_size,
    )


def keras_loading() -> ModuleType:
    """The module `models.loading`, imported silently and with Keras's settings pinned."""
    with stderr_aside():
        # Its backend prints unrequested messages.
        from catdog_search.models import loading
        from catdog_search.models.defaults import pin_defaults
    pin_defaults()
    return loading


@dataclass(frozen=True)
class Fetched:
    """What is known of a model, and its files, each downloaded on first use.

    Attributes:
        asked: Name that it was requested by.
        uri: Model's URI in MLflow, for people.
        run_id: See `Loaded`.
        model_id: See `Loaded`.
        facts: Facts that it states about itself, and those that the registry knows.
        find: Function that returns the local path of one of its files, given the path within the
            model; None if the model has no such file. It raises StateError.
    """

    asked: str
    uri: str
    run_id: str
    model_id: str
    facts: ModelFacts
    find: Callable[[str], Path | None]

    @property
    def model(self) -> Path:
        """The Keras model, unchecked.

        Raises:
            StateError: It is gone.
        """
        path = self.find(_MODEL)
        if path is None:
            raise StateError(f"model {self.asked}: can't be loaded: it holds no {_MODEL}")
        return path

    @property
    def neither(self) -> Path | None:
        """The model that scores how unlike train a photo is; None for none."""
        return self.find(NEITHER_FILE)

    @property
    def onnx(self) -> Path | None:
        """The models as ONNX; None for none."""
        return self.find(ONNX_FILE)


@contextlib.contextmanager
def _loading(client: MlflowClient, name: str) -> Iterator[None]:
    """Report errors of a model in one line, and what mends it where it is gone."""
    try:
        with told(f"model {name}: can't be loaded"):
            yield
    except StateError as error:
        cause = error.__cause__
        no_files = isinstance(cause, FileNotFoundError | NotADirectoryError)
        if cause is not None and (no_files or is_absent(cause)):
            cure = command_for(client.tracking_uri, "doctor")
            raise StateError(f"{error}; it is gone: {cure} says what else is") from cause
        raise


def fetch(client: MlflowClient, name: str, folder: Path) -> Fetched:
    """Find a model; of its files, only its MLmodel is read.

    Args:
        client: Client of the store.
        name: Model's name, as for `load_model`.
        folder: Folder for the files that are downloaded.

    Raises:
        StateError: There is no such model, or it is not one of ours.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = _uri(client, name)
    _require_registered(client, name)
    with _loading(client, name):
        files = _Files(get_artifact_repository(uri), folder)
        origin = _origin(client, files.repository, uri)
        facts = _said_of(files.path(_SAYS, _MOST_SAID_BYTES)).model_copy(update=origin)

    @functools.cache
    def find(file: str) -> Path | None:
        with _loading(client, name):
            return files.find(file)

    return Fetched(name, uri, origin["run_id"], origin["model_id"], facts, find)


def tested(tags: Mapping[str, str]) -> ScoreOnTest | None:
    """Score on test that a version's tags state; None where they state none or nonsense."""
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
    """The class names and the image size that a model states; its network isn't read.

    Args:
        uri: Model's URI in MLflow.

    Raises:
        ValueError: It doesn't state what ours do, or its files are missing or not its own.
        OSError: They are gone.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tempfile.TemporaryDirectory() as folder:
        files = _Files(get_artifact_repository(uri), Path(folder))
        said = _said_of(files.path(_SAYS, _MOST_SAID_BYTES))
        files.require(_MODEL)
        return said.class_names, said.image_size


@dataclass(frozen=True)
class _Files:
    """Files of a logged model, fetched one by one; other files are never downloaded.

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
            ValueError: It is too large, or is elsewhere.
        """
        path = self._here(name)
        if path is None:
            _check_size(name, self._listed(name), most_bytes)
            path = Path(self.repository.download_artifacts(name, str(self.folder)))
        _check_size(name, path.stat().st_size, most_bytes)
        return path

    def find(self, name: str) -> Path | None:
        """Path of one file, which must fit into memory; None if the model has no such file.

        Raises:
            ValueError: It is too large, or is elsewhere.
        """
        try:
            if self._here(name) is None and self._listed(name) is None:
                return None
        except FileNotFoundError:
            return None
        return self.path(name, free_bytes())

    def require(self, name: str) -> None:
        """Refuse a model that lacks a file; the file isn't downloaded.

        Raises:
            ValueError: The file is absent, or is elsewhere.
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
        """Size in bytes that a server lists for a file; None if it lists none."""
        folder = name.rpartition("/")[0] or None
        return {f.path: f.file_size for f in self.repository.list_artifacts(folder)}.get(name)


def _check_size(name: str, n_bytes: int | None, most: int) -> None:
    if n_bytes is None:
        raise ValueError(f"it holds no {name}")
    if n_bytes > most:
        raise ValueError(f"its {name} has {n_bytes / 1e6:.1f} MB, at most {most / 1e6:.1f}")


def _said_of(path: Path) -> ModelFacts:
    """Facts that a model's MLmodel file states.

    Raises:
        ValueError: It states none, or some that no study can have.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"its {_SAYS} can't be read: {type(error).__name__}") from None
    facts = said.get("metadata") if isinstance(said, dict) else None
    if not isinstance(facts, dict) or not {"class_names", "image_size"} <= set(facts):
        raise ValueError(
            "it doesn't state its classes and image size, so it wasn't logged by catdog-search"
        )
    return ModelFacts.of(facts)


def _origin(client: MlflowClient, repository: Any, uri: str) -> dict[str, Any]:
    """Where a model comes from, according to the store: a file could name any run.

    Returns:
        Ids of the run that logged it and of the model; for one in the registry also name, version,
        when it was registered, and what it reached on test.

    Raises:
        ValueError: No run logged it.
    """
    found: dict[str, Any]
    if repository.model_name is None:
        model_id = uri.removeprefix(MODEL_URI)
        found = {"run_id": client.get_logged_model(model_id).source_run_id, "model_id": model_id}
    else:
        name, number = str(repository.model_name), int(repository.model_version)
        version = client.get_model_version(name, str(number))
        made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        found = {
            "run_id": version.run_id,
            "model_id": model_id_of(version.source or "") or f"{name}/{number}",
            "name": name,
            "version": number,
            "registered_at": made.isoformat(timespec="seconds"),
            "test": tested(version.tags),
        }
    if not found["run_id"]:
        raise ValueError("no run has logged it")
    return found


def registered_names(client: MlflowClient) -> list[str]:
    """Names of the registered models, without the ledger."""
    found = all_pages(client.search_registered_models)
    return [each.name for each in found if not is_ledger(each.name)]


def is_ledger(name: str) -> bool:
    """Whether a registered model is the ledger, even in a database that ignores case."""
    return name_key(name) == name_key(words.LEDGER)


def _require_registered(client: MlflowClient, name: str) -> None:
    """Refuse an absent name with a list of those that exist, which MLflow's own error lacks."""
    if name.startswith((_RUN, MODEL_URI)):
        return
    plain = re.split("[@/]", name, maxsplit=1)[0]
    known = registered_names(client)
    if plain not in known:
        there = f"no model is registered {nothing_in(client.tracking_uri)}"
        if known:
            there = f"is not registered; {did_you_mean(plain, known, 'registered')}"
        raise StateError(
            f"model {name}: {there}; {command_for(client.tracking_uri, 'promote STUDY')} registers "
            "one, run:ID names a run's"
        )


def _uri(client: MlflowClient, name: str) -> str:
    if name.startswith(_RUN):
        run_id = name.removeprefix(_RUN)
        import mlflow

        try:
            outputs = client.get_run(run_id).outputs
        except mlflow.exceptions.MlflowException:
            place = nothing_in(client.tracking_uri)
            raise StateError(f"{name}: there is no such run {place}") from None
        models = outputs.model_outputs if outputs else []
        if not models:
            raise StateError(f"{name}: the run keeps no model")
        return f"{MODEL_URI}{models[-1].model_id}"
    if name.startswith(MODEL_URI):
        return name
    return f"{MODEL_URI}{name}" if "@" in name or "/" in name else f"{MODEL_URI}{name}@champion"


def _study_of(client: MlflowClient, run_id: str) -> str | None:
    """Id of the parent run of the study that trained a run's model."""
    tags = client.get_run(run_id).data.tags
    found: str | None = tags.get(words.TRAINED_IN) or tags.get(words.PARENT)
    return found


def split_hashes(client: MlflowClient, run_id: str) -> Mapping[str, list[str]] | None:
    """The photos that the study of a run knows, as `Manifest.hashes`; None where it didn't say."""
    import mlflow

    try:
        parent = _study_of(client, run_id)
        return hashes_of(client, parent) if parent else None
    except mlflow.exceptions.MlflowException as error:
        if not is_absent(error):
            raise
        return None  # the run, or that of its study, was deleted for good
