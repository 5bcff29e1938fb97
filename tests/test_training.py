"""Training and its callbacks: on a few pictures, and on invented losses."""

from __future__ import annotations

import ast
import dataclasses
import errno
import json
import math
import os
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from pooled_family import POOLED
from tiny_training import BACKEND, PARAMS, config, go_on, train

from catdog_search.families import registry
from catdog_search.families.cnn import CnnParams
from catdog_search.models.defaults import pin_defaults
from catdog_search.models.export import exported_model
from catdog_search.models.loading import ForeignModelError, load_exported
from catdog_search.outcomes import Ending
from catdog_search.search.limits import Limits
from catdog_search.study.config import Metric
from catdog_search.training import checkpoint, device
from catdog_search.training.batches import TrainBatches, ValBatches, feed
from catdog_search.training.callbacks import (
    STOPPER,
    ReportCallback,
    as_array,
    training_variables,
    val_metrics,
)
from catdog_search.training.checkpoint import UnusableError
from catdog_search.training.cnn import CnnTraining
from catdog_search.training.device import is_out_of_memory, product_rate
from catdog_search.training.execution import PLAIN, Execution
from catdog_search.training.job import job_of
from catdog_search.training.loop import restore, training_key
from catdog_search.training.metrics import scores
from catdog_search.training.optimize import Scores, learning_rate
from catdog_search.training.result import TrainData
from catdog_search.training.whitening import whitening_kernel


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
    scored = ("loss", "accuracy", "precision", "recall", "auc")
    logged = {*scored, *(f"val_{name}" for name in scored)}
    logged |= {"learning_rate", "seconds", "images_per_second"}
    assert all(names == logged for _, names in seen)
    assert len(result.history) == 3


def test_train_stops_when_told(data: TrainData) -> None:
    result = train(PARAMS, config(), data, lambda epoch, metrics: epoch < 1, seed=1)
    assert (result.ending, len(result.history), result.model) == ("pruned", 2, None)


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


@pytest.fixture
def keras_json() -> Iterator[None]:
    """Keras as a `keras.json` of another program, and variables for debugging, set it up."""
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(0.5)
    keras.config.set_max_epochs(1)
    keras.config.set_max_steps_per_epoch(1)
    yield
    pin_defaults()


@pytest.mark.usefixtures("keras_json")
def test_train_does_not_take_the_settings_of_other_programs(data: TrainData) -> None:
    plain = {"schedule": "cosine", "normalization": "batch"}
    result = train({**PARAMS, **plain}, config(), data, go_on, seed=1)
    assert (result.ending, len(result.history)) == ("finished", 3)
    assert len(result.val_probabilities) == len(data.y_val)
    assert result.model is not None
    assert {str(weight.dtype) for weight in result.model.weights} == {"float32"}
    assert keras.config.epsilon() == 1e-7


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
    callback = ReportCallback(report, on_batch, "val_loss", photos=8, history=[])
    optimizer = SimpleNamespace(learning_rate=np.float32(0.1))
    callback.set_model(SimpleNamespace(optimizer=optimizer, stop_training=False))
    callback.set_params({"steps": 5})
    return callback


@pytest.mark.parametrize(
    ("loss", "val_loss", "keep_going", "ending"),
    [
        (0.5, 0.6, True, "finished"),
        (0.5, 0.6, False, "pruned"),
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


def test_metrics_take_logits_and_blended_labels() -> None:
    metric = Scores()
    labels = np.array([[0.1], [0.9], [1], [0]], np.float32)
    metric.update_state(labels, np.array([[-3.0], [2], [-1], [0.5]], np.float32))
    got = {name: float(value) for name, value in metric.result().items()}
    assert got == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "auc": 0.75}
    metric.reset_state()
    assert {float(value) for value in metric.result().values()} == {0.0}


def test_metrics_of_many_batches_are_those_of_the_whole() -> None:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 2, (3000, 1)).astype(np.float32)
    logits = (chance.normal(size=(3000, 1)) * 2 + labels).astype(np.float32)
    metric = Scores()
    for start in range(0, 3000, 64):
        metric.update_state(labels[start : start + 64], logits[start : start + 64])
    exact = scores(labels, (1 / (1 + np.exp(-logits.ravel()))).astype(np.float32))
    for name, value in metric.result().items():
        near = 2e-3 if name == "auc" else 1e-6
        assert float(value) == pytest.approx(exact[f"val_{name}"], abs=near), name


