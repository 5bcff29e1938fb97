"""Where a study is in MLflow, found by its id: people rename and delete experiments and runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog_search.retry import Retry
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.filters import all_pages, equals
from catdog_search.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

    from catdog_search.tracking.own import Client

_ACTIVE = "active"


@dataclass(frozen=True)
class Located:
    """Place of a study in MLflow.

    Attributes:
        experiment_id: Id of its experiment.
        experiment: Name of the experiment, which may differ from the study's.
        parent_id: Id of the study's own run.
        in_trash: What of it is in MLflow's trash, for people; None where nothing is.
    """

    experiment_id: str
    experiment: str
    parent_id: str
    in_trash: str | None


def locate(store: Store, study: str, uid: str, retry: Retry | None = None) -> Located | None:
    """Find a study, even in an experiment of another name or in MLflow's trash; creates nothing.

    Args:
        store: MLflow store to look in.
        study: Study's name.
        uid: Study's unique id.
        retry: Retry that makes every call to the store; None tries each once.

    Returns:
        Its place; None where the store doesn't hold the study's own run.

    Raises:
        StateError: The store can't be opened.
    """
    if store.is_absent():
        return None
    client = store.client(retry)
    found = list(_parents(client, study, uid))
    if not found:
        return None
    run = next((run for run in found if run.info.lifecycle_stage == _ACTIVE), found[0])
    experiment = client.get_experiment(run.info.experiment_id)
    trashed = None
    if experiment.lifecycle_stage != _ACTIVE:
        trashed = f"experiment {experiment.experiment_id}"
    elif run.info.lifecycle_stage != _ACTIVE:
        trashed = f"run {run.info.run_id} of the study"
    return Located(
        str(experiment.experiment_id), str(experiment.name), str(run.info.run_id), trashed
    )


def _parents(client: Client, study: str, uid: str) -> Iterator[Run]:
    """The study's own runs: those in the experiment of its name first."""
    from mlflow.entities import ViewType

    query = f"{equals(f'tags.{words.STUDY_UID}', uid)} and "
    query += equals(f"tags.{words.ROLE}", words.ROLE_STUDY)
    named = client.get_experiment_by_name(study)
    if named is not None:
        yield from client.search_runs([named.experiment_id], query, ViewType.ALL)
    others = [
        each.experiment_id
        for each in all_pages(client.search_experiments, view_type=ViewType.ALL)
        if named is None or each.experiment_id != named.experiment_id
    ]
    if others:
        yield from client.search_runs(others, query, ViewType.ALL)
