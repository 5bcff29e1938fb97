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
from sqlalchemy.exc import SQLAlchemyError

from catdog_search.config import StudyConfig
from catdog_search.data.dataset import Dataset
from catdog_search.errors import StateError, StudyLockedError, TrialFailedError
from catdog_search.places import State, file_lock
from catdog_search.search import history
from catdog_search.search.estimate import estimate_study
from catdog_search.search.feasibility import Risk, failure_risk
from catdog_search.search.history import StudyView, view_of
from catdog_search.search.interrupt import StopRequest
from catdog_search.search.limits import Limits, memory_limit
from catdog_search.search.messages import (
    BatchDone,
    Decision,
    EpochDone,
    Listener,
    Notice,
    Outcome,
    Planned,
    Ready,
    Stop,
    StudyOpened,
    TrialEnded,
    TrialSpec,
    TrialStarted,
)
from catdog_search.search.pool import Launch, Pool, Worker, WorkerDiedError, start_failed
from catdog_search.search.propose import Proposer, is_exhausted
from catdog_search.search.pruner import make_pruner, report_epoch
from catdog_search.search.record import CONSTRAINTS, StudyRecord
from catdog_search.search.sampler import make_sampler, trial_seed
from catdog_search.search.scratch import checkpoint_path, checkpoints_of, lock_path
from catdog_search.search.storage import UID, open_study
from catdog_search.search.worker import TRAINING, choose_backend, is_environment
from catdog_search.space import Params, params_key
from catdog_search.tracking.runs import RunStatus, StudyRuns
from catdog_search.tracking.store import Store

End = Literal["done", "exhausted", "interrupt", "timeout"]

# Workers that a trial may cost before its params are to blame.
MAX_CRASHES = 2
# Workers in a row that may be killed before they train.
MAX_STARTS = 3
_PARENT_STATUS: dict[End | None, RunStatus] = {
    "done": "FINISHED",
    "exhausted": "FINISHED",
    "timeout": "FINISHED",
    "interrupt": "KILLED",
    None: "FAILED",
}


@dataclass(frozen=True)
class Report:
    """How a call ended.

    Attributes:
        end: `done` when the study has all its trials, `exhausted` when its space has no more.
        view: The study as it stands.
        seconds: That the call took.
        tracking_uri: Where it is tracked.
    """

    end: End
    view: StudyView
    seconds: float
    tracking_uri: str


@dataclass(frozen=True)
class Options:
    """How a call runs a study.

    Attributes:
        trials: Finished trials wanted, those of earlier calls and recipes included.
        timeout: Seconds that the call may take; a trial in flight then stays resumable.
        seeds: Times each recipe is trained, each time on another seed.
        deterministic: Whether the same trial must give the same numbers to the bit.
        study_file: Text of the study file, kept with the study's run.
        training: Module that trains a trial; a stand-in for tests.
    """

    trials: int
    timeout: float | None = None
    seeds: int = 1
    deterministic: bool = False
    study_file: str = ""
    training: str = TRAINING


def run_study(
    config: StudyConfig, dataset: Dataset, state: State, listener: Listener, options: Options
) -> Report:
    """Run a study until it has the trials it should have, or continue it.

    Args:
        config: The study.
        dataset: Its photos.
        state: Where it is kept.
        listener: Told of everything that happens.
        options: Of this call.

    Raises:
        StudyLockedError: Another process is running this study.
        StateError: It was made with another space, objective or dataset, a store doesn't open, or
            the disk is full.
        TrialFailedError: A trial hit a bug, or workers don't start.
        KeyboardInterrupt: On the second signal.
    """
    started = time.monotonic()
    backend = choose_backend()
    state.create()
    with _only_coordinator(state, config.name), StopRequest(options.timeout) as stop:
        try:
            coordinator = _Coordinator(config, dataset, state, listener, stop, options)
            end = coordinator.run(backend)
        except (OSError, SQLAlchemyError) as error:
            if not is_environment(error):
                raise
            raise StateError(f"state folder {state.root}: {error}; run again to go on") from error
        seconds = time.monotonic() - started
        return Report(end, view_of(coordinator.study), seconds, coordinator.store.uri)


