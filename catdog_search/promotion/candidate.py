"""The would-be champion: its networks combined, calibrated, and able to detect unlike photos.

Everything is fitted on photos that were used neither to train a network nor to choose one. Where
the best trial is taken as it is there are none, and val takes their place, without a guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from catdog_search.data.dataset import Dataset
from catdog_search.data.manifest import CALIBRATION, Split, short_hash
from catdog_search.errors import StateError
from catdog_search.evaluation.calibration import (
    Band,
    Calibration,
    calibrate,
    find_band,
    mean_probabilities,
    threshold_for,
)
from catdog_search.objective import Direction
from catdog_search.promotion.choice import Choice, Gain, median_seed, put_together
from catdog_search.promotion.finalists import Finalist
from catdog_search.search.study.views import TrialRow
from catdog_search.study.config import PromotionConfig
from catdog_search.tracking.looked_at import LoggedModels
from catdog_search.tracking.promotions import Answers
from catdog_search.tracking.recorded import RunReader
from catdog_search.tracking.store import Store
from catdog_search.training.metrics import scores

if TYPE_CHECKING:
    from catdog_search.models.export import ExportedModel


_BATCH = 64


@dataclass(frozen=True)
class Networks:
    """Trained networks chosen for promotion.

    Attributes:
        gain: Form in which they are used, and what that gains on val.
        rows: Their trials.
        study: Name of the study that trained them.
        models: Exported models, one per network; a single one where it stands for all.
        val: Scores by name on val, by which they were chosen, before the temperature.
    """

    gain: Gain
    rows: tuple[TrialRow, ...]
    study: str
    models: tuple[ExportedModel, ...]
    val: Mapping[str, float]


def as_it_is(store: Store, study: str, row: TrialRow) -> Networks:
    """The network of a study's best trial.

    Raises:
        StateError: It kept no model, or the model can't be loaded.
    """
    gain = Gain("as it is", row.value or 0.0, None, None)
    return Networks(gain, (row,), study, _load(store, study, (row,)), row.scores)


def of_finalist(
    store: Store, study: str, choice: Choice, dataset: Dataset, objective: tuple[str, Direction]
) -> Networks:
    """The chosen finalist's median seed, or its seeds combined where that gains on val.

    Args:
        store: MLflow store that keeps their models.
        study: Name of the study of finalists.
        choice: Chosen finalist.
        dataset: Photos at its image size.
        objective: Metric and direction.

    Raises:
        StateError: A model can't be loaded.
    """
    metric, direction = objective
    rows, finalist = choice.finalist.seeds, choice.finalist
    median = median_seed(finalist, direction)
    single = median.value or 0.0
    together = averaged = None
    if len(rows) > 1:
        together = _mean_on_val(store, rows)
        averaged = _averaged(store, study, finalist, dataset)
    gain = put_together(
        direction,
        choice.noise,
        single,
        together[metric] if together else None,
        averaged[1][metric] if averaged else None,
    )
    if gain.form == "mean of weights" and averaged:
        return Networks(gain, rows, study, (averaged[0],), averaged[1])
    if gain.form == "mean of probabilities" and together:
        return Networks(gain, rows, study, _load(store, study, rows), together)
    return Networks(gain, (median,), study, _load(store, study, (median,)), median.scores)


def _mean_on_val(store: Store, rows: Sequence[TrialRow]) -> Mapping[str, float]:
    """Scores of the mean of several trials' probabilities on val."""
    reader = RunReader(store)
    seen = []
    for row in rows:
        predictions = reader.recorded(row.run_id or "").predictions
        if predictions is None:
            raise StateError(f"run {row.run_id} of trial {row.number} has no predictions any more")
        seen.append(predictions)
    mean = np.mean([each.probabilities for each in seen], axis=0)
    return scores(seen[0].labels, mean)


def _averaged(
    store: Store, study: str, finalist: Finalist, dataset: Dataset
) -> tuple[ExportedModel, Mapping[str, float]] | None:
    """One network with the mean of the seeds' weights, and its scores; None if starts differed.

    Only networks that began with the same weights share a basin of the loss; averaging others gives
    no useful network.
    """
    if not finalist.begins_alike:
        return None
    from catdog_search.models.export import averaged_weights, logits_of
    from catdog_search.training.metrics import probabilities_of

    model = averaged_weights(_load(store, study, finalist.seeds))
    x, y = dataset.split("val")
    return model, scores(y, probabilities_of(logits_of([model], x)))


def _load(store: Store, study: str, rows: Sequence[TrialRow]) -> tuple[ExportedModel, ...]:
    models = LoggedModels(store)
    for row in rows:
        if row.model_id is None:
            raise StateError(f"trial {row.number} of study {study!r} kept no model")
    return tuple(models.load(f"models:/{row.model_id}").model for row in rows)


