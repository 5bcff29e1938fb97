"""What MLflow keeps of a trial that was trained: its curves, and what val was taken for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog_search.figures.predictions import Predictions
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.store import Store
from catdog_search.tracking.trial_files import load_val

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Recorded:
    """What MLflow keeps of a trial that its figures are drawn from.

    Attributes:
        history: Metrics of every epoch.
        best_epoch: Whose weights were kept; None where no epoch's were.
        predictions: Of val; None where the run has none.
    """

    history: list[dict[str, float]]
    best_epoch: int | None
    predictions: Predictions | None


class TrialReader:
    """Reads what MLflow keeps of trials.

    Args:
        store: Where it does.

    Raises:
        StateError: The store doesn't open.
    """

    def __init__(self, store: Store) -> None:
        self._client = store.client()

    def recorded(self, run_id: str) -> Recorded:
        """What the figures of a trial are drawn from."""
        return recorded(self._client, run_id)


def recorded(client: MlflowClient, run_id: str) -> Recorded:
    """Read what a trial's figures are drawn from."""
    kept = client.get_run(run_id).data.metrics.get(words.BEST_EPOCH)
    best_epoch = None if kept is None else int(kept)
    return Recorded(metric_history(client, run_id), best_epoch, load_val(client, run_id))


def metric_history(client: MlflowClient, run_id: str) -> list[dict[str, float]]:
    """What a trial logged after each epoch, from epoch 0; empty where it logged nothing."""
    epochs: dict[int, dict[str, float]] = {}
    for name in client.get_run(run_id).data.metrics:
        if "/" in name or name in words.AT_THE_END:
            continue
        for metric in client.get_metric_history(run_id, name):
            epochs.setdefault(metric.step, {})[name] = metric.value
    return [epochs[step] for step in sorted(epochs)]
