"""Everything a training needs to know, resolved once; imports no backend."""

from __future__ import annotations

from dataclasses import dataclass, field

from catdog_search.families.base import TrialParams
from catdog_search.families.weights import weights_id as digest_of
from catdog_search.objective import Direction, Metric
from catdog_search.space import Params
from catdog_search.study.config import LimitsConfig, StudyConfig, TrainingConfig
from catdog_search.training.execution import PLAIN, Execution


@dataclass(frozen=True)
class TrainingJob:
    """One trial's training, and nothing of the study that doesn't affect it.

    Attributes:
        params: Values for every knob of the trial's family, including the image size in pixels.
        training: Epochs and early stopping of the study.
        metric: Metric that early stopping watches.
        direction: Direction of the metric, `maximize` or `minimize`.
        weights: Origin of loaded weights: `imagenet`, `none`, or the path of a file.
        weights_id: Digest of those weights, whatever their path; None where none are loaded.
        seed: Seed of weights, order, dropout and augmentation, from 0.
        execution: Execution on the device; it changes results only by rounding.
        stop_after: Epoch that this part of the training ends with, from 1; None for the last. Up to
            there it equals the whole training, which can resume from its checkpoints.
        limits: Limits of the study, for networks whose size shows only when built.
    """

    params: TrialParams
    training: TrainingConfig
    metric: Metric
    direction: Direction
    weights: str
    weights_id: str | None
    seed: int
    execution: Execution = PLAIN
    stop_after: int | None = None
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    @property
    def epochs(self) -> int:
        """Maximum number of epochs of the whole training."""
        return self.params.most_epochs(self.training.epochs)

    @property
    def last(self) -> int:
        """Maximum number of epochs up to the end of this part, earlier ones included."""
        return min(self.epochs, self.stop_after or self.epochs)


def job_of(
    config: StudyConfig,
    params: Params,
    *,
    seed: int,
    execution: Execution = PLAIN,
    weights_id: str | None = None,
) -> TrainingJob:
    """Resolve a trial of a study.

    Args:
        config: The study.
        params: Values for the knobs of its family; those absent take their defaults.
        seed: Seed of the trial, from 0.
        execution: Execution on the device.
        weights_id: Digest of the study's weights; None to read them and compute it.

    Raises:
        DataError: The weights can't be read.
    """
    trial = config.trial_params(params)
    if not config.family_of(params).loads_weights:
        weights_id = None
    elif weights_id is None:
        weights_id = digest_of(config.weights)
    return TrainingJob(
        params=trial,
        training=config.training,
        metric=config.metric,
        direction=config.direction,
        weights=config.weights,
        weights_id=weights_id,
        seed=seed,
        execution=execution,
        limits=config.limits,
    )
