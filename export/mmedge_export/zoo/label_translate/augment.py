"""Cheap changes to rendered pictures at training time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["augment"]

_SHIFT = (3, 6)


def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shift, exchange channels, invert, change the light and add noise, each picture its own way.

    Args:
        images: uint8 ``[batch, height, width, 3]``; not changed.
        rng: what is drawn from.
    """
    batch, height, width, _ = images.shape
    (down, right) = _SHIFT
    padded = np.pad(images, ((0, 0), (down, down), (right, right), (0, 0)), mode="edge")
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)
    result = np.empty(images.shape, np.uint8)
    for n in range(batch):
        y, x = rng.integers(2 * down + 1), rng.integers(2 * right + 1)
        picture = padded[n, y : y + height, x : x + width]
        picture = picture[..., rng.permutation(3)].astype(np.float32)
        if rng.random() < 0.3:
            picture = 255 - picture
        gain, offset = rng.uniform(0.7, 1.3), rng.uniform(-20, 20)
        # One draw of noise for the batch, at another place and of another strength for each.
        moved = np.roll(noise, (int(rng.integers(height)), int(rng.integers(width))), axis=(0, 1))
        picture = picture * gain + (offset + rng.uniform(0, 6) * moved)
        result[n] = np.clip(picture, 0, 255)
    return result
