"""Plot figures on demand, for trials that keep none of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from catdog_search import places
from catdog_search.data import dataset
from catdog_search.data.dataset import Dataset
from catdog_search.data.own import MARK
from catdog_search.errors import StateError
from catdog_search.figures.style import plain_style
from catdog_search.figures.trial import trial_figures
from catdog_search.places import StateFolder
from catdog_search.search.study.insight import Insight
from catdog_search.search.study.settings import made_with
from catdog_search.search.study.storage import load_study
from catdog_search.search.study.summary import study_figures
from catdog_search.search.study.views import StudyView, TrialRow
from catdog_search.text import N_CLASSES
from catdog_search.tracking.recorded import RunReader
from catdog_search.tracking.store import Store
from catdog_search.tracking.trial_files import val_photos

_DPI = 110


@dataclass(frozen=True)
class SavedFigures:
    """Figures that were plotted and saved.

    Attributes:
        paths: Paths of the figures.
        missing: Figures that couldn't be plotted, and why, for people; empty for none.
    """

    paths: list[Path]
    missing: str


def plot_study(seen: Insight, folder: Path) -> list[Path]:
    """Plot the figures of a study into a folder.

    Raises:
        StateError: No trial is COMPLETE.
        OSError: The folder can't be written.
    """
    if not seen.view.ranked():
        raise StateError(f"study {seen.view.name!r} has no COMPLETE trial to draw")
    return _save(study_figures(seen), folder)


def plot_trial(state: StateFolder, view: StudyView, row: TrialRow, folder: Path) -> SavedFigures:
    """Plot the figures of a trial into a folder, from what MLflow keeps of it.

    Raises:
        StateError: It has no run or no epoch.
        OSError: The folder can't be written.
    """
    reader = RunReader(Store.of(state))
    if row.run_id and not reader.has_run(row.run_id):
        cure = state.command("doctor --repair")
        raise StateError(
            f"trial {row.number} of study {view.name!r}: MLflow lost its run {row.run_id}, and the "
            f"curves with it; {cure} makes the run anew from what Optuna knows"
        )
    seen = reader.recorded(row.run_id) if row.run_id else None
    if seen is None or not seen.history:
        raise StateError(f"trial {row.number} of study {view.name!r} has no epoch to draw")
    packed = _packed(state, view, row)
    unnamed = [f"class {index}" for index in range(N_CLASSES)]
    names = packed.manifest.class_names if packed else unnamed
    figures = trial_figures(
        f"{view.name} trial {row.number}",
        seen.history,
        seen.best_epoch,
        seen.predictions,
        names,
        val_photos(packed) if packed else None,
    )
    missing = "the photos are not in the cache any more, so the most wrong ones are not shown"
    return SavedFigures(_save(figures, folder), missing if seen.predictions and not packed else "")


def _packed(state: StateFolder, view: StudyView, row: TrialRow) -> Dataset | None:
    made = made_with(load_study(state, view.name))
    image_size = int(row.params.get("image_size") or made["image_size"])
    return dataset.find(places.cache_folder(), view.dataset_digest or "", image_size)


def _save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with plain_style():
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=_DPI, metadata=dict(MARK))
    return [folder / name for name in figures]
