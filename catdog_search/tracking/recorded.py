"""A trained trial as MLflow keeps it: its curves, and its predictions on val."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog_search.errors import StateError
from catdog_search.figures.predictions import Predictions
from catdog_search.outside import is_absent
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.store import Store
from catdog_search.tracking.trial_files import load_val

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class Recorded:
    """Curves and predictions of a trial, from which its figures are plotted.

    Attributes:
        history: Metrics of every epoch, by name.
        best_epoch: Epoch whose weights were kept, from 0; None where no epoch's were.
        predictions: Predictions on val; None where the run has none.
    """

    history: list[dict[str, float]]
    best_epoch: int | None
    predictions: Predictions | None


class RunReader:
    """Reads what MLflow keeps of studies and their trials.

    Args:
        store: MLflow store to read from.

    Raises:
        StateError: The store can't be opened.
    """

    def __init__(self, store: Store) -> None:
        self._client = store.client()

    def recorded(self, run_id: str) -> Recorded:
        """Curves and predictions that a trial's figures are plotted from; empty for a lost run."""
        return recorded(self._client, run_id) if self.has_run(run_id) else Recorded([], None, None)

    def has_run(self, run_id: str) -> bool:
        """Whether MLflow still has a run, even in its trash."""
        return self._run(run_id) is not None

    def file(self, parent_id: str, study: str) -> bytes | None:
        """The study file that a study's own run keeps; None if it keeps none or is gone."""
        name = f"{study}.toml"
        if self._run(parent_id) is None:
            return None
        if name not in {file.path for file in self._client.list_artifacts(parent_id)}:
            return None
        with tempfile.TemporaryDirectory() as temporary:
            return Path(self._client.download_artifacts(parent_id, name, temporary)).read_bytes()

    def photos(self, parent_id: str) -> tuple[str | None, str | None]:
        """Kind and location of the photos that a study used last, according to its own run.

        None for what it doesn't say, or if it is gone.
        """
        run = self._run(parent_id)
        tags = {} if run is None else run.data.tags
        return tags.get(words.DATA_KIND), tags.get(words.DATA_LOCATION)

    def hashes(self, parent_id: str) -> Mapping[str, list[str]] | None:
        """The photos that a study knows, by split, as `Dataset.hashes`; None if it doesn't say."""
        return None if self._run(parent_id) is None else hashes_of(self._client, parent_id)

    def _run(self, run_id: str) -> Run | None:
        import mlflow

        try:
            return self._client.get_run(run_id) if run_id else None
        except mlflow.exceptions.MlflowException as error:
            if not is_absent(error):
                raise
            return None


def hashes_of(client: MlflowClient, parent_id: str) -> Mapping[str, list[str]] | None:
    """The photos that a study knows, by split, according to its own run; None if it doesn't say.

    Raises:
        StateError: It says something else there.
    """
    folder = words.SPLITS_FILE.split("/", maxsplit=1)[0]
    if words.SPLITS_FILE not in {file.path for file in client.list_artifacts(parent_id, folder)}:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        path = client.download_artifacts(parent_id, words.SPLITS_FILE, temporary)
        hashes = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(hashes, dict) or not all(map(_is_list_of_texts, hashes.values())):
        raise StateError(
            f"run {parent_id}: its {words.SPLITS_FILE} doesn't say which photos it had"
        )
    return hashes


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def recorded(client: MlflowClient, run_id: str) -> Recorded:
    """Read the curves and predictions that a trial's figures are plotted from."""
    by_step = _metrics_by_step(client, run_id)
    kept = client.get_run(run_id).data.metrics.get(words.BEST_EPOCH)
    best_epoch = list(by_step).index(int(kept)) if kept in by_step else None
    return Recorded(list(by_step.values()), best_epoch, load_val(client, run_id))


def _metrics_by_step(client: MlflowClient, run_id: str) -> dict[int, dict[str, float]]:
    """Metrics that a trial logged after each epoch, in order; empty where it logged nothing."""
    epochs: dict[int, dict[str, float]] = {}
    for name in client.get_run(run_id).data.metrics:
        # Those with a slash are the machine's load and what earlier versions logged at the end.
        if "/" in name or name.startswith(words.FINAL) or name in words.AT_THE_END:
            continue
        for metric in client.get_metric_history(run_id, name):
            epochs.setdefault(metric.step, {})[name] = metric.value
    return {step: epochs[step] for step in sorted(epochs)}
