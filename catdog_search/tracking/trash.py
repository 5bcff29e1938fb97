"""MLflow's trash: what it holds of a study, and how to restore it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catdog_search.retry import Retry
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.filters import equals
from catdog_search.tracking.located import locate
from catdog_search.tracking.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Trash:
    """Part of a study in MLflow's trash: its experiment, or the study's own run.

    An experiment of the study's name is in the way there even if it isn't the study's own.

    Args:
        store: MLflow store to look in; it must exist.
        study: Study's name.
        uid: Study's unique id.
        retry: Retry that makes every call to the store; None tries each once.

    Raises:
        StateError: The store can't be opened.
    """

    def __init__(self, store: Store, study: str, uid: str, retry: Retry | None = None) -> None:
        self._client = store.client(retry)
        self._found = locate(store, study, uid, retry)
        self._named: str | None = None
        if self._found is None:
            named = self._client.get_experiment_by_name(study)
            deleted = named is not None and named.lifecycle_stage == "deleted"
            self._named = str(named.experiment_id) if deleted else None

    def holds(self) -> str | None:
        """Name of what is in the trash, for people; None for nothing."""
        if self._found is not None:
            return self._found.in_trash
        return f"experiment {self._named}" if self._named else None

    def restore(self) -> None:
        """Restore it; with the study's own run, also those of its trials."""
        if self._found is None:
            assert self._named is not None, "it holds something"
            self._client.restore_experiment(self._named)
            return
        experiment, parent = self._found.experiment_id, self._found.parent_id
        if self._client.get_experiment(experiment).lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment)
        from mlflow.entities import ViewType

        if run_in_trash(self._client, parent):
            self._client.restore_run(parent)
        query = equals(f"tags.`{words.PARENT}`", parent)
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
