"""Estimate of a study, from a sample of its space."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from catdog_search.search.limits import Limits
from catdog_search.search.proposal.uniform import UniformDraw
from catdog_search.study.config import StudyConfig

_SAMPLE = 200


@dataclass(frozen=True)
class StudyEstimate:
    """Estimate of a study's trials, over a sample of its space and its recipes.

    Attributes:
        parameters: Minimum, median and maximum number of a network's weights.
        memory_bytes: Largest peak memory of a training step, in bytes; photos and libraries not
            counted.
        seconds: Mean duration of a trial, if none is stopped early, in s; None where the speed of
            the device isn't known.
        too_large: Share of the sample that exceeds a limit, 0 to 1.
    """

    parameters: tuple[int, int, int]
    memory_bytes: int
    seconds: float | None
    too_large: float


def estimate_study(config: StudyConfig, limits: Limits) -> StudyEstimate:
    """Estimate a study; the same study gives the same estimate."""
    chance = UniformDraw(random.Random(config.seed))  # noqa: S311  no secret
    points = [config.space.complete(params) for params in config.recipes.values()]
    if config.trials > len(points):  # else the sampler is never asked
        points += [config.space.sample(chance) for _ in range(_SAMPLE)]
    trials = [config.trial_params(params) for params in points]
    fits = [trial for trial in trials if limits.too_large(trial) is None]
    estimates = [limits.estimate(trial) for trial in fits or trials]
    parameters = sorted(e.parameters for e in estimates)
    seconds = [e.seconds for e in estimates if e.seconds is not None]
    return StudyEstimate(
        parameters=(parameters[0], parameters[len(parameters) // 2], parameters[-1]),
        memory_bytes=max(e.memory_bytes for e in estimates),
        seconds=statistics.fmean(seconds) if seconds else None,
        too_large=1 - len(fits) / len(points),
    )
