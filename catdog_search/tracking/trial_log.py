"""Logging of a trial while it trains and when it is over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from catdog_search.retry import Retry
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.models import Pair, log_model
from catdog_search.tracking.recorded import Recorded
from catdog_search.tracking.store import Store
from catdog_search.tracking.trial_files import delete_files, log_figures, log_val

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt
    from mlflow import MlflowClient

    from catdog_search.data.dataset import Dataset
    from catdog_search.tracking.own import Client

# Seconds between samples of the machine's load; a shorter trial leaves none.
_SAMPLE_EVERY_S = 5


class TrialLog:
    """Logs the trials of one worker, through one client.

    Args:
        store: MLflow store to log to; it exists already.
        retry: Retry that makes every call.

    Raises:
        StateError: The store can't be opened.
    """

    def __init__(self, store: Store, retry: Retry) -> None:
        self._store = store
        self._retry = retry
        self._client = _client(store, retry)

    def log_epoch(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, which counts from 0 here and from 1 in MLflow."""
        log_metrics(self._client, run_id, metrics, epoch + 1)

    def watch_machine(self, run_id: str) -> contextlib.AbstractContextManager[None]:
        """Log the machine's load while the context lasts."""
        return _system_metrics(self._store, run_id)

    def log_result(
        self,
        run_id: str,
        objective: float,
        scores: Mapping[str, float],
        n_weights: int,
        kept: Recorded,
    ) -> None:
        """Log a finished training's scores, and its predictions on val.

        Args:
            run_id: Id of the trial's run.
            objective: Objective's value.
            scores: Final metrics of val, by name.
            n_weights: Number of the network's weights.
            kept: Best epoch, and its predictions on val.
        """
        more = {words.N_WEIGHTS: n_weights, words.BEST_EPOCH: (kept.best_epoch or 0) + 1}
        log_metrics(self._client, run_id, {**final_metrics(objective, scores), **more}, step=0)
        assert kept.predictions is not None, "it is finished"
        log_val(self._client, run_id, kept.predictions.labels, kept.predictions.probabilities)

    def note(self, run_id: str, text: str) -> None:
        """Write a note on a run, which MLflow shows beside its name."""
        self._client.set_tag(run_id, words.NOTE, text)

    def log_model(
        self,
        run_id: str,
        model: keras.Model,
        backend: str,
        metadata: Mapping[str, Any],
        example: npt.NDArray[np.uint8],
    ) -> str:
        """Log the exported model of a run, see `models.log_model`; returns its model id."""
        return log_model(self._client, run_id, Pair(model), backend, metadata, example, self._retry)


def draw_figures(store: Store, run_id: str, title: str, kept: Recorded, dataset: Dataset) -> None:
    """Plot and log the figures of a trial that has just been trained, with a client of its own.

    Args:
        store: MLflow store to log to.
        run_id: Id of the trial's run.
        title: Title of every figure.
        kept: Curves and predictions that they are plotted from.
        dataset: Dataset that the trial trained on.
    """
    assert kept.predictions is not None, "it is finished"
    client = _client(store)
    log_figures(client, run_id, title, kept.history, kept.best_epoch, kept.predictions, dataset)


def remove_figures(store: Store, run_id: str) -> None:
    """Remove the figures of a trial, since an incomplete set would pass for complete."""
    delete_files(_client(store), run_id, words.FIGURES)


def _client(store: Store, retry: Retry | None = None) -> Client:
    """A worker's client; refused if the state folder was moved meanwhile."""
    store.require_folder()
    return store.client(retry)


def final_metrics(objective: float, scores: Mapping[str, float]) -> dict[str, float]:
    """A trial's final metrics, by their names in its run: the objective, and all scores of val."""
    final = {f"{words.FINAL}{name}": score for name, score in scores.items()}
    return {**final, words.OBJECTIVE: objective}


def log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int) -> None:
    """Log numbers of one step in one call."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    batch = [Metric(name, float(value), now, step) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=batch)


@contextlib.contextmanager
def _system_metrics(store: Store, run_id: str) -> Iterator[None]:
    """Log the machine's load meanwhile: CPU, memory, disk, network and every GPU."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=_SAMPLE_EVERY_S, tracking_uri=store.uri
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
