"""Compare what Optuna and MLflow say about a study, trial by trial, and repair differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from optuna.trial import FrozenTrial

from catdog_search.errors import StudyLockedError
from catdog_search.identity import local_path
from catdog_search.outcomes import run_status
from catdog_search.places import StateFolder, file_lock
from catdog_search.search.scratch import checkpoints_of, lock_path
from catdog_search.search.study import schema, views
from catdog_search.search.study.record import close_run, recreate_run, recreate_study
from catdog_search.search.study.schema import UID
from catdog_search.search.study.storage import load_study
from catdog_search.search.study.views import TrialRow, view_of
from catdog_search.text import printable
from catdog_search.tracking.cards import TrialRun
from catdog_search.tracking.confine import copy_here
from catdog_search.tracking.located import locate
from catdog_search.tracking.runs import StudyRuns
from catdog_search.tracking.store import Store
from catdog_search.tracking.trash import Trash


@dataclass(frozen=True)
class Finding:
    """A disagreement between the stores, or a leftover.

    Attributes:
        study: Study's name.
        text: Description of it, for people.
        mend: Description of what `repair` does about it, for people.
        repair: Function that does it; None where only a person can.
    """

    study: str
    text: str
    mend: str
    repair: Callable[[], object] | None


def reconcile(state: StateFolder, name: str, *, repair: bool) -> list[Finding]:
    """Where the stores disagree about a study.

    Args:
        state: State folder that keeps the study.
        name: Study's name.
        repair: Whether to mend what is found; nothing is changed otherwise.

    Raises:
        StudyLockedError: The study is running, so both would change while they are read.
        StateError: There is no such study, or a store can't be opened.
    """
    try:
        with state.in_use(), file_lock(lock_path(state.scratch(name)), wait=False):
            found = list(_Comparison(state, name).findings())
            for finding in found if repair else ():
                if finding.repair:
                    finding.repair()
            return found
    except BlockingIOError:
        raise StudyLockedError(f"study {name!r} is running; look again when it rests") from None


class _Comparison:
    def __init__(self, state: StateFolder, name: str) -> None:
        self._study = load_study(state, name)
        self._store = Store.of(state)
        self._scratch = state.scratch(name)
        self._trials = self._study.get_trials(deepcopy=False)
        self._rows = view_of(self._study).trials

    def findings(self) -> Iterator[Finding]:
        name, uid = self._study.study_name, self._study.user_attrs[UID]
        found = locate(self._store, name, uid)
        experiment = found.experiment if found else name
        if stray := self._store.stray_experiment(experiment):
            yield self._of_stray_experiment(experiment, stray)
            return
        trash = None if self._store.is_absent() else Trash(self._store, name, uid)
        if trash and (what := trash.holds()):
            yield self._finding(
                f"{what} is in MLflow's trash", "bring it back from there", trash.restore
            )
            return
        if found is None:
            if self._trials or self._study.user_attrs.get(schema.PARENT_RUN_ID):
                n = len(self._trials)
                yield self._finding(
                    f"{n} trial{'' if n == 1 else 's'} in Optuna, and no run of the study in "
                    f"{self._store.shown}",
                    "make the runs anew from what Optuna knows",
                    partial(self._recreate_all, uid),
                )
            return
        runs = StudyRuns.open(self._store, name, uid)
        by_id = {run.run_id: run for run in runs.trials()}
        for row in self._rows:
            if row.is_over:
                yield from self._of_finished(runs, row, by_id)
        yield from self._of_strays(runs)
        yield from self._of_strangers(runs, by_id)
        yield from self._of_models(runs)
        yield from self._of_files()

    def _of_stray_experiment(self, name: str, location: str) -> Finding:
        text = f"experiment {name!r} keeps its artifacts in {location}, outside of this state"
        if not self._store.is_own:
            return self._finding(text, "unset MLFLOW_TRACKING_URI, or name another store", None)
        repair = partial(self._store.place_experiment, name, in_use=True)
        return self._finding(text, "let its later runs keep theirs here; then look again", repair)

    def _of_strays(self, runs: StudyRuns) -> Iterator[Finding]:
        for run_id, place, said in runs.strays():
            text = f"run {run_id} is said to keep its artifacts in {said}, outside of this state"
            path = local_path(said)
            if path is not None and path.exists() and not place.exists():
                yield self._finding(text, f"{copy_here(path, place)}; then look again", None)
            else:
                mend = f"say that they are in {place}"
                yield self._finding(text, mend, partial(runs.place, run_id))

    def _finding(self, text: str, mend: str, repair: Callable[[], object] | None) -> Finding:
        return Finding(self._study.study_name, printable(text), printable(mend), repair)

    def _recreate_all(self, uid: str) -> None:
        recreate_study(self._study, StudyRuns.open(self._store, self._study.study_name, uid))
        self._store.keep_copy()

    def _of_finished(
        self, runs: StudyRuns, row: TrialRow, by_id: Mapping[str, TrialRun]
    ) -> Iterator[Finding]:
        trial: FrozenTrial = self._trials[row.number]
        run = by_id.get(row.run_id or "")
        at = f"trial {row.number}"
        if run is None and row.run_id and runs.is_in_trash(row.run_id):
            yield self._finding(
                f"{at} is {row.state} in Optuna, and its run {row.run_id} is in MLflow's trash",
                "bring it back from there",
                partial(runs.restore, row.run_id),
            )
            return
        if run is None:
            yield self._finding(
                f"{at} is {row.state} in Optuna and has no run in MLflow",
                "make the run anew from what Optuna knows: params, values by epoch, outcome",
                partial(recreate_run, self._study, runs, trial),
            )
            return
        if (run.status, run.state) != (run_status(row.state), row.state):
            yield self._finding(
                f"{at} is {row.state} in Optuna, its run {run.run_id} is {run.status}, "
                f"trial_state {run.state}",
                "close the run as Optuna says",
                partial(close_run, runs, run.run_id, trial),
            )
        if row.value is not None and run.objective != row.value:
            yield self._finding(
                f"{at} has the value {row.value} in Optuna and {run.objective} in MLflow",
                "write Optuna's value to the run",
                partial(runs.overwrite_objective, run.run_id, row.value),
            )

    def _of_strangers(self, runs: StudyRuns, by_id: Mapping[str, TrialRun]) -> Iterator[Finding]:
        """A run that no finished trial owns must be closed."""
        own = {row.run_id for row in self._rows if row.is_over}
        for run_id, run in by_id.items():
            if run_id in own or run.status == "KILLED":
                continue
            text = (
                f"run {run_id} of trial {run.trial} is {run.status}, "
                "and Optuna knows of no trial that ended with it"
            )
            if run.status == "RUNNING":
                mend = "close the run as KILLED, without artifacts; `run` goes on with the trial"
                yield self._finding(text, mend, partial(runs.abandon, run_id))
            else:
                mend = "close the run as KILLED; its artifacts and models stay"
                yield self._finding(text, mend, partial(runs.close_attempt, run_id))

    def _of_models(self, runs: StudyRuns) -> Iterator[Finding]:
        for row in self._rows:
            if not row.model_id:
                continue
            found = runs.look_at_model(row.model_id)
            at = f"trial {row.number} should keep the model {row.model_id}"
            elsewhere = self._tracked_elsewhere() if found.kind == "gone" else None
            if elsewhere:
                yield self._finding(
                    f"{at}, which isn't in {self._store.shown}; the study was tracked at "
                    f"{elsewhere}",
                    f"look there: MLFLOW_TRACKING_URI={elsewhere}",
                    None,
                )
            elif found.kind == "gone":
                yield self._finding(
                    f"{at}, which is gone",
                    "note that it keeps none, so that nothing looks for it",
                    partial(views.note_dropped, self._study, row.number),
                )
            elif found.kind == "unlisted":
                yield self._finding(
                    f"{at}, whose files are at {found.where}; MLflow doesn't say so",
                    "enter it in MLflow again",
                    partial(runs.enter_model, row.model_id, row.run_id or "", found.where),
                )
            elif found.kind == "unknown":
                yield self._finding(
                    f"{at}, and whether it is there can't be seen: {found.reason}",
                    f"{found.cure}; then look again",
                    None,
                )

    def _tracked_elsewhere(self) -> str | None:
        """Another store that the study was tracked in, where its models may still be."""
        before = self._study.user_attrs.get(schema.TRACKED, [])
        last = view_of(self._study).tracking_uri
        return next((uri for uri in [*before, last] if uri not in (None, self._store.shown)), None)

    def _of_files(self) -> Iterator[Finding]:
        over = {row.number for row in self._rows if row.is_over}
        for path in checkpoints_of(self._scratch, over):
            yield self._finding(
                f"{path} is of a trial that is over",
                "remove the file",
                partial(Path.unlink, path, missing_ok=True),
            )
