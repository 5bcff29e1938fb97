"""KerasTuner itself: imported when it is asked for, since it brings Keras and a backend along."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from catdog_search.errors import StateError

# What has to be installed, and how that is asked for.
_MODULE = "keras_tuner"
EXTRA = "tuner"


def require_keras_tuner(what: str) -> None:
    """Refuse what can't work without KerasTuner, without importing it.

    Args:
        what: What needs it, for people: `sampler 'kt-grid'`.

    Raises:
        StateError: It is not installed.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise StateError(
            f"{what} needs the package keras-tuner, which is not installed; "
            f"pip install 'catdog-search[{EXTRA}]'"
        )


def keras_tuner() -> ModuleType:
    """The package, which takes seconds to import the first time."""
    import keras_tuner

    return keras_tuner  # type: ignore[no-any-return]
