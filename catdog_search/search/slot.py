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
from catdog_search.config import StudyConfig
from catdog_search.errors import StateError, TrialFailedError
from catdog_search.outcomes import Ending
from catdog_search.search import history
from catdog_search.search.feasibility import Risk, failure_risk
from catdog_search.search.history import StudyView, view_of
from catdog_search.search.interrupt import StopRequest
from catdog_search.search.limits import Limits
from catdog_search.search.messages import (
    BatchDone,
    Decision,
    EpochDone,
    Listener,
    Notice,
    Outcome,
    Ready,
    Stop,
    TrialEnded,
    TrialSpec,
    TrialStarted,
    Unready,
)
from catdog_search.search.photos import Photos
from catdog_search.search.pool import Pool, Worker, WorkerDiedError, start_failed, wait_for
from catdog_search.search.propose import Proposer
from catdog_search.search.pruner import report_epoch
from catdog_search.search.record import StudyRecord
from catdog_search.search.sampler import trial_seed
from catdog_search.search.scratch import checkpoint_path
from catdog_search.space import Params, Space, params_key
from catdog_search.tracking.store import Store
from catdog_search.training.execution import Execution

# Workers that a trial may cost before its params are to blame.
MAX_CRASHES = 2
# Workers in a row that may be killed before they train.
MAX_STARTS = 3

_T = TypeVar("_T")
# Yields the worker that is waited for; returns what came of it.
Turns = Generator[Worker, None, _T]


@dataclass(frozen=True)
class Setting:
    """What all trials of a call have in common.

    Attributes:
        config: Of the study.
        study: In Optuna.
        photos: That they train on.
        store: MLflow's.
        scratch: The study's folder for what doesn't last.
        limits: Of this machine.
        proposer: Of their params.
        pool: Of their workers.
        record: Of their outcomes.
        tell: Told of everything that happens.
        stop: Says whether to stop.
    """

    config: StudyConfig
    study: Study
    photos: Photos
    store: Store
    scratch: Path
    limits: Limits
    proposer: Proposer
    pool: Pool
    record: StudyRecord
    tell: Listener
    stop: StopRequest


