"""MLflow's client, with retries for failures that may pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from catdog_search.errors import StateError
from catdog_search.outside import is_absent
from catdog_search.retry import Retry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class RetryingClient:
    """Stands in for an `MlflowClient`; most of its calls may be repeated without harm.

    Those that create or delete something are repeated with care, since the first call may have
    succeeded and only its answer been lost.

    Args:
        client: MLflow client.
        retry: Retry that makes every call.
    """

    def __init__(self, client: MlflowClient, retry: Retry) -> None:
        self._client = client
        self._retry = retry

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            once = partial(found, *args, **options)
            again = partial(_unless_absent, once) if name.startswith("delete_") else None
            return self._retry(once, again)

        return call

    def create_run(self, experiment_id: str, run_name: str, tags: Mapping[str, str]) -> Run:
        """Create a run, exactly one.

        Raises:
            StateError: The store doesn't create it.
        """
        began = int(time.time() * 1000)
        create = partial(
            self._client.create_run, experiment_id, began, dict(tags), run_name=run_name
        )

        def find_or_create() -> Run:
            query = f"attributes.start_time = {began}"
            for run in self._client.search_runs([experiment_id], query):
                if tags.items() <= run.data.tags.items():
                    return run
            return create()

        run = self._retry(create, find_or_create)
        if not run.info.run_id:
            raise StateError("MLflow says that it made a run, and names none; look at its server")
        return run


def _unless_absent(delete: Callable[[], Any]) -> None:
    try:
        delete()
    except Exception as error:
        if not is_absent(error):
            raise
