"""A model's Keras files, loaded as strictly as any others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog_search.errors import StateError
from catdog_search.machine.backends import use_backend
from catdog_search.tracking.looked_at import Fetched, keras_loading

if TYPE_CHECKING:
    from catdog_search.models.export import ExportedModel


@dataclass(frozen=True)
class Networks:
    """A model and the score beside it.

    Attributes:
        model: uint8 RGB (n, height, width, 3) -> probability of class 1 (n, 1).
        neither: The same -> score of how unlike train a photo is (n, 1); None for none.
    """

    model: ExportedModel
    neither: ExportedModel | None


def read(fetched: Fetched) -> Networks:
    """Load them.

    Raises:
        StateError: They are not ours.
        BackendError: Keras has no backend here.
    """
    use_backend()
    loading, side = keras_loading(), fetched.facts.image_size
    try:
        model = loading.load_exported(fetched.model, side)
        neither = fetched.neither and loading.load_neither(fetched.neither, side)
    except loading.ForeignModelError as error:
        raise StateError(f"model {fetched.facts.model_id}: {error}") from None
    return Networks(model, neither)
