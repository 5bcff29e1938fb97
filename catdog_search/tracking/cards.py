"""Our own data classes for what MLflow records and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catdog_search.outcomes import RunStatus
from catdog_search.tracking import vocabulary as words

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class DataCard:
    """Facts about a dataset, for MLflow.

    Attributes:
        kind: Kind of source: `folder`, `zip` or `synthetic`.
        digest: Full dataset digest.
        location: Location that the photos were read from.
        notice: Notice that they are synthetic; empty for real photos.
    """

    kind: str
    digest: str
    location: str
    notice: str = ""

    def tags(self) -> dict[str, str]:
        """Tags of a run that used it."""
        tags = {words.DATA_KIND: self.kind, words.DATA_LOCATION: self.location}
        return {**tags, words.DATA_NOTICE: self.notice} if self.notice else tags


@dataclass(frozen=True)
class Environment:
    """Where and how trials train.

    Attributes:
        backend: Keras backend.
        device: Device's name, for people.
        execution: How trainings run on it, for people.
    """

    backend: str
    device: str
    execution: str

    def tags(self) -> dict[str, str]:
        """Tags of a run in this environment."""
        return {
            words.BACKEND: self.backend,
            words.DEVICE: self.device,
            words.EXECUTION: self.execution,
        }


@dataclass(frozen=True)
class StudyCard:
    """Facts about a study that starts or continues, for MLflow.

    Attributes:
        params: Study's params by name; they must be the same at every start, or MLflow refuses.
        purpose: Purpose that the study file states.
        searched: Names of the params that differ between its trials.
        commit: Git commit of the running code, or `none`.
        data: Facts about its dataset.
        environment: Environment of its first worker.
        file: Text of the study file.
        versions: Versions of Python and the packages that matter, by name.
        audit: Findings about the photos.
        left_out: Files that could not be used, with reasons.
        splits: Hashes of the photos by split, see `Manifest.hashes`.
    """

    params: Mapping[str, Any]
    purpose: str
    searched: Sequence[str]
    commit: str
    data: DataCard
    environment: Environment
    file: str
    versions: Mapping[str, str]
    audit: Any
    left_out: Any
    splits: Any


@dataclass(frozen=True)
class TrialCard:
    """Facts about a trial, or its next attempt, before it trains, for MLflow.

    Attributes:
        number: Trial's number, from 0.
        params: Trial's params by name, with all defaults.
        network: Name of its network family.
        seed: Trial's seed, 0 to 2**31 - 1.
        attempt: Attempt's number, from 1.
        recipe: Name of its recipe; None where the sampler proposed it.
        data: Facts about its dataset.
        environment: Environment that it trains in.
        previous: Run id of the previous attempt; None where there is none.
    """

    number: int
    params: Mapping[str, Any]
    network: str
    seed: int
    attempt: int
    recipe: str | None
    data: DataCard
    environment: Environment
    previous: str | None

    def tags(self) -> dict[str, str]:
        """Tags of its run."""
        optional = {words.RECIPE: self.recipe, words.PREVIOUS_ATTEMPT: self.previous}
        return {
            words.SEED: str(self.seed),
            words.ATTEMPT: str(self.attempt),
            words.DATASET_DIGEST: self.data.digest,
            words.NETWORK: self.network,
            **self.data.tags(),
            **self.environment.tags(),
            **{name: value for name, value in optional.items() if value},
        }


@dataclass(frozen=True)
class TrialRun:
    """The run of a trial, or of an attempt that died, as MLflow keeps it.

    Attributes:
        run_id: Run's id.
        status: Run's status, as MLflow spells it.
        trial: Trial's number, as text; None where the run doesn't say.
        state: Trial's state in Optuna, as the run says; None where it doesn't.
        objective: Objective's last value; None where there is none.
        rank: Trial's rank, as text of 4 digits or more, from 1; None where it has none.
        outside: Its params that the space no longer has, as text; None for none.
        artifacts: Location of its artifacts, as MLflow keeps it.
    """

    run_id: str
    status: RunStatus
    trial: str | None
    state: str | None
    objective: float | None
    rank: str | None
    outside: str | None
    artifacts: str

    @classmethod
    def of(cls, run: Run) -> TrialRun:
        """The row of MLflow's own object."""
        tags = run.data.tags
        return cls(
            run_id=str(run.info.run_id),
            status=run.info.status,
            trial=tags.get(words.TRIAL),
            state=tags.get(words.TRIAL_STATE),
            objective=run.data.metrics.get(words.OBJECTIVE),
            rank=tags.get(words.RANK),
            outside=tags.get(words.OUTSIDE),
            artifacts=str(run.info.artifact_uri),
        )
