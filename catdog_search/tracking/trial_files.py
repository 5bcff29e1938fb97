"""A trial's files: its predictions on val, and the figures of those worth keeping."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from catdog_search.data.dataset import Dataset
from catdog_search.data.own import MARK
from catdog_search.figures.predictions import Photos, Predictions
from catdog_search.figures.style import plain_style
from catdog_search.figures.trial import trial_figures
from catdog_search.tracking import vocabulary as words

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from catdog_search.tracking.own import Client

_DPI = 90


def log_val(
    client: MlflowClient,
    run_id: str,
    labels: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
) -> None:
    """Keep the probabilities of val beside its labels, so that figures can be plotted later.

    Args:
        client: MLflow client.
        run_id: Id of the trial's run.
        labels: Labels of val, (n,) or (n, 1), 0 or 1.
        probabilities: Probabilities of class 1, (n,), 0 to 1.
    """
    folder, name = words.PREDICTIONS_FILE.split("/")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        np.savez_compressed(
            path, labels=labels.ravel().astype(np.uint8), probabilities=probabilities
        )
        client.log_artifact(run_id, str(path), folder)


def load_val(client: MlflowClient, run_id: str) -> Predictions | None:
    """The predictions that `log_val` kept; None where the run has none."""
    folder = words.PREDICTIONS_FILE.split("/", maxsplit=1)[0]
    if not client.list_artifacts(run_id, folder):
        return None
    with tempfile.TemporaryDirectory() as temporary:
        path = client.download_artifacts(run_id, words.PREDICTIONS_FILE, temporary)
        with np.load(path) as file:
            return Predictions(file["labels"], file["probabilities"])


def val_photos(dataset: Dataset) -> Photos:
    """The photos of val, in the order of the predictions."""
    rows, photos = dataset.rows("val"), dataset.manifest.photos
    return Photos(dataset.read(rows), [photos[i].key for i in rows])


def log_figures(
    client: MlflowClient,
    run_id: str,
    title: str,
    history: Sequence[dict[str, float]],
    best_epoch: int | None,
    predictions: Predictions,
    dataset: Dataset,
) -> None:
    """Plot and log every figure of a trial."""
    names = dataset.manifest.class_names
    photos = val_photos(dataset)
    figures = trial_figures(title, history, best_epoch, predictions, names, photos)
    keep_figures(client, run_id, figures)


def keep_figures(client: MlflowClient, run_id: str, figures: Mapping[str, Figure]) -> None:
    """Keep figures, by file name, in a run's folder of figures."""
    kept = {"dpi": _DPI, "metadata": dict(MARK)}
    with plain_style():
        for name, figure in figures.items():
            client.log_figure(run_id, figure, f"{words.FIGURES}/{name}", save_kwargs=kept)


def delete_files(client: Client, run_id: str, folder: str | None = None) -> None:
    """Remove a run's artifacts, or those in one folder, if there are any.

    Raises:
        StateError: They are outside the state's own.
    """
    if client.list_artifacts(run_id, folder):
        client.remove(run_id, client.get_run(run_id).info.artifact_uri, folder)
