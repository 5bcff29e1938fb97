"""Keras's global settings, as the networks need them."""

from __future__ import annotations

import keras


def pin_defaults() -> None:
    """Undo what a user's `keras.json` or environment says for other programs.

    The networks are written for channels last and single precision, and a cap on epochs that is
    meant for debugging would pass for a training that is over. A training sets its precision after
    this.
    """
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