def test_train_weighs_a_smaller_last_batch_by_its_size(
    data: TrainData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog_search.training.batches._VAL_PIXELS", 7 * 16 * 16)
    monkeypatch.setattr("catdog_search.training.batches._LEAST_VAL_BATCH", 1)
    data = dataclasses.replace(data, x_val=data.x_val[:11], y_val=data.y_val[:11])
    assert [len(ValBatches(data)[i][1]) for i in range(2)] == [6, 5]
    result = train(PARAMS, config(), data, go_on, seed=2)
    assert result.best_epoch is not None
    logged = result.history[result.best_epoch]
    assert logged["val_accuracy"] == pytest.approx(result.scores["val_accuracy"], abs=1e-6)
    assert logged["val_loss"] == pytest.approx(result.scores["val_loss"], abs=1e-5)


def test_every_metric_that_a_study_may_name_is_scored_each_epoch() -> None:
    labels, logits = np.array([0.0, 0, 0, 1]), np.array([-1.0, -1, -1, -1], np.float32)
    for metric in typing.get_args(Metric):
        assert metric in val_metrics(labels, logits, metric)
        assert math.isnan(val_metrics(labels, logits * np.nan, metric)[metric])
    got = val_metrics(labels, logits, "val_balanced_accuracy")
    assert (got["val_accuracy"], got["val_balanced_accuracy"]) == (0.75, 0.5)


def test_scores_of_known_probabilities() -> None:
    got = scores(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.8, 0.7, 0.9], np.float32))
    assert got["val_accuracy"] == got["val_balanced_accuracy"] == 0.75
    assert got["val_precision"] == pytest.approx(2 / 3)
    assert got["val_recall"] == 1
    assert got["val_auc"] == 0.75
    assert got["val_loss"] == pytest.approx(-np.log([0.9, 0.2, 0.7, 0.9]).mean(), rel=1e-5)


def test_scores_of_a_model_that_never_says_dog() -> None:
    got = scores(np.array([0.0, 1]), np.array([0.1, 0.2], np.float32))
    assert (got["val_precision"], got["val_recall"], got["val_f1"]) == (0, 0, 0)


class PowerCutError(Exception):
    pass


RESUMED = [
    {},
    {"dropout": 0.3, "augmentation": 0.5, "normalization": "batch"},
    {"schedule": "cosine", "ema": 0.9, "dropout": 0.2},
    {"schedule": "one-cycle", "optimizer": "sgd", "weight_decay": 0.01, "augmentation": 0.6,
     "augmentation_kinds": "flip+erasing+mixup"},
    {"schedule": "cosine", "head": "average", "progressive": 0.5, "augmentation": 0.3},
    {"stem": "whitening", "initialization": "he", "block": "residual", "convolutions": 2,
     "normalization": "batch", "augmentation": 0.3, "augmentation_kinds": "alternating_flip+zoom",
     "schedule": "cosine", "test_time_augmentation": "flip"},
]  # fmt: skip


