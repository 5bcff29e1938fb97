"""How much of the device training uses: photos a second, and the share of its product rate.

The device's own rate is that of large matrix products in float32, measured beside every training,
which computes in float32 too unless told otherwise. The arithmetic of a training step is counted:
twice the multiplications of a forward pass, and as much twice again for what is trained. Three
networks of the family `cnn`, ResNet50 by the stages that are trained, and one trial against
several concurrent ones.

    python benchmarks/device.py [--data PHOTOS] [--n 3]
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing as mp
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
from step import RESIDUAL, ours, subset

from catdog_search.families.cnn import CnnParams, cost_of_cnn
from catdog_search.machine.backends import choose_backend
from catdog_search.training.device import look_at_device, product_rate, share_device
from catdog_search.training.execution import Execution, ForcedExecution, Precision, choose
from catdog_search.training.result import TrainData

_RESIDUAL = {**RESIDUAL, "dense_units": 0}
NETWORKS: dict[str, dict[str, Any]] = {
    "published, 3 blocks of 32": {},
    "residual, 4 blocks of 16": {**_RESIDUAL, "filters": 16, "convolutions": 2},
    "residual, 4 blocks of 32": {**_RESIDUAL, "filters": 32},
}
# Stages of ResNet50 by the first letters of their layers' names, the last one first.
STAGES = ("conv5", "conv4", "conv3", "conv2", "conv1")
_RESNET_SIZE, _RESNET_BATCH = 96, 32

# Photos a second, and operations a photo.
Measure = Callable[[], tuple[float, float]]


def of_network(
    params: dict[str, Any], data: TrainData, image_size: int, execution: Execution
) -> tuple[float, float]:
    """Photos a second, and operations a photo."""
    defaults = {"n_blocks": 3, "filters": 32, "dense_units": 128}
    cost = cost_of_cnn(CnnParams.model_validate({**defaults, **params}), image_size)
    return ours(data, image_size, 2, execution, **params), cost.training_operations(1)


def of_resnet(trained: int, steps: int, precision: Precision) -> tuple[float, float]:
    """Photos a second with the last stages trained, and operations a photo."""
    import keras

    keras.utils.clear_session()
    keras.config.set_dtype_policy(precision)
    backbone = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(_RESNET_SIZE, _RESNET_SIZE, 3), pooling="avg"
    )
    open_stages = STAGES[:trained]
    operations = 0.0
    for layer in backbone.layers:
        layer.trainable = layer.name.startswith(open_stages) if open_stages else False
        if isinstance(layer, keras.layers.Conv2D):
            height, width, channels = layer.output.shape[1:]
            area = height * width * layer.kernel_size[0] * layer.kernel_size[1]
            forward = 2 * area * layer.input.shape[-1] * channels
            operations += forward * (3 if layer.trainable else 1)
    model = keras.Sequential([backbone, keras.layers.Dense(1)])
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    x = np.zeros((_RESNET_BATCH, _RESNET_SIZE, _RESNET_SIZE, 3), np.float32)
    y = np.zeros((_RESNET_BATCH, 1), np.float32)
    model.train_on_batch(x, y)
    started = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(x, y)  # which waits for the loss
    return _RESNET_BATCH * steps / (time.perf_counter() - started), operations


def trained_beside(
    backend: str, sharing: int, data: TrainData, size: int, execution: Execution, answers: Any
) -> None:
    """One of several processes on a device; all begin to count when all are warm."""
    share_device(backend, sharing)
    answers.put(ours(data, size, 3, execution))


def concurrently(
    backend: str, sharing: int, processes: int, data: TrainData, size: int, execution: Execution
) -> float:
    """Photos a second of several processes together."""
    context = mp.get_context("spawn")
    answers = context.Queue()
    arguments = (backend, sharing, data, size, execution, answers)
    started = [context.Process(target=trained_beside, args=arguments) for _ in range(processes)]
    for process in started:
        process.start()
    total = sum(answers.get() for _ in started)
    for process in started:
        process.join()
    return float(total)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__, n=3)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--photos", type=int, default=1920)
    parser.add_argument("--resnet-steps", type=int, default=4)
    parser.add_argument("--resnet-stages", type=int, nargs="+", default=[0, 1, 2, 5])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2], help="trials")
    return parser.parse_args()


def measures(
    asked: argparse.Namespace, data: TrainData, execution: Execution
) -> dict[str, Measure]:
    """What is measured, by name."""
    kinds: dict[str, Measure] = {
        name: functools.partial(of_network, params, data, asked.image_size, execution)
        for name, params in NETWORKS.items()
    }
    for trained in asked.resnet_stages:
        name = f"ResNet50 at {_RESNET_SIZE} px, {trained} stages trained"
        kinds[name] = functools.partial(of_resnet, trained, asked.resnet_steps, asked.precision)
    return kinds


def measure_in_turns(kinds: dict[str, Measure], n: int) -> tuple[list[dict[str, Any]], list[float]]:
    """Results of each kind, and the operations a second of matrix products beside them."""
    speeds: dict[str, list[float]] = {name: [] for name in kinds}
    shares: dict[str, list[float]] = {name: [] for name in kinds}
    rates: list[float] = []
    for _ in range(n):
        for name, measure in kinds.items():
            rates.append(product_rate())
            photos_per_second, operations = measure()
            speeds[name].append(photos_per_second)
            print(f"{name}: {photos_per_second:.1f} photos/s", file=sys.stderr, flush=True)
            shares[name].append(photos_per_second * operations / max(rates[-1], product_rate()))
    rows = [
        {
            "what": name,
            "photos_per_second": common.spread(speeds[name], 1),
            "share_of_product_rate": common.spread(shares[name]),
        }
        for name in kinds
    ]
    return rows, rates


def measure_concurrency(
    asked: argparse.Namespace, backend: str, data: TrainData, execution: Execution
) -> list[dict[str, Any]]:
    """Results of one process against several, in turns."""
    together: dict[int, list[float]] = {processes: [] for processes in asked.at_once}
    sharing = sharers(asked)
    for _ in range(asked.n):
        for processes, values in together.items():
            values.append(
                concurrently(backend, sharing, processes, data, asked.image_size, execution)
            )
    return [
        {
            "what": f"published, {processes} at once, together",
            "photos_per_second": common.spread(values, 1),
        }
        for processes, values in together.items()
    ]


def sharers(asked: argparse.Namespace) -> int:
    """Processes on the device, this one included: JAX takes its memory when it starts."""
    return 1 + max(asked.at_once)


def main() -> None:
    """Measure in turns and print."""
    asked = arguments()
    backend = os.environ["KERAS_BACKEND"] = choose_backend()
    share_device(backend, sharers(asked))
    device = look_at_device(backend)
    data = subset(common.packed(asked, asked.image_size), asked.photos)
    execution = choose(
        ForcedExecution(precision=asked.precision), backend, device, data.x_train.nbytes
    )
    rows, rates = measure_in_turns(measures(asked, data, execution), asked.n)
    rows += measure_concurrency(asked, backend, data, execution)
    common.report(
        asked,
        ("keras", backend),
        rows,
        device=device.name,
        execution=str(execution),
        product_gflops=common.spread([r / 1e9 for r in rates], 1),
        image_size=asked.image_size,
    )


if __name__ == "__main__":
    main()
