"""Estimate of a study, from a sample of its space."""

from __future__ import annotations

import random
import statistics

from catdog_search.search.limits import Limits, StudyEstimate
from catdog_search.search.proposal.uniform import UniformDraw
from catdog_search.study.config import StudyConfig

_SAMPLE = 200


def estimate_study(config: StudyConfig, limits: Limits) -> StudyEstimate | None:
    """Estimate a study, reproducibly; None where only building its networks would tell."""
    uniform = UniformDraw(random.Random(config.seed))  # noqa: S311  no secret
    points = [config.space.complete(params) for params in config.recipes.values()]
    if config.trials > len(points):  # otherwise the sampler is never asked
        points += [config.space.sample(uniform) for _ in range(_SAMPLE)]
    trials = [config.trial_params(params) for params in points]
    fits = [trial for trial in trials if limits.too_large(trial) is None]
    estimates = [e for trial in fits or trials if (e := limits.estimate(trial)) is not None]
    if not estimates:
        return None
    parameters = sorted(e.parameters for e in estimates)
    seconds = [e.seconds - e.once_seconds for e in estimates if e.seconds is not None]
    once = {e.kept_by: e.once_seconds for e in estimates[: config.trials]}
    return StudyEstimate(
        parameters=(parameters[0], parameters[len(parameters) // 2], parameters[-1]),
        memory_bytes=max(e.memory_bytes for e in estimates),
        seconds=statistics.fmean(seconds) if seconds else None,
        too_large=(len(points) - len(fits)) / len(points),
        once_seconds=sum(once.values()),
    )