@pytest.mark.parametrize("change", RESUMED, ids=str)
@pytest.mark.parametrize("cut", [2])
def test_train_goes_on_from_its_last_epoch_as_if_nothing_had_happened(
    data: TrainData, tmp_path: Path, change: dict[str, Any], cut: int
) -> None:
    params = {**PARAMS, **change}
    fit = config(training={"epochs": 4, "patience": 2})
    whole = train(params, fit, data, go_on, seed=1)
    path = tmp_path / "c.npz"

    def until_the_cut(epoch: int, metrics: Any) -> bool:
        if epoch == cut:
            raise PowerCutError
        return True

    with pytest.raises(PowerCutError):
        train(params, fit, data, until_the_cut, seed=1, checkpoint=path)
    trained: list[int] = []
    again: list[int] = []
    said: list[str] = []
    resumed = train(
        params,
        fit,
        data,
        lambda epoch, metrics: again.append(epoch) is None,
        seed=1,
        checkpoint=path,
        on_batch=lambda epoch, step, steps: trained.append(epoch) is None,
        say=said.append,
    )
    assert [line.split(";")[0] for line in said] == [f"resumes after epoch {cut}"]
    assert min(trained) == cut  # the epochs before are reported, but not trained
    assert again == list(range(len(whole.history)))
    assert resumed.best_epoch == whole.best_epoch
    timed = ("seconds", "images_per_second")
    for a, b in zip(resumed.history, whole.history, strict=True):
        for name in set(a) - set(timed):
            assert a[name] == pytest.approx(b[name], abs=1e-4), name
    assert np.allclose(resumed.val_probabilities, whole.val_probabilities, atol=1e-4)


@pytest.mark.parametrize("change", RESUMED[::2], ids=str)
def test_train_in_parts_comes_to_what_it_does_in_one(
    data: TrainData, tmp_path: Path, change: dict[str, Any]
) -> None:
    params = {**PARAMS, **change}
    fit = config(training={"epochs": 4, "patience": 4})
    whole = train(params, fit, data, go_on, seed=1)
    path = tmp_path / "c.npz"
    part = train(params, fit, data, go_on, seed=1, checkpoint=path, stop_after=2)
    assert len(part.history) == 2
    assert part.ending is Ending.FINISHED
    assert part.scores["val_accuracy"] >= 0
    trained: list[int] = []
    rest = train(
        params, fit, data, go_on, seed=1, checkpoint=path,
        on_batch=lambda epoch, step, steps: trained.append(epoch) is None,
    )  # fmt: skip
    assert min(trained) == 2  # the first part's epochs are not trained again
    assert len(rest.history) == len(whole.history) == 4
    assert rest.best_epoch == whole.best_epoch
    assert np.allclose(rest.val_probabilities, whole.val_probabilities, atol=1e-4)


def test_train_that_was_over_is_only_scored_again(data: TrainData, tmp_path: Path) -> None:
    fit = config(training={"epochs": 50, "patience": 2, "min_delta": 0.99})
    path = tmp_path / "c.npz"
    first = train(PARAMS, fit, data, go_on, seed=1, checkpoint=path)
    steps: list[int] = []
    second = train(
        PARAMS, fit, data, go_on, seed=1, checkpoint=path,
        on_batch=lambda epoch, step, steps_: steps.append(step) is None,
    )  # fmt: skip
    assert steps == []
    assert second.history == first.history
    assert second.best_epoch == first.best_epoch
    assert np.array_equal(second.val_probabilities, first.val_probabilities)


@pytest.fixture(scope="module")
def saved(data: TrainData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a training that is over, which another attempt would only score."""
    path = tmp_path_factory.mktemp("saved") / "c.npz"
    train(PARAMS, config(training={"epochs": 2}), data, go_on, seed=1, checkpoint=path)
    return path


def said_when_taken_up(
    data: TrainData,
    path: Path,
    *,
    execution: Execution = PLAIN,
    fresh: bool = True,
) -> list[str]:
    """What a training says of its checkpoint; it reports every epoch, and trains them if fresh."""
    said: list[str] = []
    trained: list[int] = []
    reported: list[int] = []
    result = train(
        PARAMS,
        config(training={"epochs": 2}),
        data,
        lambda epoch, metrics: reported.append(epoch) is None,
        seed=1,
        on_batch=lambda epoch, step, steps: trained.append(epoch or 0) is None,
        say=said.append,
        checkpoint=path,
        execution=execution,
    )
    assert (result.ending, reported) == ("finished", [0, 1])
    assert trained[:1] == ([0] if fresh else [])
    return said


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a checkpoint again, whole, with other arrays in it."""
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def altered_header(arrays: dict[str, Any], **change: Any) -> None:
    header = {**json.loads(arrays["header"].tobytes()), **change}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)


