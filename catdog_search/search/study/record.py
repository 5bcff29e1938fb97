"""Record trials in Optuna and MLflow so that both agree, even after a kill."""

from __future__ import annotations

import functools
import itertools
import subprocess
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

import catdog_search
from catdog_search.data import audit
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import SYNTHETIC_NOTICE
from catdog_search.errors import StateError
from catdog_search.families import registry
from catdog_search.families.base import as_used
from catdog_search.families.weights import origin_of
from catdog_search.outcomes import Ending, RunStatus
from catdog_search.outside import is_outside
from catdog_search.places import StateFolder
from catdog_search.retry import Retry
from catdog_search.search.events import Ready
from catdog_search.search.photos import Photos
from catdog_search.search.study import schema, views
from catdog_search.search.study.settings import made_with
from catdog_search.search.study.views import view_of
from catdog_search.search.workers.messages import Outcome
from catdog_search.study import studies
from catdog_search.study.config import StudyConfig
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.cards import DataCard, Environment, StudyCard, TrialCard
from catdog_search.tracking.located import locate
from catdog_search.tracking.runs import StudyRuns
from catdog_search.tracking.store import Store
from catdog_search.tracking.trash import Trash
from catdog_search.training.job import TrainingJob

# Settings that become params of a study's recreated run: only those logged exactly as stored, since
# MLflow would refuse a different value at the next start.
_PARAMS = ("family", "metric", "direction", "seed", "dataset_digest", "weights")
_REBUILT = "Made anew by `catdog-search doctor --repair`, from what Optuna knows."


