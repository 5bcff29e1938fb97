"""A running study's packed photos: kept in use throughout, and packed again if they are lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from catdog_search.data.dataset import Dataset
from catdog_search.errors import CacheLostError, CatdogError, StateError
from catdog_search.search.events import Listener, Notice

# Packs a study's photos again, at all of its image sizes.
Remake = Callable[[], Dataset]


class Photos:
    """Photos that the trials of a study train on.

    The cache doesn't evict them while this object lives; they are lost only if somebody removes the
    files by hand or the disk damages them.

    Args:
        dataset: Packed photos, at the study's own image size.
        remake: Function that packs them again; None where that can't be done.
        notify: Callback for the notice that they are packed again.
    """

    def __init__(self, dataset: Dataset, remake: Remake | None, notify: Listener) -> None:
        self._dataset = dataset
        self._remake = remake
        self._notify = notify

    def at(self, image_size: int, *, lost: bool = False) -> Dataset:
        """The photos at one of the study's image sizes, packed again if they are gone.

        Args:
            image_size: Side in pixels.
            lost: Whether a reader found them gone or damaged.

        Raises:
            StateError: They are gone and can't be packed again.
        """
        wanted = dataclasses.replace(self._dataset, image_size=image_size)
        if not lost and wanted.is_there():
            return wanted
        self._notify(Notice(f"the cache lost the photos at {image_size} px; they are made again"))
        self._dataset = self._made_again()
        return dataclasses.replace(self._dataset, image_size=image_size)

    def draw(self, draw: Callable[[Dataset], None]) -> None:
        """Plot with the photos at the study's own image size; if they can't be had, say so."""
        side = self._dataset.image_size
        try:
            try:
                draw(self.at(side))
            except CacheLostError:
                draw(self.at(side, lost=True))
        except CatdogError as error:
            self._notify(Notice(f"a trial's figures are left to be drawn: {error}"))

    def _made_again(self) -> Dataset:
        why = "nobody knows where they came from"
        if self._remake is not None:
            try:
                made = self._remake()
            except CatdogError as error:
                why = str(error)
            else:
                if made.digest == self._dataset.digest:
                    return made
                why = f"{made.manifest.location} holds other ones now"
        raise StateError(
            f"the cache no longer holds the photos of this study, and they can't be made again: "
            f"{why}; once that is fixed, run again to resume"
        )