def flip_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def save_an_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)  # what any user, root too, can't open


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "start alone": lambda path: path.write_bytes(b"PK"),
    "no zip": lambda path: path.write_bytes(b"x" * 3000),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped bits": flip_bits,
    "an array": save_an_array,
    "not to be opened": unreadable,
    "no header": lambda path: altered(path, lambda arrays: arrays.pop("header")),
    "no JSON": lambda path: altered(
        path, lambda arrays: arrays.update(header=np.frombuffer(b"{", np.uint8))
    ),
    "JSON of another kind": lambda path: altered(
        path, lambda arrays: arrays.update(header=np.frombuffer(b"[1]", np.uint8))
    ),
    "history of another kind": lambda path: altered(
        path, lambda arrays: altered_header(arrays, history=[1, 2])
    ),
    "no history": lambda path: altered(path, lambda arrays: altered_header(arrays, history=[])),
    "gap in its arrays": lambda path: altered(path, lambda arrays: arrays.pop("variables/0")),
    "objects": lambda path: altered(
        path, lambda arrays: arrays.update({"variables/0": np.array([{}], dtype=object)})
    ),
}


@pytest.mark.parametrize("damage", UNREADABLE)
def test_damaged_checkpoint_is_no_use_and_no_bug(saved: Path, tmp_path: Path, damage: str) -> None:
    path = Path(shutil.copy(saved, tmp_path / "c.npz"))
    with np.load(path) as file:
        key = json.loads(file["header"].tobytes())["key"]
    assert checkpoint.load(path, key)
    UNREADABLE[damage](path)
    with pytest.raises(UnusableError, match=r"^can't be read"):
        checkpoint.load(path, key)


DROPPED: dict[str, Callable[[Path], object]] = {
    "cut": UNREADABLE["cut"],
    "more epochs than there are": lambda path: altered(
        path, lambda arrays: altered_header(arrays, history=[{"loss": 1.0}] * 9)
    ),
    "another shape": lambda path: altered(
        path, lambda arrays: arrays.update({"variables/0": np.ones((7, 7), np.float32)})
    ),
}


@pytest.mark.parametrize("damage", DROPPED)
def test_train_drops_a_checkpoint_that_is_no_use_and_says_so(
    data: TrainData, saved: Path, tmp_path: Path, damage: str
) -> None:
    path = Path(shutil.copy(saved, tmp_path / "c.npz"))
    DROPPED[damage](path)
    (line,) = said_when_taken_up(data, path)
    assert line.startswith("its checkpoint ")
    assert line.endswith(": it is dropped, and the trial begins anew")
    assert said_when_taken_up(data, path, fresh=False) == [
        "resumes after epoch 2; earlier epochs are reported again, not retrained"
    ]


@pytest.fixture(scope="module")
def compiled(data: TrainData) -> keras.Model:
    trial = CnnParams.model_validate({**PARAMS, "image_size": 16})
    return CnnTraining(trial, 2, data, 1, PLAIN).phases[0].begin().model


