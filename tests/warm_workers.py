"""What makes a tiny study quick: workers that have imported already, and figures without a line.

For tests of what a study keeps, not of how its workers start or what it draws. MLflow, matplotlib
and scikit-learn take a worker seconds to import, so it is forked, by `multiprocessing` itself, from
a process that did so once.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from typing import Any
from unittest import mock

from matplotlib.figure import Figure

_IMPORTED = [
    "fake_training",
    "catdog_search.search.workers.worker",
    "matplotlib.backends.backend_agg",
    "matplotlib.style",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.system_metrics.system_metrics_monitor",
    "sklearn.metrics",
]


class _Process(ForkServerProcess):
    """With the environment of its parent, as one that is spawned has it."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], **more: Any) -> None:
        super().__init__(target=_run, args=(dict(os.environ), target, args), **more)


def _run(environment: dict[str, str], target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


class _Context(ForkServerContext):
    Process = _Process


_context = _Context()
_context.set_forkserver_preload(_IMPORTED)


@contextlib.contextmanager
def warm_workers() -> Iterator[None]:
    """Fork what would be spawned."""
    real = mp.get_context

    def get_context(method: str | None = None) -> BaseContext:
        return _context if method == "spawn" else real(method)

    with mock.patch.object(mp, "get_context", get_context):
        yield


@contextlib.contextmanager
def blank_figures() -> Iterator[None]:
    """Draw nothing in the figures of the study, nor in those of the trials of a stand-in."""

    def blank(*_: object) -> dict[str, Figure]:
        return {"history.png": Figure(figsize=(1, 1))}

    with (
        mock.patch.dict(os.environ, {"FAKE_BLANK_FIGURES": "1"}),
        mock.patch("catdog_search.search.study.summary.study_figures", blank),
    ):
        yield
