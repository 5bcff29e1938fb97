"""Models as MLflow keeps them: stock Keras, uint8 in, pinned requirements, no pickle."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from catdog_search import identity
from catdog_search.errors import StateError
from catdog_search.identity import ARTIFACTS, local_path
from catdog_search.outside import is_absent
from catdog_search.retry import Retry
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.confine import as_location, copy_here, is_stray
from catdog_search.tracking.filters import equals
from catdog_search.tracking.store import Store

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, LoggedModel

    from catdog_search.tracking.own import Client

# Prefix of the URIs of logged and registered models.
MODEL_URI = "models:/"
# File that makes a folder a model.
MODEL_FILE = "MLmodel"
# Beside the model itself, in the folder where MLflow's flavour writes it.
NEITHER_FILE = "data/neither.keras"
ONNX_FILE = "data/model.onnx"
_BACKEND_PACKAGE = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


@dataclass(frozen=True)
class Pair:
    """A model to log, and what is stored beside it.

    Attributes:
        model: Uncompiled network, so that no optimizer state is stored with it.
        neither: Model that scores how unlike train a photo is; None for none.
        onnx: The two as one ONNX file; None for none.
    """

    model: keras.Model
    neither: keras.Model | None = None
    onnx: bytes | None = None


def log_model(
    client: Client,
    run_id: str,
    pair: Pair,
    backend: str,
    metadata: Mapping[str, Any],
    example: npt.NDArray[np.uint8],
    retry: Retry,
) -> str:
    """Log the exported model of a run; returns its model id.

    Args:
        client: Client of the store, to which MLflow's module-level functions point too.
        run_id: Id of the trial's run.
        pair: Exported model, and what is stored beside it.
        backend: Keras backend that it was trained on; any other can load it too.
        metadata: Plain values kept in the MLmodel file, including class names.
        example: Photos kept as an example of the input, uint8 RGB (n, height, width, 3).
        retry: Retry of the call; what a failed try left is removed before the next.

    Raises:
        StateError: Its files would be outside the state's own artifacts.
    """
    run = client.get_run(run_id).info
    experiment = client.get_experiment(run.experiment_id)
    # MLflow refuses some characters.
    name = re.sub(r"[^\w-]", "-", f"{experiment.name}-{run.run_name}")
    client.require_own(experiment.artifact_location, "models")
    log = partial(_log_model, experiment, name, run_id, pair, backend, metadata, example)

    def again() -> str:
        for left in models_of(client, experiment.experiment_id, run_id):
            delete_model(client, left)
        return log()

    return retry(log, again)


def _log_model(
    experiment: Experiment,
    name: str,
    run_id: str,
    pair: Pair,
    backend: str,
    metadata: Mapping[str, Any],
    example: npt.NDArray[np.uint8],
) -> str:
    import mlflow

    # Without this the model goes to the default experiment, whichever its run belongs to.
    mlflow.set_experiment(experiment_id=experiment.experiment_id)
    # Model.log and not mlflow.keras.log_model: the latter needs an active run and would end it.
    info = mlflow.models.Model.log(
        artifact_path=None,
        name=name,
        flavor=_KerasFlavor,
        flavor_name="keras",
        input_example=example,
        run_id=run_id,
        pair=pair,
        signature=_signature(),
        # Otherwise MLflow starts a process that imports the backend again, which takes 10 s.
        pip_requirements=_requirements(backend),
        metadata=dict(metadata),
        # Otherwise it reloads the model to predict the example, for every kept trial.
        validate_serving_input=False,
    )
    return str(info.model_id)


class _KerasFlavor:
    """MLflow's Keras flavour, with the folder created before it writes its input example."""

    @staticmethod
    def save_model(path: str, *, pair: Pair, validate_serving_input: bool, **options: Any) -> None:
        import mlflow

        del validate_serving_input  # Model.log's own argument, which it passes on
        Path(path).mkdir(parents=True, exist_ok=True)
        mlflow.keras.save_model(path=path, model=pair.model, **options)
        if pair.neither is not None:
            pair.neither.save(Path(path, NEITHER_FILE))
        if pair.onnx is not None:
            Path(path, ONNX_FILE).write_bytes(pair.onnx)


def models_of(client: MlflowClient, experiment_id: str, run_id: str) -> list[LoggedModel]:
    """The models that a run logged, unfinished ones included."""
    query = equals("source_run_id", run_id)
    return list(client.search_logged_models([experiment_id], filter_string=query))