MISFITS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "a variable too few": lambda c: {"variables": c.variables[1:]},
    "a variable too many": lambda c: {"variables": [*c.variables, c.variables[0]]},
    "another type": lambda c: {"variables": [v.astype(np.float64) for v in c.variables]},
    "another shape at the end": lambda c: {"variables": [*c.variables[:-1], np.ones((7, 7))]},
    "best weights too few": lambda c: {"best_weights": c.best_weights[1:]},
    "another stopper": lambda c: {"stopper": {"model": 1}},
    "no stopper": lambda c: {"stopper": {}},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_checkpoint_that_does_not_fit_changes_nothing(compiled: keras.Model, misfit: str) -> None:
    compiled.optimizer.build(compiled.trainable_variables)
    before = [as_array(v) for v in training_variables(compiled)]
    whole = checkpoint.Checkpoint(
        key="",
        history=[{"loss": 1.0}],
        done=False,
        stopper=dict.fromkeys(STOPPER, 0),
        variables=[array + 1 for array in before],
        best_weights=compiled.get_weights(),
    )
    with pytest.raises(UnusableError, match=r"^doesn't fit"):
        restore(compiled, dataclasses.replace(whole, **MISFITS[misfit](whole)), early_stopping=True)
    after = [as_array(v) for v in training_variables(compiled)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_train_drops_the_checkpoint_of_another_training(
    data: TrainData, saved: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(saved, tmp_path / "c.npz"))
    other = Execution(precision="mixed_bfloat16")
    (line,) = said_when_taken_up(data, path, execution=other)
    assert "is of other data, params, precision or versions" in line


def key_with(photos: TrainData, **change: Any) -> str:
    params = {**PARAMS, **change.pop("params", {})}
    facts = {"data": photos, "seed": 1, "execution": PLAIN, "config": config(), **change}
    data = facts.pop("data")
    return training_key(job_of(facts.pop("config"), params, **facts), data)


def test_checkpoint_belongs_to_exactly_its_training(
    data: TrainData, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [
        key_with(data),
        key_with(data, params={"dropout": 0.25}),
        key_with(data, config=config(training={"epochs": 9})),
        key_with(data, config=config(metric="val_loss", direction="minimize")),
        key_with(data, seed=2),
        key_with(data, data=dataclasses.replace(data, digest="other photos, as many")),
        key_with(data, execution=Execution(precision="mixed_bfloat16")),
    ]
    for version in ("__version__", "keras.__version__"):
        with monkeypatch.context() as patched:
            patched.setattr(f"catdog_search.training.loop.{version}", "0.0.0")
            others.append(key_with(data))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    others.append(key_with(data))
    assert len(set(others)) == 10
    assert others[-1] == key_with(data, execution=Execution(steps_per_call=4))  # it learns the same


def test_process_that_can_open_no_file_keeps_its_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "load", full)
    with pytest.raises(OSError, match="Too many"):
        checkpoint.load(saved, "key")


def test_train_with_a_falling_rate_scores_the_last_epoch(data: TrainData) -> None:
    opposed = TrainData(data.x_train, data.y_train, data.x_val, 1 - data.y_val, ("a", "b"))
    fit = config(training={"epochs": 12, "patience": 1})
    params = {**PARAMS, "learning_rate": 0.01, "schedule": "cosine"}
    result = train(params, fit, opposed, go_on, seed=3)
    values = [metrics["val_accuracy"] for metrics in result.history]
    assert len(values) == 12  # no early stopping, though val only gets worse
    assert result.best_epoch == 11
    assert values[-1] < max(values)
    assert result.scores["val_accuracy"] == pytest.approx(values[-1])


def test_train_scores_the_averaged_weights(data: TrainData) -> None:
    params = {**PARAMS, "learning_rate": 0.01, "schedule": "cosine", "ema": 0.9}
    result = train(params, config(), data, go_on, seed=1)
    last = result.history[-1]
    for name in ("val_loss", "val_accuracy", "val_auc"):
        near = 3e-2 if name == "val_auc" else 5e-3  # that of an epoch is from a histogram
        assert last[name] == pytest.approx(result.scores[name], abs=near), name
    plain = train({**params, "ema": 0.0}, config(), data, go_on, seed=1)
    assert plain.scores["val_loss"] != pytest.approx(result.scores["val_loss"], abs=1e-3)


def test_train_judges_a_photo_with_its_mirror_image(data: TrainData) -> None:
    params = {**PARAMS, "schedule": "cosine"}
    one = train(params, config(), data, go_on, seed=1)
    both = train({**params, "test_time_augmentation": "flip"}, config(), data, go_on, seed=1)
    assert one.model is not None
    assert both.model is not None
    seen = [one.model.predict(x, verbose=0) for x in (data.x_val, data.x_val[:, :, ::-1])]
    logits = np.mean([np.log(p / (1 - p)) for p in seen], axis=0)
    assert np.allclose(both.val_probabilities, 1 / (1 + np.exp(-logits.ravel())), atol=1e-3)
    assert not np.allclose(both.val_probabilities, one.val_probabilities, atol=1e-3)
    served = [both.model.predict(x, verbose=0) for x in (data.x_val, data.x_val[:, :, ::-1])]
    assert np.allclose(served[0].ravel(), both.val_probabilities, atol=1e-5)
    assert np.allclose(*served, atol=1e-5)


def test_whitening_kernel_makes_directions_of_patches_alike(data: TrainData) -> None:
    kernel = whitening_kernel(data.x_train, 2)
    assert kernel.shape == (2, 2, 3, 24)
    x = data.x_train.astype(np.float32) / 127.5 - 1
    maps = keras.ops.convert_to_numpy(keras.ops.conv(x, kernel, padding="valid"))[:, ::2, ::2]
    covariance = np.cov(maps[..., :12].reshape(-1, 12), rowvar=False)
    # 1, but for directions that hardly vary, which are not blown up.
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.02
    assert np.diag(covariance).max() == pytest.approx(1, abs=0.02)
    assert np.allclose(maps[..., 12:], -maps[..., :12], atol=1e-4)


def test_train_leaves_the_whitening_kernel_alone(data: TrainData) -> None:
    params = {**PARAMS, "stem": "whitening"}
    result = train(params, config(), data, go_on, seed=1)
    assert result.model is not None
    kernel = result.model.get_layer("cnn").get_layer("whitening").kernel
    assert np.allclose(keras.ops.convert_to_numpy(kernel), whitening_kernel(data.x_train, 2))


def test_train_takes_its_epochs_from_the_params(data: TrainData) -> None:
    assert len(train({**PARAMS, "epochs": 1}, config(), data, go_on, seed=1).history) == 1


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("cosine", [1.0, 0.5, 0.0]), ("one-cycle", [0.04, 0.8117, 0.0])],
)
def test_learning_rate_follows_its_schedule(schedule: str, rates: list[float]) -> None:
    params = CnnParams.model_validate({"schedule": schedule, "learning_rate": 1.0})
    rate = learning_rate(params, 100)
    got = [float(keras.ops.convert_to_numpy(rate(step))) for step in (0, 50, 100)]  # type: ignore[operator]
    assert got == pytest.approx(rates, abs=1e-3)
    peak = 0 if schedule == "cosine" else 30
    assert float(keras.ops.convert_to_numpy(rate(peak))) == pytest.approx(1.0)  # type: ignore[operator]


