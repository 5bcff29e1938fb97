"""Somebody's code for KerasTuner in training: by our loop, by its own `fit`, by its own loop."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kerastuner_code import FIT, LOOP, TABLE, explored, writer_of

from catdog_search.errors import StateError, UnfitParamsError
from catdog_search.families import hypermodel
from catdog_search.outcomes import Ending
from catdog_search.study import studies
from catdog_search.training.job import TrainingJob, job_of
from catdog_search.training.result import TrainData, TrialResult


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module into the current folder; returns its name."""
    return writer_of(tmp_path, monkeypatch)


def job(own: str, params: dict[str, Any], **more: Any) -> TrainingJob:
    code = explored(own)
    study = studies.parse(
        {**TABLE, "hypermodel": own, "training": {"epochs": 3}, **more}, "own.toml"
    )
    assert study.found == code
    return job_of(study, params, seed=1)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code runs in this process, which has Keras already."""
    monkeypatch.setattr(hypermodel, "find", explored)


def trained(job: TrainingJob, data: TrainData, **options: Any) -> tuple[TrialResult, list[str]]:
    from catdog_search.training.loop import train

    said: list[str] = []
    report = options.pop("report", lambda epoch, metrics: True)
    return train(job, data, report, say=said.append, **options), said


SMALL = """
def build(hp):
    inputs, x = flat()
    x = layers.Dropout(0.3)(layers.Dense(hp.Int("units", 2, 64), "relu")(x))
    if hp.get("units") == 3:
        hp.Int("surprise", 5, 9)
    if hp.get("units") == 4:
        raise kt.errors.FailedTrialError("not four")
    return compiled(x, inputs, "sparse_categorical_crossentropy", 2, "softmax")
"""


@pytest.mark.usefixtures("here")
def test_training_goes_on_from_its_checkpoint(
    module: Callable[..., str], data: TrainData, tmp_path: Path
) -> None:
    asked = job(f"{module(SMALL)}:build", {"units": 8})
    whole, _ = trained(asked, data)
    assert whole.ending is Ending.FINISHED
    assert whole.val_probabilities.shape == data.y_val[:, 0].shape
    place = tmp_path / "checkpoint.npz"
    cut, _ = trained(asked, data, checkpoint=place, report=lambda epoch, metrics: epoch < 1)
    assert cut.ending is Ending.PRUNED
    rest, said = trained(asked, data, checkpoint=place)
    assert "resumes after epoch 1" in said[-1]
    losses = [[row["loss"] for row in each.history] for each in (whole, rest)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert whole.model.predict(data.x_val, verbose=0).shape == data.y_val.shape


@pytest.mark.usefixtures("here")
def test_trial_says_what_comes_up_late_and_learns_what_cant_be(
    module: Callable[..., str], data: TrainData, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"{module(SMALL)}:build"
    asked = job(own, {"units": 3})
    _, said = trained(asked, data)
    assert said == ["surprise is asked for the first time; it is 5, its default, and not searched"]
    with pytest.raises(UnfitParamsError, match="FailedTrialError: not four") as unfit:
        trained(job(own, {"units": 4}), data)
    assert not unfit.value.is_too_large
    with pytest.raises(UnfitParamsError, match="too large: 49") as unfit:
        trained(job(own, {"units": 64}, limits={"max_parameters": 10_000}), data)
    assert unfit.value.is_too_large
    with pytest.raises(UnfitParamsError, match=r"too large: about 0\.. minutes, at most 1e-05"):
        trained(job(own, {"units": 8}, limits={"max_trial_minutes": 1e-5}), data)
    params = asked.params.model_copy(update={"source": "1" * 16})
    with pytest.raises(StateError, match="the source of own:build changed"):
        trained(dataclasses.replace(asked, params=params), data)


@pytest.mark.usefixtures("here")
def test_fit_of_their_own_trains_and_is_scored_by_ours(
    module: Callable[..., str], data: TrainData, tmp_path: Path
) -> None:
    params = {"units": 2, "normalize": True, "weight": 1.5, "batch_size": 8, "epochs": 2}
    asked = job(f"{module(FIT)}:OwnFit", params)
    place = tmp_path / "checkpoint.npz"
    result, _ = trained(asked, data, checkpoint=place)
    assert result.ending is Ending.FINISHED
    assert len(result.history) == 2
    assert result.best_epoch in (0, 1)
    assert not place.exists()
    assert 0 <= result.scores["val_accuracy"] <= 1
    pruned, _ = trained(asked, data, report=lambda epoch, metrics: False)
    assert (pruned.ending, len(pruned.history)) == (Ending.PRUNED, 1)


@pytest.mark.usefixtures("here")
def test_loop_of_their_own_is_stopped_where_it_should_be(
    module: Callable[..., str], data: TrainData
) -> None:
    asked = job(f"{module(LOOP)}:Loop", {"rate": 0.1, "rate of learning": 1e-3})
    result, _ = trained(asked, data)
    assert result.ending is Ending.FINISHED
    assert len(result.history) == 4  # it learns nothing: patience is 3
    assert result.best_epoch == 0
    pruned, _ = trained(asked, data, report=lambda epoch, metrics: epoch < 1)
    assert (pruned.ending, len(pruned.history)) == (Ending.PRUNED, 2)


@pytest.mark.usefixtures("here")
def test_fit_of_their_own_is_given_both_classes_mixed(
    module: Callable[..., str], data: TrainData
) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    name = module(FIT)
    asked = job(f"{name}:OwnFit", {"units": 2, "weight": 1.0, "batch_size": 8, "epochs": 2})
    kind = importlib.import_module(name).OwnFit
    fit = kind.fit

    def watched(self: Any, hp: Any, model: Any, x: Any, y: Any, **kwargs: Any) -> Any:
        seen.append((np.asarray(x), np.asarray(y)))
        return fit(self, hp, model, x, y, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, "fit", watched)
        trained(asked, data)
        trained(asked, data)
    (x, y), (again, _) = seen[-2:]
    assert len(set(y[: len(y) // 2].argmax(1))) == 2, "not one class after the other"
    assert np.array_equal(x, again), "the same seed, the same order"
    theirs = sorted(zip(x.sum((1, 2, 3)), y.argmax(1), strict=True))
    ours = sorted(zip(data.x_train.sum((1, 2, 3)), data.y_train[:, 0], strict=True))
    assert [label for _, label in theirs] == [label for _, label in ours]


OPEN = """
class Open(kt.HyperModel):
    def build(self, hp):
        self.scale = layers.Normalization()
        model = keras.Sequential([
            keras.Input((16, 16, 3)), self.scale, layers.Flatten(),
            layers.Dense(hp.Int("units", 2, 4)), layers.Dense(2)])
        return model

    def fit(self, hp, model, x, y, **kwargs):
        self.scale.adapt(x)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="xent")
        model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-4, 1e-2)), loss)
        return model.fit(x, y, **kwargs)
"""


@pytest.mark.usefixtures("here")
def test_what_only_a_fit_compiles_and_adapts_is_trained_and_kept(
    module: Callable[..., str], data: TrainData
) -> None:
    asked = job(f"{module(OPEN)}:Open", {"units": 2, "rate": 1e-3})
    assert asked.params.labels == "integers"
    result, _ = trained(asked, data)
    assert result.ending is Ending.FINISHED
    said = np.ravel(result.model.predict(data.x_val, verbose=0))
    assert said == pytest.approx(result.val_probabilities, abs=1e-4)
