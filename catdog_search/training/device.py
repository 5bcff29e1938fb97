"""What the backend computes on."""

from __future__ import annotations

import os


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
