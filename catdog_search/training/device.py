"""What the backend computes on, what it does when it is full, and how to make it repeat itself."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from catdog_search.errors import causes

_SIDE, _REPEATS = 1024, 5


def device_name(backend: str) -> str:
    """The device, for people: `NVIDIA H200` or `CPU, 2 cores`.

    Args:
        backend: `tensorflow`, `jax` or `torch`; it is imported.
    """
    names: list[str]
    if backend == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details
        gpus = tf.config.list_physical_devices("GPU")
        names = [details(gpu).get("device_name", "GPU") for gpu in gpus]
    elif backend == "jax":
        import jax

        names = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    else:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join(names) or f"CPU, {cores} cores"


def device_memory(backend: str) -> int | None:
    """Bytes of the first GPU; None on a CPU, or where the backend doesn't say."""
    if backend == "torch":
        import torch

        has = torch.cuda.is_available()
        return int(torch.cuda.mem_get_info()[1]) if has else None
    if backend == "jax":
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        return stats.get("bytes_limit")
    return None  # TensorFlow tells what it uses, not what there is


def product_rate() -> float:
    """Floating-point operations a second of a large matrix product, in single precision."""
    from keras import ops

    # Reading one number makes the host wait for the device.
    return _rate(lambda a: ops.convert_to_numpy(ops.matmul(a, a)[0, 0]), ops.convert_to_tensor)


def processor_rate() -> float:
    """As `product_rate`, on the processors and without a backend."""
    return _rate(lambda a: a @ a, np.asarray)


def _rate(multiply: Callable[[Any], object], place: Callable[[Any], Any]) -> float:
    a = place(np.full((_SIDE, _SIDE), 0.5, np.float32))
    best = math.inf
    for _ in range(_REPEATS):
        started = time.perf_counter()
        multiply(a)
        best = min(best, time.perf_counter() - started)
    return 2 * _SIDE**3 / best


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any backend, or what caused it, says that memory ran out."""
    for seen in causes(error):
        name, text = type(seen).__name__, str(seen)
        if isinstance(seen, MemoryError) or name in ("ResourceExhaustedError", "OutOfMemoryError"):
            return True
        if "RESOURCE_EXHAUSTED" in text or "CUDA out of memory" in text:
            return True
        if isinstance(seen, RuntimeError) and "can't allocate memory" in text:  # PyTorch on a CPU
            return True
    return False


def set_deterministic(backend: str) -> None:
    """Make the same training give the same numbers to the bit, on one machine; it costs speed.

    Args:
        backend: `tensorflow`, `jax` or `torch`; call this before it computes anything.
    """
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "jax":
        # Its CPU kernels repeat themselves; this is for GPUs, and read when the first one starts.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    else:
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
