"""One trial from proposal to recorded outcome, as a generator: several take turns in one thread.

A runner yields where it waits, so that the coordinator, which alone touches the stores, can serve
the other trials that train at the same time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from optuna import Study
from optuna.trial import Trial

from catdog_search import clock
from catdog_search.data.reference import DataReference
from catdog_search.errors import StateError, TrialFailedError
from catdog_search.families.base import as_used
from catdog_search.outcomes import Ending
from catdog_search.search.events import (
    BatchDone,
    EpochDone,
    Listener,
    Notice,
    Ready,
    TrialEnded,
    TrialStarted,
)
from catdog_search.search.interrupt import StopRequest
from catdog_search.search.limits import Limits
from catdog_search.search.photos import Photos
from catdog_search.search.proposal.propose import Proposer, rung_of
from catdog_search.search.proposal.pruner import report_epoch
from catdog_search.search.proposal.sampler import trial_seed
from catdog_search.search.study import schema
from catdog_search.search.study.record import StudyRecord
from catdog_search.search.study.views import StudyView, view_of
from catdog_search.search.workers.backend import Worker, WorkerBackend, WorkerDiedError
from catdog_search.search.workers.messages import Decision, Outcome, Stop, TrialSpec, Unready
from catdog_search.space import Params, params_key
from catdog_search.study.config import StudyConfig
from catdog_search.tracking.cards import Environment
from catdog_search.tracking.store import Store
from catdog_search.training.execution import PLAIN, Execution
from catdog_search.training.job import TrainingJob, job_of

# Workers that a trial may cost before its params are blamed.
MAX_CRASHES = 2
# Workers in a row that may be killed before one trains.
MAX_STARTS = 3

_T = TypeVar("_T")
# Yields the worker that it waits for; returns the result.
Turns = Generator[Worker, None, _T]


@dataclass(frozen=True)
class Setting:
    """Settings that all trials of a call have in common.

    Attributes:
        config: Study's configuration.
        study: Optuna study.
        photos: Photos that they train on.
        store: MLflow store that they are logged to.
        scratch: Study's folder for temporary files.
        weights_id: Id of the study's weights; None where none are loaded.
        proposer: Proposer of their params.
        workers: Backend that starts their workers.
        record: Record of their outcomes.
        notify: Callback for every event.
        stop: Request to stop, by signal or timeout.
    """

    config: StudyConfig
    study: Study
    photos: Photos
    store: Store
    scratch: Path
    weights_id: str | None
    proposer: Proposer
    workers: WorkerBackend
    record: StudyRecord
    notify: Listener
    stop: StopRequest


class TurnTaking:
    """Advances several generators, each waiting for messages of its worker.

    Args:
        workers: Backend that starts the workers.

    Attributes:
        busy: Generators whose turns aren't over, by slot.
    """

    def __init__(self, workers: WorkerBackend) -> None:
        self._workers = workers
        self.busy: dict[Slot, Turns[Any]] = {}
        self._awaited: dict[Slot, Worker] = {}

    def begin(self, slot: Slot, turns: Turns[Any]) -> None:
        """Take the first turn."""
        self.busy[slot] = turns
        self._go_on(slot)

    def wait(self) -> bool:
        """Wait for a moment or a message, then give every slot a turn.

        Returns:
            Whether a slot became free.
        """
        self._workers.wait(self._awaited.values())
        before = len(self.busy)
        for slot in list(self.busy):
            self._go_on(slot)
        return len(self.busy) < before

    def _go_on(self, slot: Slot) -> None:
        try:
            self._awaited[slot] = next(self.busy[slot])
        except StopIteration:
            del self.busy[slot]
            self._awaited.pop(slot, None)


class Slot:
    """A place for a worker and the trial that it trains.

    Args:
        setting: Settings of the call.
        limits: Limits of its trials, kept across successive workers.
        learned: Callback for a worker that is ready; returns how and where it trains trials.

    Attributes:
        limits: Limits of its trials.
        params_key: Key of the params that are trained here; None between trials.
        number: Number of the trial that is trained here, from 0; None between trials.
    """

    def __init__(
        self,
        setting: Setting,
        limits: Limits,
        learned: Callable[[Slot, Ready], tuple[Execution, Environment]],
    ) -> None:
        self._set = setting
        self.limits = limits
        self._execution = PLAIN
        self._environment: Environment | None = None  # of the last worker
        self._learned = learned
        self._worker: Worker | None = None
        self._asked_to_stop = False
        self._began = 0.0  # when the trial began, on a clock that excludes pauses
        self.params_key: str | None = None
        self.number: int | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a worker has ever become ready here; another may have replaced it."""
        return self._environment is not None

    def begin_worker(self) -> Turns[bool]:
        """Put a worker into use; False when asked to stop before it was ready.

        Raises:
            TrialFailedError: No worker starts.
            StateError: Something in its environment keeps it from starting.
        """
        starts = 0
        while True:
            starts += 1
            try:
                self._worker = self._set.workers.start()
                ready = yield from self._await_ready(self._worker)
            except WorkerDiedError as died:
                self._retire()
                if starts >= MAX_STARTS or not died.from_outside:
                    raise _start_failed(self._set.workers.log, died) from None
            else:
                if ready is not None:
                    self._take_in(ready)
                return ready is not None

    def _take_in(self, ready: Ready) -> None:
        """Each worker has a device, limits and an execution of its own."""
        memory = ready.device.memory_bytes
        self.limits.move_to(ready.device.name, ready.memory_bytes)
        self.limits.learn_device(ready.product_rate, memory and memory // ready.concurrency)
        self._execution, self._environment = self._learned(self, ready)

    def _await_ready(self, worker: Worker) -> Turns[Ready | None]:
        while not self._set.stop.cause:
            yield worker
            message = worker.receive()
            if isinstance(message, Ready):
                return message
            if isinstance(message, Unready):
                raise StateError(
                    f"a worker can't start: {message.reason}; once that is fixed, run again to "
                    "go on"
                )
        return None

    def _retire(self) -> None:
        if self._worker is not None:
            self._set.workers.retire(self._worker)
            self._worker = None

    def run_trial(self, trial: Trial, view: StudyView, tried: set[str]) -> Turns[None]:
        """Train one trial and record its outcome, in a slot that is ready.

        Args:
            trial: Study's trial, RUNNING.
            view: Study as it stands.
            tried: Keys of the params that are over or are being trained elsewhere.

        Raises:
            TrialFailedError: The trial hit a bug, which is recorded.
            StateError: A store or the disk failed; the trial can be resumed later.
        """
        self._began = clock.now() - trial.user_attrs.get(schema.SECONDS, 0.0)
        self.number = trial.number
        try:
            self._set.proposer.observe(view)
            params = self._set.proposer.propose(trial, tried)
            self.params_key = params_key(params)
            while True:
                job = self._resolve(trial, params)
                spec = self._begin(trial, params, job, view)
                outcome = yield from self._attempt(spec, trial)
                if outcome.ending is not Ending.CRASHED:
                    break
                if self._set.record.count_crash(trial) >= MAX_CRASHES:
                    break
                self._set.record.abandon(spec.run_id)
                text = f"trial {trial.number}: the worker {outcome.reason}; once more"
                self._set.notify(Notice(text))
            self._end(trial, spec, outcome)
        finally:
            self.number = self.params_key = None

    def _resolve(self, trial: Trial, params: Params) -> TrainingJob:
        config, rung = self._set.config, rung_of(trial)
        job = job_of(
            config,
            params,
            seed=trial_seed(config.seed, rung.first if rung else trial.number),
            execution=self._execution,
            weights_id=self._set.weights_id,
        )
        if rung is None:
            return job
        if rung.past is not None:
            self._set.workers.take_over_checkpoint(rung.past, trial.number)
        return dataclasses.replace(job, stop_after=rung.epochs)

    def _begin(self, trial: Trial, params: Params, job: TrainingJob, view: StudyView) -> TrialSpec:
        config = self._set.config
        photos = self._set.photos.at(job.params.image_size)
        assert self._environment is not None, "a worker was ready"
        run_id, attempt = self._set.record.begin(trial, job, self._environment)
        recipe = trial.user_attrs.get(schema.RECIPE)
        used = as_used(params, config.stated)
        varied = {k: used[k] for k in config.space.searched if k in used}
        self._set.notify(TrialStarted(trial.number, varied, recipe, attempt, job.last))
        ranked, keep = view.ranked(), config.keep_models
        return TrialSpec(
            study=config.name,
            number=trial.number,
            job=job,
            data=DataReference.to(photos),
            run_id=run_id,
            store=self._set.store,
            keep_above=ranked[keep - 1].value if len(ranked) >= keep else None,
            checkpoint=self._set.workers.checkpoint(trial.number),
            retry_s=config.limits.retry_minutes * 60,
        )

    def _attempt(self, spec: TrialSpec, trial: Trial) -> Turns[Outcome]:
        """Hand a trial to a worker and answer it until it says how the trial ended."""
        if large := self.limits.too_large(spec.job.params):
            return Outcome(Ending.TOO_LARGE, excess=large.excess, reason=large.text)
        before = self._environment
        worker = yield from self._healthy_worker()
        if worker is None:
            return Outcome(Ending.INTERRUPTED)
        if self._environment is not None and self._environment != before:
            self._set.record.note_environment(spec.run_id, self._environment)
            job = dataclasses.replace(spec.job, execution=self._execution)
            spec = dataclasses.replace(spec, job=job)
        try:
            worker.send(spec)
            outcome = yield from self._converse(worker, spec, trial)
            if outcome.photos_lost:  # before it began to train
                photos = self._set.photos.at(spec.job.params.image_size, lost=True)
                worker.send(dataclasses.replace(spec, data=DataReference.to(photos)))
                outcome = yield from self._converse(worker, spec, trial)
        except WorkerDiedError as died:
            self._retire()
            if self._set.stop.cause:  # it was asked to stop, and it is gone: good enough
                return Outcome(Ending.INTERRUPTED)
            return Outcome(died.ending, reason=died.text)
        else:
            return outcome

    def _healthy_worker(self) -> Turns[Worker | None]:
        worker = self._worker
        if worker is not None and worker.is_alive() and not worker.is_worn():
            return worker
        self._retire()
        began = yield from self.begin_worker()
        return self._worker if began else None

    def _converse(self, worker: Worker, spec: TrialSpec, trial: Trial) -> Turns[Outcome]:
        while True:
            if self._set.stop.cause and not self._asked_to_stop:
                self._asked_to_stop = True
                worker.send(Stop())
            yield worker
            message = worker.receive()
            if isinstance(message, Outcome):
                return message
            if isinstance(message, EpochDone):
                value = message.metrics[self._set.config.metric]
                keep_going = report_epoch(self._set.study, trial, message.epoch, value)
                self._count_seconds(trial)
                worker.send(Decision(keep_going))
                if speed := message.metrics.get("images_per_second"):
                    self.limits.learn_speed(spec.job.params, message.epoch, speed)
                self._set.workers.keep_spare()
            if isinstance(message, EpochDone | BatchDone | Notice):
                self._set.notify(message)

    def _count_seconds(self, trial: Trial) -> float:
        seconds = clock.now() - self._began
        trial.set_user_attr(schema.SECONDS, round(seconds, 3))
        return seconds

    def _end(self, trial: Trial, spec: TrialSpec, outcome: Outcome) -> None:
        """Record an outcome, then react to it."""
        seconds = self._count_seconds(trial)
        self._set.record.end(trial, spec.run_id, outcome)
        if not outcome.ending.is_resumable:
            trials = self._set.study.get_trials(deepcopy=False)
            over = {each.number for each in trials if each.state.is_finished()}
            self._set.workers.forget_checkpoints(over - set(self._set.proposer.needed()))
        view = view_of(self._set.study)
        row = view.trials[trial.number]
        ended = TrialEnded(
            number=trial.number,
            ending=outcome.ending,
            value=outcome.value,
            epochs=row.epochs,
            seconds=seconds,
            best=view.best,
            best_epoch=row.best_epoch,
            in_training=row.in_training,
        )
        self._set.notify(ended)
        if outcome.ending.stops_study:
            self._raise(trial.number, outcome)

    def _raise(self, number: int, outcome: Outcome) -> None:
        path = self._set.scratch / f"trial-{number:04d}.trace.txt"
        try:
            path.write_text(outcome.trace, encoding="utf-8", errors="backslashreplace")
        except OSError:
            path = self._set.scratch / "worker.log"  # the disk is full; just name the file
        if outcome.ending is Ending.BLOCKED:
            raise StateError(
                f"trial {number} was stopped from outside: {outcome.reason}; once that "
                "is fixed, run again to resume it"
            )
        raise TrialFailedError(
            f"trial {number} failed and the study stopped: {outcome.reason}; trace: {path}",
            trace=str(path),
            details=outcome.trace,
        )


def _start_failed(log: Path, died: WorkerDiedError) -> TrialFailedError:
    """The error for workers that die before any trial: no params are to blame."""
    return TrialFailedError(
        f"the worker {died.text} before its first trial; its output is in {log}", trace=str(log)
    )
