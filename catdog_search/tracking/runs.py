"""A study's runs: one experiment, one parent run across resumes, one child run a trial."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog_search.errors import StateError
from catdog_search.figures.predictions import Predictions
from catdog_search.markup import as_markdown
from catdog_search.outcomes import RunStatus
from catdog_search.outside import is_absent
from catdog_search.redact import redact
from catdog_search.retry import Retry
from catdog_search.text import printable
from catdog_search.tracking.confine import as_location, is_stray
from catdog_search.tracking.filters import equals
from catdog_search.tracking.locations import database, enter_model, place_run
from catdog_search.tracking.models import delete_model, find_model, models_of
from catdog_search.tracking.store import Store
from catdog_search.tracking.trial_files import FIGURES, delete_files, keep_figures, load_val

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from PIL.Image import Image
    from sqlalchemy import URL

    from catdog_search.tracking.own import Client

PARENT_TAG = "mlflow.parentRunId"
_PAGE = 1000
_RANK = "rank"
_TABLE = "trials.json"
# Logged at the end of a trial, not after each epoch.
_ONCE = ("objective", "n_weights", "best_epoch")
# Seconds; a trial that is shorter leaves none.
_SAMPLE_EVERY_S = 5
# What MLflow's table of runs shows as their source.
_SOURCE = {"mlflow.source.name": "catdog-search", "mlflow.source.type": "LOCAL"}


@dataclass(frozen=True)
class DatasetCard:
    """What MLflow is told of a dataset.

    Attributes:
        name: For people.
        digest: Full dataset digest.
        location: Where the photos were read.
    """

    name: str
    digest: str
    location: str


class StudyRuns:
    """The runs of one study.

    Args:
        store: Where they are.
        study: The study's name, also the experiment's.
        uid: Tells this study from one of the same name in another state folder, or an older one.
        retry: Makes every call to the store; None makes each once.

    Raises:
        StateError: The store doesn't open, or the experiment is in MLflow's trash or keeps its
            artifacts outside of the state.
    """

    def __init__(self, store: Store, study: str, uid: str, retry: Retry | None = None) -> None:
        self.client: Client = store.client(retry)
        self._retry = retry
        self.study = study
        self._uid = uid
        self._store = store
        self.experiment_id = _experiment(self.client, store, study)
        self.parent_id = self._find_parent() or self._create_parent()

    @classmethod
    def exist(cls, store: Store, study: str, uid: str) -> bool:
        """Whether the study has runs; makes nothing but, where it is absent, the store.

        Raises:
            StateError: The store doesn't open.
        """
        client = store.client()
        found = client.get_experiment_by_name(study)
        return found is not None and bool(
            client.search_runs([found.experiment_id], _parent_query(uid))
        )

    def hurry(self) -> None:
        """Wait no more for a store that somebody has waited for already."""
        if self._retry:
            self._retry.give_up()

    def _find_parent(self) -> str | None:
        runs = self._search(_parent_query(self._uid))
        return next((run.info.run_id for run in runs), None)

    def _create_parent(self) -> str:
        tags = {"study": self.study, "study_uid": self._uid, "role": "study", **_SOURCE}
        run = self.client.create_run(self.experiment_id, run_name=self.study, tags=tags)
        return str(run.info.run_id)

    def _search(self, query: str) -> Iterable[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], query, max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def children(self) -> Iterable[Run]:
        """All child runs, those of dead attempts included."""
        return self._search(equals(f"tags.`{PARENT_TAG}`", self.parent_id))

    def is_in_trash(self, run_id: str) -> bool:
        """Whether somebody deleted a run that MLflow still has."""
        return _run_in_trash(self.client, run_id)

    def owns(self, run_id: str) -> bool:
        """Whether a run is of this study, and not of the one that it was copied from."""
        import mlflow

        if not run_id:
            return False
        try:
            parent = self.client.get_run(run_id).data.tags.get(PARENT_TAG)
            if parent is None or parent == self.parent_id:
                return parent is not None
            return bool(self.client.get_run(parent).data.tags.get("study_uid") == self._uid)
        except mlflow.exceptions.MlflowException as error:
            if not is_absent(error):
                raise
            return False

    def drop(self, run_id: str, model_id: str | None) -> None:
        """Remove the figures of a trial, and its model if it has one; what isn't ours stays.

        Raises:
            StateError: They lie outside of the state's own artifacts.
        """
        if self.owns(run_id):
            delete_files(self.client, run_id, FIGURES)
        model = find_model(self.client, model_id) if model_id else None
        # In a store of files the place says whose it is.
        if model and (self._store.artifacts is not None or self.owns(model.source_run_id)):
            delete_model(self.client, model)

    def enter_model(self, model_id: str, run_id: str, location: str) -> None:
        """Let MLflow know a model whose files are there, and where; not on a server."""
        from mlflow.entities import LoggedModelOutput

        enter_model(self._database(), model_id, self.experiment_id, run_id, location)
        outputs = self.client.get_run(run_id).outputs
        if model_id not in {out.model_id for out in (outputs.model_outputs if outputs else ())}:
            self.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])

    def strays(self) -> Iterator[tuple[str, Path, str]]:
        """Runs whose artifacts are said to lie outside of the state's own.

        Yields:
            The run's id, where they should lie, and the location that is said.
        """
        for run in (self.client.get_run(self.parent_id), *self.children()):
            run_id, said = run.info.run_id, run.info.artifact_uri
            if self._store.artifacts and is_stray(self._store.artifacts, said, run_id):
                yield run_id, self._place_of(run_id), said

    def place(self, run_id: str) -> None:
        """Let a run keep its artifacts where they should lie; not on a server."""
        place_run(self._database(), run_id, as_location(self._place_of(run_id)))

    def _place_of(self, run_id: str) -> Path:
        assert self._store.artifacts is not None, "a server decides itself"
        return self._store.artifacts / self.study / run_id / "artifacts"

    def _database(self) -> URL:
        url = database(self._store.uri)
        assert url is not None, "only a database says where files are"
        return url

    def models_of(self, run_id: str) -> list[LoggedModel]:
        """The models that a run logged, those that it didn't finish included."""
        return models_of(self.client, self.experiment_id, run_id)

    def start_parent(
        self, params: Mapping[str, Any], tags: Mapping[str, str], files: Mapping[str, str]
    ) -> None:
        """Say on the parent what the study is and where it runs now.

        Args:
            params: The same at every resume, or MLflow refuses.
            tags: Of this call; a later call overwrites them.
            files: Artifacts by name, as text.
        """
        self.client.update_run(self.parent_id, status="RUNNING")
        self._log(self.parent_id, params, tags)
        for name, text in files.items():
            self.client.log_text(self.parent_id, redact(text), name)

    def open_trial(self, number: int, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Open the child run of a trial, named after its recipe if it has one; returns its id."""
        run = self.client.create_run(
            self.experiment_id,
            run_name=printable(tags.get("recipe") or _trial_name(number)),
            tags={
                PARENT_TAG: self.parent_id,
                "study": self.study,
                "role": "trial",
                "trial": str(number),
                "trial_state": "RUNNING",
                **_SOURCE,
            },
        )
        run_id = str(run.info.run_id)
        self._log(run_id, params, tags)
        return run_id

    def _log(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        self.client.log_batch(
            run_id,
            params=[Param(key, _storable(str(value))) for key, value in params.items()],
            tags=[RunTag(key, _storable(value)) for key, value in tags.items()],
        )

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of any run."""
        self._log(run_id, {}, tags)

    def log_dataset(self, run_id: str, card: DatasetCard) -> None:
        """Name the dataset in MLflow's own words; it keeps 32 characters of the digest."""
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource
        from mlflow.entities import DatasetInput, InputTag

        source = LocalArtifactDatasetSource(printable(card.location))
        dataset = MetaDataset(source, name=card.name, digest=card.digest[:32])._to_mlflow_entity()
        context = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run_id, [DatasetInput(dataset, context)])

    def log_image(self, run_id: str, image: Image, name: str) -> None:
        """Keep a picture as an artifact."""
        self.client.log_image(run_id, image, artifact_file=name)

    def abandon(self, run_id: str) -> None:
        """Close the run of an attempt that is over while its trial isn't; its files go."""
        delete_files(self.client, run_id)
        for model in self.models_of(run_id):
            delete_model(self.client, model)
        self.finish(run_id, "KILLED", {"trial_state": "KILLED"})

    def log_values(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers of one step."""
        log_metrics(self.client, run_id, metrics, step)

    def overwrite(self, run_id: str, name: str, value: float) -> None:
        """Make `value` the last one of a metric; MLflow shows that of the highest step."""
        logged = self.client.get_metric_history(run_id, name)
        self.log_values(run_id, {name: value}, max((m.step for m in logged), default=0) + 1)

    def finish(self, run_id: str, status: RunStatus, tags: Mapping[str, str]) -> None:
        """Close a run."""
        self._log(run_id, {}, tags)
        self.client.set_terminated(run_id, status)

    def log_best(
        self, number: int, run_id: str, metrics: Mapping[str, float], purpose: str
    ) -> None:
        """Copy the best trial's numbers to the parent, where nobody pages through children."""
        log_metrics(self.client, self.parent_id, metrics, step=0)
        link = f"#/experiments/{self.experiment_id}/runs/{run_id}"
        best = f"Best: [{_trial_name(number)}]({link}), {metrics['best_value']:.4f}"
        note = f"{as_markdown(purpose)}\n\n{best}"
        tags = {"best_trial": str(number), "best_run_id": run_id, "mlflow.note.content": note}
        self._log(self.parent_id, {}, tags)

    def rank(self, ranks: Mapping[str, int]) -> None:
        """Tag children with their rank, from 1; those that have none any more lose it.

        Args:
            ranks: By run id.
        """
        for run in self.children():
            run_id, was = run.info.run_id, run.data.tags.get(_RANK)
            # Padded, because the user interface sorts tags as text.
            now = f"{ranks[run_id]:04d}" if run_id in ranks else None
            if now is not None and now != was:
                self._log(run_id, {}, {_RANK: now})
            elif now is None and was is not None:
                self.client.delete_tag(run_id, _RANK)

    def log_study(self, figures: Mapping[str, Figure], table: Mapping[str, list[Any]]) -> None:
        """Keep the study's figures and its table of trials on the parent."""
        keep_figures(self.client, self.parent_id, figures)
        rows = [list(row) for row in zip(*table.values(), strict=True)]
        # Not log_table, which would append; the tag is what makes the interface draw a table.
        text = json.dumps({"columns": list(table), "data": rows})
        self.client.log_text(self.parent_id, text, _TABLE)
        as_table = json.dumps([{"path": _TABLE, "type": "table"}])
        self._log(self.parent_id, {}, {"mlflow.loggedArtifacts": as_table})


class Trash:
    """What of a study lies in MLflow's trash: its experiment, or the run of the study.

    Args:
        store: Where to look.
        study: Its name, also the experiment's.
        parent_id: The study's run; None where it isn't known.

    Raises:
        StateError: The store doesn't open.
    """

    def __init__(self, store: Store, study: str, parent_id: str | None) -> None:
        self._client = store.client()
        self._parent_id = parent_id
        found = self._client.get_experiment_by_name(study)
        deleted = found is not None and found.lifecycle_stage == "deleted"
        self._experiment_id = found.experiment_id if deleted else None

    def holds(self) -> str | None:
        """What is there, for people; None where nothing is."""
        if self._experiment_id:
            return f"experiment {self._experiment_id}"
        if self._parent_id and _run_in_trash(self._client, self._parent_id):
            return f"run {self._parent_id} of the study"
        return None

    def restore(self) -> None:
        """Bring it back; with the run of the study those of its trials."""
        if self._experiment_id:
            self._client.restore_experiment(self._experiment_id)
        elif self._parent_id:
            from mlflow.entities import ViewType

            self._client.restore_run(self._parent_id)
            experiment = self._client.get_run(self._parent_id).info.experiment_id
            query = equals(f"tags.`{PARENT_TAG}`", self._parent_id)
            while found := self._client.search_runs([experiment], query, ViewType.DELETED_ONLY):
                for run in found:
                    self._client.restore_run(run.info.run_id)


def _run_in_trash(client: MlflowClient, run_id: str) -> bool:
    import mlflow

    try:
        return str(client.get_run(run_id).info.lifecycle_stage) == "deleted"
    except mlflow.exceptions.MlflowException:
        return False


@dataclass(frozen=True)
class Recorded:
    """What MLflow keeps of a trial that its figures are drawn from.

    Attributes:
        history: Metrics of every epoch.
        best_epoch: Whose weights were kept; None where no epoch's were.
        predictions: Of val; None where the run has none.
    """

    history: list[dict[str, float]]
    best_epoch: int | None
    predictions: Predictions | None


def recorded(client: MlflowClient, run_id: str) -> Recorded:
    """Read what a trial's figures are drawn from."""
    kept = client.get_run(run_id).data.metrics.get("best_epoch")
    best_epoch = None if kept is None else int(kept)
    return Recorded(metric_history(client, run_id), best_epoch, load_val(client, run_id))


def metric_history(client: MlflowClient, run_id: str) -> list[dict[str, float]]:
    """What a trial logged after each epoch, from epoch 0; empty where it logged nothing."""
    epochs: dict[int, dict[str, float]] = {}
    for name in client.get_run(run_id).data.metrics:
        if "/" in name or name in _ONCE:
            continue
        for metric in client.get_metric_history(run_id, name):
            epochs.setdefault(metric.step, {})[name] = metric.value
    return [epochs[step] for step in sorted(epochs)]


def log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int) -> None:
    """Log numbers of one step in one call."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    batch = [Metric(name, float(value), now, step) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=batch)


@contextlib.contextmanager
def system_metrics(store: Store, run_id: str) -> Iterator[None]:
    """Log what the machine does meanwhile: processors, memory, disk, network, every GPU of it."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=_SAMPLE_EVERY_S, tracking_uri=store.uri
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _storable(text: str) -> str:
    """What any database takes, and no secret: lines of text."""
    return "\n".join(map(printable, redact(text).split("\n")))


def _parent_query(uid: str) -> str:
    return f"{equals('tags.study_uid', uid)} and {equals('tags.role', 'study')}"


def _trial_name(number: int) -> str:
    return f"trial-{number:04d}"


def as_text(value: object) -> str:
    """JSON for an artifact."""
    return json.dumps(value, indent=2, sort_keys=True, default=str) + "\n"


def _experiment(client: Client, store: Store, name: str) -> str:
    import mlflow

    store.require_own_experiment(name)
    location = None if store.artifacts is None else as_location(store.artifacts / name)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except mlflow.exceptions.MlflowException:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise StateError(
            f"experiment {name!r} is in MLflow's trash; `catdog-search doctor --repair` brings it "
            "back"
        )
    return str(found.experiment_id)
