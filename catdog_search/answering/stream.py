"""Any number of photos answered in order, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from catdog_search.answering.answer import Answer
from catdog_search.answering.facts import ModelFacts
from catdog_search.answering.photos import Given, PhotoError, Unusable, packed
from catdog_search.data.budget import Budget, BudgetError
from catdog_search.machine import cores

# Photos that are answered at once, and those that are decoded ahead.
_BATCH = 16
_AHEAD = 4 * _BATCH

Pixels = npt.NDArray[np.uint8]


class Answering(Protocol):
    """What answers photos.

    Attributes:
        facts: What it says of itself.
        by: What computes its answers, for display.
    """

    facts: ModelFacts
    by: str

    def answer(self, photos: Pixels) -> list[Answer]:
        """Answers to photos, uint8 RGB (n, side, side, 3)."""
        ...


@dataclass(frozen=True)
class Row:
    """The result for one file.

    Attributes:
        file: The file.
        answer: Its answer; None where there is none.
        reason: Why there is none; None where there is one.
    """

    file: Given | Unusable
    answer: Answer | None
    reason: str | None


def answers(
    model: Answering, found: Iterable[Given | Unusable], workers: int | None = None
) -> Iterator[Row]:
    """Answer files in order, holding a few at a time.

    Args:
        model: What answers them.
        found: Files.
        workers: Number of decoding threads; None for one per core.
    """
    workers = workers or cores.count()
    side = model.facts.image_size
    with Budget.of_free_memory(workers) as budget, ThreadPoolExecutor(workers) as pool:

        def decoded(file: Given) -> Pixels:
            try:
                with budget.for_file(file.size) as reserve:
                    return packed(file.read(), side, reserve)
            except BudgetError as error:
                raise PhotoError(f"too little memory: {error}") from None

        def begun() -> Iterator[tuple[Given | Unusable, Future[Pixels] | None]]:
            for file in found:
                yield file, pool.submit(decoded, file) if isinstance(file, Given) else None

        begin = begun()
        ahead = deque(islice(begin, _AHEAD))
        try:
            while ahead:
                batch = [ahead.popleft() for _ in range(min(_BATCH, len(ahead)))]
                yield from _answered(model, batch)
                ahead.extend(islice(begin, len(batch)))
        finally:
            for _, future in ahead:
                if future is not None:
                    future.cancel()


def _answered(
    model: Answering, batch: list[tuple[Given | Unusable, Future[Pixels] | None]]
) -> Iterator[Row]:
    photos: dict[int, Pixels] = {}
    reasons: dict[int, str] = {}
    for n, (file, future) in enumerate(batch):
        try:
            if future is not None:
                photos[n] = future.result()
            elif isinstance(file, Unusable):
                reasons[n] = file.reason
        except PhotoError as error:
            reasons[n] = str(error)
    found = model.answer(np.stack(list(photos.values()))) if photos else []
    by_row = dict(zip(photos, found, strict=True))
    for n, (file, _) in enumerate(batch):
        yield Row(file, by_row.get(n), reasons.get(n))
