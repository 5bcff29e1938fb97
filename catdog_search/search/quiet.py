"""Silence what Optuna says about itself."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from optuna.exceptions import ExperimentalWarning


@contextlib.contextmanager
def quiet_experiments() -> Iterator[None]:
    """Keep Optuna from warning at every trial that a sampler or pruner is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
