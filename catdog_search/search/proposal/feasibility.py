"""Predict which params will fail, from the trials that did.

The sampler learns from constraints too, but slowly: it ranks failed params last, yet keeps sampling
close to them. Memory grows as a product of a few params, so on a logarithmic scale the failures are
on one side of a plane, which a logistic regression finds from a handful of trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from catdog_search.space import Choice, Dimension, Params, Range, Space, Value

Risk = Callable[[Params], float]

# Trials of each kind needed before the model is used.
_FEWEST = 2
# Inverse of the regularization strength: high, as the plane should follow the trials.
_C = 10.0


def failure_risk(space: Space, failed: Sequence[Params], fitted: Sequence[Params]) -> Risk | None:
    """The probability that a trial fails, as a function of its params.

    Args:
        space: Study's search space.
        failed: Params of trials that ran out of memory, were too large, diverged or crashed.
        fitted: Params of trials that didn't.

    Returns:
        The function; None while there are too few of either.
    """
    if min(len(failed), len(fitted)) < _FEWEST:
        return None
    from sklearn.linear_model import LogisticRegression

    rows = [_features(space, params) for params in (*failed, *fitted)]
    model = LogisticRegression(C=_C).fit(rows, [1] * len(failed) + [0] * len(fitted))

    def risk(params: Params) -> float:
        return float(model.predict_proba([_features(space, params)])[0, 1])

    return risk


def _features(space: Space, params: Params) -> list[float]:
    return [
        number
        for name in space.searched
        for number in _numbers(space.dimensions[name], params.get(name))
    ]


def _numbers(dimension: Dimension, value: Value | None) -> list[float]:
    """A value scaled to 0 to 1, logarithmically if positive; other choices are one-hot."""
    if isinstance(dimension, Range):
        return [_position(dimension.low, dimension.high, value)]
    assert isinstance(dimension, Choice), "fixed values tell nothing apart"
    numbers = [c for c in dimension.choices if type(c) in (int, float)]
    if len(numbers) == len(dimension.choices) > 1:
        return [_position(min(numbers), max(numbers), value)]
    return [float(choice == value) for choice in dimension.choices]


def _position(low: Value, high: Value, value: Value | None) -> float:
    if value is None:
        return 0.0  # an inactive param
    scale = math.log if float(low) > 0 else float
    return (scale(float(value)) - scale(float(low))) / (scale(float(high)) - scale(float(low)))
