"""How a training runs on its device: where pixels are kept, the precision, the steps per call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from catdog_search.errors import BackendError

Place = Literal["device", "stream"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]

# Share of a device's memory, divided among the trials on it; the rest is for the networks.
_PIXEL_SHARE = 0.4
# A small network's step takes an accelerator less time than a call takes the host.
_STEPS_PER_CALL = 16


@dataclass(frozen=True)
class Device:
    """What a backend computes on.

    Attributes:
        name: Name for display: `NVIDIA H200` or `CPU, 2 cores`.
        accelerator: Whether it is something other than this machine's CPU.
        memory_bytes: Bytes of its own memory; None where it shares the machine's, or doesn't say.
        bfloat16: Whether it computes faster in bfloat16, half precision with float32's range.
    """

    name: str
    accelerator: bool = False
    memory_bytes: int | None = None
    bfloat16: bool = False


@dataclass(frozen=True)
class ForcedExecution:
    """What a user forces; None leaves it to `choose`.

    Attributes:
        pixels: `device` or `stream`.
        precision: Keras's dtype policy: `float32`, `mixed_bfloat16`, `mixed_float16`.
        steps_per_call: Steps that one call of the host runs, at least 1.
        xla: Whether XLA compiles the training step.
    """

    pixels: Place | None = None
    precision: Precision | None = None
    steps_per_call: int | None = None
    xla: bool | None = None


@dataclass(frozen=True)
class Execution:
    """How a training runs.

    Attributes:
        pixels: Place of the pixels: on the `device`, placed there once, so that a step only gets
            row numbers; or in a `stream` of batches, prepared while the device computes.
        precision: Keras's dtype policy; weights, loss and the exported model are always float32.
        steps_per_call: Maximum number of steps that one call of the host runs.
        xla: Whether XLA compiles the training step.
        room_bytes: Bytes free for what is placed on the device; None for no limit.
    """

    pixels: Place = "stream"
    precision: Precision = "float32"
    steps_per_call: int = 1
    xla: bool = False
    # A property of the device, not part of the choice.
    room_bytes: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        where = "pixels on the device" if self.pixels == "device" else "pixels streamed"
        steps = f"{self.steps_per_call} step{'s' * (self.steps_per_call > 1)} a call"
        return f"{where}, {self.precision}, {steps}, {'XLA' if self.xla else 'no XLA'}"


PLAIN = Execution()
NOTHING_FORCED = ForcedExecution()


def check(forced: ForcedExecution, backend: str) -> None:
    """Refuse what a backend can't do.

    Raises:
        BackendError: PyTorch with several steps per call or XLA, or JAX without XLA.
    """
    if backend == "torch" and (forced.steps_per_call or 1) > 1:
        raise BackendError("--steps-per-call: Keras runs one step a call on PyTorch; leave it out")
    if backend == "torch" and forced.xla:
        raise BackendError("--xla: PyTorch has none; leave it out")
    if backend == "jax" and forced.xla is False:
        raise BackendError("--no-xla: JAX always compiles with XLA; leave it out")


def choose(
    forced: ForcedExecution, backend: str, device: Device, pixel_bytes: int, concurrency: int = 1
) -> Execution:
    """How a study's trainings run.

    On a CPU the pixels stay where they are, since that is the device's memory already, and one
    step per call costs next to nothing, since a step takes far longer than the call.

    Args:
        forced: Settings that the user forces.
        backend: `tensorflow`, `jax` or `torch`.
        device: Device that the backend computes on.
        pixel_bytes: Bytes of the pixels of train and val together.
        concurrency: Trials that train on the device concurrently, at least 1.

    Raises:
        BackendError: The backend or the device can't do what is forced.
    """
    check(forced, backend)
    room = device.memory_bytes
    if forced.pixels == "device" and room is not None and pixel_bytes * concurrency > room:
        raise BackendError(
            f"--pixels device: {pixel_bytes * concurrency / 1e9:.2f} GB of pixels for "
            f"{concurrency} trial(s) at once, {device.name} has {room / 1e9:.2f} GB; stream them"
        )
    fits = room is not None and pixel_bytes * concurrency <= _PIXEL_SHARE * room
    automatic = Execution(
        pixels="device" if device.accelerator and fits else "stream",
        precision="mixed_bfloat16" if device.bfloat16 else "float32",
        steps_per_call=_STEPS_PER_CALL if device.accelerator and backend != "torch" else 1,
        xla=backend == "jax" or (backend == "tensorflow" and device.accelerator),
    )
    return Execution(
        pixels=forced.pixels or automatic.pixels,
        precision=forced.precision or automatic.precision,
        steps_per_call=forced.steps_per_call or automatic.steps_per_call,
        xla=automatic.xla if forced.xla is None else forced.xla,
        room_bytes=None if room is None else int(_PIXEL_SHARE * room / concurrency),
    )
