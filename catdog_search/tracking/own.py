"""MLflow's client, with every write and delete of a file confined to a state's own artifacts.

MLflow follows the absolute locations in its store wherever they lead, so each is checked before
anything happens there. This module imports MLflow; get its client from `Store.client`.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from catdog_search.identity import local_path
from catdog_search.tracking.confine import require_below


class Client(MlflowClient):  # type: ignore[misc]  # MLflow has no types
    """A client of a store.

    Args:
        uri: MLflow's tracking URI.
        artifacts: State's own folder of artifacts; None where they belong to a server.
    """

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        super().__init__(uri)
        self._artifacts = artifacts

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Keep a file with a run; MLflow's texts, figures and images pass through here too.

        Raises:
            StateError: The run's artifacts are outside the state's own.
        """
        if self._artifacts is None:
            super().log_artifact(run_id, local_path, artifact_path)
            return
        location = self.get_run(run_id).info.artifact_uri
        self.require_own(location, artifact_path or "", Path(local_path).name, owner=run_id)
        # Not MLflow's own way, which caches a run's location, even from another state folder.
        get_artifact_repository(location).log_artifact(local_path, artifact_path)

    def remove(self, owner: str, location: str, folder: str | None = None) -> None:
        """Delete everything at a location of artifacts, or in one folder of it.

        Args:
            owner: Id of the run or model.
            location: Location of its artifacts, as MLflow keeps it.
            folder: Folder in it; None for all of it.

        Raises:
            StateError: It is outside the state's own artifacts.
        """
        self.require_own(location, folder or "", owner=owner)
        path = local_path(location)
        if path is None:
            repository: Any = get_artifact_repository(location)
            repository.delete_artifacts(folder)
            return
        # Not MLflow's own way, which unescapes a % in a path and deletes elsewhere.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path / (folder or ""))

    def require_own(self, location: str, *inside: str, owner: str = "") -> None:
        """Refuse a place outside the state's own artifacts, before anything happens there.

        Args:
            location: Location of artifacts, as MLflow keeps it.
            inside: Parts of a path below it.
            owner: Id of the run or model that it belongs to; empty for an experiment's.

        Raises:
            StateError: It is outside, or a link on the way may lead elsewhere.
        """
        if self._artifacts is not None:
            require_below(self._artifacts, location, *inside, owner=owner)
