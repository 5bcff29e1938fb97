"""Find what a user's code searches by building networks and noting what it asks of `hp`.

First with the defaults; then with every choice of every param and both ends of whole numbers, the
other params at their defaults, to see what is asked only then; then with some random values. The
same code asks for the same params, so a study finds the same space again.
"""

from __future__ import annotations

import copy
import gc
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from catdog_search.errors import RequestError
from catdog_search.families.hypermodel import Hypermodel
from catdog_search.kerastuner import targets
from catdog_search.kerastuner.networks import call_fit, face_of, input_side, require_stock, settle
from catdog_search.kerastuner.package import keras_tuner
from catdog_search.kerastuner.spaces import Translation, of_theirs
from catdog_search.kerastuner.targets import Target

_MOST_BUILDS = 60
# Number of random builds, and how many in a row without anything new end them.
_DRAWN, _NOTHING_NEW = 12, 4
# Number and side of the photos for what a `fit` does before it trains.
_PHOTOS = 8
_ANY_SIDE = 64


class _ReachedError(Exception):
    """The user's `fit` has reached the point where Keras would train."""


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


@dataclass
class _Seen:
    """What building has shown so far.

    Attributes:
        configs: Hyperparameters as `get_config` returns them, in order of appearance.
        sides: Side that each network takes, None for any, and the values that it was built with.
        weights: Numbers of weights of the networks.
        notes: What can't be known, for people.
        failed: Values with which building failed, by the text of the error.
    """

    configs: list[dict[str, Any]] = field(default_factory=list)
    sides: list[tuple[int | None, dict[str, Any]]] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, hyperparameters: Any) -> bool:
        """Note what was asked; returns whether any of it is new."""
        before = len(self.configs)
        known = [(c["config"]["name"], c["config"]["conditions"]) for c in self.configs]
        for config in hyperparameters.get_config()["space"]:
            key = (config["config"]["name"], config["config"]["conditions"])
            if key not in known:
                known.append(key)
                self.configs.append(config)
        return len(self.configs) > before

    def hyperparameters(self) -> Any:
        kind = keras_tuner().HyperParameters
        # from_config modifies its argument.
        return kind.from_config({"space": copy.deepcopy(self.configs), "values": {}})


def discover(name: str) -> Hypermodel:
    """Find what a hypermodel searches.

    Args:
        name: Its name, as `pkg.module:NAME`.

    Raises:
        RequestError: It can't be imported, built, translated or served; the message says why.
    """
    target = targets.load(name)
    seen = _Seen()
    _look(target, {}, seen, first=True)
    left = iter(range(_MOST_BUILDS))
    for values in _one_by_one(seen):
        if next(left, None) is None:
            seen.notes.append(f"looked at {_MOST_BUILDS} networks; others may ask for more")
            break
        _look(target, values, seen)
    _look_at_some(target, seen)
    if not seen.weights:
        raise RequestError(f"its build raises whatever it is given: {next(iter(seen.failed))}")
    for text, values in seen.failed.items():
        seen.notes.append(f"build raises {text} for {json.dumps(values)}")
    if target.has_own_fit:
        seen.notes.append("it trains by a fit of its own: a trial that is cut off begins anew")
    translation = of_theirs(seen.hyperparameters())
    image_size, side = _sides(seen, translation)
    return Hypermodel(
        name=name,
        source=target.source,
        space=translation.space,
        names=translation.names,
        spelled=translation.spelled,
        defaults=_defaults(seen.hyperparameters(), translation),
        image_size=image_size,
        side=side,
        weights=(min(seen.weights), max(seen.weights)),
        notes=tuple(seen.notes),
    )


def _one_by_one(seen: _Seen) -> Iterator[dict[str, Any]]:
    """Values to build with, one param at a time, including params that only appear on the way."""
    done: set[tuple[str, str]] = set()
    at = 0
    while at < len(seen.configs):
        config = seen.configs[at]
        at += 1
        for value in _tried(config):
            key = (config["config"]["name"], repr(value))
            if key not in done:
                done.add(key)
                yield {**_met(config["config"]["conditions"]), config["config"]["name"]: value}