class TurnTaking:
    """Lets several generators of turns go on, each when the worker it waits for has something.

    Attributes:
        busy: Slots whose turns aren't over.
    """

    def __init__(self) -> None:
        self.busy: dict[Slot, Turns[Any]] = {}
        self._awaited: dict[Slot, Worker] = {}

    def begin(self, slot: Slot, turns: Turns[Any]) -> None:
        """Take the first turn."""
        self.busy[slot] = turns
        self._go_on(slot)

    def wait(self) -> bool:
        """Wait for a moment or a message, then give every slot a turn.

        Returns:
            Whether a slot came free.
        """
        wait_for(self._awaited.values())
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
    """A place for a worker, with the trial that it trains.

    Args:
        setting: Of the call.
        learned: Told what a worker says of itself when it is ready.

    Attributes:
        params_key: Of the params that are trained here; None between trials.
        number: Of the trial, likewise.
    """

    def __init__(self, setting: Setting, learned: Callable[[Ready], None]) -> None:
        self._set = setting
        self._learned = learned
        self._worker: Worker | None = None
        self._asked_to_stop = False
        self._began = 0.0  # the trial, on a clock that stands still where no work is done
        self.params_key: str | None = None
        self.number: int | None = None

    def begin_worker(self) -> Turns[bool]:
        """Put a worker into use; False when asked to stop before it was ready.

        Raises:
            TrialFailedError: None starts.
            StateError: Something around it keeps it from starting.
        """
        starts = 0
        while True:
            starts += 1
            try:
                self._worker = self._set.pool.begin()
                ready = yield from self._await_ready(self._worker)
            except WorkerDiedError as died:
                self._retire()
                if starts >= MAX_STARTS or not died.from_outside:
                    raise start_failed(self._set.scratch / "worker.log", died) from None
            else:
                if ready is not None:
                    self._learned(ready)
                return ready is not None

    def _await_ready(self, worker: Worker) -> Turns[Ready | None]:
        while not self._set.stop.cause:
            yield worker
            message = worker.receive()
            if isinstance(message, Ready):
                return message
            if isinstance(message, Unready):
                raise StateError(
                    f"a worker can't start: {message.reason}; once that is mended, run again to "
                    "go on"
                )
        return None

    def _retire(self) -> None:
        if self._worker is not None:
            self._set.pool.retire(self._worker)
            self._worker = None

    def run_trial(
        self, trial: Trial, view: StudyView, execution: Execution, tried: set[str]
    ) -> Turns[None]:
        """Train one trial and record its outcome.

        Args:
            trial: Of the study, RUNNING.
            view: The study as it stands.
            execution: How it runs on the device.
            tried: Keys of the params that are over or train elsewhere at this moment.

        Raises:
            TrialFailedError: The trial hit a bug, which is recorded.
            StateError: A store or the disk failed; the trial is left to be taken up again.
        """
        self._began = clock.now() - trial.user_attrs.get(history.SECONDS, 0.0)
        self.number = trial.number
        risk = risk_in(view, self._set.config.space)
        params = self._set.proposer.propose(trial, tried, risk)
        self.params_key = params_key(params)
        try:
            while True:
                spec = self._begin(trial, params, view, execution)
                outcome = yield from self._attempt(spec, trial)
                if outcome.ending is not Ending.CRASHED:
                    break
                if self._set.record.count_crash(trial) >= MAX_CRASHES:
                    break
                self._set.record.abandon(spec.run_id)
                text = f"trial {trial.number}: the worker {outcome.reason}; once more"
                self._set.tell(Notice(text))
            self._end(trial, spec, outcome)
        finally:
            self.number = self.params_key = None

    def _begin(
        self, trial: Trial, params: Params, view: StudyView, execution: Execution
    ) -> TrialSpec:
        config = self._set.config
        side = config.trial_params(params).image_size
        dataset = self._set.photos.at(side)
        seed = trial_seed(config.seed, trial.number)
        run_id, attempt = self._set.record.begin(trial, params, seed)
        recipe = trial.user_attrs.get(history.RECIPE)
        varied = {k: params[k] for k in config.space.searched if k in params}
        epochs = int(params.get("epochs", 0)) or config.training.epochs
        self._set.tell(TrialStarted(trial.number, varied, recipe, attempt, epochs))
        ranked, keep = view.ranked(), config.keep_models
        return TrialSpec(
            number=trial.number,
            params=params,
            seed=seed,
            run_id=run_id,
            config=config.model_copy(update={"image_size": side}),
            dataset=dataset,
            store=self._set.store,
            keep_above=ranked[keep - 1].value if len(ranked) >= keep else None,
            checkpoint=checkpoint_path(self._set.scratch, trial.number),
            execution=execution,
        )

    def _attempt(self, spec: TrialSpec, trial: Trial) -> Turns[Outcome]:
        """Hand a trial to a worker and answer it until it says how the trial ended."""
        if large := self._set.limits.too_large(spec.params):
            return Outcome(Ending.TOO_LARGE, excess=large.excess, reason=large.text)
        worker = yield from self._healthy_worker()
        if worker is None:
            return Outcome(Ending.INTERRUPTED)
        try:
            worker.send(spec)
            outcome = yield from self._converse(worker, spec, trial)
            if outcome.photos_lost:  # before it began to train
                dataset = self._set.photos.at(spec.dataset.image_size, lost=True)
                worker.send(dataclasses.replace(spec, dataset=dataset))
                outcome = yield from self._converse(worker, spec, trial)
        except WorkerDiedError as died:
            self._retire()
            if self._set.stop.cause:  # it was asked to stop, and is gone: that will do
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
                    self._set.limits.learn_speed(spec.params, message.epoch, speed)
                self._set.pool.keep_spare()
            if isinstance(message, EpochDone | BatchDone | Notice):
                self._set.tell(message)

    def _count_seconds(self, trial: Trial) -> float:
        seconds = clock.now() - self._began
        trial.set_user_attr(history.SECONDS, round(seconds, 3))
        return seconds

    def _end(self, trial: Trial, spec: TrialSpec, outcome: Outcome) -> None:
        """Record an outcome, then react to it."""
        seconds = self._count_seconds(trial)
        self._set.record.end(trial, spec.run_id, outcome)
        if not outcome.ending.is_resumable:
            checkpoint_path(self._set.scratch, trial.number).unlink(missing_ok=True)
        view = view_of(self._set.study)
        ended = TrialEnded(
            number=trial.number,
            ending=outcome.ending,
            value=outcome.value,
            epochs=view.trials[trial.number].epochs,
            seconds=seconds,
            best=view.best,
        )
        self._set.tell(ended)
        if outcome.ending.stops_study:
            self._raise(trial.number, outcome)

    def _raise(self, number: int, outcome: Outcome) -> None:
        path = self._set.scratch / f"trial-{number:04d}.trace.txt"
        try:
            path.write_text(outcome.trace, encoding="utf-8", errors="backslashreplace")
        except OSError:
            path = self._set.scratch / "worker.log"  # the disk is full; say so, and no more
        if outcome.ending is Ending.BLOCKED:
            raise StateError(
                f"trial {number} was stopped by something around it: {outcome.reason}; once that "
                "is mended, run again to go on with it"
            )
        raise TrialFailedError(
            f"trial {number} failed and the study stopped: {outcome.reason}; trace: {path}",
            trace=str(path),
            details=outcome.trace,
        )


def risk_in(view: StudyView, space: Space) -> Risk | None:
    """How probable failure is, by what a study's trials came to; None where they can't tell."""
    over = [row for row in view.trials if row.is_telling]
    failed = [row.params for row in over if row.is_constraint]
    fitted = [row.params for row in over if not row.is_constraint]
    return failure_risk(space, failed, fitted)
