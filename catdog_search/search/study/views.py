"""A study so far, read from Optuna alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from catdog_search.evaluation.floor import Always, always
from catdog_search.families.base import as_used
from catdog_search.objective import Direction, badness
from catdog_search.outcomes import OVER, TELLING, Ending
from catdog_search.places import StateFolder
from catdog_search.redact import redact
from catdog_search.search.events import Best
from catdog_search.search.study import schema
from catdog_search.search.study.storage import load_study
from catdog_search.space import Params, Space, params_key

_DIRECTIONS: dict[StudyDirection, Direction] = {
    StudyDirection.MAXIMIZE: "maximize",
    StudyDirection.MINIMIZE: "minimize",
}


@dataclass(frozen=True)
class TrialRow:
    """One trial, for people.

    Attributes:
        number: Trial's number, from 0.
        state: Trial's state, as Optuna spells it.
        value: Objective's value; None unless COMPLETE.
        epochs: Number of reported epochs.
        seconds: Duration of its work, in s, pauses between calls left out; None while it runs.
        params: All active params, fixed ones included, as the space spells them; empty before it
            started.
        used: The same params with the values used, those left to the study filled in.
        varied: Searched params among those, and those outside.
        outside: Its params that the space, which has changed since, no longer has.
        recipe: Name of its recipe; None where the sampler proposed it.
        replicate: Which of the recipe's seeds it has, from 0.
        run_id: Id of its MLflow run; None before it started.
        kept: Whether it keeps its model and figures.
        model_id: Kept model's id; None where it keeps none.
        ending: Kind of end; None before it ended.
        error: Reason, where it FAILed or was PRUNED by a constraint; else None.
        scores: Final metrics of val, by name; empty unless COMPLETE.
        train_scores: Metrics of train, by name, measured while training the epoch whose weights
            were kept, or the last epoch if it was stopped. Empty where they aren't known.
        best_epoch: Epoch whose weights were kept, from 1; None unless COMPLETE and known.
        in_training: Objective measured at that epoch in training; `value` is scored afterwards,
            with the exported model.
        last: Objective after the last epoch; None before the first.
        n_weights: Number of its network's weights; None where it isn't known.
    """

    number: int
    state: str
    value: float | None
    epochs: int
    seconds: float | None
    params: Params
    used: Params
    varied: Params
    outside: Params
    recipe: str | None
    replicate: int
    run_id: str | None
    kept: bool
    model_id: str | None
    ending: Ending | None
    error: str | None
    scores: Mapping[str, float]
    train_scores: Mapping[str, float]
    best_epoch: int | None
    in_training: float | None
    last: float | None
    n_weights: int | None

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.state in OVER

    @property
    def is_telling(self) -> bool:
        """Whether it is over and says something about its params; one that hit a bug doesn't."""
        return self.state in TELLING

    @property
    def is_constraint(self) -> bool:
        """Whether it ended in a way that the sampler treats as a violated constraint."""
        return self.ending is not None and self.ending.is_constraint


