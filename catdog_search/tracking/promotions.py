"""A promotion as MLflow keeps it: one run, with the champion's model, numbers, card and figures.

It is in the study's experiment, but not among the runs of its trials. An interrupted promotion is
resumed: nothing is done twice.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from catdog_search.errors import StateError
from catdog_search.figures.predictions import Predictions
from catdog_search.outcomes import RunStatus
from catdog_search.outside import is_absent
from catdog_search.redact import redact
from catdog_search.retry import Retry
from catdog_search.tracking import vocabulary as words
from catdog_search.tracking.filters import all_pages, equals
from catdog_search.tracking.located import locate
from catdog_search.tracking.models import Pair, delete_model, log_model, models_of
from catdog_search.tracking.runs import SOURCE, as_text
from catdog_search.tracking.store import Store
from catdog_search.tracking.trial_files import keep_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from catdog_search.tracking.own import Client

_READY = "READY"


@dataclass(frozen=True)
class Answers:
    """A model's answers to some photos.

    Attributes:
        hashes: Short hashes of the photos, (n,).
        keys: Their keys in their source, (n,).
        labels: Labels, (n,), 0 or 1.
        probabilities: Calibrated probabilities of class 1, (n,), 0 to 1.
        uncalibrated: The same before the temperature, (n,).
        unlike: Scores of how unlike train each is, (n,).
    """

    hashes: npt.NDArray[Any]
    keys: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[Any]
    uncalibrated: npt.NDArray[Any]
    unlike: npt.NDArray[Any]

    def predictions(self, threshold: float) -> Predictions:
        """The predictions, class 1 above a threshold."""
        return Predictions(self.labels, self.probabilities, threshold)


class PromotionRun:
    """The run of one promotion.

    Args:
        client: Client of the store.
        experiment_id: Id of the study's experiment.
        run_id: Id of the run.

    Attributes:
        run_id: Id of the run.
    """

    def __init__(self, client: Client, experiment_id: str, run_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self.run_id = run_id

    @classmethod
    def open(
        cls, store: Store, study: str, uid: str, key: str, tags: Mapping[str, str], answering: str
    ) -> PromotionRun:
        """The run of a promotion, created if it doesn't exist.

        Args:
            store: MLflow store that keeps it.
            study: Name of the study that is promoted.
            uid: Its unique id.
            key: Key of everything that decides what is promoted.
            tags: More tags.
            answering: Key of the networks alone, whose answers don't depend on the rest.

        Raises:
            StateError: The store can't be opened, or no longer holds the study.
        """
        client = store.client()
        place = locate(store, study, uid)
        if place is None or place.in_trash:
            raise StateError(
                f"study {study!r} isn't in {store.shown} any more; `catdog-search doctor --repair` "
                "with the same --state brings it back"
            )
        experiment_id = place.experiment_id
        found = cls._search(client, experiment_id, words.PROMOTION_KEY, key)
        if found:
            client.update_run(found[0].run_id, status="RUNNING")
            return found[0]
        own = {
            words.STUDY: study,
            words.ROLE: words.ROLE_PROMOTION,
            words.PROMOTION_KEY: key,
            words.ANSWERING_KEY: answering,
            **SOURCE,
        }
        run = client.create_run(experiment_id, run_name="promotion", tags={**tags, **own})
        return cls(client, experiment_id, str(run.info.run_id))

    @classmethod
    def alike(cls, store: Store, study: str, uid: str, answering: str) -> list[PromotionRun]:
        """Promotions of the same networks, newest first; creates nothing."""
        place = locate(store, study, uid)
        if place is None:
            return []
        return cls._search(store.client(), place.experiment_id, words.ANSWERING_KEY, answering)

    @classmethod
    def _search(
        cls, client: Client, experiment_id: str, tag: str, value: str
    ) -> list[PromotionRun]:
        query = equals(f"tags.{tag}", value)
        where: dict[str, Any] = {"experiment_ids": [experiment_id], "filter_string": query}
        found = all_pages(client.search_runs, **where)
        return [cls(client, experiment_id, str(run.info.run_id)) for run in found]

    @classmethod
    def of(cls, store: Store, run_id: str) -> PromotionRun | None:
        """The promotion that made a version; None if a trial's run made it or the run is gone.

        Raises:
            StateError: The store can't be opened.
        """
        import mlflow

        client = store.client()
        try:
            run = client.get_run(run_id)
        except mlflow.exceptions.MlflowException as error:
            if not is_absent(error):
                raise
            return None
        if run.data.tags.get(words.ROLE) != words.ROLE_PROMOTION:
            return None
        return cls(client, str(run.info.experiment_id), run_id)

    def model_id(self) -> str | None:
        """Id of the model that it logged completely; remains of an interrupted one are removed."""
        found = None
        for model in models_of(self._client, self._experiment_id, self.run_id):
            if str(model.status) == _READY:
                found = str(model.model_id)
            else:
                delete_model(self._client, model)
        return found

    def log_model(
        self,
        store: Store,
        pair: Pair,
        backend: str,
        metadata: Mapping[str, Any],
        example: npt.NDArray[np.uint8],
    ) -> str:
        """Log the champion's model, see `models.log_model`; returns its model id."""
        retry = Retry(store.about)
        return log_model(self._client, self.run_id, pair, backend, metadata, example, retry)

    def log_answers(self, name: str, answers: Answers) -> None:
        """Keep answers, all or nothing.

        Args:
            name: Split that the photos are of.
            answers: Answers to them.
        """
        content = io.BytesIO()
        arrays: dict[str, Any] = {
            field.name: _plain(getattr(answers, field.name)) for field in fields(answers)
        }
        np.savez_compressed(content, **arrays)
        self._log_bytes(_answers_file(name), content.getvalue())

    def answers(self, name: str) -> Answers | None:
        """The answers that `log_answers` kept; None where there are none."""
        content = self._read(_answers_file(name))
        if content is None:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return Answers(*(file[field.name] for field in fields(Answers)))

    def _log_bytes(self, file: str, content: bytes) -> None:
        folder, name = file.rsplit("/", 1)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, name)
            path.write_bytes(content)
            self._client.log_artifact(self.run_id, str(path), folder)

    def _read(self, file: str) -> bytes | None:
        folder = file.rpartition("/")[0] or None
        if file not in {each.path for each in self._client.list_artifacts(self.run_id, folder)}:
            return None
        with tempfile.TemporaryDirectory() as temporary:
            return Path(self._client.download_artifacts(self.run_id, file, temporary)).read_bytes()

    def log_record(self, facts: Mapping[str, Any], card: str) -> None:
        """Keep all findings, for machines and for people."""
        self._client.log_text(self.run_id, redact(as_text(facts)), words.PROMOTION_FILE)
        self._client.log_text(self.run_id, redact(card), words.CARD_FILE)

    def record(self) -> Mapping[str, Any] | None:
        """What `log_record` kept; None if it was never called."""
        content = self._read(words.PROMOTION_FILE)
        return None if content is None else json.loads(content)

    def card(self) -> str | None:
        """The model card; None if none was written."""
        content = self._read(words.CARD_FILE)
        return None if content is None else content.decode()

    def log_figures(self, figures: Mapping[str, Figure]) -> None:
        """Keep figures, by file name."""
        keep_figures(self._client, self.run_id, figures)

    def figures(self) -> Collection[str]:
        """File names of the figures that are kept."""
        found = self._client.list_artifacts(self.run_id, words.FIGURES)
        return {file.path.rpartition("/")[2] for file in found}

    def log_numbers(self, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Log numbers and tags, overwriting those of an earlier call."""
        from catdog_search.tracking.trial_log import log_metrics

        log_metrics(self._client, self.run_id, metrics, step=0)
        for name, value in tags.items():
            self._client.set_tag(self.run_id, name, redact(value))

    def finish(self, status: RunStatus) -> None:
        """Close the run."""
        self._client.set_terminated(self.run_id, status)


def _answers_file(split: str) -> str:
    return f"{split}/{words.ANSWERS_FILE}"


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert objects to text of fixed width: an array of objects would be pickled."""
    return np.asarray(array, str) if array.dtype == object else array