@contextmanager
def _only_coordinator(state: State, name: str) -> Iterator[None]:
    lock = lock_path(state.scratch(name))
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
        config: StudyConfig,
        dataset: Dataset,
        state: State,
        listener: Listener,
        stop: StopRequest,
        options: Options,
    ) -> None:
        self._config = config
        self._dataset = dataset
        self._options = options
        self._scratch = state.scratch(config.name)
        self._tell = listener
        self._stop = stop
        sampler = make_sampler(config.sampler, config.space, config.seed)
        pruner = make_pruner(config.pruner, config.training.epochs)
        self.study = open_study(state, config, dataset, sampler, pruner)
        self._proposer = Proposer(self.study, sampler, config.space)
        photos = len(dataset.rows("train"))
        self._limits = Limits(config, photos, memory_limit(config.limits))
        self.store = Store.of(state)
        self._pool: Pool | None = None
        self._record: StudyRecord | None = None
        self._asked_to_stop = False

    def run(self, backend: str) -> End:
        view = view_of(self.study)
        if view.finished < self._options.trials:
            # First, so that it imports Keras while MLflow opens.
            self._pool = Pool(self._launch(backend))
        end: End | None = None
        try:
            self._record = self._open_record(view)
            self._record.settle()
            self._sweep()
            self._queue_recipes(view)
            opened = StudyOpened(
                self._config, view.finished, self._options.trials, view.best, self.store.uri
            )
            self._tell(opened)
            end = self._run_trials(self._pool, self._record) if self._pool else "done"
            return end
        finally:
            if self._pool:
                self._pool.close(timeout=5 if end in ("done", "exhausted") else 0)
            if self._record:
                self._record.close(_PARENT_STATUS[end])

    def _launch(self, backend: str) -> Launch:
        return Launch(
            log=self._scratch / "worker.log",
            backend=backend,
            training=self._options.training,
            deterministic=self._options.deterministic,
            memory_bytes=self._limits.memory_bytes,
            stall_s=self._config.limits.stall_minutes * 60,
            trials=self._config.limits.trials_per_worker,
        )

    def _open_record(self, view: StudyView) -> StudyRecord:
        if view.tracking_uri not in (None, self.store.uri):
            self._notice(
                f"earlier trials were tracked at {view.tracking_uri}, from now on at "
                f"{self.store.uri}"
            )
        runs = StudyRuns(self.store, self._config.name, self.study.user_attrs[UID])
        text = self._options.study_file
        return StudyRecord(self.study, runs, self._config, self._dataset, text)

    def _notice(self, text: str) -> None:
        self._tell(Notice(text))

    def _sweep(self) -> None:
        """Remove checkpoints of trials that are over."""
        over = {trial.number for trial in self._trials() if trial.state.is_finished()}
        for path in checkpoints_of(self._scratch, over):
            path.unlink()

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _queue_recipes(self, view: StudyView) -> None:
        """Queue every recipe that isn't there yet, as often as it has seeds to be trained on."""
        queued = {
            (t.user_attrs.get(history.RECIPE), t.user_attrs.get(history.REPLICATE, 0))
            for t in self._trials()
        }
        tried = dict(view.tried)
        for replicate in range(self._options.seeds):
            for name, params in self._config.recipes.items():
                if (name, replicate) in queued:
                    continue
                key = params_key(self._config.space.complete(params))
                if replicate == 0 and key in tried:
                    self._notice(f"recipe {name} is trial {tried[key]}, which had the same params")
                    continue
                searched = {k: v for k, v in params.items() if k in self._config.space.searched}
                attrs = {history.RECIPE: name, history.REPLICATE: replicate}
                self.study.enqueue_trial(searched, user_attrs=attrs)
                tried.setdefault(key, -1)

    def _run_trials(self, pool: Pool, record: StudyRecord) -> End:
        ready = self._begin_worker(pool)
        if ready is None:
            return self._stop.cause or "interrupt"
        record.open(ready)
        self._tell(ready)
        estimate = estimate_study(self._config, self._limits)
        self._tell(Planned(estimate, self._limits.memory_bytes))
        while (view := view_of(self.study)).finished < self._options.trials:
            if self._stop.cause:
                return self._stop.cause
            waiting = self._trials(TrialState.RUNNING, TrialState.WAITING)
            if not waiting and is_exhausted(self._config.space, view.tried):
                self._notice("every point of the space has been tried")
                return "exhausted"
            if not self._run_trial(pool, record, self._next_trial(), view):
                return self._stop.cause or "interrupt"
        return "done"

    def _begin_worker(self, pool: Pool) -> Ready | None:
        """Put a worker into use; None when asked to stop before it was ready."""
        starts = 0
        while True:
            starts += 1
            try:
                return self._await_ready(pool.begin())
            except WorkerDiedError as died:
                pool.retire()
                if starts >= MAX_STARTS or not died.from_outside:
                    raise start_failed(self._scratch / "worker.log", died) from None

    def _await_ready(self, worker: Worker) -> Ready | None:
        while not self._stop.cause:
            message = worker.receive()
            if isinstance(message, Ready):
                self._limits.learn_device(message.product_rate, message.memory_bytes)
                return message
        return None

    def _next_trial(self) -> Trial:
        """One that a dead coordinator left running, else the next that Optuna proposes."""
        for frozen in self._trials(TrialState.RUNNING):
            return Trial(self.study, frozen._trial_id)
        return self.study.ask()

    def _run_trial(self, pool: Pool, record: StudyRecord, trial: Trial, view: StudyView) -> bool:
        """Train one trial and record its outcome; False where it was interrupted."""
        started = time.monotonic()
        params = self._proposer.propose(trial, view.tried, self._risk(view))
        while True:
            spec = self._begin(record, trial, params, view)
            outcome = self._attempt(pool, spec, trial)
            crashes = record.count_crash(trial) if outcome.ending == "crashed" else 0
            if outcome.ending != "crashed" or crashes >= MAX_CRASHES:
                break
            record.abandon(spec.run_id)
            self._notice(f"trial {trial.number}: the worker {outcome.reason}; once more")
        return self._end(record, trial, spec, outcome, time.monotonic() - started)

    def _risk(self, view: StudyView) -> Risk | None:
        over = [row for row in view.trials if row.state in ("COMPLETE", "PRUNED")]
        failed = [row.params for row in over if row.ending in CONSTRAINTS]
        fitted = [row.params for row in over if row.ending not in CONSTRAINTS]
        return failure_risk(self._config.space, failed, fitted)

    def _begin(
        self, record: StudyRecord, trial: Trial, params: Params, view: StudyView
    ) -> TrialSpec:
        seed = trial_seed(self._config.seed, trial.number)
        run_id, attempt = record.begin(trial, params, seed)
        recipe = trial.user_attrs.get(history.RECIPE)
        varied = {k: params[k] for k in self._config.space.searched if k in params}
        epochs = int(params.get("epochs", 0)) or self._config.training.epochs
        self._tell(TrialStarted(trial.number, varied, recipe, attempt, epochs))
        ranked = view.ranked()
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
            checkpoint=checkpoint_path(self._scratch, trial.number),
        )

    def _attempt(self, pool: Pool, spec: TrialSpec, trial: Trial) -> Outcome:
        """Hand a trial to a worker and answer it until it says how the trial ended."""
        if large := self._limits.too_large(spec.params):
            return Outcome("too_large", excess=large.excess, reason=large.text)
        worker = self._healthy_worker(pool)
        if worker is None:
            return Outcome("interrupted")
        try:
            worker.send(spec)
            return self._converse(pool, worker, spec, trial)
        except WorkerDiedError as died:
            pool.retire()
            if self._stop.cause:  # it was asked to stop, and is gone: that will do
                return Outcome("interrupted")
            return Outcome(died.ending, reason=died.text)

    def _healthy_worker(self, pool: Pool) -> Worker | None:
        worker = pool.current
        if worker is not None and worker.is_alive() and not worker.is_worn():
            return worker
        pool.retire()
        if self._begin_worker(pool) is None:
            return None
        return pool.current

    def _converse(self, pool: Pool, worker: Worker, spec: TrialSpec, trial: Trial) -> Outcome:
        while True:
            if self._stop.cause and not self._asked_to_stop:
                self._asked_to_stop = True
                worker.send(Stop())
            message = worker.receive()
            if isinstance(message, Outcome):
                return message
            if isinstance(message, EpochDone):
                value = message.metrics[self._config.metric]
                keep_going = report_epoch(self.study, trial, message.epoch, value)
                worker.send(Decision(keep_going))
                if speed := message.metrics.get("images_per_second"):
                    self._limits.learn_speed(spec.params, speed)
                pool.keep_spare()
            if isinstance(message, EpochDone | BatchDone):
                self._tell(message)

    def _end(
        self, record: StudyRecord, trial: Trial, spec: TrialSpec, outcome: Outcome, seconds: float
    ) -> bool:
        """Record an outcome, then react to it; False where the trial was interrupted."""
        state = record.end(trial, spec.run_id, outcome)
        if state != "interrupted":
            checkpoint_path(self._scratch, trial.number).unlink(missing_ok=True)
        view = view_of(self.study)
        ended = TrialEnded(
            number=trial.number,
            state=state,
            value=outcome.value,
            epochs=view.trials[trial.number].epochs,
            seconds=seconds,
            best=view.best,
            reason=outcome.ending,
        )
        self._tell(ended)
        if outcome.ending in ("bug", "blocked"):
            self._raise(trial.number, outcome)
        return state != "interrupted"

    def _raise(self, number: int, outcome: Outcome) -> None:
        path = self._scratch / f"trial-{number:04d}.trace.txt"
        try:
            path.write_text(outcome.trace, encoding="utf-8")
        except OSError:
            path = self._scratch / "worker.log"  # the disk is full; say so, and no more
        if outcome.ending == "blocked":
            raise StateError(
                f"trial {number} was stopped by something around it: {outcome.reason}; "
                "run again to go on with it"
            )
        raise TrialFailedError(
            f"trial {number} failed and the study stopped: {outcome.reason}; trace: {path}",
            trace=str(path),
            details=outcome.trace,
        )
