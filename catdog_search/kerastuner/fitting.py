"""A look at a user's own `fit` before it trains: what it asks, and what labels it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from catdog_search.errors import RequestError
from catdog_search.families.base import CHANNELS
from catdog_search.families.hypermodel import Labels
from catdog_search.kerastuner import targets
from catdog_search.kerastuner.losses import loss_of
from catdog_search.kerastuner.networks import Face, call_fit, face_of
from catdog_search.kerastuner.targets import Target

_PHOTOS = 8
# A loop that trains until a metric is good enough would never end.
_MOST_FITS = 10
# Arguments of Keras's `fit` by place.
_PLACES = ("x", "y", "batch_size", "epochs")


@dataclass(frozen=True)
class FitLook:
    """What a `fit` has shown.

    Attributes:
        labels: Form of the labels that it takes, where build compiles no loss and it is known.
        failed: Why it didn't get to its end; None where it did.
    """

    labels: Labels | None
    failed: str | None


class _EnoughError(Exception):
    """The user's `fit` trains again and again."""


class _Listener(keras.callbacks.Callback):  # type: ignore[misc]
    """Counts the epochs that a `fit` reports.

    Attributes:
        epochs: Number of epochs so far.
    """

    epochs = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Count."""
        del epoch, logs
        self.epochs += 1


class _StandIn:
    """Takes the place of a network's `fit`: trains nothing, and returns a history as if it had.

    Args:
        model: The network.

    Attributes:
        calls: How often it was called.
        labels: Form of the labels that the network's loss takes; None before a call with one.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.calls = 0
        self.labels: Labels | None = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Take everything that `fit` takes.

        Raises:
            _EnoughError: It was called often enough.
            RequestError: The loss takes no labels of ours, or there are none.
        """
        self.calls += 1
        if self.calls > _MOST_FITS:
            raise _EnoughError
        if loss_of(self._model) is not None:
            self.labels = face_of(self._model).form
        given = {**dict(zip(_PLACES, args, strict=False)), **options}
        if isinstance(given.get("x"), np.ndarray) and given.get("y") is None:
            raise RequestError(
                "its fit hands photos to model.fit without labels; it is called as "
                "fit(hp, model, x, y, callbacks=..., validation_data=...)"
            )
        first, end = given.get("initial_epoch") or 0, given.get("epochs") or 1
        history = keras.callbacks.History()
        history.set_model(self._model)
        history.epoch = list(range(first, max(end, first + 1)))
        history.history = _Metrics(len(history.epoch))
        return history


class _Metrics(dict[str, list[float]]):
    """A value of each epoch for any metric that is asked for.

    Args:
        epochs: Number of epochs.
    """

    def __init__(self, epochs: int) -> None:
        self._values = [0.5] * epochs
        super().__init__(loss=self._values, val_loss=self._values)

    def __missing__(self, name: str) -> list[float]:
        return self._values

    def get(self, name: str, default: Any = None) -> Any:
        """As if it were there."""
        del default
        return self[name]


def look_at_fit(
    target: Target,
    model: keras.Model,
    hyperparameters: Any,
    side: int,
    known: Labels | None,
) -> FitLook:
    """Run a user's `fit` on a few stand-in photos; Keras's own training is left out.

    A loop of their own trains for real. Where nothing is compiled, labels as integers are tried,
    then one-hot ones.

    Args:
        target: The code.
        model: Its network.
        hyperparameters: What the network was built with; the `fit` asks them too.
        side: Side of the photos in pixels.
        known: Form of the labels where nothing is compiled, if another network has shown it.

    Raises:
        RequestError: It takes no labels of ours, or tells its callbacks of no epoch.
    """
    face = face_of(model)
    is_open = loss_of(model) is None and face.units > 1
    forms: tuple[Labels, ...] = ("integers", "one-hot") if known is None else (known,)
    failed = {}
    labels = None
    for form in forms if is_open else (face.form,):
        stand_in = _StandIn(model)
        error = _failure(target, model, hyperparameters, side, replace(face, form=form), stand_in)
        labels = stand_in.labels if is_open else None
        if error is None:
            return FitLook(labels or (form if is_open else None), None)
        failed[form] = error
    if len(set(failed.values())) > 1:
        said = "; ".join(f"{form}: {error}" for form, error in failed.items())
        raise RequestError(f"its fit trains on labels of no form ({said})")
    return FitLook(labels, next(iter(failed.values())))


def _failure(
    target: Target,
    model: keras.Model,
    hyperparameters: Any,
    side: int,
    face: Face,
    stand_in: _StandIn,
) -> str | None:
    """Why a `fit` fails; None if it doesn't.

    Raises:
        RequestError: It tells its callbacks of no epoch, or ends the process.
    """
    listener = _Listener()
    model.fit = stand_in
    x = np.random.default_rng(0).uniform(0, 255, (_PHOTOS, side, side, CHANNELS))
    split = x.astype(np.float32), face.labels(np.arange(_PHOTOS) % 2)
    try:
        call_fit(target.hypermodel, hyperparameters, model, split, split, 1, [listener])
    except (_EnoughError, RequestError) as error:
        if isinstance(error, RequestError):
            raise
    except Exception as error:  # anybody's code may raise anything
        return targets.told(error)
    if not listener.epochs and not stand_in.calls:
        raise RequestError(
            "its fit trains without telling its callbacks of any epoch; hand callbacks on to "
            "model.fit, or call their set_model and on_epoch_end"
        )
    return None
