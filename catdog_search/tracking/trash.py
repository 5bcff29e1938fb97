"""MLflow's trash: what of a study lies there, and how it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.filters import equals
from catdog_search.tracking.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Trash:
    """Part of a study in MLflow's trash: its experiment, or the run of the study.

    Args:
        store: MLflow store to look in.
        study: Study's name, also the experiment's.
        parent_id: Id of the study's own run; None where it isn't known.

    Raises:
        StateError: The store doesn't open.
    """

    def __init__(self, store: Store, study: str, parent_id: str | None) -> None:
        self._client = store.client()
        self._parent_id = parent_id
        found = self._client.get_experiment_by_name(study)
        deleted = found is not None and found.lifecycle_stage == "deleted"
        self._experiment_id = found.experiment_id if deleted else None

    def holds(self) -> str | None:
        """Name of what is there, for people; None where nothing is."""
        if self._experiment_id:
            return f"experiment {self._experiment_id}"
        if self._parent_id and run_in_trash(self._client, self._parent_id):
            return f"run {self._parent_id} of the study"
        return None

    def restore(self) -> None:
        """Bring it back; with the run of the study those of its trials."""
        if self._experiment_id:
            self._client.restore_experiment(self._experiment_id)
        elif self._parent_id:
            from mlflow.entities import ViewType

            self._client.restore_run(self._parent_id)
            experiment = self._client.get_run(self._parent_id).info.experiment_id
            query = equals(f"tags.`{words.PARENT}`", self._parent_id)
            while found := self._client.search_runs([experiment], query, ViewType.DELETED_ONLY):
                for run in found:
                    self._client.restore_run(run.info.run_id)


def run_in_trash(client: MlflowClient, run_id: str) -> bool:
    """Whether somebody deleted a run that MLflow still has."""
    import mlflow

    try:
        return str(client.get_run(run_id).info.lifecycle_stage) == "deleted"
    except mlflow.exceptions.MlflowException:
        return False
