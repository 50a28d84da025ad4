"""Random changes to training images and clips that leave the answer as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo.clip_augment import clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["clip", "expose", "image"]

_SHIFT = 4  # pixels


def image(frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mirror, shift, brighten a little and add sensor noise; uint8 ``[H, W, 3]`` to the same.

    Hue stays: colours are asked for.
    """
    if rng.random() < 0.5:
        frame = frame[:, ::-1]
    if rng.random() < 0.5:
        frame = frame[::-1]
    height, width = frame.shape[:2]
    down, right = rng.integers(0, 2 * _SHIFT + 1, size=2)
    padded = np.pad(frame, ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="edge")
    return expose(padded[down : down + height, right : right + width], rng)


def expose(frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brighten a little and add sensor noise; uint8 ``[H, W, 3]`` to the same."""
    exposed = frame.astype(np.float32)
    exposed *= rng.uniform(0.94, 1.06)
    exposed += rng.standard_normal(exposed.shape, dtype=np.float32) * rng.uniform(0, 4)
    return np.clip(exposed, 0, 255).astype(np.uint8)
