"""Sample a space without Optuna."""

from __future__ import annotations

import math
import random
from typing import Any


class UniformDraw:
    """Samples uniformly, for `Space.sample`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Sample an integer."""
        del name, log
        return self._rng.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """Sample a float, uniformly in its logarithm with `log`."""
        del name
        if log:
            sampled = math.exp(self._rng.uniform(math.log(low), math.log(high)))
            return min(max(sampled, low), high)
        if step is None:
            return self._rng.uniform(low, high)
        return low + step * self._rng.randint(0, round((high - low) / step))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Sample one of the choices."""
        del name
        return self._rng.choice(list(choices))
