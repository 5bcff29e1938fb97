"""Limits of a trial: estimated before it is built, watched while it runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable
from dataclasses import dataclass

from catdog_search.families import registry
from catdog_search.families.base import Cost, NetworkParams, TrialParams
from catdog_search.machine.memory import free_bytes
from catdog_search.study.config import LimitsConfig, StudyConfig

# Share of the memory free at a study's start that workers may use; the rest is for the coordinator
# and the system.
FREE_SHARE = 0.9
# On CPUs, training reaches about this share of the speed of one large matrix product: 0.60 to 0.92
# on two cores (benchmarks/device.py). Measured speeds replace it.
_EFFICIENCY = 0.7
# Seconds that a trial takes besides its steps: building, compiling, scoring, recording
# (benchmarks/trial.py).
_FIXED_S = 3.0


@dataclass(frozen=True)
class TooLarge:
    """A limit that a trial would exceed.

    Attributes:
        excess: Natural logarithm of estimate over limit, above 0; tells the sampler by how much.
        text: Estimate and limit, for people.
    """

    excess: float
    text: str


@dataclass(frozen=True)
class Estimate:
    """Estimate of the resources that a trial takes.

    Attributes:
        parameters: Number of the network's weights.
        memory_bytes: Peak memory of a training step, in bytes, without photos and libraries.
        seconds: Duration of the trial with all its epochs, in s; None while the device's speed
            isn't known.
        once_seconds: The part of it that trials with the same `kept_by` spend only once, in s.
        kept_by: As in `families.base.Cost`.
    """

    parameters: int
    memory_bytes: int
    seconds: float | None
    once_seconds: float = 0.0
    kept_by: Hashable = None


@dataclass(frozen=True)
class StudyEstimate:
    """Estimate of a study's trials, over a sample of its space and its recipes.

    Attributes:
        parameters: Minimum, median and maximum number of a network's weights.
        memory_bytes: Largest peak memory of a training step, in bytes, without photos and
            libraries.
        seconds: Mean duration of a trial, if none is stopped early, in s, without what trials
            compute once and share; None where the device's speed isn't known.
        once_seconds: Duration of what they compute once and share, in s.
        too_large: Share of the sample that exceeds a limit, 0 to 1.
    """

    parameters: tuple[int, int, int]
    memory_bytes: int
    seconds: float | None
    too_large: float
    once_seconds: float = 0.0


class Limits:
    """The limits of a study's trials, kept across successive workers.

    Args:
        config: Study's configuration.
        photos: Number of photos in train.
        memory_bytes: Memory that a worker may use, in bytes.
    """

    def __init__(self, config: StudyConfig, photos: int, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._config = config
        self._photos = photos
        self._rates: list[float] = []
        self._device = ""
        self._rough_rate: float | None = None
        self._device_bytes: int | None = None

    def learn_device(self, product_rate: float, memory_bytes: int | None) -> None:
        """Take in what the worker measured.

        Args:
            product_rate: Rate of a large matrix product, in floating-point operations per second.
            memory_bytes: Device's own memory, in bytes; None where it has none.
        """
        self._rough_rate = product_rate * _EFFICIENCY
        self._device_bytes = memory_bytes

    def move_to(self, device: str, memory_bytes: int) -> None:
        """Apply to another worker; speeds measured on a different device are dropped.

        Args:
            device: Device's name.
            memory_bytes: Memory that the worker may use, in bytes.
        """
        if device != self._device:
            self._rates = []
        self._device, self.memory_bytes = device, memory_bytes

    def learn_speed(self, trial: TrialParams, epoch: int, images_per_second: float) -> None:
        """Take in how fast an epoch of a trial trained, unless the epoch was a lighter one."""
        cost = self._cost(trial)
        light = epoch < trial.light_epochs(self._epochs(trial))
        if cost and not light and cost.tells_speed:
            self._rates.append(cost.training_operations(1) * images_per_second)

    def _epochs(self, trial: TrialParams) -> int:
        return trial.most_epochs(self._config.training.epochs)

    def _cost(self, trial: TrialParams) -> Cost | None:
        cost = registry.family_of(trial).cost
        return cost and cost(trial, self._config.weights)

    def estimate(self, trial: TrialParams) -> Estimate | None:
        """Estimate the resources that a trial takes; None where only building it would tell."""
        cost = self._cost(trial)
        if cost is None:
            return None
        assert isinstance(trial, NetworkParams), "what can be counted is of a family of ours"
        epochs = self._epochs(trial)
        whole = epochs - trial.light_epochs(epochs) * (1 - trial.light_share)
        operations = cost.training_operations(self._photos) * whole
        once = 2 * cost.once * self._photos
        rate = statistics.median(self._rates) if self._rates else self._rough_rate
        return Estimate(
            parameters=cost.parameters,
            memory_bytes=cost.memory_bytes(trial.batch_size, trial.optimizer),
            seconds=(operations + once) / rate + _FIXED_S if rate else None,
            once_seconds=once / rate if rate else 0.0,
            kept_by=cost.kept_by,
        )

    def too_large(self, trial: TrialParams) -> TooLarge | None:
        """The first limit that a trial would exceed; None where it fits."""
        limits, estimate = self._config.limits, self.estimate(trial)
        if estimate is None:
            return None
        memory = min(self._device_bytes or self.memory_bytes, self.memory_bytes)
        minutes = limits.max_trial_minutes
        checks: list[tuple[float | None, float | None, str]] = [
            (
                estimate.parameters,
                limits.max_parameters,
                f"{estimate.parameters} parameters, at most {limits.max_parameters}",
            ),
            (
                estimate.memory_bytes,
                memory,
                f"about {estimate.memory_bytes / 1e9:.2f} GB, at most {memory / 1e9:.2f}",
            ),
            (
                estimate.seconds,
                None if minutes is None else minutes * 60,
                f"about {(estimate.seconds or 0) / 60:.1f} minutes, at most {minutes}",
            ),
        ]
        for estimated, most, text in checks:
            if estimated is not None and most is not None and estimated > most:
                return TooLarge(math.log(estimated / most), f"too large: {text}")
        return None


def memory_limit(limits: LimitsConfig) -> int:
    """Bytes that a worker may use: what the study says, else most of what is free now."""
    if limits.max_memory_gb is not None:
        return int(limits.max_memory_gb * 1e9)
    return int(FREE_SHARE * free_bytes())
