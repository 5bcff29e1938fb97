"""A third family, as small as one can be: a row, and `pooled_training` that trains it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from catdog_search.families.base import CHANNELS, Cost, Domain, Family, NetworkParams, Parts


class PooledParams(NetworkParams):
    """A mean of every patch, and one dense layer."""

    pool: int = Field(4, ge=1, le=64, description="side of a patch, in pixels")


def _undivided(domain: Domain) -> Iterator[str]:
    for side in domain.image_sizes:
        for pool in domain.values("pool"):
            if side % int(pool):
                yield f"[space] pool: {pool} doesn't divide an image_size of {side}"


def _cost(params: PooledParams, weights: str) -> Cost:
    features = CHANNELS * (params.image_size // params.pool) ** 2
    return Cost(parameters=features + 1, activations=features + 1, multiply_adds=features)


POOLED = Family(
    name="pooled",
    params=PooledParams,
    rules=(_undivided,),
    cost=_cost,
    training="pooled_training",
    parts=Parts(
        frozenset({"AveragePooling2D", "Dense", "Flatten"}),
        frozenset({"GlorotUniform", "Zeros"}),
        frozenset(),
    ),
)
