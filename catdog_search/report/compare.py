"""Recipes and best trials of studies, compared with published scores and floors."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from catdog_search.errors import StateError
from catdog_search.evaluation.floors import Floor, any_packed, floors_of, majority
from catdog_search.places import StateFolder
from catdog_search.search.study import views
from catdog_search.search.study.views import StudyView, TrialRow
from catdog_search.tracking.recorded import Recorded, RunReader
from catdog_search.tracking.store import Store

# If train is better than val by more than this, the network has overfitted.
_GAP = 0.05
# If val still gains this much per epoch at the end, training stopped too early.
_GAINING = 0.003
_LAST_EPOCHS = 3

Curve = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        mean: Mean over the seeds.
        deviation: Sample standard deviation over the seeds; None for one seed.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Spread of values; None where there are none."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Entry:
    """One recipe, or a study's best trial.

    Attributes:
        study: Name of its trials' study.
        name: Name of the recipe, or `best (trial 7)`.
        numbers: Trials' numbers, from 0, one for each seed.
        published: Scores that others published, by name.
        train_accuracy: Accuracy on train in the kept epoch, with dropout and augmentation, 0 to 1.
        val_accuracy: Accuracy on val with the kept weights, 0 to 1.
        precision: Precision of class 1 on val, 0 to 1.
        recall: Recall of class 1 on val, 0 to 1.
        n_weights: Number of the network's weights; None where it isn't known.
        seconds: Total duration of a trial, in s.
        device: Device that the study last trained on.
        verdict: Verdict of the curves: fits, overfits, underfits, diverged.
        curves: Metrics by epoch, from 0, for each seed.
    """

    study: str
    name: str
    numbers: list[int]
    published: Mapping[str, float]
    train_accuracy: Spread | None
    val_accuracy: Spread
    precision: Spread | None
    recall: Spread | None
    n_weights: int | None
    seconds: Spread | None
    device: str | None
    verdict: str
    curves: list[list[dict[str, float]]]


@dataclass(frozen=True)
class Comparison:
    """Comparison of studies.

    Attributes:
        entries: Entries in the order of the studies, recipes first.
        floors: Floors of one study's dataset, the first one's.
        floors_of: Name of that study.
        notes: Notes on what is missing, and why, a line each.
    """

    entries: list[Entry]
    floors: list[Floor]
    floors_of: str
    notes: list[str]


def compare(state: StateFolder, names: Sequence[str]) -> Comparison:
    """Compare studies.

    Args:
        state: State folder that keeps them.
        names: Studies' names, at least one.

    Raises:
        StateError: There is no such study.
    """
    read = [views.load_view(state, name) for name in names]
    runs = _Runs(state)
    entries = [entry for view in read for entry in _entries(runs, view)]
    notes = [f"study {v.name}: no COMPLETE trial" for v in read if not v.ranked()]
    notes += runs.notes()
    digests = {view.dataset_digest for view in read}
    if len(digests) > 1:
        notes.append("the studies were trained on different photos, so rows don't compare")
    packed = any_packed(read[0].dataset_digest)
    if packed is None:
        notes.append("no linear probe: the photos are not in the cache any more")
        return Comparison(entries, majority(read[0].class_counts), names[0], notes)
    return Comparison(entries, floors_of(packed), names[0], notes)


class _Runs:
    """What MLflow keeps of trials; only noted where it is lost, since the scores are Optuna's.

    Args:
        state: State folder of the trials.
    """

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._lost: list[str] = []
        self._closed = ""
        try:
            self._reader: RunReader | None = RunReader(Store.of(state))
        except StateError as error:
            self._reader, self._closed = None, str(error)

    def recorded(self, view: StudyView, row: TrialRow) -> Recorded | None:
        """Curves of a trial; None if they are lost."""
        if self._reader is None or row.run_id is None:
            return None
        if not self._reader.has_run(row.run_id):
            self._lost.append(f"{row.number} of {view.name}")
            return None
        return self._reader.recorded(row.run_id)

    def notes(self) -> Iterator[str]:
        """What is missing, and why."""
        if self._closed:
            yield f"no curves: {self._closed}"
        if self._lost:
            cure = self._state.command("doctor --repair")
            yield (
                f"no curves of trial {', '.join(self._lost)}: MLflow lost the runs; {cure} makes "
                "them anew from what Optuna knows"
            )


def _entries(runs: _Runs, view: StudyView) -> list[Entry]:
    by_recipe: dict[str, list[TrialRow]] = {}
    for row in view.trials:
        if row.recipe and row.value is not None:
            by_recipe.setdefault(row.recipe, []).append(row)
    entries = [_entry(runs, view, name, rows) for name, rows in by_recipe.items()]
    ranked = view.ranked()
    if ranked and ranked[0].recipe is None:
        entries.append(_entry(runs, view, f"best (trial {ranked[0].number})", ranked[:1]))
    return entries


def _entry(runs: _Runs, view: StudyView, name: str, rows: Sequence[TrialRow]) -> Entry:
    kept = [seen for row in rows if (seen := runs.recorded(view, row)) is not None]
    curves = [seen.history for seen in kept]
    trained = [
        seen.history[seen.best_epoch]["accuracy"]
        for seen in kept
        if seen.best_epoch is not None and _is_measured(seen.history, seen.best_epoch)
    ]
    val = _scored(rows, "val_accuracy")
    assert val is not None
    return Entry(
        study=view.name,
        name=name,
        numbers=[row.number for row in rows],
        published=view.published.get(name, {}),
        train_accuracy=Spread.of(trained),
        val_accuracy=val,
        precision=_scored(rows, "val_precision"),
        recall=_scored(rows, "val_recall"),
        n_weights=rows[0].n_weights,
        seconds=Spread.of([row.seconds for row in rows if row.seconds is not None]),
        device=view.device,
        verdict=verdict([(s.history, s.best_epoch) for s in kept]),
        curves=curves,
    )


def _scored(rows: Sequence[TrialRow], name: str) -> Spread | None:
    return Spread.of([row.scores[name] for row in rows if name in row.scores])


def _is_measured(curve: Curve, best: int) -> bool:
    """Whether train's accuracy in the kept epoch is known; not every hypermodel measures it."""
    return best < len(curve) and "accuracy" in curve[best]


