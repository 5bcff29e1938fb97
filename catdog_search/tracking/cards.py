"""What goes to MLflow and comes back from it, as rows of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catdog_search.outcomes import RunStatus
from catdog_search.tracking import vocabulary as words

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class DataCard:
    """What MLflow is told of a dataset.

    Attributes:
        kind: `folder`, `zip` or `synthetic`.
        digest: Full dataset digest.
        location: Where the photos were read.
        notice: What has to be said of them; empty for photos.
    """

    kind: str
    digest: str
    location: str
    notice: str = ""

    def tags(self) -> dict[str, str]:
        """Of a run that used it."""
        tags = {words.DATA_KIND: self.kind, words.DATA_LOCATION: self.location}
        return {**tags, words.DATA_NOTICE: self.notice} if self.notice else tags


@dataclass(frozen=True)
class Environment:
    """Where and how trials train.

    Attributes:
        backend: Keras's.
        device: Its name, for people.
        execution: How a training runs on it, for people.
    """

    backend: str
    device: str
    execution: str

    def tags(self) -> dict[str, str]:
        """Of a run there."""
        return dict(vars(self))


@dataclass(frozen=True)
class StudyCard:
    """What MLflow is told of a study when it starts or goes on.

    Attributes:
        params: The same at every start, or MLflow refuses.
        purpose: What it is to find out.
        commit: Of the code that runs.
        data: Its photos.
        environment: Of its first worker.
        file: Text of the study file.
        versions: Of Python and the packages that matter, by name.
        audit: What was noticed about the photos.
        left_out: Files that could not be used, with reasons.
        splits: Photos by split, see `Manifest.hashes`.
    """

    params: Mapping[str, Any]
    purpose: str
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
    """What MLflow is told of a trial, or of its next attempt, before it trains.

    Attributes:
        number: Of the trial.
        params: With all defaults.
        network: Its family.
        seed: Of the trial.
        attempt: From 1.
        recipe: Name of the recipe that it is of; None where the sampler proposed it.
        data: Its photos.
        environment: Where it trains.
        previous: Run of the attempt before; None where there is none.
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
        """Of its run."""
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
        run_id: MLflow's.
        status: MLflow's.
        trial: Number of the trial, as text; None where it doesn't say.
        state: Optuna's state of the trial, as the run says.
        objective: Last value of the objective; None where there is none.
        rank: As the run says, from 1; None where it has none.
    """

    run_id: str
    status: RunStatus
    trial: str | None
    state: str | None
    objective: float | None
    rank: str | None

    @classmethod
    def of(cls, run: Run) -> TrialRun:
        """What MLflow's own object says."""
        tags = run.data.tags
        return cls(
            run_id=str(run.info.run_id),
            status=run.info.status,
            trial=tags.get(words.TRIAL),
            state=tags.get(words.TRIAL_STATE),
            objective=run.data.metrics.get(words.OBJECTIVE),
            rank=tags.get(words.RANK),
        )
