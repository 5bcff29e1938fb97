"""Training and its callbacks: on a few pictures, and on invented losses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from catdog_search import studies
from catdog_search.config import StudyConfig
from catdog_search.data.decode import decode
from catdog_search.data.sources import SyntheticSource
from catdog_search.training.callbacks import ReportCallback
from catdog_search.training.evaluate import scores
from catdog_search.training.loop import accuracy, train
from catdog_search.training.result import TrainData


def config(**more: Any) -> StudyConfig:
    table = {
        "name": "s",
        "purpose": "p",
        "image_size": 16,
        "metric": "val_accuracy",
        "direction": "maximize",
        "trials": 1,
        "space": {"dropout": 0.0},
        "training": {"epochs": 3, "patience": 3},
        **more,
    }
    return studies.parse(table, "f.toml")


PARAMS = {"n_blocks": 2, "filters": 8, "dense_units": 0, "dropout": 0.0, "batch_size": 8}


@pytest.fixture(scope="module")
def data(drawn: SyntheticSource) -> TrainData:
    keys = [*list(drawn.labels)[:12], *list(drawn.labels)[-12:]]
    x = np.stack([decode(drawn.read(key), 16) for key in keys])
    y = np.array([[drawn.labels[key]] for key in keys], np.float32)
    return TrainData(x, y, x[::2], y[::2], ("cat", "dog"))


def go_on(epoch: int, metrics: Any) -> bool:
    return True


def test_train_learns_its_own_pictures(data: TrainData) -> None:
    fit = config(training={"epochs": 40, "patience": 40})
    result = train({**PARAMS, "learning_rate": 0.01}, fit, data, go_on, seed=1)
    assert result.ending == "finished"
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 4
    assert result.scores["val_accuracy"] > 0.9


def test_train_reports_every_epoch_in_order(data: TrainData) -> None:
    seen: list[tuple[int, set[str]]] = []

    def report(epoch: int, metrics: Any) -> bool:
        seen.append((epoch, set(metrics)))
        return True

    result = train(PARAMS, config(), data, report, seed=1)
    assert [epoch for epoch, _ in seen] == [0, 1, 2]
    logged = {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"}
    assert all(names == logged for _, names in seen)
    assert len(result.history) == 3


def test_train_stops_when_told(data: TrainData) -> None:
    result = train(PARAMS, config(), data, lambda epoch, metrics: epoch < 1, seed=1)
    assert (result.ending, len(result.history), result.model) == ("told", 2, None)


def test_train_stops_at_the_next_batch_when_interrupted(data: TrainData) -> None:
    result = train(PARAMS, config(), data, go_on, seed=1, on_batch=lambda *_: False)
    assert (result.ending, result.history, result.model) == ("interrupted", [], None)


def test_train_notices_divergence(data: TrainData) -> None:
    broken = TrainData(data.x_train, data.y_train * np.nan, data.x_val, data.y_val, ("a", "b"))
    reported: list[int] = []
    result = train(PARAMS, config(), broken, lambda e, m: reported.append(e) is None, seed=1)
    assert (result.ending, result.model, reported) == ("diverged", None, [])


def test_train_scores_the_best_epoch_and_not_the_last(data: TrainData) -> None:
    # With val's labels turned round, val gets worse while train gets better.
    opposed = TrainData(data.x_train, data.y_train, data.x_val, 1 - data.y_val, ("a", "b"))
    fit = config(training={"epochs": 25, "patience": 25})
    result = train({**PARAMS, "learning_rate": 0.01}, fit, opposed, go_on, seed=3)
    values = [metrics["val_accuracy"] for metrics in result.history]
    assert values[-1] < max(values)
    assert result.best_epoch == values.index(max(values))
    assert result.scores["val_accuracy"] == pytest.approx(max(values))


def test_train_stops_early(data: TrainData) -> None:
    fit = config(training={"epochs": 50, "patience": 2, "min_delta": 0.99})
    result = train(PARAMS, fit, data, go_on, seed=1)
    assert result.ending == "finished"
    assert len(result.history) == 3


def test_train_repeats_itself_with_the_same_seed(data: TrainData) -> None:
    params = {**PARAMS, "augmentation": 0.5, "dropout": 0.3}
    first, second, other = (train(params, config(), data, go_on, seed=s) for s in (1, 1, 2))
    # Threads may add in another order, so not to the last bit.
    assert np.allclose(first.val_probabilities, second.val_probabilities, atol=1e-4)
    assert not np.allclose(first.val_probabilities, other.val_probabilities, atol=1e-4)


def test_train_exports_what_it_scored(data: TrainData) -> None:
    result = train(PARAMS, config(), data, go_on, seed=1)
    assert result.model is not None
    exported = result.model.predict(data.x_val, verbose=0).ravel()
    assert np.abs(exported - result.val_probabilities).max() < 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_train_uses_the_optimizer_and_rate_asked_for(data: TrainData, optimizer: str) -> None:
    params = {**PARAMS, "optimizer": optimizer, "learning_rate": 0.002}
    result = train(params, config(training={"epochs": 1}), data, go_on, seed=1)
    assert result.history[0]["learning_rate"] == pytest.approx(0.002)


def reporter(report: Any = go_on, on_batch: Any = None) -> ReportCallback:
    callback = ReportCallback(report, on_batch, "val_loss")
    optimizer = SimpleNamespace(learning_rate=np.float32(0.1))
    callback.set_model(SimpleNamespace(optimizer=optimizer, stop_training=False))
    callback.set_params({"steps": 5})
    return callback


@pytest.mark.parametrize(
    ("loss", "val_loss", "keep_going", "ending"),
    [
        (0.5, 0.6, True, "finished"),
        (0.5, 0.6, False, "told"),
        (float("nan"), 0.6, True, "diverged"),
        (0.5, float("inf"), True, "diverged"),
    ],
)
def test_report_callback_decides_by_the_numbers(
    loss: float, val_loss: float, keep_going: bool, ending: str
) -> None:
    callback = reporter(lambda epoch, metrics: keep_going)
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"loss": loss, "val_loss": val_loss})
    assert callback.ending == ending
    assert callback.model.stop_training == (ending != "finished")


def test_report_callback_refuses_a_metric_that_is_not_logged() -> None:
    with pytest.raises(KeyError, match=r"monitor 'val_loss' is not logged; there are \['loss'\]"):
        reporter().on_epoch_end(0, {"loss": 1.0})


def test_report_callback_tells_batches_from_one_on() -> None:
    seen: list[tuple[int, int, int]] = []
    callback = reporter(on_batch=lambda *progress: seen.append(progress) is None)
    callback.on_epoch_begin(2)
    callback.on_train_batch_end(3)
    callback.on_train_batch_end(4)  # too soon after the other
    assert seen == [(2, 4, 5)]


def test_accuracy_tells_photo_by_photo_by_the_sign_of_logits() -> None:
    got = accuracy(np.array([[0.0], [1], [1], [0]]), np.array([[-3.0], [2], [-1], [0.5]]))
    assert keras.ops.convert_to_numpy(got).tolist() == [1, 1, 0, 0]


def test_train_weighs_a_smaller_last_batch_by_its_size(
    data: TrainData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog_search.training.loop.VAL_BATCH", 7)  # of 12: 7 and 5
    result = train(PARAMS, config(), data, go_on, seed=2)
    assert result.best_epoch is not None
    logged = result.history[result.best_epoch]
    assert logged["val_accuracy"] == pytest.approx(result.scores["val_accuracy"], abs=1e-6)
    assert logged["val_loss"] == pytest.approx(result.scores["val_loss"], abs=1e-5)


def test_scores_of_known_probabilities() -> None:
    got = scores(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.8, 0.7, 0.9], np.float32))
    assert got["val_accuracy"] == 0.75
    assert got["val_precision"] == pytest.approx(2 / 3)
    assert got["val_recall"] == 1
    assert got["val_auc"] == 0.75
    assert got["val_loss"] == pytest.approx(-np.log([0.9, 0.2, 0.7, 0.9]).mean(), rel=1e-5)


def test_scores_of_a_model_that_never_says_dog() -> None:
    got = scores(np.array([0.0, 1]), np.array([0.1, 0.2], np.float32))
    assert (got["val_precision"], got["val_recall"], got["val_f1"]) == (0, 0, 0)
