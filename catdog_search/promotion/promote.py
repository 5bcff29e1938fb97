"""Register the best trial's model and give it the alias that others load."""

from __future__ import annotations

from dataclasses import dataclass

from catdog_search.errors import StateError
from catdog_search.places import StateFolder
from catdog_search.search.events import Best
from catdog_search.search.study import views
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.registry import Registered, register_champion
from catdog_search.tracking.store import Store


@dataclass(frozen=True)
class Promotion:
    """Result of a promotion.

    Attributes:
        best: Best trial, whose model was promoted.
        registered: Its model version in the registry.
        tracking_uri: MLflow's tracking URI, without which the model's URI means nothing.
    """

    best: Best
    registered: Registered
    tracking_uri: str


def promote(state: StateFolder, study: str, model_name: str) -> Promotion:
    """Register the model of a study's best COMPLETE trial as champion.

    Args:
        state: State folder that keeps the study.
        study: Study's name.
        model_name: Name of the registered model.

    Raises:
        StateError: There is no such study, no COMPLETE trial, or the model is gone.
    """
    view = views.load_view(state, study)
    best = view.best
    if best is None:
        counts = ", ".join(f"{n} {s}" for s, n in sorted(view.counts.items())) or "no trial"
        raise StateError(f"study {study!r} has no COMPLETE trial to promote ({counts})")
    model_id = view.trials[best.number].model_id
    if model_id is None:
        raise StateError(f"trial {best.number} of study {study!r} kept no model")
    store = Store.of(state)
    tags = {
        words.STUDY: study,
        words.TRIAL: str(best.number),
        words.RUN_ID: best.run_id,
        words.METRIC: view.metric or "",
        words.OBJECTIVE: f"{best.value:.6g}",
        words.DATASET_DIGEST: view.dataset_digest or "",
    }
    with state.registering():
        registered = register_champion(store, model_name, model_id, tags)
        store.keep_copy()
    return Promotion(best, registered, store.shown)
