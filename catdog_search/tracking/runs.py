"""A study's runs: one experiment, one parent run across resumes, one child run per trial."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog_search.errors import StateError
from catdog_search.figures.predictions import TRIAL_FIGURES
from catdog_search.markup import as_markdown
from catdog_search.outcomes import Ending, RunStatus
from catdog_search.outside import is_absent
from catdog_search.redact import redact
from catdog_search.retry import Retry
from catdog_search.text import printable
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.cards import DataCard, Environment, StudyCard, TrialCard, TrialRun
from catdog_search.tracking.confine import as_location, is_stray
from catdog_search.tracking.filters import all_pages, equals
from catdog_search.tracking.located import Located, locate
from catdog_search.tracking.locations import database, enter_model, place_run
from catdog_search.tracking.models import (
    Standing,
    delete_model,
    find_model,
    look_at_model,
    models_of,
)
from catdog_search.tracking.recorded import Recorded, recorded
from catdog_search.tracking.shared_view import TAG, shared_view
from catdog_search.tracking.store import Store
from catdog_search.tracking.trash import run_in_trash
from catdog_search.tracking.trial_files import delete_files, keep_figures, log_figures
from catdog_search.tracking.trial_log import final_metrics, log_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import LoggedModel, Run
    from PIL.Image import Image
    from sqlalchemy import URL

    from catdog_search.data.dataset import Dataset
    from catdog_search.tracking.own import Client

_PAGE = 1000
# Source shown in MLflow's table of runs.
SOURCE = {words.SOURCE_NAME: "catdog-search", words.SOURCE_TYPE: "LOCAL"}


class StudyRuns:
    """The runs of one study.

    Args:
        store: MLflow store that keeps them.
        client: Client of the store.
        study: Study's name, also the experiment's.
        uid: Study's unique id, which distinguishes it from an older study of the same name, or
            one in another state folder.
        place: Place of the study in the store.
        retry: Retry that makes every call of the client; None tries each once.

    Attributes:
        experiment: Name of the experiment, which people may have changed.
        parent_id: Id of the study's own run.
        uri: Tracking URI of the store, without secrets.
    """

    def __init__(
        self,
        store: Store,
        client: Client,
        study: str,
        uid: str,
        place: Located,
        retry: Retry | None,
    ) -> None:
        self._client = client
        self._retry = retry
        self._study = study
        self._uid = uid
        self._store = store
        self._experiment_id = place.experiment_id
        self.experiment = place.experiment
        self.parent_id = place.parent_id
        self.uri = redact(client.tracking_uri)

    @classmethod
    def open(cls, store: Store, study: str, uid: str, retry: Retry | None = None) -> StudyRuns:
        """The runs of a study; its experiment and its own run are created if they don't exist.

        Args:
            store: MLflow store that keeps them.
            study: Study's name.
            uid: Study's unique id.
            retry: Retry that makes every call to the store; None tries each once.

        Raises:
            StateError: The store can't be opened, or the experiment is in MLflow's trash or keeps
                its artifacts outside the state.
        """
        client = store.client(retry, make=True)
        found = locate(store, study, uid, retry)
        if found is None:
            experiment_id = _experiment(client, store, study)
            parent_id = _create_parent(client, experiment_id, study, uid)
            found = Located(experiment_id, study, parent_id, in_trash=None)
        _require_no_trash(found.in_trash)
        store.require_own_experiment(found.experiment)
        return cls(store, client, study, uid, found, retry)

    def hurry(self) -> None:
        """Stop waiting for a store that the worker has already waited for."""
        if self._retry:
            self._retry.give_up()

    def trials(self) -> Iterator[TrialRun]:
        """The runs of all trials, those of dead attempts included."""
        query = equals(f"tags.`{words.PARENT}`", self.parent_id)
        return map(TrialRun.of, _search(self._client, self._experiment_id, query))

    def is_in_trash(self, run_id: str) -> bool:
        """Whether somebody deleted a run that MLflow still has."""
        return run_in_trash(self._client, run_id)

    def owns(self, run_id: str) -> bool:
        """Whether a run is this study's own, and not of the study that it was copied from."""
        import mlflow

        if not run_id:
            return False
        try:
            parent = self._client.get_run(run_id).data.tags.get(words.PARENT)
            if parent is None or parent == self.parent_id:
                return parent is not None
            return bool(self._client.get_run(parent).data.tags.get(words.STUDY_UID) == self._uid)
        except mlflow.exceptions.MlflowException as error:
            if not is_absent(error):
                raise
            return False

    def drop(self, run_id: str, model_id: str | None) -> None:
        """Remove the figures of a trial, and its model if it has one; what isn't ours stays.

        Raises:
            StateError: They are outside the state's own artifacts.
        """
        if self.owns(run_id):
            delete_files(self._client, run_id, words.FIGURES)
        model = find_model(self._client, model_id) if model_id else None
        # With artifacts of our own, the location says whose it is.
        if model and (self._store.artifacts is not None or self.owns(model.source_run_id)):
            delete_model(self._client, model)

    def enter_model(self, model_id: str, run_id: str, location: str) -> None:
        """Enter a model whose files exist into MLflow; not on a server."""
        from mlflow.entities import LoggedModelOutput

        enter_model(self._database(), model_id, self._experiment_id, run_id, location)
        outputs = self._client.get_run(run_id).outputs
        if model_id not in {out.model_id for out in (outputs.model_outputs if outputs else ())}:
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])

    def strays(self) -> Iterator[tuple[str, Path, str]]:
        """Runs whose artifacts are recorded as outside the state's own.

        Yields:
            The run's id, where they should be, and the recorded location.
        """
        for run in (TrialRun.of(self._client.get_run(self.parent_id)), *self.trials()):
            if self._store.artifacts and is_stray(self._store.artifacts, run.artifacts, run.run_id):
                yield run.run_id, self._place_of(run.run_id), run.artifacts

    def place(self, run_id: str) -> None:
        """Make a run keep its artifacts where they should be; not on a server."""
        place_run(self._database(), run_id, as_location(self._place_of(run_id)))

    def _place_of(self, run_id: str) -> Path:
        assert self._store.artifacts is not None, "a server decides itself"
        return self._store.artifacts / self._study / run_id / "artifacts"

    def _database(self) -> URL:
        url = database(self._store.uri)
        assert url is not None, "only a database says where files are"
        return url

    def _models_of(self, run_id: str) -> list[LoggedModel]:
        """The models that a run logged, unfinished ones included."""
        return models_of(self._client, self._experiment_id, run_id)

    def start_study(self, card: StudyCard) -> None:
        """Describe on the study's own run what the study is and where it now runs.

        A later call overwrites this, except the params, which stay as they were at first.
        """
        self._client.update_run(self.parent_id, status="RUNNING")
        view = shared_view(card.params["metric"], card.params["direction"], card.searched)
        about = {TAG: view, words.NOTE: as_markdown(card.purpose)}
        for name, value in about.items():
            self._client.set_experiment_tag(self._experiment_id, name, _storable(value))
        note = {words.NOTE: as_markdown(card.purpose), words.COMMIT: card.commit}
        tags = {**card.data.tags(), **card.environment.tags(), **note}
        # MLflow never changes a param: a new value goes into a tag.
        known = self._client.get_run(self.parent_id).data.params
        now = {k: str(v) for k, v in card.params.items() if known.get(k, str(v)) != str(v)}
        tags |= {f"{words.NOW}{name}": value for name, value in now.items()}
        self._log(self.parent_id, {k: v for k, v in card.params.items() if k not in now}, tags)
        self.log_files(
            {
                f"{self._study}.toml": card.file,
                words.VERSIONS_FILE: as_text(card.versions),
                words.AUDIT_FILE: as_text(card.audit),
                words.LEFT_OUT_FILE: as_text(card.left_out),
                words.SPLITS_FILE: as_text(card.splits),
            }
        )
        self._log_dataset(self.parent_id, card.data)

    def log_files(self, files: Mapping[str, str]) -> None:
        """Keep texts with the study's own run, by file name."""
        for name, text in files.items():
            self._client.log_text(self.parent_id, redact(text), name)

    def log_contact_sheet(self, split: str, sheet: Image) -> None:
        """Keep a contact sheet of some photos of a split with the study's own run."""
        self._client.log_image(self.parent_id, sheet, artifact_file=f"data/{split}.png")

    def finish_study(self, status: RunStatus) -> None:
        """Close the study's own run."""
        self._client.set_terminated(self.parent_id, status)

    def open_trial(self, card: TrialCard) -> str:
        """Open the run of a trial, or of its next attempt; returns its id."""
        run_id = self._open_trial(card.number, card.params, card.tags())
        if card.previous:
            self._log(card.previous, {}, {words.NEXT_ATTEMPT: run_id})
        self._log_dataset(run_id, card.data)
        return run_id

    def recreate_study(self, params: Mapping[str, Any], digest: str) -> None:
        """Describe on the study's recreated run what is known of the study."""
        tags = {words.RECREATED: "true", words.DATASET_DIGEST: digest}
        self._log(self.parent_id, params, tags)

    def recreate_trial(
        self,
        number: int,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        curves: Mapping[int, Any],
    ) -> str:
        """Open a run for a trial that is over and has lost its run; returns its id.

        Args:
            number: Trial's number, from 0.
            params: Trial's params by name, as far as they are known.
            tags: Tags of its run, as far as they are known.
            curves: Metrics by epoch, from 0.
        """
        run_id = self._open_trial(number, params, {**tags, words.RECREATED: "true"})
        for epoch, metrics in sorted(curves.items()):
            log_metrics(self._client, run_id, metrics, epoch + 1)
        return run_id

    def adopt(self, run_id: str) -> bool:
        """Attach a trial's run, whose parent run was lost, to this parent; False if it is gone."""
        import mlflow

        if not run_id:
            return False
        try:
            run = self._client.get_run(run_id)
        except mlflow.exceptions.MlflowException as error:
            if not is_absent(error):
                raise
            return False
        if run.info.experiment_id != self._experiment_id:
            return False
        if run.info.lifecycle_stage == "deleted":
            self._client.restore_run(run_id)
        self._log(run_id, {}, {words.PARENT: self.parent_id})
        return True

    def _open_trial(self, number: int, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Open a run, named after the trial's recipe if it has one."""
        run = self._client.create_run(
            self._experiment_id,
            run_name=printable(tags.get(words.RECIPE) or _trial_name(number)),
            tags={
                words.PARENT: self.parent_id,
                words.STUDY: self._study,
                words.ROLE: words.ROLE_TRIAL,
                words.TRIAL: str(number),
                words.TRIAL_STATE: "RUNNING",
                **SOURCE,
            },
        )
        run_id = str(run.info.run_id)
        self._log(run_id, params, tags)
        return run_id

    def note_environment(self, run_id: str, environment: Environment) -> None:
        """Note on a trial's run that its environment has changed."""
        self._log(run_id, {}, environment.tags())

    def _log(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        self._client.log_batch(
            run_id,
            params=[Param(key, _storable(str(value))) for key, value in params.items()],
            tags=[RunTag(key, _storable(value)) for key, value in tags.items()],
        )

    def _log_dataset(self, run_id: str, card: DataCard) -> None:
        """Log the dataset as an MLflow dataset; MLflow keeps 32 characters of the digest."""
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource
        from mlflow.entities import DatasetInput, InputTag

        source = LocalArtifactDatasetSource(printable(card.location))
        dataset = MetaDataset(source, name=card.kind, digest=card.digest[:32])._to_mlflow_entity()
        context = [InputTag(words.DATA_CONTEXT, "training")]
        self._client.log_inputs(run_id, [DatasetInput(dataset, context)])

    def abandon(self, run_id: str) -> None:
        """Close the run of an attempt that is over while its trial isn't; remove its files."""
        delete_files(self._client, run_id)
        for model in self._models_of(run_id):
            delete_model(self._client, model)
        self.close_attempt(run_id)

    def close_attempt(self, run_id: str) -> None:
        """Close the run of an attempt that no trial ended with, keeping its files and models."""
        self._finish(run_id, "KILLED", {words.TRIAL_STATE: "KILLED"})

    def close_trial(self, run_id: str, state: str, ending: Ending, reason: str | None) -> None:
        """Close the run of a trial that is over.

        Args:
            run_id: Run's id.
            state: Trial's state, as Optuna spells it.
            ending: Kind of end.
            reason: Reason, in one line; None or empty where it needs none.
        """
        tags = {words.TRIAL_STATE: state, words.ENDING: ending.value}
        if reason:
            tags[words.ERROR] = reason
        self._finish(run_id, ending.run_status, tags)

    def _finish(self, run_id: str, status: RunStatus, tags: Mapping[str, str]) -> None:
        self._log(run_id, {}, tags)
        self._client.set_terminated(run_id, status)

    def restore(self, run_id: str) -> None:
        """Bring a run back from MLflow's trash."""
        self._client.restore_run(run_id)

    def log_scores(
        self, run_id: str, objective: float, scores: Mapping[str, float], n_weights: int | None
    ) -> None:
        """Log a trial's final metrics."""
        more = {} if n_weights is None else {words.N_WEIGHTS: n_weights}
        log_metrics(self._client, run_id, {**final_metrics(objective, scores), **more}, step=0)

    def overwrite_objective(self, run_id: str, value: float) -> None:
        """Make `value` the objective's latest; MLflow shows the one with the highest step."""
        logged = self._client.get_metric_history(run_id, words.OBJECTIVE)
        step = max((m.step for m in logged), default=0) + 1
        log_metrics(self._client, run_id, {words.OBJECTIVE: value}, step)

    def has_figures(self, run_id: str) -> bool:
        """Whether all figures of a finished trial exist."""
        found = {file.path for file in self._client.list_artifacts(run_id, words.FIGURES)}
        return found >= {f"{words.FIGURES}/{name}" for name in TRIAL_FIGURES}

    def recorded(self, run_id: str) -> Recorded:
        """Curves and predictions that a trial's figures are plotted from."""
        return recorded(self._client, run_id)

    def log_figures(self, run_id: str, title: str, seen: Recorded, dataset: Dataset) -> None:
        """Plot and log the figures of a trial whose predictions exist."""
        assert seen.predictions is not None
        kept = (seen.history, seen.best_epoch, seen.predictions)
        log_figures(self._client, run_id, title, *kept, dataset)

    def look_at_model(self, model_id: str) -> Standing:
        """Check whether a model of the study exists, with its files."""
        return look_at_model(self._client, self._store, self._study, model_id)

    def log_best(
        self, number: int, run_id: str, value: float, scores: Mapping[str, float], purpose: str
    ) -> None:
        """Copy the best trial's numbers to the parent, which saves paging through children."""
        best = {f"{words.BEST}{name}": score for name, score in scores.items()}
        log_metrics(self._client, self.parent_id, {words.BEST_VALUE: value, **best}, step=0)
        link = f"#/experiments/{self._experiment_id}/runs/{run_id}"
        note = f"{as_markdown(purpose)}\n\nBest: [{_trial_name(number)}]({link}), {value:.4f}"
        ids = {words.BEST_TRIAL: str(number), words.BEST_RUN_ID: run_id}
        tags = {**ids, words.NOTE: note}
        self._log(self.parent_id, {}, tags)

    def mark(self, ranks: Mapping[str, int], outside: Mapping[str, str]) -> None:
        """Tag children with what changes after their end, and untag those that have lost it.

        Args:
            ranks: Ranks by run id, from 1.
            outside: By run id, params that the space no longer has, for people.
        """
        # Padded, because the user interface sorts tags as text.
        padded = {run_id: f"{rank:04d}" for run_id, rank in ranks.items()}
        for run in self.trials():
            for tag, before, marks in (
                (words.RANK, run.rank, padded),
                (words.OUTSIDE, run.outside, outside),
            ):
                now = marks.get(run.run_id)
                if now is not None and now != before:
                    self._log(run.run_id, {}, {tag: now})
                elif now is None and before is not None:
                    self._client.delete_tag(run.run_id, tag)

    def log_study(self, figures: Mapping[str, Figure], table: Mapping[str, list[Any]]) -> None:
        """Keep the study's figures and its table of trials on the parent."""
        keep_figures(self._client, self.parent_id, figures)
        rows = [list(row) for row in zip(*table.values(), strict=True)]
        # Not log_table, which would append; the tag makes the interface show a table.
        text = json.dumps({"columns": list(table), "data": rows})
        self._client.log_text(self.parent_id, text, words.TRIALS_FILE)
        as_table = json.dumps([{"path": words.TRIALS_FILE, "type": "table"}])
        self._log(self.parent_id, {}, {words.LOGGED_TABLES: as_table})


def _storable(text: str) -> str:
    """Text that any database accepts, without secrets; line breaks stay."""
    return "\n".join(map(printable, redact(text).split("\n")))


def _search(client: Client, experiment_id: str, query: str) -> Iterator[Run]:
    where: dict[str, Any] = {"experiment_ids": [experiment_id], "filter_string": query}
    return all_pages(client.search_runs, **where, max_results=_PAGE)


def _create_parent(client: Client, experiment_id: str, study: str, uid: str) -> str:
    role = {words.ROLE: words.ROLE_STUDY}
    tags = {words.STUDY: study, words.STUDY_UID: uid, **role, **SOURCE}
    return str(client.create_run(experiment_id, run_name=study, tags=tags).info.run_id)


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
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        _require_no_trash(f"experiment {found.experiment_id}, called {name!r},")
    return str(found.experiment_id)


def _require_no_trash(what: str | None) -> None:
    """Refuse what is in the trash; callers have checked before, so it got there meanwhile."""
    if what:
        raise StateError(
            f"{what} is in MLflow's trash; `catdog-search doctor --repair` with the same --state "
            "brings it back"
        )
