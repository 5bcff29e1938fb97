"""Keras's global settings, as the networks need them."""

from __future__ import annotations

import keras


def pin_defaults() -> None:
    """Undo what a user's `keras.json` or environment sets for other programs.

    The networks are written for channels last and single precision, and a debugging cap on epochs
    would pass for a finished training. A training sets its own precision after this.
    """
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
