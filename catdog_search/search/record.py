"""Record trials in Optuna and MLflow so that both tell the same, also after a kill."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from catdog_search.config import StudyConfig
from catdog_search.data import audit
from catdog_search.data.dataset import Dataset
from catdog_search.data.sources import DRAWN_NOTICE
from catdog_search.families import registry
from catdog_search.families.base import TrialParams
from catdog_search.markup import as_markdown
from catdog_search.outcomes import Ending, RunStatus
from catdog_search.outside import is_outside
from catdog_search.redact import redact
from catdog_search.search import history
from catdog_search.search.history import view_of
from catdog_search.search.messages import Outcome, Ready
from catdog_search.search.photos import Photos
from catdog_search.search.storage import made_with
from catdog_search.tracking.looked_at import SPLITS_FILE
from catdog_search.tracking.runs import (
    DatasetCard,
    StudyRuns,
    as_text,
    recorded,
)
from catdog_search.tracking.trial_files import FIGURES, log_figures
from catdog_search.training.execution import Execution


class StudyRecord:
    """The record of one study.

    Args:
        study: In Optuna.
        runs: In MLflow.
        config: Of the study.
        dataset: That its trials train on.
        photos: Its pixels, as long as the study runs.
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
        self._source = {"data_kind": manifest.kind, "data_location": manifest.location}
        if manifest.kind == "synthetic":
            self._source["data_notice"] = DRAWN_NOTICE
        self._card = DatasetCard(manifest.kind, dataset.digest, manifest.location)
        self._dropped: list[str] = []  # runs that lost their model in this call
        study.set_user_attr(history.PARENT_RUN_ID, runs.parent_id)
        history.note_tracking(study, redact(runs.client.tracking_uri))
        study.set_user_attr(history.DIGEST, dataset.digest)
        study.set_user_attr(history.METRIC, config.metric)
        study.set_user_attr(history.N_VAL, len(dataset.rows("val")))
        counts = {split: manifest.counts()[split] for split in ("train", "val")}
        study.set_user_attr(history.CLASS_COUNTS, counts)
        published = {k: v.model_dump(exclude_none=True) for k, v in config.published.items()}
        study.set_user_attr(history.PUBLISHED, published)

    def open(self, ready: Ready, execution: Execution) -> None:
        """Say on the parent run what the study is and where it runs."""
        self._study.set_user_attr(history.DEVICE, f"{ready.device.name}, {ready.backend}")
        config, manifest = self._config, self._dataset.manifest
        params: dict[str, Any] = {
            "family": config.family,
            "image_size": config.image_size,
            "metric": config.metric,
            "direction": config.direction,
            "seed": config.seed,
            "sampler": config.sampler.name,
            "pruner": config.pruner.name,
            "dataset_digest": self._dataset.digest,
            "subset": self._dataset.subset or "all of train",
            **{f"training.{k}": v for k, v in config.training.model_dump().items()},
        }
        tags = {
            **self._source,
            **environment_of(ready, execution),
            "mlflow.note.content": as_markdown(config.purpose),
        }
        if (weights := made_with(self._study).get("weights")) is not None:
            params["weights"] = weights
        tags["commit"] = _commit()
        files = {
            f"{config.name}.toml": self._study_file,
            "versions.json": as_text(ready.versions),
            "data/audit.json": as_text(audit.summary(manifest)),
            "data/left_out.json": as_text(manifest.left_out),
            SPLITS_FILE: as_text(manifest.hashes()),
        }
        self._runs.start_parent(params, tags, files)
        dataset = self._photos.at(self._dataset.image_size)
        for split in ("train", "val"):
            sheet = audit.contact_sheet(dataset, split)
            self._runs.log_image(self._runs.parent_id, sheet, f"data/{split}.png")
        self._runs.log_dataset(self._runs.parent_id, self._card)

    def begin(
        self, trial: Trial, params: TrialParams, seed: int, environment: Mapping[str, str]
    ) -> tuple[str, int]:
        """Open the child run of a trial, or of its next attempt.

        Args:
            trial: Of the study, RUNNING.
            params: With all defaults.
            seed: Of the trial.
            environment: Where it will run, see `environment_of`.

        Returns:
            The run id, and which attempt this is, from 1.
        """
        attempt = int(trial.user_attrs.get(history.ATTEMPT, 0)) + 1
        tags = {
            "seed": str(seed),
            "attempt": str(attempt),
            "dataset_digest": self._dataset.digest,
            **self._source,
            **environment,
        }
        if recipe := trial.user_attrs.get(history.RECIPE):
            tags["recipe"] = recipe
        dead = str(trial.user_attrs.get(history.RUN_ID, ""))
        if self._runs.owns(dead) and not self._runs.is_in_trash(dead):
            tags["previous_attempt"] = dead
        tags["network"] = registry.family_of(params).name
        run_id = self._runs.open_trial(trial.number, params.model_dump(), tags)
        if "previous_attempt" in tags:
            self._runs.set_tags(dead, {"next_attempt": run_id})
        self._runs.log_dataset(run_id, self._card)
        trial.set_user_attr(history.RUN_ID, run_id)
        trial.set_user_attr(history.ATTEMPT, attempt)
        trial.set_user_attr("seed", seed)
        return run_id, attempt

    def note_environment(self, run_id: str, environment: Mapping[str, str]) -> None:
        """Say on a trial's run that another worker took it over, which runs elsewhere."""
        self._runs.set_tags(run_id, environment)

    def count_crash(self, trial: Trial) -> int:
        """Note that a worker died with this trial; returns how many have."""
        crashes = int(trial.user_attrs.get(history.CRASHES, 0)) + 1
        trial.set_user_attr(history.CRASHES, crashes)
        return crashes

    def abandon(self, run_id: str) -> None:
        """Close the run of an attempt that is over while its trial isn't."""
        self._runs.abandon(run_id)

    def end(self, trial: Trial, run_id: str, outcome: Outcome) -> None:
        """Record how a trial ended: in Optuna first, then in MLflow, then what follows from it."""
        ending = outcome.ending
        if ending.state is None:
            if ending is Ending.BLOCKED:
                self._runs.hurry()
            self._leave(run_id)
            return
        state = TrialState[ending.state]
        attrs = {
            history.MODEL_ID: outcome.model_id,
            history.KEPT: outcome.kept,
            history.SCORES: dict(outcome.scores or {}),
            history.ERROR: outcome.reason,
            history.N_WEIGHTS: outcome.n_weights,
        }
        for name, value in attrs.items():
            if value:
                trial.set_user_attr(name, value)
        if ending.is_constraint:
            trial.set_constraint(ending.value, outcome.excess)
        trial.set_user_attr(history.ENDING, ending.value)
        self._study.tell(trial, outcome.value if state == TrialState.COMPLETE else None, state)
        close_run(self._runs, run_id, self._study.get_trials(deepcopy=False)[trial.number])
        self._rank()

    def _leave(self, run_id: str) -> None:
        """Close the run of an attempt; where the store is what failed, `settle` does it later."""
        try:
            self.abandon(run_id)
        except Exception as error:
            if not is_outside(error):
                raise

    def _rank(self) -> None:
        """Keep the models of the best trials alone, and name the best one on the parent run."""
        ranked = view_of(self._study).ranked()
        for row in ranked[self._config.keep_models :]:
            if row.kept:
                self._runs.drop(row.run_id or "", row.model_id)
                self._dropped.append(row.run_id or "")
                history.note_dropped(self._study, row.number)
        if ranked and ranked[0].value is not None and ranked[0].run_id:
            first = ranked[0]
            scores = {f"best/{name}": score for name, score in first.scores.items()}
            self._runs.log_best(
                first.number,
                first.run_id or "",
                {"best_value": ranked[0].value, **scores},
                self._config.purpose,
            )

    def settle(self) -> None:
        """Finish in MLflow what a kill left open, by what Optuna knows of it."""
        trials = self._study.get_trials(deepcopy=False)
        by_run = {row.run_id: trials[row.number] for row in view_of(self._study).trials}
        for run in self._runs.children():
            if run.info.status != "RUNNING":
                continue
            trial = by_run.get(run.info.run_id)
            if trial is not None and trial.state.is_finished():
                close_run(self._runs, run.info.run_id, trial)
            else:
                self._runs.abandon(run.info.run_id)
        self._rank()
        self._draw_missing()

    def _draw_missing(self) -> None:
        """Draw the figures that a worker was killed over, from what MLflow keeps of the trial."""
        for row in view_of(self._study).ranked()[: self._config.keep_models]:
            client, run_id = self._runs.client, row.run_id
            if not row.kept or run_id is None or not self._runs.owns(run_id):
                continue
            if client.list_artifacts(run_id, FIGURES):
                continue
            seen = recorded(client, run_id)
            if seen.predictions is not None:
                title = f"{self._config.name} trial {row.number}"
                kept = (seen.history, seen.best_epoch, seen.predictions)
                draw = functools.partial(log_figures, client, run_id, title, *kept)
                self._photos.draw(draw)

    def close(self, status: RunStatus) -> None:
        """Draw the study, close its run, and the child of a trial that a dead worker left open."""
        try:
            self.settle()
            # Another worker may have been drawing them when they were deleted.
            for run_id in self._dropped:
                self._runs.drop(run_id, None)
            view = view_of(self._study)
            if view.ranked():
                from catdog_search.search.summary import summarize  # draws: not needed to start

                summarize(self._study, self._runs, view)
        finally:
            self._runs.client.set_terminated(self._runs.parent_id, status)