class StudyRecord:
    """The record of one study.

    Args:
        study: Optuna study.
        runs: Study's runs in MLflow.
        config: Study's configuration.
        dataset: Dataset that its trials train on.
        photos: Packed photos of the dataset, while the study runs.
        study_file: Text of the study file.
    """

    def __init__(
        self,
        study: optuna.Study,
        runs: StudyRuns,
        config: StudyConfig,
        dataset: Dataset,
        photos: Photos,
        study_file: str,
    ) -> None:
        self._photos = photos
        self._study_file = study_file
        self._study = study
        self._runs = runs
        self._config = config
        self._dataset = dataset
        manifest = dataset.manifest
        notice = SYNTHETIC_NOTICE if manifest.kind == "synthetic" else ""
        self._data = DataCard(manifest.kind, dataset.digest, manifest.location, notice)
        self._dropped: list[str] = []  # runs that lost their model in this call

    def note_study(self) -> None:
        """Remember in Optuna what readers of the study need to know."""
        study, config, dataset = self._study, self._config, self._dataset
        study.set_user_attr(schema.PARENT_RUN_ID, self._runs.parent_id)
        views.note_tracking(study, self._runs.uri)
        study.set_user_attr(schema.DIGEST, dataset.digest)
        study.set_user_attr(schema.METRIC, config.metric)
        study.set_user_attr(schema.N_VAL, len(dataset.rows("val")))
        by_split = dataset.manifest.counts()
        counts = {split: by_split[split] for split in ("train", "val")}
        study.set_user_attr(schema.CLASS_COUNTS, counts)
        if config.loads_weights:
            study.set_user_attr(schema.WEIGHTS, origin_of(config.weights))
        if self._study_file:
            study.set_user_attr(schema.DATA_STATED, studies.data_stated(self._study_file))
        published = {k: v.model_dump(exclude_none=True) for k, v in config.published.items()}
        study.set_user_attr(schema.PUBLISHED, published)

    def open(self, ready: Ready, environment: Environment) -> None:
        """Say on the study's own run what the study is and where it runs.

        Args:
            ready: Facts about its first worker.
            environment: Environment of that worker.
        """
        config, manifest = self._config, self._dataset.manifest
        self._study.set_user_attr(schema.DEVICE, f"{ready.device.name}, {ready.backend}")
        card = StudyCard(
            params=self._params(),
            purpose=config.purpose,
            searched=self._searched(),
            commit=_commit(),
            data=self._data,
            environment=environment,
            file=self._study_file,
            versions=ready.versions,
            audit=audit.summary(manifest),
            left_out=manifest.left_out,
            splits=self._dataset.hashes(),
        )
        self._runs.start_study(card)
        dataset = self._photos.at(self._dataset.image_size)
        for split in ("train", "val"):
            self._runs.log_contact_sheet(split, audit.contact_sheet(dataset, split))

    def _searched(self) -> list[str]:
        """Params that differ between trials, those of a former space included."""
        outside = self._study.user_attrs.get(schema.OUTSIDE, {}).values()
        return list(dict.fromkeys((*self._config.space.searched, *itertools.chain(*outside))))

    def _params(self) -> dict[str, Any]:
        config = self._config
        params: dict[str, Any] = {
            "family": config.family,
            "image_size": config.image_size,
            "metric": config.metric,
            "direction": config.direction,
            "seed": config.seed,
            "sampler": config.sampler.name,
            "pruner": config.pruner.name,
            "dataset_digest": self._dataset.digest,
            words.SUBSET: self._dataset.subset or "all of train",
            **{f"training.{k}": v for k, v in config.training.model_dump().items()},
        }
        if (weights := made_with(self._study).get("weights")) is not None:
            params["weights"] = weights
        if (code := config.found) is not None:
            params |= {"hypermodel": code.name, "hypermodel.source": code.source}
        return params

    def begin(self, trial: Trial, job: TrainingJob, environment: Environment) -> tuple[str, int]:
        """Open the run of a trial, or of its next attempt.

        Args:
            trial: Study's trial, RUNNING.
            job: Its training.
            environment: Environment that it will train in.

        Returns:
            Id of the run, and number of the attempt, from 1.
        """
        attrs = trial.user_attrs
        attempt = int(attrs.get(schema.ATTEMPT, 0)) + 1
        dead = str(attrs.get(schema.RUN_ID, ""))
        is_ours = self._runs.owns(dead) and not self._runs.is_in_trash(dead)
        card = TrialCard(
            number=trial.number,
            params=as_used(job.params.told(), self._config.stated),
            network=registry.family_of(job.params).name,
            seed=job.seed,
            attempt=attempt,
            recipe=attrs.get(schema.RECIPE),
            data=self._data,
            environment=environment,
            previous=dead if is_ours else None,
        )
        run_id = self._runs.open_trial(card)
        trial.set_user_attr(schema.RUN_ID, run_id)
        trial.set_user_attr(schema.ATTEMPT, attempt)
        trial.set_user_attr(schema.SEED, job.seed)
        return run_id, attempt

    def note_environment(self, run_id: str, environment: Environment) -> None:
        """Note on a trial's run that a worker with another environment took it over."""
        self._runs.note_environment(run_id, environment)

    def count_crash(self, trial: Trial) -> int:
        """Note that a worker died with this trial; returns how many have so far."""
        crashes = int(trial.user_attrs.get(schema.CRASHES, 0)) + 1
        trial.set_user_attr(schema.CRASHES, crashes)
        return crashes

    def abandon(self, run_id: str) -> None:
        """Close the run of an attempt that is over while its trial isn't."""
        self._runs.abandon(run_id)

    def end(self, trial: Trial, run_id: str, outcome: Outcome) -> None:
        """Record how a trial ended, in Optuna first, then in MLflow; then update the ranking."""
        ending = outcome.ending
        if ending.state is None:
            if ending is Ending.BLOCKED:
                self._runs.hurry()
            self._leave(run_id)
            return
        state = TrialState[ending.state]
        attrs = {
            schema.MODEL_ID: outcome.model_id,
            schema.KEPT: outcome.kept,
            schema.SCORES: dict(outcome.scores or {}),
            schema.ERROR: outcome.reason,
            schema.N_WEIGHTS: outcome.n_weights,
            schema.TRAIN_SCORES: dict(outcome.train_scores),
        }
        for name, value in attrs.items():
            if value:
                trial.set_user_attr(name, value)
        if outcome.best_epoch is not None:
            trial.set_user_attr(schema.BEST_EPOCH, outcome.best_epoch)
        if ending.is_constraint:
            trial.set_constraint(ending.value, outcome.excess)
        trial.set_user_attr(schema.ENDING, ending.value)
        self._study.tell(trial, outcome.value if state == TrialState.COMPLETE else None, state)
        close_run(self._runs, run_id, self._study.get_trials(deepcopy=False)[trial.number])
        self._rank()

    def _leave(self, run_id: str) -> None:
        """Close the run of an attempt; if the store is what failed, `settle` does it later."""
        try:
            self.abandon(run_id)
        except Exception as error:
            if not is_outside(error):
                raise

    def _rank(self) -> None:
        """Keep only the best trials' models, and name the best trial on the parent run."""
        ranked = view_of(self._study).ranked()
        for row in ranked[self._config.keep_models :]:
            if row.kept:
                self._runs.drop(row.run_id or "", row.model_id)
                self._dropped.append(row.run_id or "")
                views.note_dropped(self._study, row.number)
        if ranked and ranked[0].value is not None and ranked[0].run_id:
            first = ranked[0]
            run_id, purpose = first.run_id or "", self._config.purpose
            self._runs.log_best(first.number, run_id, ranked[0].value, first.scores, purpose)

    def settle(self) -> None:
        """Finish in MLflow what a kill left open, from what Optuna knows."""
        trials = self._study.get_trials(deepcopy=False)
        by_run = {row.run_id: trials[row.number] for row in view_of(self._study).trials}
        for run in self._runs.trials():
            if run.status != "RUNNING":
                continue
            trial = by_run.get(run.run_id)
            if trial is not None and trial.state.is_finished():
                close_run(self._runs, run.run_id, trial)
            else:
                self._runs.abandon(run.run_id)
        self._rank()
        self._draw_missing()

    def _draw_missing(self) -> None:
        """Plot the figures that a killed worker left out, from what MLflow keeps of the trial."""
        for row in view_of(self._study).ranked()[: self._config.keep_models]:
            run_id = row.run_id
            if not row.kept or run_id is None or not self._runs.owns(run_id):
                continue
            if self._runs.has_figures(run_id):
                continue
            seen = self._runs.recorded(run_id)
            if seen.predictions is not None:
                title = f"{self._config.name} trial {row.number}"
                draw = functools.partial(self._runs.log_figures, run_id, title, seen)
                self._photos.draw(draw)

    def close(self, status: RunStatus) -> None:
        """Plot the study and close its run, and any child run that a dead worker left open."""
        try:
            self.settle()
            # A worker may have been plotting their figures when these were deleted.
            for run_id in self._dropped:
                self._runs.drop(run_id, None)
            if view_of(self._study).ranked():
                from catdog_search.search.study.summary import summarize

                summarize(self._study, self._runs)
        finally:
            self._runs.finish_study(status)


