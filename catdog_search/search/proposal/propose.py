"""Take a trial's params from the sampler, but never ones that the study has already tried.

Optuna stores a param as soon as it is suggested. Here a whole set is drafted first and stored
only if it is new, so that no trial is wasted on a repetition.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, Protocol

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
)
from optuna.pruners import HyperbandPruner
from optuna.trial import FrozenTrial, Trial, TrialState

from catdog_search.kerastuner.hyperband import Rung, Told
from catdog_search.kerastuner.oracles import Answer, Oracle
from catdog_search.outcomes import Ending
from catdog_search.search.proposal.feasibility import Risk, failure_risk
from catdog_search.search.proposal.sampler import PerTrialSampler, proposal_seed
from catdog_search.search.proposal.uniform import UniformDraw
from catdog_search.search.study import schema
from catdog_search.search.study.changes import Suggesting
from catdog_search.search.study.views import StudyView, params_of
from catdog_search.space import Params, Space, params_key
from catdog_search.study.config import ORACLES, StudyConfig

# Samples taken from the sampler before uniform sampling takes over.
_DRAWS = 10
# Probability of failure above which another sample is taken.
_PROBABLE = 0.5
# Spaces up to this size are enumerated to find what is left in them.
_LISTED = 20_000
_RANDOM_TRIES = 10_000
_EXHAUSTED = "every point of the space has been tried"


class Proposer(Protocol):
    """Proposes params for the trials of one study, and learns from their outcomes."""

    def observe(self, view: StudyView) -> None:
        """Take in the outcomes of the trials so far."""
        ...

    def propose(self, trial: Trial, tried: Collection[str]) -> Params:
        """All active params of a trial, stored with it: its own if it has any, else new ones.

        Args:
            trial: RUNNING trial: without params, queued with some, or taken over from a dead
                coordinator.
            tried: Keys of the params that must not be proposed again, unless they were queued.

        Raises:
            LookupError: Nothing is left to try.
        """
        ...

    def exhausted(self, tried: Collection[str]) -> str:
        """Why nothing can be proposed at the moment, for people; empty where something can."""
        ...

    def needed(self) -> Collection[int]:
        """Numbers of finished trials whose checkpoint another trial continues from, or may."""
        ...


class SamplingProposer:
    """Proposes what Optuna's sampler suggests, unless it was tried or will probably fail.

    Args:
        study: Optuna study.
        sampler: Study's sampler.
        space: Study's search space.

    Attributes:
        risk: Function that gives the probability, 0 to 1, that params fail; None while too little
            is known.
    """

    def __init__(self, study: Study, sampler: PerTrialSampler, space: Space) -> None:
        self._study = study
        self._sampler = sampler
        self._space = space
        self.risk: Risk | None = None

    def observe(self, view: StudyView) -> None:
        """Learn what fails; the sampler learns the rest from the study itself."""
        over = [row for row in view.trials if row.is_telling]
        failed = [row.params for row in over if row.is_constraint]
        self.learn_risk(failed, [row.params for row in over if not row.is_constraint])

    def learn_risk(self, failed: Sequence[Params], fitted: Sequence[Params]) -> None:
        """Learn what fails from the params of trials that failed and of those that didn't."""
        self.risk = failure_risk(self._space, failed, fitted)

    def propose(self, trial: Trial, tried: Collection[str]) -> Params:
        """As in `Proposer`.

        Raises:
            LookupError: Nothing is left to try.
        """
        frozen = trial.storage.get_trial(trial._trial_id)
        queued = frozen.system_attrs.get("fixed_params")  # empty where the space leaves no choice
        own = frozen.user_attrs.get(schema.PARAMS, queued)
        draft = self._sample(trial, tried) if own is None else self._draft(trial, own)
        # Before any param is stored, so that a kill in between never mixes two sets.
        trial.set_user_attr(schema.PARAMS, draft.params)
        draft.store()
        return draft.params

    def exhausted(self, tried: Collection[str]) -> str:
        """As in `Proposer`."""
        return _EXHAUSTED if is_exhausted(self._space, tried) else ""

    def needed(self) -> Collection[int]:
        """As in `Proposer`: every trial starts from scratch."""
        return ()

    def _draft(self, trial: Trial, given: Params) -> _Draft:
        return _Draft(self._study, trial, self._space, given)

    def _sample(self, trial: Trial, tried: Collection[str]) -> _Draft:
        """The first sample that is new and probably fits, else the new one with the lowest risk."""
        risky: list[tuple[float, int, _Draft]] = []
        for attempt, draft in enumerate(itertools.islice(self._drafts(trial, tried), _DRAWS)):
            if params_key(draft.params) in tried:
                continue
            danger = self.risk(draft.params) if self.risk else 0.0
            if danger <= _PROBABLE:
                return draft
            risky.append((danger, attempt, draft))
        if risky:
            return min(risky)[2]
        rng = random.Random(f"{trial.number}:{len(tried)}")  # noqa: S311  no secret
        return self._draft(trial, _untried(self._space, tried, rng))

    def _drafts(self, trial: Trial, tried: Collection[str]) -> Iterator[_Draft]:
        """The first proposal for a trial, then alternatives."""
        del tried
        yield self._draft(trial, {})
        while True:
            self._sampler.redraw(trial.number)
            yield self._draft(trial, {})


