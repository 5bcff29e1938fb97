"""Put a study's figures, table and ranks where people look for them: on its MLflow run."""

from __future__ import annotations

import json
from typing import Any

import optuna
from matplotlib.figure import Figure

from catdog_search.figures.study import Point, importance_bars, optimization_history, slices
from catdog_search.search.study.insight import Insight
from catdog_search.search.study.views import StudyView, TrialRow
from catdog_search.tracking.runs import StudyRuns


def summarize(study: optuna.Study, runs: StudyRuns) -> None:
    """Bring the study's run and the ranks of its trials' runs up to date."""
    seen = Insight(study)
    view = seen.view
    runs.mark(
        {row.run_id: rank for rank, row in enumerate(view.ranked(), 1) if row.run_id},
        {row.run_id: json.dumps(row.outside) for row in view.trials if row.run_id and row.outside},
    )
    runs.log_study(study_figures(seen), trials_table(view))


def study_figures(seen: Insight) -> dict[str, Figure]:
    """The figures of a study, by file name."""
    view = seen.view
    points = [_point(row) for row in view.trials if row.is_over]
    metric, title = view.metric or "objective", f"study {view.name}"
    figures = {
        "history.png": optimization_history(points, metric, view.direction, title),
        "slices.png": slices(points, metric, title),
    }
    found = seen.importance
    if found.shares:
        figures["importance.png"] = importance_bars(found.shares, found.note, title)
    return figures


def _point(row: TrialRow) -> Point:
    failed = row.ending is not None and row.ending.is_failure
    return Point(row.number, row.value, failed, row.varied, row.recipe)


def trials_table(view: StudyView) -> dict[str, list[Any]]:
    """Columns of all trials, by number."""
    names = sorted({name for row in view.trials for name in row.varied})
    columns: dict[str, list[Any]] = {
        "trial": [row.number for row in view.trials],
        "state": [row.state for row in view.trials],
        "ending": [row.ending for row in view.trials],
        view.metric or "objective": [row.value for row in view.trials],
        "epochs": [row.epochs for row in view.trials],
        "seconds": [row.seconds for row in view.trials],
        "weights": [row.n_weights for row in view.trials],
        "recipe": [row.recipe for row in view.trials],
    }
    return columns | {name: [row.varied.get(name) for row in view.trials] for name in names}