@dataclass(frozen=True)
class Candidate:
    """A model that may become champion.

    Attributes:
        networks: Networks that it is made of.
        model: Exported model: uint8 RGB (batch, height, width, 3) -> calibrated probability of
            class 1 (batch, 1).
        neither: Exported model that scores how unlike train a photo is, with the same input.
        fitted_on: Split that everything was fitted on.
        calibration: Temperature, and errors before and after.
        threshold: Probability above which the answer is class 1.
        band: Band in which the answer is "not sure"; None where no band keeps the rate asked.
        unlike_above: Score above which a photo is taken for neither class; None where there are too
            few photos to tell.
        answers: Answers to the photos that it was fitted on.
        image_size: Side that it resizes to, in pixels.
        class_names: Class names, by index.
    """

    networks: Networks
    model: ExportedModel
    neither: ExportedModel
    fitted_on: Split
    calibration: Calibration
    threshold: float
    band: Band | None
    unlike_above: float | None
    answers: Answers
    image_size: int
    class_names: tuple[str, ...]

    @property
    def is_guaranteed(self) -> bool:
        """Whether the photos that it was fitted on were used for nothing else."""
        return self.fitted_on == CALIBRATION

    def answer(self, dataset: Dataset, split: Split) -> Answers:
        """Answers to the photos of a split, packed at its image size."""
        return answers_of(self.networks, self.neither, self.calibration, dataset, split)

    def save(self, path: Path) -> int:
        """Save the model; returns its size in bytes."""
        self.model.save(path)
        return path.stat().st_size


def fit(networks: Networks, dataset: Dataset, asked: PromotionConfig) -> Candidate:
    """Make a candidate from networks: calibrate it, and learn what is unlike train.

    Args:
        networks: Networks chosen for promotion.
        dataset: Photos at their image size, with a calibration split if they were trained again.
        asked: Study's `[promotion]`.

    Raises:
        StateError: A cost names no class.
    """
    from catdog_search.evaluation.neither import FEWEST, threshold_at
    from catdog_search.models.export import body_of, calibrated_model, logits_of
    from catdog_search.models.neither import neither_model, step_of

    split: Split = "val" if networks.gain.form == "as it is" else CALIBRATION
    x, y = dataset.split(split)
    labels = y.ravel().astype(int)
    logits = logits_of(networks.models, x)
    calibration = calibrate(labels, logits)
    threshold = threshold_for(asked.costs, dataset.manifest.class_names)
    probabilities = mean_probabilities(logits, calibration.temperature)
    bodies = [body_of(model) for model in networks.models]
    model = calibrated_model(bodies, dataset.image_size, calibration.temperature)
    train = dataset.rows("train")
    seen = dataset.read(train[:: step_of(len(train))])  # not all of it, which may be gigabytes
    neither = neither_model(networks.models[0], seen)
    answers = answers_of(networks, neither, calibration, dataset, split, logits)
    return Candidate(
        networks=networks,
        model=model,
        neither=neither,
        fitted_on=split,
        calibration=calibration,
        threshold=threshold,
        band=find_band(labels, probabilities, threshold, asked.error_rate),
        unlike_above=threshold_at(answers.unlike) if len(x) >= FEWEST else None,
        answers=answers,
        image_size=dataset.image_size,
        class_names=dataset.manifest.class_names,
    )


def answers_of(
    networks: Networks,
    neither: Any,
    calibration: Calibration,
    dataset: Dataset,
    split: Split,
    logits: npt.NDArray[np.float32] | None = None,
) -> Answers:
    """Answers of networks to the photos of a split, packed at their image size.

    Args:
        networks: Networks that answer together.
        neither: Model that scores how unlike train a photo is.
        calibration: Temperature of the answers.
        dataset: Photos.
        split: Split of the photos.
        logits: Logits (n, networks), if already known.
    """
    from catdog_search.models.export import logits_of

    x, y = dataset.split(split)
    if logits is None:
        logits = logits_of(networks.models, x)
    photos = [dataset.manifest.photos[row] for row in dataset.rows(split)]
    return Answers(
        hashes=np.array([short_hash(photo.sha256) for photo in photos]),
        keys=np.array([photo.key for photo in photos]),
        labels=y.ravel().astype(np.uint8),
        probabilities=mean_probabilities(logits, calibration.temperature),
        uncalibrated=mean_probabilities(logits, 1.0),
        unlike=np.ravel(neither.predict(x, batch_size=_BATCH, verbose=0)),
    )