def model_id_of(source: str) -> str | None:
    """The logged model that a URI or a version's source names; None for any other kind.

    A source may also be `models:/NAME/VERSION` or a location.
    """
    inside = source.removeprefix(MODEL_URI) if source.startswith(MODEL_URI) else ""
    return inside if inside and "/" not in inside and "@" not in inside else None


def find_model(client: MlflowClient, model_id: str) -> LoggedModel | None:
    """A logged model; None where the store has none of this id."""
    import mlflow

    try:
        return client.get_logged_model(model_id)
    except mlflow.exceptions.MlflowException as error:
        if not is_absent(error):
            raise
        return None


def delete_model(client: Client, model: LoggedModel) -> None:
    """Remove a logged model and its files, unless a registered version is based on it.

    Raises:
        StateError: Its files are outside the state's own artifacts.
    """
    if words.MODEL_VERSIONS in model.tags:
        return
    client.remove(model.model_id, model.artifact_location)
    client.delete_logged_model(model.model_id)


@dataclass(frozen=True)
class Standing:
    """Whether a model that should be kept exists.

    Attributes:
        kind: State of its files: `there`; `unlisted`, if MLflow doesn't say where they are; `gone`,
            if there certainly are none; `unknown`, if that can't be determined.
        where: Location that its files have, or should have, as MLflow keeps it.
        reason: Why it is unknown; empty otherwise.
        cure: Step that helps to determine it, for people; empty otherwise.
    """

    kind: Literal["there", "unlisted", "gone", "unknown"]
    where: str
    reason: str = ""
    cure: str = ""


def look_at_model(client: Client, store: Store, study: str, model_id: str) -> Standing:
    """Check whether a logged model of a study exists, with its files."""
    model = find_model(client, model_id)
    if store.artifacts is None:
        return _look_at_server(client, model, model_id)
    inside = Path(study, "models", model_id, "artifacts")
    expected = store.artifacts / inside
    location = model.artifact_location if model else ""
    path = local_path(location)
    if path is not None and not is_stray(store.artifacts, location, model_id):
        found = _look_at_files(client, store.artifacts, path)
    else:
        found = _look_at_files(client, store.artifacts, expected)
        if found.kind == "there":
            return replace(found, kind="unlisted")
    if found.kind == "gone":
        # Files that are recorded as outside, or that were left behind when the state was moved or
        # copied.
        left = [path, *(place / ARTIFACTS / inside for place in _places(store.artifacts.parent))]
        for at in (at for at in left if at is not None and (at / MODEL_FILE).exists()):
            reason = f"its files are outside of this state, in {at}"
            return Standing("unknown", as_location(at), reason, copy_here(at, expected))
    return found


def _places(root: Path) -> tuple[Path, ...]:
    """Former folders of a state, and the folders of the state that it is a copy of."""
    found = identity.read(root)
    return (*found.former, *found.origins) if found else ()


def _look_at_files(client: Client, artifacts: Path, path: Path) -> Standing:
    where = as_location(path)
    try:
        client.require_own(where)
        (path / MODEL_FILE).stat()
    except StateError as error:
        return Standing("unknown", where, str(error), "do so")
    except (FileNotFoundError, NotADirectoryError):
        if artifacts.is_dir():
            return Standing("gone", where)
        cure = f"bring it back, or make it anew: `mkdir -p {shlex.quote(str(artifacts))}`"
        return Standing("unknown", where, f"{artifacts} isn't there", cure)
    except OSError as error:
        cure = f"let it be read: `chmod -R u+rwX {shlex.quote(str(artifacts))}`"
        return Standing("unknown", where, f"{path} can't be read: {error.strerror}", cure)
    return Standing("there", where)


def _look_at_server(client: Client, model: LoggedModel | None, model_id: str) -> Standing:
    if model is None:
        return Standing("gone", "")
    where = model.artifact_location
    if MODEL_FILE in {file.path for file in client.list_logged_model_artifacts(model_id)}:
        return Standing("there", where)
    reason = f"the server lists no files of it at {where}"
    return Standing("unknown", where, reason, "upload them again, or delete the model there")


def _signature() -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    # Without names: a named tensor would reach the model as a dict.
    photo = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    probability = TensorSpec(np.dtype(np.float32), (-1, 1))
    return ModelSignature(Schema([photo]), Schema([probability]))


def _requirements(backend: str) -> list[str]:
    names = ("keras", _BACKEND_PACKAGE[backend], "numpy")
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]
