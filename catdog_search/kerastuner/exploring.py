"""Find what a user's code searches by building networks and noting what it asks of `hp`.

First with the defaults; then with every choice of every param and both ends of whole numbers,
beside the values that led to that param, to see what is asked only then; then with some random
values. The same code asks for the same params, so a study finds the same space again.
"""

from __future__ import annotations

import copy
import gc
import json
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from catdog_search.errors import RequestError
from catdog_search.families.hypermodel import Hypermodel, Labels
from catdog_search.kerastuner import targets
from catdog_search.kerastuner.fitting import look_at_fit
from catdog_search.kerastuner.networks import face_of, require_stock, settle
from catdog_search.kerastuner.package import keras_tuner
from catdog_search.kerastuner.spaces import Translation, of_theirs
from catdog_search.kerastuner.targets import Target

_MOST_BUILDS = 60
# Number of random builds, and how many in a row without anything new end them.
_DRAWN, _NOTHING_NEW = 12, 4
# Sides in pixels to try for networks that take any.
_SIDES = (64, 96, 128, 160, 224)


@dataclass(frozen=True)
class _Look:
    """What one network has shown.

    Attributes:
        values: Values that it was built with; others were defaults.
        asked: All values that it asked for.
        new: Hyperparameters that nothing asked for before.
    """

    values: dict[str, Any]
    asked: dict[str, Any]
    new: list[dict[str, Any]]


@dataclass
class _Seen:
    """What building has shown so far.

    Attributes:
        configs: Hyperparameters as `get_config` returns them, in order of appearance.
        sides: Side that each network takes, None for any, and the values that it was built with.
        weights: Numbers of weights of the networks.
        notes: What can't be known, for people.
        failed: Values with which building failed, by the text of the error.
        unfit: Values whose network can't be served, by the text of the error.
        labels: Form of the labels that its `fit` takes, where build compiles no loss.
        side: Side of the photos for networks that take any.
        may_grow: Whether the first network may choose a larger side.
    """

    configs: list[dict[str, Any]] = field(default_factory=list)
    sides: list[tuple[int | None, dict[str, Any]]] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    unfit: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: Labels | None = None
    side: int = _SIDES[0]
    may_grow: bool = True

    def take(self, hyperparameters: Any) -> list[dict[str, Any]]:
        """Note what was asked; returns what of it is new."""
        before = len(self.configs)
        known = [(c["config"]["name"], c["config"]["conditions"]) for c in self.configs]
        for config in hyperparameters.get_config()["space"]:
            key = (config["config"]["name"], config["config"]["conditions"])
            if key not in known:
                known.append(key)
                self.configs.append(config)
        return self.configs[before:]

    def hyperparameters(self) -> Any:
        kind = keras_tuner().HyperParameters
        # from_config modifies its argument.
        return kind.from_config({"space": copy.deepcopy(self.configs), "values": {}})


def discover(name: str, side: int | None = None) -> Hypermodel:
    """Find what a hypermodel searches.

    Args:
        name: Its name, as `pkg.module:NAME`.
        side: Side in pixels of the photos for networks that take any; None for the first of a few
            that fits.

    Raises:
        RequestError: It can't be imported, built, translated or served; the message says why.
    """
    target = targets.load(name)
    seen = _Seen(side=side or _SIDES[0], may_grow=side is None)
    _explore(target, seen)
    if not seen.weights:
        why = next(iter({**seen.failed, **seen.unfit}))
        raise RequestError(f"its build raises whatever it is given: {why}")
    for text, values in seen.unfit.items():
        seen.notes.append(f"{text}; so for {json.dumps(values)}, which trials learn to avoid")
    for text, values in seen.failed.items():
        seen.notes.append(f"build raises {text} for {json.dumps(values)}")
    if target.has_own_fit:
        seen.notes.append("it trains by a fit of its own: a trial that is cut off begins anew")
    translation = of_theirs(seen.hyperparameters())
    image_size, of_param = _sides(seen, translation)
    if image_size is None and of_param is None and seen.may_grow and seen.side != _SIDES[0]:
        image_size = seen.side
    return Hypermodel(
        name=name,
        source=target.source,
        space=translation.space,
        names=translation.names,
        spelled=translation.spelled,
        defaults=_defaults(seen.hyperparameters(), translation),
        image_size=image_size,
        side=of_param,
        weights=(min(seen.weights), max(seen.weights)),
        notes=(*seen.notes, *translation.notes),
        labels=seen.labels,
    )


class _Plan:
    """Which values to build with next.

    What a value reveals is tried beside the values that revealed it, breadth first; so are the
    params that have revealed others before, since the same name may lead elsewhere there.
    """

    def __init__(self) -> None:
        self._waiting: deque[dict[str, Any]] = deque()
        self._later: deque[dict[str, Any]] = deque()
        self._planned: set[frozenset[tuple[str, str]]] = set()
        self._revealing: dict[str, dict[str, Any]] = {}

    def next(self) -> dict[str, Any] | None:
        """Values to build with; None when there is nothing left to try."""
        queue = self._waiting or self._later
        return queue.popleft() if queue else None

    @property
    def is_empty(self) -> bool:
        """Whether everything was tried."""
        return not self._waiting and not self._later

    def learn(self, look: _Look, changed: Mapping[str, dict[str, Any]]) -> None:
        """Plan what a network that asked for something new suggests.

        Args:
            look: What it has shown.
            changed: The hyperparameters of its values, by name.
        """
        if not look.new:
            return
        for config in look.new:
            self._vary(config, look, self._waiting)
        if (last := next(reversed(look.values), "")) in changed:
            self._revealing[last] = changed[last]
        for name, config in self._revealing.items():
            if name not in look.values and name in look.asked:
                self._vary(config, look, self._later)

    def _vary(self, config: dict[str, Any], look: _Look, queue: deque[dict[str, Any]]) -> None:
        name, met = config["config"]["name"], _met(config["config"]["conditions"])
        for value in _tried(config):
            values = {**look.values, **met, name: value}
            key = frozenset((each, repr(given)) for each, given in values.items())
            if key not in self._planned and look.asked.get(name) != value:
                self._planned.add(key)
                queue.append(values)


