"""Rename a study's experiment, or put it into MLflow's trash."""

from __future__ import annotations

import tempfile
from pathlib import Path

from catdog_search.tracking.located import Located
from catdog_search.tracking.store import Store


def rename_experiment(store: Store, place: Located, name: str, new: str) -> None:
    """Rename a study's experiment and its own run after the study's new name.

    Args:
        store: MLflow store that keeps them.
        place: Place of the study.
        name: Study's name so far, after which the study file in its run is named.
        new: Its name from now on.
    """
    client = store.client()
    file = f"{name}.toml"
    if file in {each.path for each in client.list_artifacts(place.parent_id)}:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(client.download_artifacts(place.parent_id, file, folder))
            client.log_text(place.parent_id, path.read_text(encoding="utf-8"), f"{new}.toml")
    client.update_run(place.parent_id, name=new)
    client.rename_experiment(place.experiment_id, new)


def discard_experiment(store: Store, place: Located, last_name: str) -> None:
    """Put a study's experiment into the trash, under a name that blocks no other."""
    client = store.client()
    client.rename_experiment(place.experiment_id, last_name)
    client.delete_experiment(place.experiment_id)
