"""What form of labels a loss takes, found by trying it: its name may be anything."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from catdog_search.errors import RequestError
from catdog_search.families.hypermodel import Labels

_FORMS: tuple[Labels, ...] = ("one-hot", "integers")
# Unequally many of each, and another number than there are units, so that shapes can't be confused.
_TRUTH = np.array([0, 1, 1, 0, 1])
# Margins of logits: a loss that takes them prefers the larger one, by less and less. Two units are
# both below 0, where a loss of probabilities sees no difference.
_MARGINS = (0.5, 1.0, 1.5)
_BELOW = 2.0
_SMALLEST_BEND = 1e-3


def in_form(y: npt.NDArray[Any], form: Labels) -> npt.NDArray[Any]:
    """Labels 0 or 1, of any shape, in a form that a loss takes."""
    flat = np.ravel(y)
    if form == "integers":
        return flat.astype(np.int32)
    if form == "one-hot":
        return np.stack([1 - flat, flat], axis=1).astype(np.float32)
    return flat.astype(np.float32)[:, None]


def loss_of(model: keras.Model) -> Any:
    """The one loss that a network was compiled with; None if it wasn't compiled.

    Raises:
        RequestError: There are several, or Keras doesn't know it.
    """
    loss = getattr(model, "loss", None)
    while isinstance(loss, dict | list | tuple):
        if len(loss) != 1:
            raise RequestError(f"it is compiled with {len(loss)} losses; it must be one")
        [loss] = loss.values() if isinstance(loss, dict) else loss
    try:
        return keras.losses.get(loss)
    except ValueError:
        raise RequestError(f"its loss {loss!r} is none that Keras knows") from None


def form_of(loss: Any, units: int, *, of_logits: bool) -> Labels:
    """Form of the labels that a loss takes.

    Args:
        loss: The loss.
        units: Outputs per photo, 1 or 2.
        of_logits: Whether they are logits.

    Raises:
        RequestError: It takes none of ours.
    """
    if units == 1:
        return "column"
    right, wrong = (_answers(margin, units, of_logits=of_logits) for margin in (1.0, -1.0))
    values = {form: (_value(loss, form, right), _value(loss, form, wrong)) for form in _FORMS}
    for form, (of_right, of_wrong) in values.items():
        if of_right < of_wrong:
            return form
    raise RequestError(
        f"its loss {_named(loss)} takes labels of two units neither one-hot nor as integers"
    )


def takes_logits(loss: Any, units: int) -> bool:
    """Whether a loss takes logits: it says so, or prefers surer answers where they show it."""
    said = getattr(loss, "from_logits", None)
    if said is not None:
        return bool(said)
    for form in ("column",) if units == 1 else _FORMS:
        less, more, most = (
            _value(loss, form, _answers(margin, units, of_logits=True) - _BELOW * (units > 1))
            for margin in _MARGINS
        )
        if 0 < more - most < (less - more) * (1 - _SMALLEST_BEND):
            return True
    return False


def _answers(margin: float, units: int, *, of_logits: bool) -> npt.NDArray[Any]:
    """Outputs that are right by a margin, or wrong if it is negative."""
    logits = np.where(_TRUTH == 1, margin, -margin).astype(np.float32)
    if units == 1:
        return logits[:, None]
    both = np.stack([-logits / 2, logits / 2], axis=1)
    if of_logits:
        return both
    return np.asarray(np.exp(both) / np.exp(both).sum(axis=1, keepdims=True))


def _value(loss: Any, form: Labels, answers: npt.NDArray[Any]) -> float:
    """Mean loss; not a number where it doesn't take such labels."""
    given = map(keras.ops.convert_to_tensor, (in_form(_TRUTH, form), answers))
    try:
        found = keras.ops.convert_to_numpy(loss(*given))
    except Exception:  # anybody's code may raise anything
        return float("nan")
    of_each = found.shape in ((), (len(_TRUTH),), (len(_TRUTH), 1))
    return float(np.mean(found)) if of_each else float("nan")


def _named(loss: Any) -> str:
    return str(getattr(loss, "__name__", None) or type(loss).__name__)