def test_batches_hold_every_photo_once_in_an_order_of_the_epochs_own(data: TrainData) -> None:
    counted = dataclasses.replace(data, y_train=np.arange(len(data.y_train))[:, None])
    batches = TrainBatches(counted, 7, seed=1)
    orders = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        orders.append([int(y[0]) for i in range(len(batches)) for y in batches[i][1]])
    n = len(data.y_train)
    assert len(batches) * 7 == len(orders[0]) == 28  # all of one size: filled up from the front
    for order in orders:
        assert sorted(order[:n]) == list(range(n))
        assert order[n:] == order[: 28 - n]
    assert orders[0] != orders[1]
    for _ in range(2):  # a second pass of the same epoch is the same
        fed = [np.asarray(y) for _, y in feed(batches)] if BACKEND == "tensorflow" else []
        assert [int(y[0]) for batch in fed for y in batch] == (orders[1] if fed else [])
    later = TrainBatches(counted, 7, seed=1)
    later.set_epoch(1)
    assert [int(y[0]) for i in range(len(later)) for y in later[i][1]] == orders[1]


def test_batches_blend_labels_as_they_blend_photos(data: TrainData) -> None:
    (x, share), y = TrainBatches(data, 8, seed=1, mixup_alpha=0.4)[0]
    assert x.shape == (8, 16, 16, 3)
    assert ((share >= 0.5) & (share <= 1)).all()
    assert ((y >= 0) & (y <= 1)).all()
    assert ((y > 0) & (y < 1)).sum() > 0


