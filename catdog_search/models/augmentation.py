"""Random changes that leave a photo's class alone; active in training only."""

from __future__ import annotations

import keras
from keras import layers

# At strength 1, in the units of the Keras layers.
ROTATION_TURNS = 0.1
TRANSLATION = 0.2
ZOOM = 0.2
BRIGHTNESS = 0.3
CONTRAST = 0.3


def augmentation_layers(strength: float, seed: int) -> list[keras.Layer]:
    """The layers for a strength; none where it is 0.

    Each photo is mirrored with probability 0.5 and changed by amounts drawn evenly up to strength
    times: ±36° rotation, ±20 % translation and zoom, ±30 % brightness and contrast.

    Args:
        strength: 0 to 1.
        seed: Of the layers' random streams.

    Returns:
        Layers for float RGB (batch, height, width, 3), 0 to 255.
    """
    if strength == 0:
        return []
    seeds = iter(range(seed, seed + 6))
    bounds = (0, 255)
    return [
        layers.RandomFlip("horizontal", seed=next(seeds)),
        layers.RandomRotation(ROTATION_TURNS * strength, seed=next(seeds)),
        layers.RandomTranslation(TRANSLATION * strength, TRANSLATION * strength, seed=next(seeds)),
        layers.RandomZoom(ZOOM * strength, seed=next(seeds)),
        layers.RandomBrightness(BRIGHTNESS * strength, value_range=bounds, seed=next(seeds)),
        layers.RandomContrast(CONTRAST * strength, value_range=bounds, seed=next(seeds)),
    ]