class OracleProposer(SamplingProposer):
    """Proposes what a KerasTuner oracle does, by the same rules as for samplers.

    Args:
        study: Optuna study.
        sampler: Study's sampler, with which Optuna begins trials.
        config: The study's configuration, whose sampler is an oracle.
    """

    def __init__(self, study: Study, sampler: PerTrialSampler, config: StudyConfig) -> None:
        super().__init__(study, sampler, config.space)
        self._seed = config.seed
        self._oracle = Oracle(
            config.sampler, config.space, config.direction, config.training.epochs
        )

    def exhausted(self, tried: Collection[str]) -> str:
        """As in `Proposer`; Hyperband ends with its brackets, or waits for running trials."""
        none_left = super().exhausted(tried)
        if not self._oracle.has_rungs:
            return none_left
        number = len(self._study.get_trials(deepcopy=False))
        answer = self._ask(number, told_to_oracle(self._study, number), [], tried)
        if answer is None:
            return "Hyperband has no further trial"
        return none_left if _is_new(answer) else ""

    def needed(self) -> Collection[int]:
        """As in `Proposer`."""
        return self._oracle.needed(told_to_oracle(self._study)) if self._oracle.has_rungs else ()

    def _sample(self, trial: Trial, tried: Collection[str]) -> _Draft:
        """As for samplers, but a trial that Hyperband continues repeats params that did well."""
        if self._oracle.has_rungs:
            told = told_to_oracle(self._study, trial.number)
            answer = self._ask(trial.number, told, [], tried)
            if answer is None or answer.rung is None:
                raise LookupError("Hyperband has no further trial")
            trial.set_user_attr(schema.RUNG, dataclasses.asdict(answer.rung))
            if not _is_new(answer):
                return self._draft(trial, answer.params)
        return super()._sample(trial, tried)

    def _ask(
        self, number: int, told: list[Told], refused: list[Params], tried: Collection[str]
    ) -> Answer | None:
        seed = proposal_seed(self._seed + len(refused), number)
        return self._oracle.ask(number, seed, told, refused, tried)

    def _drafts(self, trial: Trial, tried: Collection[str]) -> Iterator[_Draft]:
        told = told_to_oracle(self._study, trial.number)
        refused: list[Params] = []
        while len(refused) < self._oracle.patience:
            answer = self._ask(trial.number, told, refused, tried)
            if answer is None:
                return
            refused.append(answer.params)
            yield self._draft(trial, answer.params)


def _is_new(answer: Answer) -> bool:
    return answer.rung is None or answer.rung.past is None


def make_proposer(study: Study, sampler: PerTrialSampler, config: StudyConfig) -> Proposer:
    """The proposer of a study, whose sampler is Optuna's or KerasTuner's."""
    if config.sampler.name in ORACLES:
        return OracleProposer(study, sampler, config)
    return SamplingProposer(study, sampler, config.space)