def _explore(target: Target, seen: _Seen) -> None:
    plan = _Plan()
    plan.learn(_look(target, {}, seen, first=True), {})
    draws = _draws(seen)
    built, nothing_new = 0, 0
    while nothing_new < _NOTHING_NEW:
        values = plan.next() if built < _MOST_BUILDS else None
        is_drawn = values is None
        if values is None and (values := next(draws, None)) is None:
            break
        look = _look(target, values, seen)
        plan.learn(look, {c["config"]["name"]: c for c in seen.configs})
        built += not is_drawn
        nothing_new = nothing_new + 1 if is_drawn and not look.new else 0
    if not plan.is_empty:
        seen.notes.append(
            f"looked at {built} networks, the most that are; params that only others ask for "
            "keep their defaults, and trials in which one comes up say so"
        )


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


def _draws(seen: _Seen) -> Iterator[dict[str, Any]]:
    """The last value of everything at once, then random values."""
    yield {c["config"]["name"]: tried[-1] for c in seen.configs if (tried := _tried(c))}
    rng = random.Random(0)  # noqa: S311  no secret
    for _ in range(_DRAWN):
        values: dict[str, Any] = {}
        drawn = seen.hyperparameters()
        for each in drawn.space:
            drawn.values = values
            if drawn.is_active(each):
                values[each.name] = each.random_sample(rng.randrange(2**31))
        yield values


def _look(target: Target, values: dict[str, Any], seen: _Seen, *, first: bool = False) -> _Look:
    """Build one network; returns what it asked for.

    Raises:
        RequestError: The first one can't be built or served.
    """
    keras.utils.clear_session()
    gc.collect()
    keras.utils.set_random_seed(0)
    hyperparameters = targets.asking(values)
    try:
        with targets.no_exit("build"):
            model = target.hypermodel.build(hyperparameters)
    except Exception as error:  # anybody's code may raise anything
        if first and not targets.is_failed_trial(error):
            raise RequestError(f"its build failed: {_told(error)}") from error
        seen.failed.setdefault(_told(error), dict(values))
        return _Look(values, dict(hyperparameters.values), seen.take(hyperparameters))
    try:
        _serve(target, model, hyperparameters, seen, first=first)
    except Exception as error:  # of Keras or a layer of the user's
        if first:
            raise RequestError(_told(error)) from error
        seen.unfit.setdefault(_told(error), dict(values))
    return _Look(values, dict(hyperparameters.values), seen.take(hyperparameters))


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, RequestError) else targets.told(error)


def _serve(target: Target, model: Any, hyperparameters: Any, seen: _Seen, *, first: bool) -> None:
    """Look at what was built.

    Raises:
        RequestError: It can't be served.
    """
    model, side = _settled(target, model, hyperparameters, seen, first=first)
    face_of(model)
    require_stock(model)
    seen.sides.append((side, dict(hyperparameters.values)))
    if target.has_own_fit:
        _look_at_fit(target, model, hyperparameters, seen, side or seen.side)
    elif getattr(model, "optimizer", None) is None:
        raise RequestError("its network is not compiled, and it has no fit of its own")
    seen.weights.append(int(model.count_params()))


def _look_at_fit(target: Target, model: Any, hyperparameters: Any, seen: _Seen, side: int) -> None:
    look = look_at_fit(target, model, hyperparameters, side, seen.labels)
    seen.labels = seen.labels or look.labels
    if look.failed:
        text = f"what its fit asks can't be known before it runs: {look.failed}"
        if text not in seen.notes:
            seen.notes.append(text)


def _settled(
    target: Target, model: Any, hyperparameters: Any, seen: _Seen, *, first: bool
) -> tuple[Any, int | None]:
    """The network, built, and the side that it takes; None for any.

    Raises:
        RequestError: It can't be built at the side of the others.
    """
    try:
        return model, settle(model, seen.side)
    except RequestError as error:
        larger = _larger(target, model, hyperparameters, seen.side)
        if larger is None:
            raise
        seen_at, other, found = larger
        if not first or not seen.may_grow:
            raise RequestError(f"{error}; image_size = {seen_at} would do") from error
        seen.notes.append(f"{error}; so they are {seen_at} px, unless a study file sets image_size")
        seen.side = seen_at
        return other, found


def _larger(
    target: Target, model: Any, hyperparameters: Any, side: int
) -> tuple[int, Any, int | None] | None:
    """The next side at which a network can be built, with the network; None if there is none."""
    if not isinstance(model, keras.Sequential):
        return None
    for larger in (each for each in _SIDES if each > side):
        try:
            other, _ = targets.build(target, hyperparameters.values)
            return larger, other, settle(other, larger)
        except Exception:  # noqa: S112  its error is the one at hand
            continue
    return None


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
