"""Models as MLflow keeps them: stock Keras, uint8 in, pinned requirements, no pickle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog_search.outside import is_absent
from catdog_search.retry import Retry
from catdog_search.tracking.filters import equals

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, LoggedModel

    from catdog_search.tracking.own import Client

_BACKEND_PACKAGE = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


def log_model(
    client: Client,
    run_id: str,
    model: keras.Model,
    backend: str,
    metadata: Mapping[str, Any],
    example: npt.NDArray[np.uint8],
    retry: Retry,
) -> str:
    """Log the exported model of a run; returns its model id.

    Args:
        client: Of the store, to which MLflow's module-level functions point too.
        run_id: The trial's run.
        model: Uncompiled, so that no optimizer state is stored with it.
        backend: Keras backend that it was trained on; any other loads it too.
        metadata: Plain values kept in the MLmodel file, class names among them.
        example: uint8 RGB photos (n, height, width, 3), kept as an example of the input.
        retry: Tries again what waiting helps; what the try before left is removed.

    Raises:
        StateError: Its files would lie outside of the state's own artifacts.
    """
    experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
    client.require_own(experiment.artifact_location, "models")
    log = partial(_log_model, experiment, run_id, model, backend, metadata, example)

    def again() -> str:
        for left in models_of(client, experiment.experiment_id, run_id):
            delete_model(client, left)
        return log()

    return retry(log, again)


def _log_model(
    experiment: Experiment,
    run_id: str,
    model: keras.Model,
    backend: str,
    metadata: Mapping[str, Any],
    example: npt.NDArray[np.uint8],
) -> str:
    import mlflow

    # Without this the model goes to the default experiment, whatever its run belongs to.
    mlflow.set_experiment(experiment_id=experiment.experiment_id)
    # Model.log and not mlflow.keras.log_model: the latter wants an active run and would end it.
    info = mlflow.models.Model.log(
        artifact_path=None,
        name="model",
        flavor=_KerasFlavor,
        flavor_name="keras",
        input_example=example,
        run_id=run_id,
        model=model,
        signature=_signature(),
        # Without them MLflow starts a process that imports the backend again, for 10 s.
        pip_requirements=_requirements(backend),
        metadata=dict(metadata),
        # It would load the model again to predict the example, for every kept trial.
        validate_serving_input=False,
    )
    return str(info.model_id)


class _KerasFlavor:
    """MLflow's Keras flavour, which writes its input example before it has made the folder."""

    @staticmethod
    def save_model(path: str, *, validate_serving_input: bool, **options: Any) -> None:
        import mlflow

        del validate_serving_input  # Model.log's own, which it hands on
        Path(path).mkdir(parents=True, exist_ok=True)
        mlflow.keras.save_model(path=path, **options)


def models_of(client: MlflowClient, experiment_id: str, run_id: str) -> list[LoggedModel]:
    """The models that a run logged, those that it didn't finish included."""
    query = equals("source_run_id", run_id)
    return list(client.search_logged_models([experiment_id], filter_string=query))


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
    """Remove a logged model and its files, unless a registered version stands on it.

    Raises:
        StateError: Its files lie outside of the state's own artifacts.
    """
    if "mlflow.modelVersions" in model.tags:
        return
    client.remove(model.artifact_location)
    client.delete_logged_model(model.model_id)


def model_exists(client: MlflowClient, model_id: str) -> bool:
    """Whether a logged model is there, with its files."""
    import mlflow

    try:
        client.get_logged_model(model_id)
        mlflow.models.get_model_info(f"models:/{model_id}")
    except (mlflow.exceptions.MlflowException, OSError):
        return False
    return True


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