def verdict(trained: Sequence[tuple[Curve, int | None]]) -> str:
    """Verdict on a fit from its learning curves, by the worst seed.

    Args:
        trained: Metrics by epoch and the epoch that was kept, from 0, for each seed.
    """
    gaps, gains = [], []
    for curve, best in trained:
        if best is None or not _is_measured(curve, best):
            continue
        if not all(math.isfinite(epoch.get("loss", 0.0)) for epoch in curve):
            return "diverged"
        gaps.append(curve[best]["accuracy"] - curve[best]["val_accuracy"])
        last = [epoch["val_accuracy"] for epoch in curve[-_LAST_EPOCHS:]]
        rising = all(later > earlier for earlier, later in itertools.pairwise(last))
        if best == len(curve) - 1 and len(last) == _LAST_EPOCHS and rising:
            gains.append((last[-1] - last[0]) / (len(last) - 1))
    if not gaps:
        return "no curves of train and val"
    said = []
    if max(gaps) > _GAP:
        said.append(f"overfits: train is {100 * max(gaps):.1f} points above val")
    if gains and max(gains) > _GAINING:
        gain = 100 * max(gains)
        said.append(f"underfits: val gained {gain:.1f} points an epoch in the last {_LAST_EPOCHS}")
    return "; ".join(said) or f"fits: val is {_beside_train(max(gaps, key=abs))}"


def _beside_train(gap: float) -> str:
    points = f"{100 * abs(gap):.1f}"
    if points == "0.0":
        return "level with train"
    return f"{points} points {'below' if gap > 0 else 'above'} train"