@dataclass(frozen=True)
class StudyView:
    """A study as it stands.

    Attributes:
        name: Study's name.
        uid: Study's unique id; None before the first run.
        direction: Objective's direction.
        trials: All trials, by number.
        parent_run_id: Id of the study's own MLflow run; None before the first run.
        tracking_uri: MLflow's tracking URI of the last run, without credentials; None before the
            first.
        dataset_digest: Digest of its dataset; None before the first run.
        metric: Objective's name; None before the first run.
        n_val: Number of photos in val; None where it isn't known.
        class_counts: Number of photos in train and val, by split and class name; empty where
            unknown.
        device: Device that it last trained on; None before the first run.
        published: Scores that others published, by recipe and name.
        pruner: Name of its pruner; None before the first run.
    """

    name: str
    uid: str | None
    direction: Direction
    trials: list[TrialRow]
    parent_run_id: str | None
    tracking_uri: str | None
    dataset_digest: str | None
    metric: str | None
    n_val: int | None
    class_counts: Mapping[str, Mapping[str, int]]
    device: str | None
    published: Mapping[str, Mapping[str, float]]
    pruner: str | None

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state."""
        return dict(Counter(row.state for row in self.trials))

    @property
    def finished(self) -> int:
        """Trials that count against the budget."""
        return sum(row.is_over for row in self.trials)

    @cached_property
    def tried(self) -> dict[str, int]:
        """Numbers of the trials that are over, except failed ones, by their params' key."""
        return {params_key(row.params): row.number for row in self.trials if row.is_telling}

    @property
    def floor(self) -> Always | None:
        """The baseline of its scores: one answer for every photo; None where it isn't known."""
        counts = self.class_counts
        return always(self.metric, counts["val"]) if counts else None

    def ranked(self) -> list[TrialRow]:
        """COMPLETE trials, best first; equal ones by number.

        PRUNED ones are left out: their values are of the epoch at which they were stopped.
        """
        complete = [(row.value, row) for row in self.trials if row.value is not None]
        by_rank = sorted(complete, key=lambda r: (badness(self.direction, r[0]), r[1].number))
        return [row for _, row in by_rank]

    @property
    def best(self) -> Best | None:
        """The best COMPLETE trial."""
        ranked = self.ranked()
        if not ranked or ranked[0].value is None:
            return None
        first = ranked[0]
        return Best(first.number, ranked[0].value, first.used, first.run_id or "")

    def rank(self, row: TrialRow) -> int | None:
        """Rank of a trial among the COMPLETE ones, from 1; None where it has none."""
        numbers = [each.number for each in self.ranked()]
        return numbers.index(row.number) + 1 if row.number in numbers else None


def load_view(state: StateFolder, name: str) -> StudyView:
    """Read a study.

    Raises:
        StateError: There is none of this name.
    """
    return view_of(load_study(state, name))


def view_of(study: optuna.Study) -> StudyView:
    """The view of an open study."""
    attrs = study.user_attrs
    marks = _Marks.of(attrs)
    made = _made_with(attrs.get(schema.FINGERPRINT))
    return StudyView(
        name=study.study_name,
        uid=attrs.get(schema.UID),
        direction=_DIRECTIONS[study.direction],
        trials=[_row(trial, made, marks) for trial in study.get_trials(deepcopy=False)],
        parent_run_id=attrs.get(schema.PARENT_RUN_ID),
        tracking_uri=_without_secrets(attrs.get(schema.TRACKING_URI)),
        dataset_digest=attrs.get(schema.DIGEST),
        metric=attrs.get(schema.METRIC),
        n_val=attrs.get(schema.N_VAL),
        class_counts=attrs.get(schema.CLASS_COUNTS, {}),
        device=attrs.get(schema.DEVICE),
        published=attrs.get(schema.PUBLISHED, {}),
        pruner=made.pruner,
    )


def _without_secrets(uri: str | None) -> str | None:
    """Redact credentials, which older versions stored too."""
    return None if uri is None else redact(uri)


def note_dropped(study: optuna.Study, number: int) -> None:
    """Remember on the study that a trial keeps no model: a finished trial can't be changed."""
    dropped = study.user_attrs.get(schema.DROPPED, [])
    study.set_user_attr(schema.DROPPED, [*dropped, number])


def note_run(study: optuna.Study, number: int, run_id: str) -> None:
    """Remember the run that was recreated for a finished trial."""
    study.set_user_attr(schema.RUNS, {**study.user_attrs.get(schema.RUNS, {}), str(number): run_id})


def params_of(study: optuna.Study, trial: FrozenTrial) -> Params:
    """All active params of a trial, as its study's space spells them; empty before it started."""
    return _made_with(study.user_attrs.get(schema.FINGERPRINT)).space.canonical(
        trial.user_attrs.get(schema.PARAMS, {})
    )


