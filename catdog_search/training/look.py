"""Start the backend as a worker does, in a process of its own, and say what it computes on."""

from __future__ import annotations

import os
import sys

from catdog_search.machine.backends import use_backend


def main() -> None:
    """Print the device's name."""
    use_backend()  # before anything imports Keras
    # A study may hold the memory that JAX would take for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import keras

    from catdog_search.training.device import look_at_device

    sys.stdout.write(f"{look_at_device(keras.backend.backend()).name}\n")


if __name__ == "__main__":
    main()
