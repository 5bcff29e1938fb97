"""The coordinator: asks Optuna, hands trials to the worker, records what comes of them.

Only the coordinator opens the study's storage, and a study has one at a time. Every outcome is
recorded before anything reacts to it; what a kill leaves half done is settled at the next start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import Trial, TrialState

from catdog_search.data.dataset import Dataset
from catdog_search.errors import CatdogError, StateError
from catdog_search.machine.backends import choose_backend
from catdog_search.outcomes import RunStatus
from catdog_search.outside import is_outside, outside_reason
from catdog_search.places import StateFolder
from catdog_search.retry import Retry
from catdog_search.search.estimate import estimate_study
from catdog_search.search.events import (
    Event,
    Listener,
    Notice,
    Planned,
    Ready,
    StudyOpened,
    TrialEnded,
)
from catdog_search.search.interrupt import StopRequest
from catdog_search.search.limits import Limits, memory_limit
from catdog_search.search.photos import Photos, Remake
from catdog_search.search.proposal.propose import Proposer, make_proposer
from catdog_search.search.proposal.pruner import make_pruner
from catdog_search.search.proposal.sampler import make_sampler
from catdog_search.search.scratch import only_coordinator
from catdog_search.search.slot import Setting, Slot, TurnTaking
from catdog_search.search.study import schema
from catdog_search.search.study.copies import require_kept
from catdog_search.search.study.record import StudyRecord, require_tracked
from catdog_search.search.study.schema import UID
from catdog_search.search.study.settings import made_with
from catdog_search.search.study.storage import about_storage, open_study
from catdog_search.search.study.views import StudyView, view_of
from catdog_search.search.workers.backend import WorkerBackend
from catdog_search.search.workers.local import LocalWorkers
from catdog_search.search.workers.messages import Launch
from catdog_search.search.workers.trainer import MakeTrainer
from catdog_search.space import params_key
from catdog_search.study.config import StudyConfig
from catdog_search.tracking.cards import Environment
from catdog_search.tracking.runs import StudyRuns
from catdog_search.tracking.store import Store
from catdog_search.training.execution import NOTHING_FORCED, Execution, ForcedExecution, choose
from catdog_search.training.trainer import KerasTrainer

End = Literal["done", "exhausted", "interrupt", "timeout"]

_PARENT_STATUS: dict[End | None, RunStatus] = {
    "done": "FINISHED",
    "exhausted": "FINISHED",
    "timeout": "FINISHED",
    "interrupt": "KILLED",
    None: "FAILED",
}


_BEGUN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class _Known:
    """A point that needs no second trial.

    Attributes:
        recipe: Name of its recipe; None where the sampler proposed it.
        text: What has these params, for people.
    """

    recipe: str | None
    text: str


@dataclass(frozen=True)
class Report:
    """How a call ended.

    Attributes:
        end: Why it ended: `done` when the study has all its trials, `exhausted` when its space
            has no more, `interrupt` or `timeout` when it was stopped.
        view: Study as it stands.
        seconds: Duration of the call, in s.
        tracking_uri: MLflow's tracking URI, without credentials.
    """

    end: End
    view: StudyView
    seconds: float
    tracking_uri: str


@dataclass(frozen=True)
class Options:
    """How a call runs a study.

    Attributes:
        trials: Number of finished trials wanted, from 1, those of earlier calls and recipes
            included.
        timeout: Time that the call may take, in s; a trial in flight at its end stays resumable.
        seeds: Number of seeds that each recipe is trained on, from 1.
        concurrency: Number of trials that train concurrently, from 1; each may use its share of the
            memory.
        deterministic: Whether the same trial must give bit-identical numbers.
        forced: Forced choices of how trainings run on the device.
        study_file: Text of the study file, kept with the study's run.
        recipes: Names of the recipes to train; None for all of the study's.
        remake: Function that packs the photos again if the cache loses them; None for none.
        trainer: Factory of each worker's trainer, called with the backend's name.
        workers: Factory of the worker backend, called with launch settings and concurrency.
    """

    trials: int
    timeout: float | None = None
    seeds: int = 1
    concurrency: int = 1
    deterministic: bool = False
    forced: ForcedExecution = NOTHING_FORCED
    study_file: str = ""
    recipes: Collection[str] | None = None
    remake: Remake | None = None
    trainer: MakeTrainer = KerasTrainer
    workers: Callable[[Launch, int], WorkerBackend] = LocalWorkers


def run_study(
    config: StudyConfig, dataset: Dataset, state: StateFolder, listener: Listener, options: Options
) -> Report:
    """Run or continue a study until it has the trials it should have.

    Args:
        config: Study's configuration.
        dataset: Study's photos.
        state: State folder that keeps the study.
        listener: Callback for every event.
        options: Options of this call.

    Raises:
        StudyLockedError: Another process is running this study.
        StateError: It was made with another space, objective or dataset, a store can't be opened,
            or the disk is full.
        TrialFailedError: A trial hit a bug, or workers don't start.
        KeyboardInterrupt: A second signal came.
    """
    started = time.monotonic()
    backend = choose_backend()
    state.create()
    with only_coordinator(state, config.name), StopRequest(options.timeout) as stop:
        require_kept(state, config.name)
        try:
            Store.of(state).require_own_experiment(config.name)
            coordinator = _Coordinator(config, dataset, state, listener, stop, options)
            coordinator.open()
            end = coordinator.run(backend)
        except CatdogError:
            raise
        # Any error: sqlite, MLflow and the file system each raise their own when the disk is full.
        except Exception as error:
            if not (reason := outside_reason(error, state.root)):
                raise
            raise StateError(f"{reason}; once that is fixed, run again to resume") from error
        seconds = time.monotonic() - started
        return Report(end, view_of(coordinator.study), seconds, coordinator.store.shown)


class _Coordinator:
    def __init__(
        self,
        config: StudyConfig,
        dataset: Dataset,
        state: StateFolder,
        listener: Listener,
        stop: StopRequest,
        options: Options,
    ) -> None:
        self._state = state
        self._config = config
        self._dataset = dataset
        self._photos = Photos(dataset, options.remake, listener)
        self._options = options
        self._scratch = state.scratch(config.name)
        self._notify = listener
        self._stop = stop
        # Measured once, before any worker exists.
        self._worker_bytes = memory_limit(config.limits) // options.concurrency
        self.study: optuna.Study
        self._proposer: Proposer
        self.store = Store.of(state)
        self._record: StudyRecord | None = None
        self._opened = False

    def open(self) -> None:
        """Open the study in Optuna's storage, creating it if it doesn't exist."""
        config = self._config
        sampler = make_sampler(config.sampler, config.space, config.seed)
        pruner = make_pruner(config.pruner, config.training.epochs)
        retry = self._retry(about_storage(self._state))
        self.study = open_study(
            self._state,
            config,
            self._dataset,
            sampler,
            pruner,
            retry,
            lambda line: self._notify(Notice(line)),
        )
        self._proposer = make_proposer(self.study, sampler, config)

    def run(self, backend: str) -> End:
        """Run the study, once it is open."""
        view = view_of(self.study)
        has_more = view.finished < self._options.trials
        workers = self._options.workers(self._launch(backend), self._options.concurrency)
        if has_more:
            workers.warm_up()
        end: End | None = None
        try:
            self._record = self._open_record(view)
            self._record.settle()
            self._sweep(workers)
            self._queue_recipes()
            # An earlier call may have asked for more.
            wanted = max(self._options.trials, view.finished)
            opened = StudyOpened(self._config, view.finished, wanted, view.best, self.store.shown)
            self._notify(opened)
            end = self._run_trials(workers, self._record) if has_more else "done"
            return end
        finally:
            workers.stop(timeout=5 if end in ("done", "exhausted") else 0)
            if self._record:
                self._close(self._record, end)

    def _close(self, record: StudyRecord, end: End | None) -> None:
        try:
            record.close(_PARENT_STATUS[end])
            self.store.keep_copy()
        except Exception as error:
            # The first error is the one to report; the next start closes what is left open.
            if end is not None or not is_outside(error):
                raise

    def _retry(self, about: str) -> Retry:
        seconds = self._config.limits.retry_minutes * 60
        return Retry(about, seconds, self._notice, lambda: self._stop.cause is not None)

    def _launch(self, backend: str) -> Launch:
        return Launch(
            log=self._scratch / "worker.log",
            backend=backend,
            trainer=self._options.trainer,
            deterministic=self._options.deterministic,
            concurrency=self._options.concurrency,
            memory_bytes=self._worker_bytes,
            stall_s=self._config.limits.stall_minutes * 60,
            trials=self._config.limits.trials_per_worker,
        )

    def _open_record(self, view: StudyView) -> StudyRecord:
        if view.tracking_uri not in (None, self.store.shown):
            self._notice(
                f"earlier trials were tracked at {view.tracking_uri}, from now on at "
                f"{self.store.shown}"
            )
        retry = self._retry(self.store.about)
        require_tracked(self._state, self.store, self.study, retry)
        runs = StudyRuns.open(self.store, self._config.name, self.study.user_attrs[UID], retry)
        if runs.experiment != self._config.name:
            self._notice(f"MLflow's experiment of this study is called {runs.experiment!r} now")
        text = self._options.study_file
        record = StudyRecord(self.study, runs, self._config, self._dataset, self._photos, text)
        record.note_study()
        return record

    def _hear(self, event: Event) -> None:
        """Pass an event on; after each trial that ends, first copy the storage."""
        if isinstance(event, TrialEnded):
            self._state.keep_copy(self._state.optuna_db)
        self._notify(event)

    def _notice(self, text: str) -> None:
        self._notify(Notice(text))

    def _sweep(self, workers: WorkerBackend) -> None:
        """Remove checkpoints of trials that are over, unless another trial continues from them."""
        over = {trial.number for trial in self._trials() if trial.state.is_finished()}
        workers.forget_checkpoints(over - set(self._proposer.needed()))

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _queue_recipes(self) -> None:
        """Queue every recipe that isn't there yet, once for each seed."""
        queued = {
            (t.user_attrs.get(schema.RECIPE), t.user_attrs.get(schema.REPLICATE, 0))
            for t in self._trials()
        }
        known, wanted = self._known_points(), self._options.recipes
        wanted = self._config.recipes if wanted is None else wanted
        for replicate in range(self._options.seeds):
            for name, params in self._config.recipes.items():
                if (name, replicate) in queued or name not in wanted:
                    continue
                key = params_key(self._config.space.complete(params))
                same = known.setdefault(key, _Known(name, f"recipe {name}, which is queued"))
                if same.recipe != name:
                    if replicate == 0:
                        self._notice(f"recipe {name} has the same params as {same.text}")
                    # Another recipe is trained on further seeds itself; a sampled trial isn't.
                    if replicate == 0 or same.recipe:
                        continue
                searched = {k: v for k, v in params.items() if k in self._config.space.searched}
                attrs = {schema.RECIPE: name, schema.REPLICATE: replicate}
                self.study.enqueue_trial(searched, user_attrs=attrs)

    def _known_points(self) -> dict[str, _Known]:
        """Points of finished, running and queued trials, by params' key; failed ones excepted."""
        space, known = self._config.space, dict[str, _Known]()
        for trial in self._trials(TrialState.WAITING, *_BEGUN):
            params = trial.user_attrs.get(schema.PARAMS, trial.system_attrs.get("fixed_params"))
            if params is None or not space.contains(params):
                continue
            recipe, text = trial.user_attrs.get(schema.RECIPE), f"trial {trial.number}"
            if recipe:
                waits = trial.state == TrialState.WAITING
                text = f"recipe {recipe}, which is {'queued' if waits else text}"
            known.setdefault(params_key(space.complete(params)), _Known(recipe, text))
        return known

    def _run_trials(self, workers: WorkerBackend, record: StudyRecord) -> End:
        setting = Setting(
            config=self._config,
            study=self.study,
            photos=self._photos,
            store=self.store,
            scratch=self._scratch,
            weights_id=made_with(self.study).get("weights"),
            proposer=self._proposer,
            workers=workers,
            record=record,
            notify=self._hear,
            stop=self._stop,
        )
        slots = [Slot(setting, self._new_limits(), self._learn) for _ in range(workers.capacity)]
        # The first worker says what the device is; the others start when they get a trial.
        turns = TurnTaking(workers)
        turns.begin(slots[0], slots[0].begin_worker())
        while turns.busy:
            turns.wait()
        # A trial that is too large to train ends without waiting for anything.
        has_more = True
        while has_more or turns.busy:
            has_more = self._give_out(workers, slots, turns) if has_more else turns.wait()
        if self._stop.cause:
            return self._stop.cause
        return "done" if view_of(self.study).finished >= self._options.trials else "exhausted"

    def _give_out(self, workers: WorkerBackend, slots: list[Slot], turns: TurnTaking) -> bool:
        """Give every idle slot work; returns whether any began."""
        begun = False
        for slot in slots:
            if slot in turns.busy:
                continue
            view = view_of(self.study)
            if not self._wants_more(view, turns.busy):
                continue
            if not slot.is_ready:  # before it takes a trial, or its params would be stale by then
                turns.begin(slot, slot.begin_worker())
                begun = True
                continue
            tried = {*view.tried, *(s.params_key for s in turns.busy if s.params_key)}
            if (trial := self._next_trial(workers, view, tried, turns.busy)) is None:
                continue
            turns.begin(slot, slot.run_trial(trial, view, tried))
            begun = True
        return begun

    def _new_limits(self) -> Limits:
        return Limits(self._config, len(self._dataset.rows("train")), self._worker_bytes)

    def _learn(self, slot: Slot, ready: Ready) -> tuple[Execution, Environment]:
        """How and where trials train in a worker; the first worker's facts are recorded."""
        photos = len(self._dataset.rows("train")) + len(self._dataset.rows("val"))
        pixels = self._dataset.image_size**2 * 3 * photos
        forced = self._options.forced
        execution = choose(forced, ready.backend, ready.device, pixels, ready.concurrency)
        environment = Environment(ready.backend, ready.device.name, str(execution))
        if not self._opened:
            self._opened = True
            if self._record:
                self._record.open(ready, environment)
            self._notify(ready)
            estimate = estimate_study(self._config, slot.limits)
            self._notify(Planned(estimate, ready.memory_bytes, execution, ready.concurrency))
        return execution, environment

    def _wants_more(self, view: StudyView, busy: Collection[Slot]) -> bool:
        """Whether there is budget left to hand out and no request to stop."""
        training = sum(slot.number is not None for slot in busy)
        return not self._stop.cause and view.finished + training < self._options.trials

    def _next_trial(
        self,
        workers: WorkerBackend,
        view: StudyView,
        tried: set[str],
        busy: Collection[Slot],
    ) -> Trial | None:
        """A trial that a dead coordinator left running, else a new one from Optuna.

        None where nothing can be proposed.
        """
        training = {slot.number for slot in busy}
        left = [t for t in self._trials(TrialState.RUNNING) if t.number not in training]
        if left:
            # Those with a checkpoint here come first.
            first = min(left, key=lambda t: (not workers.has_checkpoint(t.number), t.number))
            return Trial(self.study, first._trial_id)
        if not self._trials(TrialState.WAITING) and (why := self._proposer.exhausted(tried)):
            if not busy:
                self._notice(why)
            return None
        return self.study.ask()