def used_of(study: optuna.Study, trial: FrozenTrial) -> Params:
    """The same params with the values used, those left to the study filled in."""
    made = _made_with(study.user_attrs.get(schema.FINGERPRINT))
    return as_used(params_of(study, trial), made.stated)


def note_tracking(study: optuna.Study, uri: str) -> None:
    """Remember where a study is tracked, and where it was: models may still be there."""
    attrs = study.user_attrs
    last, before = _without_secrets(attrs.get(schema.TRACKING_URI)), attrs.get(schema.TRACKED, [])
    if last not in (None, uri, *before):
        study.set_user_attr(schema.TRACKED, [*before, last])
    study.set_user_attr(schema.TRACKING_URI, uri)


def _seconds(trial: FrozenTrial) -> float | None:
    """Duration of its work; time from start to end where an older version didn't count it."""
    whole = trial.duration.total_seconds() if trial.duration else None
    return trial.user_attrs.get(schema.SECONDS, whole)


@dataclass(frozen=True)
class _Made:
    """What a study was made with.

    Attributes:
        space: Its space; empty before its first run.
        stated: Its values for params that trials may leave to it, by name.
        pruner: Name of its pruner; None before its first run.
    """

    space: Space
    stated: Params
    pruner: str | None


@lru_cache(maxsize=64)
def _made_with(fingerprint: str | None) -> _Made:
    made = json.loads(fingerprint) if fingerprint else {"space": {}}
    stated = {
        "image_size": made.get("image_size"),
        "epochs": made.get("training", {}).get("epochs"),
    }
    return _Made(
        space=Space.of_dict(made["space"]),
        stated={name: value for name, value in stated.items() if value is not None},
        pruner=made.get("pruner", {}).get("name"),
    )


@dataclass(frozen=True)
class _Marks:
    """What a study remembers of finished trials, which can't be changed.

    Attributes:
        dropped: Numbers of those whose model is no longer kept.
        runs: Ids of recreated runs, by number as text.
        outside: Params that the space no longer has, by number as text.
    """

    dropped: Set[int]
    runs: Mapping[str, str]
    outside: Mapping[str, Params]

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> _Marks:
        """Those in a study's attributes."""
        return cls(
            dropped=set(attrs.get(schema.DROPPED, ())),
            runs=attrs.get(schema.RUNS, {}),
            outside=attrs.get(schema.OUTSIDE, {}),
        )


def _row(trial: FrozenTrial, made: _Made, marks: _Marks) -> TrialRow:
    attrs, space = trial.user_attrs, made.space
    params = space.canonical(attrs.get(schema.PARAMS, {}))
    outside = marks.outside.get(str(trial.number), {})
    curve = trial.intermediate_values
    best_epoch = attrs.get(schema.BEST_EPOCH)
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        epochs=len(curve),
        seconds=_seconds(trial) if trial.state.is_finished() else None,
        params=params,
        used=as_used(params, made.stated),
        varied=as_used({**space.of_sampler(trial.params), **outside}, made.stated),
        outside=outside,
        recipe=attrs.get(schema.RECIPE),
        replicate=attrs.get(schema.REPLICATE, 0),
        run_id=marks.runs.get(str(trial.number), attrs.get(schema.RUN_ID)),
        kept=attrs.get(schema.KEPT, False) and trial.number not in marks.dropped,
        model_id=None if trial.number in marks.dropped else attrs.get(schema.MODEL_ID),
        ending=Ending.read(attrs[schema.ENDING]) if schema.ENDING in attrs else None,
        error=attrs.get(schema.ERROR),
        scores=attrs.get(schema.SCORES, {}),
        train_scores=attrs.get(schema.TRAIN_SCORES, {}),
        best_epoch=None if best_epoch is None else best_epoch + 1,
        in_training=None if best_epoch is None else curve.get(best_epoch),
        last=curve[max(curve)] if curve else None,
        n_weights=attrs.get(schema.N_WEIGHTS),
    )
