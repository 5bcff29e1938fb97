"""What a trial may use: estimated before it is built, watched while it runs."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from catdog_search.families import registry
from catdog_search.families.base import Cost, TrialParams
from catdog_search.machine.memory import free_bytes
from catdog_search.study.config import LimitsConfig, StudyConfig

# Of the memory that is free when a study starts; the rest is for the coordinator and the system.
FREE_SHARE = 0.9
# Training reaches about this share of the rate of one large matrix product, on processors; on two
# cores 0.60 to 0.92 (benchmarks/device.py). Speeds that were seen take its place.
_EFFICIENCY = 0.7
# Of a trial beside its steps: building, compiling, scoring, recording (benchmarks/trial.py).
_FIXED_S = 3.0


@dataclass(frozen=True)
class TooLarge:
    """A limit that a trial would exceed.

    Attributes:
        excess: Above 0: the logarithm of estimate over limit, so that the sampler sees how far.
        text: What was estimated, and the limit.
    """

    excess: float
    text: str


@dataclass(frozen=True)
class Estimate:
    """What a trial is estimated to take.

    Attributes:
        parameters: Weights.
        memory_bytes: Peak of a step, without photos and libraries.
        seconds: Of all its epochs; None while the device's speed isn't known.
    """

    parameters: int
    memory_bytes: int
    seconds: float | None


class Limits:
    """The limits of a study's trials in one worker after another.

    Args:
        config: Of the study.
        photos: Of train.
        memory_bytes: That a worker may use.
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
            product_rate: Floating-point operations a second of a large matrix product.
            memory_bytes: Of the device, where it has its own.
        """
        self._rough_rate = product_rate * _EFFICIENCY
        self._device_bytes = memory_bytes

    def move_to(self, device: str, memory_bytes: int) -> None:
        """Hold for another worker; speeds that were seen on another device don't count there.

        Args:
            device: Its name.
            memory_bytes: That the worker may use.
        """
        if device != self._device:
            self._rates = []
        self._device, self.memory_bytes = device, memory_bytes

    def learn_speed(self, trial: TrialParams, epoch: int, images_per_second: float) -> None:
        """Take in how fast an epoch of a trial trained, unless it was one that takes less work."""
        cost = self._cost(trial)
        light = epoch < trial.light_epochs(self._epochs(trial))
        if not light and cost.tells_speed:
            self._rates.append(cost.training_operations(1) * images_per_second)

    def _epochs(self, trial: TrialParams) -> int:
        return trial.epochs or self._config.training.epochs

    def _cost(self, trial: TrialParams) -> Cost:
        return registry.family_of(trial).cost(trial, self._config.weights)

    def estimate(self, trial: TrialParams) -> Estimate:
        """What a trial would take."""
        cost = self._cost(trial)
        epochs = self._epochs(trial)
        whole = epochs - trial.light_epochs(epochs) * (1 - trial.light_share)
        operations = cost.training_operations(self._photos) * whole
        operations += 2 * cost.once * self._photos
        rate = statistics.median(self._rates) if self._rates else self._rough_rate
        return Estimate(
            parameters=cost.parameters,
            memory_bytes=cost.memory_bytes(trial.batch_size, trial.optimizer),
            seconds=operations / rate + _FIXED_S if rate else None,
        )

    def too_large(self, trial: TrialParams) -> TooLarge | None:
        """The first limit that a trial would exceed; None where it fits."""
        limits, estimate = self._config.limits, self.estimate(trial)
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
    """Bytes that a worker may use: as the study says, else most of what is free now."""
    if limits.max_memory_gb is not None:
        return int(limits.max_memory_gb * 1e9)
    return int(FREE_SHARE * free_bytes())