def test_deterministic_training_is_the_same_to_the_bit(
    in_fresh_python: Callable[[str], str],
) -> None:
    code = """
import hashlib, numpy as np
from catdog_search.study import studies
from catdog_search.training.device import set_deterministic
from catdog_search.training.job import job_of
from catdog_search.training.loop import train
from catdog_search.training.pixels import on_device
from catdog_search.training.result import TrainData
from catdog_search.training.whitening import whitening_kernel
import keras
set_deterministic(keras.backend.backend())
random = np.random.default_rng(0)
x = random.integers(0, 256, (256, 32, 32, 3), np.uint8)
y = (np.arange(256) % 2)[:, None].astype(np.float32)
data = TrainData(x[:192], y[:192], x[192:], y[192:], ("a", "b"))
config = studies.parse({"name": "s", "purpose": "p", "image_size": 32, "metric": "val_loss",
    "direction": "minimize", "trials": 1, "space": {"dropout": 0.2},
    "training": {"epochs": 2}}, "f")
params = {"n_blocks": 3, "filters": 32, "augmentation": 0.5, "dropout": 0.2}
job = job_of(config, params, seed=4)
results = [train(job, data, lambda e, m: True) for _ in range(2)]
print([hashlib.sha256(r.val_probabilities.tobytes()).hexdigest() for r in results])
"""
    first, second = (ast.literal_eval(in_fresh_python(code)) for _ in range(2))
    assert len({*first, *second}) == 1


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor"), True),
        (RuntimeError("shapes do not match"), False),
        (KeyError("memory"), False),
    ],
)
def test_is_out_of_memory_knows_every_backends_words(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory
    outer = ValueError("while training")
    outer.__cause__ = error
    assert is_out_of_memory(outer) == is_memory


def test_product_rate_is_that_of_a_computer() -> None:
    assert 1e8 < product_rate() < 1e16


def test_product_rate_is_not_that_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_SIDE", 16)
    monkeypatch.setattr(device, "_MOST_SIDE", 64)
    sides: list[int] = []

    def multiply(a: np.ndarray) -> None:
        sides.append(len(a))

    monkeypatch.setattr(device.time, "perf_counter", iter(np.arange(1000.0)).__next__)
    assert device._rate(multiply, np.asarray) == 2 * 16**3, "a second each is slow enough"
    assert set(sides) == {16}
    monkeypatch.setattr(device.time, "perf_counter", iter(np.arange(1000.0) / 1000).__next__)
    device._rate(multiply, np.asarray)
    assert list(dict.fromkeys(sides)) == [16, 32, 64]


def test_train_takes_a_family_by_its_row(
    data: TrainData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(registry.FAMILIES, POOLED.name, POOLED)
    study = config(family="pooled", space={"pool": 4})
    result = train({"pool": 4, "batch_size": 8}, study, data, go_on, seed=1)
    assert (result.ending, len(result.history)) == ("finished", 3)
    limits = Limits(study, len(data.y_train), 10**9)
    assert result.n_weights == limits.estimate(study.trial_params({"pool": 4})).parameters
    assert result.model is not None
    result.model.save(tmp_path / "model.keras")
    loaded = load_exported(tmp_path / "model.keras", 16)
    probabilities = np.ravel(loaded.predict(data.x_val, verbose=0))
    assert np.allclose(probabilities, result.val_probabilities, atol=1e-5)
    # Somebody's own code may hold any stock layer.
    for name in (POOLED.name, "hypermodel"):
        monkeypatch.delitem(registry.FAMILIES, name)
    with pytest.raises(ForeignModelError, match="AveragePooling2D, which is in no model of ours"):
        load_exported(tmp_path / "model.keras", 16)


def test_network_that_looks_twice_is_loaded_as_it_was(data: TrainData, tmp_path: Path) -> None:
    twice = {**PARAMS, "image_size": 16, "test_time_augmentation": "flip"}
    plan = CnnTraining(CnnParams.model_validate(twice), 1, data, 1, PLAIN)
    model = exported_model(plan.network(), 16)
    model.save(tmp_path / "model.keras")
    loaded = load_exported(tmp_path / "model.keras", 16)
    seen, again = (each.predict(data.x_val, verbose=0) for each in (model, loaded))
    assert np.array_equal(seen, again)
