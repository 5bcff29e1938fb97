"""The Keras backends, and which one is used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

from catdog_search import __version__
from catdog_search.errors import BackendError

BACKENDS = ("tensorflow", "jax", "torch")
# What a trial's numbers depend on, besides the backend.
_PACKAGES = ("keras", "mlflow", "optuna", "scikit-learn", "numpy", "pillow")


def choose_backend() -> str:
    """`KERAS_BACKEND`, else the first of tensorflow, jax, torch that is installed.

    Raises:
        BackendError: None is installed, or the one asked for isn't.
    """
    asked = os.environ.get("KERAS_BACKEND")
    if asked and asked not in BACKENDS:
        raise BackendError(f"KERAS_BACKEND: {asked!r} is not one of {', '.join(BACKENDS)}")
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if asked:
        if asked not in installed:
            raise BackendError(f"KERAS_BACKEND: {asked} is not installed")
        return asked
    if not installed:
        raise BackendError(
            "no Keras backend is installed; install one: pip install 'catdog-search[tf]' "
            "(or gpu, jax, torch)"
        )
    return installed[0]


def use_backend() -> None:
    """Set Keras's backend for this process, before anything imports Keras.

    Raises:
        BackendError: There is none.
    """
    os.environ["KERAS_BACKEND"] = choose_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it logs an absent GPU as an error


def versions(backend: str) -> dict[str, str]:
    """Versions of Python, this package (which may not be installed) and the packages it uses."""
    found = {name: importlib.metadata.version(name) for name in (*_PACKAGES, backend)}
    return {"python": platform.python_version(), **found, "catdog-search": __version__}
