"""How long trainings of finalists will take, from how long the trials with their params took."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterator, Sequence

from catdog_search.families import registry
from catdog_search.families.base import Cost, TrialParams
from catdog_search.search.study.views import TrialRow
from catdog_search.study.config import StudyConfig


def expected_s(
    config: StudyConfig,
    trials: Sequence[TrialRow],
    to_go: Sequence[TrialRow | None],
    done: Sequence[TrialRow],
) -> float | None:
    """Expected duration of trainings, in s; None where it isn't known of one of them.

    Of trials that share work, such as features of a frozen backbone, the first one did it for all.
    So does the first training, since its photos are others.

    Args:
        config: Promoted study.
        trials: Its COMPLETE trials.
        to_go: The trial whose params each training has; None where there is none any more.
        done: Earlier trainings.
    """
    first = list(_first_of_several(config, trials))
    usual = {row.number: seconds for _, row, seconds in first}
    seconds = [usual.get(row.number, row.seconds) if row else None for row in to_go]
    known = [each for each in seconds if each is not None]
    if len(known) < len(to_go):
        return None
    shared = {_shared(config, row) for row in to_go if row}
    shared -= {_shared(config, row) for row in done if row.is_over and row.params}
    once = [(row.seconds or 0.0) - short for work, row, short in first if work in shared]
    return sum(known) + sum(once)


def cost_of(config: StudyConfig, params: TrialParams) -> Cost | None:
    """What a trial of a study costs; None where only building its network would tell."""
    cost = registry.family_of(params).cost
    return cost and cost(params, config.weights)


def _first_of_several(
    config: StudyConfig, trials: Sequence[TrialRow]
) -> Iterator[tuple[Hashable, TrialRow, float]]:
    """Shared work, the trial that did it, and how long that would have taken without it, in s."""
    groups: dict[Hashable, list[TrialRow]] = {}
    for row in sorted(trials, key=lambda row: row.number):
        groups.setdefault(_shared(config, row), []).append(row)
    for work, (first, *later) in groups.items():
        if work is None or not later or first.seconds is None:
            continue
        yield work, first, min(first.seconds, statistics.median(r.seconds or 0.0 for r in later))


def _shared(config: StudyConfig, row: TrialRow) -> Hashable:
    """What trials agree in that share work; None for those that share none."""
    cost = cost_of(config, config.trial_params(row.params))
    return cost.kept_by if cost and cost.once else None
