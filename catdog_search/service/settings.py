"""What a service allows, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from catdog_search.machine import cores

MB = 1_000_000


@dataclass(frozen=True)
class Settings:
    """What the operator of a service may choose.

    Attributes:
        token: Token that a client must show; None where anybody may ask.
        max_body_bytes: Bytes of the largest body that is read.
        max_pixels: Pixels of the largest photo that is decoded, according to its file.
        max_photos: Maximum number of photos per request.
        queue: Requests that may wait, besides those whose photos are being answered.
        timeout_s: Seconds that reading a request may take, and as many for answering it.
        workers: Photos that are decoded and answered at once, each on one core.
        look_every_s: Seconds between two looks for a new model.
    """

    token: str | None = field(default=None, repr=False)
    max_body_bytes: int = 32 * MB
    max_pixels: int = 50_000_000
    max_photos: int = 100
    queue: int = 64
    timeout_s: float = 30.0
    workers: int = field(default_factory=cores.count)
    look_every_s: float = 1.0
