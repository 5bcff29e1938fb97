"""The fixed first convolution that whitens patches of photos."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from catdog_search.data.decode import Pixels

# About this many photos hold enough patches for a covariance of 12 x 12 numbers.
_PHOTOS = 2000
# Directions that hardly vary hold noise; dividing by their deviation alone would amplify it.
_FLOOR = 5e-4


def whitening_kernel(photos: Pixels, side: int) -> npt.NDArray[np.float32]:
    """A kernel that decorrelates a patch's pixels: each principal direction over its deviation.

    Args:
        photos: uint8 RGB (n, rows, columns, 3); 2,000 to 4,000 of them are used, evenly spaced,
            since those of a class may be adjacent.
        side: Side of a patch, in pixels.

    Returns:
        A convolution's kernel (side, side, 3, 2 * side * side * 3) for pixels in -1 to 1: the
        directions, then their negatives, so that a ReLU after it loses no sign.

    Source: Jordan 2024, arXiv:2404.00498, after Page's ResNet-9 (2018).
    """
    x = photos[:: max(1, len(photos) // _PHOTOS)].astype(np.float32) / 127.5 - 1
    patches = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))
    # Every second one suffices. (patches, rows * columns * channels), as a kernel is laid out.
    flat = np.moveaxis(patches[:, ::2, ::2], 3, -1).reshape(-1, side * side * x.shape[-1])
    variances, directions = np.linalg.eigh(np.cov(flat, rowvar=False))
    scaled = directions / np.sqrt(variances + _FLOOR)
    both = np.concatenate([scaled, -scaled], axis=1).astype(np.float32)
    return both.reshape(side, side, x.shape[-1], -1)
