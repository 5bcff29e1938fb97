"""The device a backend computes on: what it is, how it runs out of memory, how to share it."""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from catdog_search.errors import causes
from catdog_search.machine import cores
from catdog_search.training.execution import Device

_SIDE, _REPEATS = 1024, 5
# A product faster than this mostly measures the call's overhead; then a larger one is timed.
_LEAST_SECONDS, _MOST_SIDE = 0.01, 8192
# Linux's names for instructions that multiply bfloat16.
_MULTIPLIES_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
# Compute capability of the first NVIDIA GPUs with it.
_HAS_BFLOAT16 = (8, 0)
# Share of an accelerator's memory that is divided up; every process keeps some for itself.
_SHARED = 0.9


def look_at_device(backend: str) -> Device:
    """What a backend computes on: its first accelerator, or else the CPU.

    Args:
        backend: `tensorflow`, `jax` or `torch`; it is imported.
    """
    found = {"tensorflow": _tensorflow_device, "jax": _jax_device, "torch": _torch_device}[
        backend
    ]()
    if found is not None:
        return found
    # Only on TensorFlow was a gain measured (docs/results.md).
    return Device(
        f"CPU, {cores.count()} cores", bfloat16=backend == "tensorflow" and has_bfloat16()
    )


def has_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16; False where the system doesn't say."""
    if not cpu_info.exists():
        return False
    words = next((w for w in cpu_info.read_text().splitlines() if w.startswith("flags")), "")
    return not _MULTIPLIES_BFLOAT16.isdisjoint(words.split())


def _tensorflow_device() -> Device | None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    details = tf.config.experimental.get_device_details(gpus[0])
    capability = details.get("compute_capability", (0, 0))
    return Device(
        details.get("device_name", "GPU"), True, _nvidia_memory(), capability >= _HAS_BFLOAT16
    )


def _nvidia_memory() -> int | None:
    """Bytes of the first NVIDIA GPU by its driver; TensorFlow tells only what it uses itself."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return int(done.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _jax_device() -> Device | None:
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return None
    stats = device.memory_stats() or {}
    capability = tuple(int(n) for n in str(getattr(device, "compute_capability", "0.0")).split("."))
    bfloat16 = device.platform == "tpu" or capability >= _HAS_BFLOAT16
    return Device(device.device_kind, True, stats.get("bytes_limit"), bfloat16)


def _torch_device() -> Device | None:
    import torch

    if not torch.cuda.is_available():
        return None
    memory = int(torch.cuda.mem_get_info()[1])
    bfloat16 = torch.cuda.get_device_capability() >= _HAS_BFLOAT16
    return Device(torch.cuda.get_device_name(), True, memory, bfloat16)


def product_rate() -> float:
    """Floating-point operations per second of a large matrix product, in single precision."""
    from keras import ops

    # Reading one number makes the host wait for the device.
    return _rate(lambda a: ops.convert_to_numpy(ops.matmul(a, a)[0, 0]), ops.convert_to_tensor)


def processor_rate() -> float:
    """As `product_rate`, on the CPU and without a backend."""
    return _rate(lambda a: a @ a, np.asarray)


def _rate(multiply: Callable[[Any], object], place: Callable[[Any], Any]) -> float:
    side, seconds = _SIDE, _seconds(multiply, place, _SIDE)
    while seconds < _LEAST_SECONDS and side < _MOST_SIDE:
        side *= 2
        seconds = _seconds(multiply, place, side)
    return 2 * side**3 / seconds


def _seconds(multiply: Callable[[Any], object], place: Callable[[Any], Any], side: int) -> float:
    """Time of the fastest of several products of a matrix of `side` rows with itself."""
    a = place(np.full((side, side), 0.5, np.float32))
    best = math.inf
    for _ in range(_REPEATS):
        started = time.perf_counter()
        multiply(a)
        best = min(best, time.perf_counter() - started)
    return best


def is_out_of_memory(error: BaseException) -> bool:
    """Whether any backend's error, or its cause, says that memory ran out."""
    for seen in causes(error):
        name, text = type(seen).__name__, str(seen)
        if isinstance(seen, MemoryError) or name in ("ResourceExhaustedError", "OutOfMemoryError"):
            return True
        if "RESOURCE_EXHAUSTED" in text or "CUDA out of memory" in text:
            return True
        if isinstance(seen, RuntimeError) and "can't allocate memory" in text:  # PyTorch on a CPU
            return True
    return False


def share_device(backend: str, workers: int) -> None:
    """Limit this process to its share of an accelerator's memory.

    Args:
        backend: `tensorflow`, `jax` or `torch`; call this before it computes anything.
        workers: Processes that share the device.
    """
    share = _SHARED / workers
    if backend == "jax":
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{share:.3f}"
    elif backend == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(share)
    else:
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU")[:1]:
            if memory := _nvidia_memory():
                part = tf.config.LogicalDeviceConfiguration(memory_limit=share * memory / 2**20)
                tf.config.set_logical_device_configuration(gpu, [part])
            else:
                tf.config.experimental.set_memory_growth(gpu, True)


def set_deterministic(backend: str) -> None:
    """Make the same training give bit-identical numbers on one machine, at a cost in speed.

    Args:
        backend: `tensorflow`, `jax` or `torch`; call this before it computes anything.
    """
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "jax":
        # JAX's CPU kernels are deterministic; this is for GPUs, and read when the first one starts.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    else:
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
