"""Insight into a study's trials: what mattered, what failed, and how much is noise."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import optuna
from optuna.importance import (
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import TrialState

from catdog_search.intervals import wilson
from catdog_search.outcomes import Ending
from catdog_search.places import StateFolder
from catdog_search.search.quiet import quiet_experiments
from catdog_search.search.study.storage import load_study
from catdog_search.search.study.views import StudyView, TrialRow, view_of
from catdog_search.space import params_key

# With fewer COMPLETE trials, importance says nothing.
FEWEST = 6
# With fewer, it says little: params that were sampled together can't be separated.
TELLING = 30
# fANOVA takes half a second for this many trials, and ever longer for more. PED-ANOVA takes next to
# no time, but compares the best tenth with the rest, and a tenth of fewer trials is too few.
_MOST_FOR_FANOVA = 100


@dataclass(frozen=True)
class Importance:
    """How much of the difference between trials each param explains.

    Attributes:
        shares: Share that each param explains, 0 to 1, by name, largest first, adding up to 1;
            empty where it can't be computed.
        note: Method and number of trials, or why there is no result.
    """

    shares: dict[str, float]
    note: str


def importance(study: optuna.Study) -> Importance:
    """Importance over COMPLETE trials: by fANOVA, or by PED-ANOVA where there are many.

    Source: Hutter et al. 2014, fANOVA; Watanabe et al. 2023, arXiv:2304.10255, PED-ANOVA.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST:
        return Importance({}, f"needs at least {FEWEST} COMPLETE trials, there are {len(complete)}")
    few = len(complete) <= _MOST_FOR_FANOVA
    name = "fANOVA" if few else "PED-ANOVA"
    with quiet_experiments():
        evaluator = FanovaImportanceEvaluator(seed=0) if few else PedAnovaImportanceEvaluator()
        try:
            shares = get_param_importances(study, evaluator=evaluator)
        except (RuntimeError, ValueError) as error:
            return Importance({}, f"can't be told: {error}")
    if not any(shares.values()):
        return Importance({}, "can't be told: no param separates the trials")
    names = {name for trial in complete for name in trial.params}
    partly = sorted(names - set(shares))
    missing = f"; without {', '.join(partly)}, not in every trial" if partly else ""
    hint = "; so few are a hint, no more" if len(complete) < TELLING else ""
    return Importance(shares, f"{name} over {len(complete)} trials{missing}{hint}")


class Insight:
    """A study to read: its trials, and what they say as a whole.

    Args:
        study: Optuna study.

    Attributes:
        view: Study as it stands.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self.view: StudyView = view_of(study)

    @cached_property
    def importance(self) -> Importance:
        """How much each param explains; computing it takes seconds."""
        return importance(self._study)


def read(state: StateFolder, name: str) -> Insight:
    """Read a study.

    Raises:
        StateError: There is none of this name.
    """
    return Insight(load_study(state, name))


@dataclass(frozen=True)
class Replicates:
    """Trials of the same params on different seeds.

    Attributes:
        name: Name of the recipe, or of the first trial.
        numbers: Trials' numbers, from 0, ascending.
        mean: Mean of their values.
        spread: Sample standard deviation of their values.
    """

    name: str
    numbers: list[int]
    mean: float
    spread: float


def replicates(view: StudyView) -> list[Replicates]:
    """Groups of at least two COMPLETE trials with the same params."""
    groups: dict[str, list[TrialRow]] = {}
    for row in view.ranked():
        groups.setdefault(params_key(row.params), []).append(row)
    return [_replicates(rows) for rows in groups.values() if len(rows) > 1]


def _replicates(rows: list[TrialRow]) -> Replicates:
    values = [row.value for row in rows if row.value is not None]
    return Replicates(
        name=rows[0].recipe or f"trial {min(row.number for row in rows)}",
        numbers=sorted(row.number for row in rows),
        mean=statistics.fmean(values),
        spread=statistics.stdev(values),
    )


def noise(view: StudyView) -> Iterator[str]:
    """Lines that say how large a difference between trials means nothing."""
    groups = replicates(view)
    for group in groups:
        numbers = ", ".join(map(str, group.numbers))
        yield (
            f"{group.name} on {len(group.numbers)} seeds (trials {numbers}): mean "
            f"{group.mean:.4f}, standard deviation {group.spread:.4f}"
        )
    best = view.best
    if best is None or view.n_val is None or view.metric != "val_accuracy":
        return
    low, high = wilson(round(best.value * view.n_val), view.n_val)
    near = [row for row in view.ranked()[1:] if row.value and row.value > low]
    others = len(view.ranked()) - 1
    said = "trial" if others == 1 else "trials"
    lie = "lies" if len(near) == 1 else "lie"
    above = f"; {len(near)} of {others} other {said} {lie} above that lower bound" if others else ""
    yield (
        f"val has {view.n_val} photos: {best.value:.4f} may be anything from {low:.4f} to "
        f"{high:.4f} (95 %){above}"
    )
    if not groups:
        yield "seeds: no params were trained twice; `--seeds N` shows what the seed alone changes"


def ended_early(view: StudyView) -> dict[Ending, list[int]]:
    """Numbers of the trials that are over and not COMPLETE, by ending, the most frequent first."""
    numbers: dict[Ending, list[int]] = {}
    for row in view.trials:
        if row.is_over and row.ending not in (None, Ending.FINISHED):
            numbers.setdefault(row.ending, []).append(row.number)
    return dict(sorted(numbers.items(), key=lambda item: -len(item[1])))


def most_common_errors(view: StudyView, ending: Ending, most: int = 3) -> list[tuple[str, int]]:
    """Errors of the trials with this ending, and how often each occurred, most frequent first."""
    said = Counter(row.error for row in view.trials if row.ending == ending and row.error)
    return said.most_common(most)
