"""Numbers, times and params formatted for people."""

from __future__ import annotations

from catdog_search.search.events import Planned
from catdog_search.search.limits import StudyEstimate
from catdog_search.space import Params, Value


def counted(n: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def duration(seconds: float) -> str:
    """`12 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def say_params(params: Params) -> str:
    """`n_blocks=3 dropout=0.25`."""
    return " ".join(f"{name}={_say_value(value)}" for name, value in params.items())


def _say_value(value: Value) -> str:
    """A step or a choice in full, so that no two look alike; anything else to 4 digits."""
    if not isinstance(value, float):
        return str(value)
    exact = f"{value:.8g}"
    return exact if float(exact) == value else f"{value:.4g}"


def say_time(estimate: StudyEstimate, trials: int) -> str:
    """How long trials take, together and each; the device's speed must be known."""
    assert estimate.seconds is not None
    each, once = duration(estimate.seconds), estimate.once_seconds
    whole = duration(estimate.seconds * trials + once)  # several at once share one speed
    shared = f", {duration(once)} once for all," if once else ""
    return f"about {each} a trial{shared} and {whole} in all"


def say_plan(plan: Planned, trials: int) -> str:
    """Estimate of the trials to come, in one line."""
    to_go, estimate = f"{counted(trials, 'trial')} to go", plan.estimate
    if estimate is None:
        return f"{to_go}; the worker may take {plan.memory_bytes / 1e9:.3g} GB; {plan.execution}"
    fewest, median, most = estimate.parameters
    parts = [
        to_go,
        f"{fewest / 1e6:.2g} to {most / 1e6:.2g} million weights (median {median / 1e6:.2g})",
        f"a step takes up to {estimate.memory_bytes / 1e9:.2g} GB, the worker may take "
        f"{plan.memory_bytes / 1e9:.3g}",
        f"{plan.concurrency} trials at once, {plan.execution}"
        if plan.concurrency > 1
        else str(plan.execution),
    ]
    if estimate.seconds is not None:
        parts.append(f"{say_time(estimate, trials)}, less what is stopped early")
    if estimate.too_large:
        parts.append(f"{estimate.too_large:.0%} of the space exceeds a limit")
    return "; ".join(parts)
