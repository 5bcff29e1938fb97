"""A reference to a dataset, by content and location: small enough to send to another process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from catdog_search import places
from catdog_search.data import dataset
from catdog_search.data.dataset import Dataset


@dataclass(frozen=True)
class DataReference:
    """A reference to a packed dataset of any image size.

    Attributes:
        digest: Names the photos, labels and split.
        folder: The cache entry where it lies; another machine finds its own by the digest.
        subset: Photos of train to use; None for all.
        location: Location of the source; None where it is the one that the entry was made from.
    """

    digest: str
    folder: Path
    subset: int | None
    location: str | None

    @classmethod
    def to(cls, packed: Dataset) -> DataReference:
        """The reference to a dataset."""
        return cls(packed.digest, packed.folder, packed.subset, packed.location)

    def at(self, image_size: int) -> Dataset:
        """The dataset at an image size; whether it exists shows only on reading."""
        if not self.folder.exists():
            found = dataset.find(places.cache_folder(), self.digest, image_size)
            if found is not None:
                return replace(found, subset=self.subset, location=self.location)
        return Dataset(self.folder, self.digest, image_size, self.subset, self.location)
