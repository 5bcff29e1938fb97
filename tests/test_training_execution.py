"""How a training runs on its device: chosen, refused, and the same whichever way."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tiny_training import BACKEND, PARAMS, config, go_on, train

from catdog_search.errors import BackendError
from catdog_search.training.device import has_bfloat16
from catdog_search.training.execution import Device, Execution, ForcedExecution, Precision, choose
from catdog_search.training.pixels import on_device
from catdog_search.training.result import TrainData, TrialResult

SMALL = {**PARAMS, "batch_size": 6}
EXECUTIONS = [
    Execution(pixels="device"),
    Execution(pixels="device", steps_per_call=2),
    Execution(steps_per_call=2),
    Execution(xla=True),
    Execution(pixels="device", steps_per_call=2, xla=True),
]


@pytest.fixture(scope="module")
def many(data: TrainData) -> TrainData:
    """96 photos, which in batches of 6 are 16 steps: two of them a call."""
    return TrainData(*(np.concatenate([a] * 4) for a in (data.x_train, data.y_train)),
                     data.x_val, data.y_val, data.class_names)  # fmt: skip


@pytest.fixture(scope="module")
def plainly(many: TrainData) -> Callable[..., TrialResult]:
    """Trains once, however often it is asked for, with some augmentation and no execution."""

    @functools.cache
    def trained(**augmentation: Any) -> TrialResult:
        return train({**SMALL, **augmentation}, config(), many, go_on, seed=1)

    return trained


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize(
    "execution",
    [e for e in EXECUTIONS if BACKEND != "torch" or not (e.xla or e.steps_per_call > 1)],
    ids=str,
)
def test_train_learns_the_same_however_it_runs(
    many: TrainData, plainly: Callable[..., TrialResult], execution: Execution, mixup: bool
) -> None:
    augmentation: dict[str, Any] = {"augmentation": 0.3}
    augmentation["augmentation_kinds"] = "mixup" if mixup else "flip+zoom"
    if execution.xla and BACKEND == "tensorflow" and not mixup:
        augmentation["augmentation"] = 0.0  # its random numbers are others under XLA
    plain = plainly(**augmentation)
    params = {**SMALL, **augmentation}
    other = train(params, config(), many, go_on, seed=1, execution=execution)
    for one, two in zip(plain.history, other.history, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-3)
        assert two["val_loss"] == pytest.approx(one["val_loss"], abs=2e-3)
    assert np.allclose(plain.val_probabilities, other.val_probabilities, atol=5e-3)


def test_train_in_half_precision_scores_and_exports_in_full(data: TrainData) -> None:
    half = Execution(precision="mixed_bfloat16")
    fit = config(training={"epochs": 25, "patience": 25})
    params = {**PARAMS, "learning_rate": 0.01}
    policies: list[str] = []
    result = train(params, fit, data, lambda *_: policies.append(policy()) is None, seed=1,
                   execution=half)  # fmt: skip
    assert set(policies) == {"mixed_bfloat16"}
    assert result.scores["val_accuracy"] > 0.9
    assert result.model is not None
    body = result.model.get_layer("cnn")
    assert {layer.compute_dtype for layer in body.layers} == {"float32"}
    served = np.ravel(keras.ops.convert_to_numpy(result.model(data.x_val)))
    assert np.allclose(served, result.val_probabilities, atol=1e-5)
    assert train(params, config(), data, go_on, seed=1).model.compute_dtype == "float32"  # type: ignore[union-attr]


def policy() -> str:
    return str(keras.config.dtype_policy().name)


def test_pixels_lie_on_the_device_once_and_in_no_checkpoint(
    data: TrainData, tmp_path: Path
) -> None:
    path = tmp_path / "c.npz"
    pixels = on_device(data)
    train(PARAMS, config(), data, go_on, seed=1, checkpoint=path,
          execution=Execution(pixels="device"))  # fmt: skip
    assert on_device(data) is pixels
    with np.load(path) as saved:
        # The header is uint8 too, but a row of letters.
        assert not [k for k in saved.files if saved[k].dtype == np.uint8 and saved[k].ndim > 1]
        assert any(k.startswith("best_weights/") for k in saved.files)


def test_progressive_training_sees_photos_of_half_the_side_first(data: TrainData) -> None:
    small = dataclasses.replace(
        data, x_train=data.x_train[:, ::2, ::2], x_val=data.x_val[:, ::2, ::2]
    )
    large = dataclasses.replace(
        small,
        x_train=small.x_train.repeat(2, axis=1).repeat(2, axis=2),
        x_val=small.x_val.repeat(2, axis=1).repeat(2, axis=2),
    )
    params = {**PARAMS, "schedule": "cosine", "head": "average"}
    fit = {"training": {"epochs": 4, "patience": 4}}
    halved = train({**params, "progressive": 0.5}, config(**fit), large, go_on, seed=1)
    whole = train(params, config(**fit, image_size=8), small, go_on, seed=1)
    losses = [[metrics["loss"] for metrics in result.history] for result in (halved, whole)]
    assert losses[0][:2] == pytest.approx(losses[1][:2], abs=1e-4)
    assert losses[0][2] != pytest.approx(losses[1][2], abs=1e-4)
    assert halved.history[1]["val_loss"] != pytest.approx(whole.history[1]["val_loss"], abs=1e-4)
    assert halved.model is not None
    served = np.ravel(keras.ops.convert_to_numpy(halved.model(large.x_val)))
    assert np.allclose(served, halved.val_probabilities, atol=1e-4)


FORCED, CPU = ForcedExecution(), Device("CPU, 2 cores")
GPU = Device("GPU", True, 80 * 10**9, True)


HALF: Precision = "mixed_bfloat16"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 fma", True),
        ("flags : fpu amx_bf16", True),
        ("flags : fpu avx2 avx512f", False),
        ("", False),
    ],
)
def test_processors_that_multiply_bfloat16_are_told(
    tmp_path: Path, flags: str, expected: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\nbugs : avx512_bf16\n")
    assert has_bfloat16(tmp_path / "cpuinfo") is expected
    assert not has_bfloat16(tmp_path / "absent")


@pytest.mark.parametrize(
    ("forced", "backend", "device", "pixel_gb", "concurrency", "expected"),
    [
        (FORCED, "tensorflow", CPU, 1, 1, Execution()),
        (FORCED, "tensorflow", Device("CPU", bfloat16=True), 1, 1, Execution("stream", HALF)),
        (FORCED, "jax", CPU, 1, 1, Execution(xla=True)),
        (FORCED, "torch", CPU, 1, 1, Execution()),
        (FORCED, "jax", GPU, 1, 1, Execution("device", "mixed_bfloat16", 16, True)),
        (FORCED, "torch", GPU, 1, 1, Execution("device", "mixed_bfloat16", 1, False)),
        (FORCED, "tensorflow", GPU, 1, 1, Execution("device", "mixed_bfloat16", 16, True)),
        (FORCED, "jax", GPU, 40, 1, Execution("stream", "mixed_bfloat16", 16, True)),
        (FORCED, "jax", GPU, 10, 4, Execution("stream", "mixed_bfloat16", 16, True)),
        (FORCED, "jax", Device("GPU", True, None), 1, 1, Execution("stream", "float32", 16, True)),
        (ForcedExecution(pixels="device"), "tensorflow", CPU, 1, 1, Execution("device")),
        (
            ForcedExecution("stream", "float32", 4),
            "jax",
            GPU,
            1,
            1,
            Execution("stream", "float32", 4, True),
        ),
        (
            ForcedExecution(xla=False),
            "tensorflow",
            GPU,
            1,
            1,
            Execution("device", "mixed_bfloat16", 16),
        ),
    ],
)
def test_execution_is_chosen_by_the_device(
    forced: ForcedExecution,
    backend: str,
    device: Device,
    pixel_gb: int,
    concurrency: int,
    expected: Execution,
) -> None:
    assert choose(forced, backend, device, pixel_gb * 10**9, concurrency) == expected


@pytest.mark.parametrize(
    ("forced", "backend", "pixel_gb", "words"),
    [
        (
            ForcedExecution(steps_per_call=2),
            "torch",
            1,
            "--steps-per-call: Keras runs one step a call",
        ),
        (ForcedExecution(xla=True), "torch", 1, "--xla: PyTorch has none"),
        (ForcedExecution(xla=False), "jax", 1, "--no-xla: JAX always compiles"),
        (
            ForcedExecution(pixels="device"),
            "jax",
            90,
            "90.00 GB of pixels for 1 trial.* GPU has 80.00 GB",
        ),
    ],
)
def test_execution_that_cannot_be_is_refused(
    forced: ForcedExecution, backend: str, pixel_gb: int, words: str
) -> None:
    with pytest.raises(BackendError, match=words):
        choose(forced, backend, GPU, pixel_gb * 10**9)