def environment_of(ready: Ready, execution: Execution) -> dict[str, str]:
    """Tags that say where and how trials train in a worker."""
    return {
        "backend": ready.backend,
        "device": ready.device.name,
        "execution": str(execution),
    }


def close_run(runs: StudyRuns, run_id: str, trial: FrozenTrial) -> None:
    """Close the run of a finished trial as Optuna says."""
    attrs = trial.user_attrs
    ending = Ending.read(attrs[history.ENDING])
    tags = {"trial_state": trial.state.name, "ending": ending.value}
    if reason := attrs.get(history.ERROR):
        tags["error"] = reason
    runs.finish(run_id, ending.run_status, tags)


def recreate_run(study: optuna.Study, runs: StudyRuns, trial: FrozenTrial) -> str:
    """Make the run of a finished trial anew, from what Optuna knows: not its curves of train."""
    attrs, metric = trial.user_attrs, made_with(study)["metric"]
    tags = {"recreated": "true", "dataset_digest": study.user_attrs[history.DIGEST]}
    run_id = runs.open_trial(trial.number, history.params_of(study, trial), tags)
    for epoch, value in sorted(trial.intermediate_values.items()):
        runs.log_values(run_id, {metric: value}, epoch)
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        scores = {f"final/{k}": v for k, v in attrs.get(history.SCORES, {}).items()}
        runs.log_values(run_id, {**scores, "objective": trial.value})
    close_run(runs, run_id, trial)
    history.note_run(study, trial.number, run_id)
    return run_id


def _commit() -> str:
    """Of the code that runs: its git commit, `+changes` where files differ; else `none`."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Only the package's own repository counts, not one that lies around site-packages.
        if Path(git("rev-parse", "--show-toplevel")) != here.parents[1]:
            return "none"
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"