def close_run(runs: StudyRuns, run_id: str, trial: FrozenTrial) -> None:
    """Close the run of a finished trial with the outcome that Optuna knows."""
    attrs = trial.user_attrs
    ending = Ending.read(attrs[schema.ENDING])
    runs.close_trial(run_id, trial.state.name, ending, attrs.get(schema.ERROR))


def require_tracked(
    state: StateFolder, store: Store, study: optuna.Study, retry: Retry | None = None
) -> None:
    """Refuse to start a study's history afresh where MLflow lost it.

    Args:
        state: State folder that keeps the study.
        store: MLflow store that it is tracked in.
        study: Optuna study.
        retry: Retry that makes every call to the store; None tries each once.

    Raises:
        StateError: It was tracked there and is gone, or is in the trash.
    """
    if store.is_absent() and not store.is_own:
        return  # it will be created; what another store holds stays there
    view, cure = view_of(study), state.command("doctor --repair")
    name, uid = study.study_name, study.user_attrs[schema.UID]
    if not store.is_absent() and (what := Trash(store, name, uid, retry).holds()):
        raise StateError(f"study {name!r}: {what} is in MLflow's trash; {cure} brings it back")
    was_there = view.parent_run_id is not None and view.tracking_uri == store.shown
    if was_there and locate(store, name, uid, retry) is None:
        raise StateError(
            f"study {name!r}: its run {view.parent_run_id} is no longer in {store.shown}; {cure} "
            "makes its runs anew from what Optuna knows"
        )


def recreate_study(study: optuna.Study, runs: StudyRuns) -> None:
    """Recreate the runs of a study from what Optuna knows; existing ones are adopted.

    Args:
        study: Optuna study.
        runs: Study's runs; the study's own has just been created.
    """
    made, view = made_with(study), view_of(study)
    study.set_user_attr(schema.PARENT_RUN_ID, runs.parent_id)
    params = {name: made[name] for name in _PARAMS if made.get(name)}
    params |= {name: made[name]["name"] for name in ("sampler", "pruner") if name in made}
    runs.recreate_study(params, study.user_attrs.get(schema.DIGEST, ""))
    trials = study.get_trials(deepcopy=False)
    for row in view.trials:
        if row.is_over and not runs.adopt(row.run_id or ""):
            recreate_run(study, runs, trials[row.number])
    ranked = view_of(study).ranked()
    if ranked and ranked[0].value is not None:
        first = ranked[0]
        runs.log_best(first.number, first.run_id or "", ranked[0].value, first.scores, _REBUILT)
        from catdog_search.search.study.summary import summarize

        summarize(study, runs)
    runs.finish_study("FINISHED")


def recreate_run(study: optuna.Study, runs: StudyRuns, trial: FrozenTrial) -> str:
    """Recreate the run of a finished trial from what Optuna knows; curves of train are lost."""
    attrs, made = trial.user_attrs, made_with(study)
    curves = {epoch: {made["metric"]: value} for epoch, value in trial.intermediate_values.items()}
    known = {
        words.DATASET_DIGEST: study.user_attrs.get(schema.DIGEST),
        words.NETWORK: made.get("family"),
        words.SEED: attrs.get(schema.SEED),
        words.ATTEMPT: attrs.get(schema.ATTEMPT),
        words.RECIPE: attrs.get(schema.RECIPE),
    }
    tags = {name: str(value) for name, value in known.items() if value is not None}
    run_id = runs.recreate_trial(trial.number, views.used_of(study, trial), tags, curves)
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        scores, n_weights = attrs.get(schema.SCORES, {}), attrs.get(schema.N_WEIGHTS)
        runs.log_scores(run_id, trial.value, scores, n_weights)
    close_run(runs, run_id, trial)
    views.note_run(study, trial.number, run_id)
    return run_id


def _commit() -> str:
    """Git commit of the running code, with `+changes` if files differ; `none` without one."""
    package = Path(catdog_search.__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Only the package's own repository counts, not one that contains site-packages.
        if Path(git("rev-parse", "--show-toplevel")) != package.parent:
            return "none"
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"