def told_to_oracle(study: Study, number: int | None = None) -> list[Told]:
    """What an oracle is told of a study's trials, except the one that it is asked about.

    A pruned trial is not a failure: its score is that of the epoch it was stopped at, by which the
    pruner judged it. Constraints and bugs are failures. Running trials are told as running.
    """
    return [
        Told(trial.number, params, *_told(trial), rung_of(trial))
        for trial in study.get_trials(deepcopy=False)
        if trial.number != number and (params := params_of(study, trial))
    ]


def rung_of(trial: FrozenTrial | Trial) -> Rung | None:
    """Where a trial stands in Hyperband; None if it isn't part of it."""
    kept = trial.user_attrs.get(schema.RUNG)
    return Rung(**kept) if kept else None


def _told(trial: FrozenTrial) -> tuple[Literal["COMPLETED", "FAILED", "RUNNING"], float | None]:
    if not trial.state.is_finished():
        return "RUNNING", None
    ending = (
        Ending.read(trial.user_attrs[schema.ENDING]) if schema.ENDING in trial.user_attrs else None
    )
    broke = trial.state == TrialState.FAIL or (ending is not None and ending.is_constraint)
    return ("FAILED", None) if broke or trial.value is None else ("COMPLETED", trial.value)


def is_exhausted(space: Space, tried: Collection[str]) -> bool:
    """Whether every point of a countable space has been tried."""
    size = space.size()
    # Counting comes first because it is cheap; but `tried` may hold what is no longer in the space.
    if size.continuous or len(set(tried)) < size.combinations:
        return False
    return all(params_key(point) in tried for point in space.points())


def _untried(space: Space, tried: Collection[str], rng: random.Random) -> Params:
    """A point that is left, sampled uniformly while there are many.

    Raises:
        LookupError: None is left.
    """
    size = space.size()
    if not size.continuous and size.combinations <= _LISTED:
        left = [p for p in space.points() if params_key(p) not in tried]
        if left:
            return rng.choice(left)
    for _ in range(_RANDOM_TRIES):
        params = space.sample(UniformDraw(rng))
        if params_key(params) not in tried:
            return params
    points = iter(()) if size.continuous else space.points()
    for params in points:
        if params_key(params) not in tried:
            return params
    raise LookupError("no point of the space is left to try")


class _Draft(Suggesting):
    """Samples as an Optuna trial does, but stores nothing until `store` is called.

    Args:
        study: Trial's study.
        trial: Trial that gets the params.
        space: Study's search space.
        given: Values to take as they are, by param.

    Attributes:
        params: All active params.
    """

    def __init__(self, study: Study, trial: Trial, space: Space, given: Params) -> None:
        self._study = _of_bracket(study, trial)
        self._trial = trial
        self._frozen = trial.storage.get_trial(trial._trial_id)
        self._space = space
        self._given = given
        self._relative: dict[str, Any] | None = None
        self._sampled: dict[str, BaseDistribution] = {}
        self.params = space.sample(self)

    def take(self, name: str, distribution: BaseDistribution) -> Any:
        """The given value, else what the sampler proposes."""
        sampler = self._study.sampler
        value: Any
        if name in self._given:
            value = self._space.for_sampler(name, self._given[name])
        else:
            if self._relative is None:
                space = sampler.infer_relative_search_space(self._study, self._frozen)
                self._relative = sampler.sample_relative(self._study, self._frozen, space)
            value = self._relative.get(name)
            if value is None or not distribution._contains(distribution.to_internal_repr(value)):
                value = sampler.sample_independent(self._study, self._frozen, name, distribution)
        self._sampled[name] = distribution
        return value

    def store(self) -> None:
        """Store the sampled params with the trial, as the space spells them."""
        has = self._frozen.params
        for name, distribution in self._sampled.items():
            if name not in has:
                own = self._space.for_sampler(name, self.params[name])
                internal = distribution.to_internal_repr(own)
                self._trial.storage.set_trial_param(
                    self._trial._trial_id, name, internal, distribution
                )


def _of_bracket(study: Study, trial: Trial) -> Study:
    """The study that the sampler learns from: under Hyperband, only trials of the same bracket."""
    if not isinstance(study.pruner, HyperbandPruner):
        return study
    frozen = trial.storage.get_trial(trial._trial_id)
    bracket = study.pruner._get_bracket_id(study, frozen)
    return study.pruner._create_bracket_study(study, bracket)
