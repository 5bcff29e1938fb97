"""KerasTuner itself, imported lazily, since it also imports Keras and a backend."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from catdog_search.errors import StateError
from catdog_search.machine.backends import use_backend
from catdog_search.streams import stderr_aside

# Name to import; on TensorFlow its import needs TensorBoard too.
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
    """The package, which takes seconds to import the first time.

    Raises:
        BackendError: Keras has no backend.
    """
    if _MODULE not in sys.modules:
        use_backend()
        with stderr_aside():  # TensorFlow reports at length what it found
            importlib.import_module(_MODULE)
    return sys.modules[_MODULE]
