"""The coordinator: asks Optuna, hands trials to the worker, records what comes of them.

It alone opens the study's storage, so there is one a study at a time. Every outcome is recorded
before anything reacts to it; what a kill leaves half done, the next start settles.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import Trial, TrialState

from catdog_search.config import StudyConfig
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError, StudyLockedError, TrialFailedError
from catdog_search.places import State, file_lock
from catdog_search.search import history
from catdog_search.search.history import StudyView, view_of
from catdog_search.search.interrupt import StopRequest
from catdog_search.search.messages import (
    BatchDone,
    Decision,
    EpochDone,
    Event,
    Listener,
    Notice,
    Outcome,
    Ready,
    Stop,
    StudyOpened,
    TrialEnded,
    TrialSpec,
    TrialStarted,
)
from catdog_search.search.record import StudyRecord
from catdog_search.search.sampler import make_pruner, make_sampler, report_epoch, trial_seed
from catdog_search.search.storage import UID, open_study
from catdog_search.search.worker import TRAINING, WorkerHandle, choose_backend
from catdog_search.tracking.runs import RunStatus, StudyRuns
from catdog_search.tracking.store import Store

End = Literal["done", "interrupt", "timeout"]

_POLL_S = 0.2
_PARENT_STATUS: dict[End | None, RunStatus] = {
    "done": "FINISHED",
    "timeout": "FINISHED",
    "interrupt": "KILLED",
    None: "FAILED",
}


@dataclass(frozen=True)
class Report:
    """How a call ended.

    Attributes:
        end: `done` when the study has all its trials.
        view: The study as it stands.
        seconds: That the call took.
        tracking_uri: Where it is tracked.
    """

    end: End
    view: StudyView
    seconds: float
    tracking_uri: str


def run_study(  # noqa: PLR0913  one argument for each thing a caller may choose
    config: StudyConfig,
    dataset: Dataset,
    state: State,
    listener: Listener,
    *,
    trials: int,
    timeout: float | None = None,
    study_file: str = "",
    training: str = TRAINING,
) -> Report:
    """Run a study until it has `trials` finished trials, or continue it.

    Args:
        config: The study.
        dataset: Its photos.
        state: Where it is kept.
        listener: Told of everything that happens.
        trials: Finished trials wanted, those of earlier calls and recipes included.
        timeout: Seconds that this call may take; a trial in flight then stays resumable.
        study_file: Text of the study file, kept with the study's run.
        training: Module that trains a trial; a stand-in for tests.

    Raises:
        StudyLockedError: Another process is running this study.
        StateError: It was made with another space, objective or dataset, or a store doesn't open.
        TrialFailedError: A trial hit a bug, or its worker died.
        KeyboardInterrupt: On the second signal.
    """
    started = time.monotonic()
    backend = choose_backend()
    state.create()
    with _only_coordinator(state, config.name), StopRequest(timeout) as stop:
        study = open_study(
            state,
            config,
            dataset,
            make_sampler(config.sampler, config.seed),
            make_pruner(config.pruner),
        )
        coordinator = _Coordinator(study, config, dataset, state, listener, stop, study_file)
        end = coordinator.run(trials, backend, training)
        seconds = time.monotonic() - started
        return Report(end, view_of(study), seconds, coordinator.store.uri)


@contextmanager
def _only_coordinator(state: State, name: str) -> Iterator[None]:
    lock = state.scratch(name) / "coordinator.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(lock, wait=False))
        except BlockingIOError:
            raise StudyLockedError(
                f"study {name!r} in {state.root} is being run by another process; "
                "wait for it, or stop it"
            ) from None
        except OSError as error:
            raise StateError(f"state folder {state.root}: {error.strerror}") from None
        yield


class _Coordinator:
    def __init__(
        self,
        study: optuna.Study,
        config: StudyConfig,
        dataset: Dataset,
        state: State,
        listener: Listener,
        stop: StopRequest,
        study_file: str,
    ) -> None:
        self._study_file = study_file
        self._study = study
        self._config = config
        self._dataset = dataset
        self._scratch = state.scratch(config.name)
        self._tell = listener
        self._stop = stop
        self.store = Store.of(state)
        self._worker: WorkerHandle | None = None
        self._record: StudyRecord | None = None
        self._asked_to_stop = False

    def run(self, trials: int, backend: str, training: str) -> End:
        view = view_of(self._study)
        if view.finished < trials:
            # First, so that it imports Keras while MLflow opens.
            self._worker = WorkerHandle(self._scratch / "worker.log", backend, training)
        end: End | None = None
        try:
            self._record = self._open_record(view)
            self._record.settle()
            self._queue_recipes()
            uri = self.store.uri
            self._tell(StudyOpened(self._config, view.finished, trials, view.best, uri))
            end = self._run_trials(self._record, trials)
            return end
        finally:
            if self._worker:
                self._worker.shutdown(timeout=5 if end == "done" else 0)
            if self._record:
                self._record.close(_PARENT_STATUS[end])

    def _open_record(self, view: StudyView) -> StudyRecord:
        if view.tracking_uri not in (None, self.store.uri):
            self._tell(
                Notice(
                    f"earlier trials were tracked at {view.tracking_uri}, from now on at "
                    f"{self.store.uri}"
                )
            )
        runs = StudyRuns(self.store, self._config.name, self._study.user_attrs[UID])
        return StudyRecord(self._study, runs, self._config, self._dataset, self._study_file)

    def _queue_recipes(self) -> None:
        queued = {t.user_attrs.get(history.RECIPE) for t in self._study.get_trials(deepcopy=False)}
        for name, params in self._config.recipes.items():
            if name not in queued:
                searched = {k: v for k, v in params.items() if k in self._config.space.searched}
                self._study.enqueue_trial(searched, user_attrs={history.RECIPE: name})

    def _run_trials(self, record: StudyRecord, trials: int) -> End:
        if self._worker is None:
            return "done"
        ready = self._receive()
        if not isinstance(ready, Ready):
            return self._stop.cause or "interrupt"
        record.open(ready)
        self._tell(ready)
        while view_of(self._study).finished < trials:
            if self._stop.cause:
                return self._stop.cause
            if not self._run_trial(record, self._next_trial()):
                return self._stop.cause or "interrupt"
        return "done"

    def _next_trial(self) -> Trial:
        """One that a dead coordinator left running, else the next that Optuna proposes."""
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            return Trial(self._study, frozen._trial_id)
        return self._study.ask()

    def _run_trial(self, record: StudyRecord, trial: Trial) -> bool:
        """Train one trial and record its outcome; False where it was interrupted."""
        started = time.monotonic()
        spec = self._begin(record, trial)
        self._send(spec, trial.number)
        outcome = self._converse(trial)
        state = record.end(trial, spec.run_id, outcome)
        view = view_of(self._study)
        self._tell(
            TrialEnded(
                number=trial.number,
                state=state,
                value=outcome.value,
                epochs=view.trials[trial.number].epochs,
                seconds=time.monotonic() - started,
                best=view.best,
                reason=outcome.ending,
            )
        )
        if outcome.ending == "bug":
            self._raise_bug(trial.number, outcome.trace)
        return outcome.ending != "interrupted"

    def _begin(self, record: StudyRecord, trial: Trial) -> TrialSpec:
        params = self._config.space.sample(trial)
        seed = trial_seed(self._config.seed, trial.number)
        run_id, attempt = record.begin(trial, params, seed)
        recipe = trial.user_attrs.get(history.RECIPE)
        varied = {k: params[k] for k in self._config.space.searched if k in params}
        self._tell(TrialStarted(trial.number, varied, recipe, attempt))
        ranked = view_of(self._study).ranked()
        keep = self._config.keep_models
        return TrialSpec(
            number=trial.number,
            params=params,
            seed=seed,
            run_id=run_id,
            config=self._config,
            dataset=self._dataset,
            store=self.store,
            keep_above=ranked[keep - 1].value if len(ranked) >= keep else None,
        )

    def _converse(self, trial: Trial) -> Outcome:
        """Answer the worker's epochs until it says how the trial ended."""
        while True:
            message = self._receive(trial.number)
            if isinstance(message, Outcome):
                return message
            if isinstance(message, EpochDone):
                value = message.metrics[self._config.metric]
                keep_going = report_epoch(self._study, trial, message.epoch, value)
                self._send(Decision(keep_going), trial.number)
            if isinstance(message, EpochDone | BatchDone):
                self._tell(message)

    def _receive(self, number: int | None = None) -> Event | Outcome | None:
        """The worker's next message; asks it to stop when it is time to.

        Returns:
            None when asked to stop before the worker was ready.

        Raises:
            TrialFailedError: The worker died.
        """
        assert self._worker is not None
        connection = self._worker.connection
        try:
            while True:
                if self._stop.cause and number is None:
                    return None
                if self._stop.cause and not self._asked_to_stop:
                    connection.send(Stop())
                    self._asked_to_stop = True
                if connection.poll(_POLL_S):
                    message: Event | Outcome = connection.recv()
                    return message
        except (EOFError, OSError):
            raise self._worker_died(number) from None

    def _send(self, message: TrialSpec | Decision, number: int) -> None:
        assert self._worker is not None, "there is a worker while there are trials to run"
        try:
            self._worker.connection.send(message)
        except OSError:
            raise self._worker_died(number) from None

    def _worker_died(self, number: int | None) -> TrialFailedError:
        assert self._worker is not None
        where = "before its first trial" if number is None else f"in trial {number}"
        return TrialFailedError(
            f"the worker {self._worker.how_it_died()} {where}; its output is in "
            f"{self._worker.log}; run the study again to take it up",
            trace=str(self._worker.log),
        )

    def _raise_bug(self, number: int, trace: str) -> None:
        path = self._scratch / f"trial-{number:04d}.trace.txt"
        path.write_text(trace, encoding="utf-8")
        last = trace.strip().splitlines()[-1]
        raise TrialFailedError(
            f"trial {number} failed and the study stopped: {last}; trace: {path}",
            trace=str(path),
            details=trace,
        )