def _met(conditions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Values that meet conditions."""
    return {c["config"]["name"]: c["config"]["values"][0] for c in conditions}


def _tried(config: dict[str, Any]) -> list[Any]:
    """Values of one hyperparameter that are worth building a network with."""
    one = keras_tuner().HyperParameters.from_config(
        {"space": [{**config, "config": {**config["config"], "conditions": []}}], "values": {}}
    )
    [hyperparameter] = one.space
    match config["class_name"]:
        case "Boolean" | "Choice":
            return list(hyperparameter.values)
        case "Int":  # the largest number of layers shows all of them
            return [config["config"]["min_value"], config["config"]["max_value"]]
    return []  # what is asked next seldom depends on a float


def _look_at_some(target: Target, seen: _Seen) -> None:
    rng = random.Random(0)  # noqa: S311  no secret
    nothing_new = 0
    for _ in range(_DRAWN):
        if nothing_new == _NOTHING_NEW:
            return
        values: dict[str, Any] = {}
        drawn = seen.hyperparameters()
        for each in drawn.space:
            drawn.values = values
            if drawn.is_active(each):
                values[each.name] = each.random_sample(rng.randrange(2**31))
        nothing_new = 0 if _look(target, values, seen) else nothing_new + 1


def _look(target: Target, values: dict[str, Any], seen: _Seen, *, first: bool = False) -> bool:
    """Build one network; returns whether it asked for something new.

    Raises:
        RequestError: The first one can't be built or served.
    """
    keras.utils.clear_session()
    gc.collect()
    keras.utils.set_random_seed(0)
    hyperparameters = targets.asking(values)
    try:
        model = target.hypermodel.build(hyperparameters)
    except Exception as error:  # anybody's code may raise anything
        asked = seen.take(hyperparameters)
        if first and not targets.is_failed_trial(error):
            raise RequestError(f"its build failed: {targets.told(error)}") from error
        seen.failed.setdefault(targets.told(error), dict(values))
        return asked
    try:
        side = settle(model, _ANY_SIDE)
        face_of(model)
        require_stock(model)
        seen.sides.append((side, dict(hyperparameters.values)))
        if target.has_own_fit:
            _look_at_fit(target, model, hyperparameters, seen)
        elif getattr(model, "optimizer", None) is None:
            raise RequestError("its network is not compiled, and it has no fit of its own")
        seen.weights.append(int(model.count_params()))
    except RequestError as error:
        if first:
            raise
        seen.notes.append(f"{error}; so for {json.dumps(values)}, which trials learn to avoid")
    return seen.take(hyperparameters)


def _look_at_fit(target: Target, model: Any, hyperparameters: Any, seen: _Seen) -> None:
    """Run the user's `fit` until Keras would train, to see what it asks."""
    listener = _Listener()

    def reached(*args: Any, **options: Any) -> Any:
        del args, options
        raise _ReachedError

    model.fit = reached
    side = input_side(model) or _ANY_SIDE
    x = np.zeros((_PHOTOS, side, side, 3), np.float32)
    y = face_of(model).labels(np.arange(_PHOTOS) % 2)
    try:
        call_fit(target.hypermodel, hyperparameters, model, (x, y), (x, y), 1, [listener])
    except _ReachedError:
        return
    except Exception as error:
        text = f"what its fit asks can't be known before it runs: {targets.told(error)}"
        if text not in seen.notes:
            seen.notes.append(text)
        return
    if not listener.epochs:
        raise RequestError(
            "its fit trains without telling its callbacks of any epoch; hand callbacks on to "
            "model.fit, or call their set_model and on_epoch_end"
        )


def _sides(seen: _Seen, translation: Translation) -> tuple[int | None, str | None]:
    """The side of the photos, if fixed, or the name of the param that sets it."""
    sides = {side for side, _ in seen.sides}
    if len(sides) == 1:
        return sides.pop(), None
    for own, theirs in translation.names.items():
        if all(values.get(theirs) == side for side, values in seen.sides):
            return None, own
    said = ", ".join(sorted(map(str, sides)))
    raise RequestError(f"its networks take photos of several sizes ({said}), and no param says it")


def _defaults(hyperparameters: Any, translation: Translation) -> dict[str, Any]:
    """Defaults by our names; the first value where the default isn't in the space."""
    own = {}
    given = {each.name: each.default for each in hyperparameters.space}
    for name, dimension in translation.space.dimensions.items():
        spelled = {v: k for k, v in translation.spelled[name].items()}
        default = given[translation.names[name]]
        value = spelled.get(default, dimension.canonical(default))
        own[name] = value if value is not None else (dimension.values or (default,))[0]
    return own
