"""Cheap changes to rendered pictures at training time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["augment", "warp"]

#: Most pixels up or down, and to a side.
_SHIFT = (3, 3)

#: Share of pictures that get texture, and how strong it is.
_TEXTURED, _STRENGTH = 0.25, (0.1, 0.4)

#: Share of labels that are slanted, and how far; by how much they are made narrower and lower.
_WARPED, _SLANT, _NARROWER, _LOWER = 0.5, 0.2, (0.98, 1.2), (0.98, 1.15)


def warp(masks: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Half of the labels slanted, narrower and lower, about the middle.

    Args:
        masks: uint8 ``[2, height, width]``, of letters and plate; not changed.
        rng: what is drawn from.
    """
    if rng.random() >= _WARPED:
        return masks
    _, height, width = masks.shape
    across, along = rng.uniform(*_NARROWER), rng.uniform(*_LOWER)
    slant = rng.uniform(-_SLANT, _SLANT)
    left = width / 2 * (1 - across) - slant * height / 2
    matrix = (across, slant, left, 0.0, along, height / 2 * (1 - along))
    warped = [
        Image.fromarray(mask).transform(
            (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        for mask in masks
    ]
    return np.stack([np.asarray(mask) for mask in warped])


def augment(
    images: NDArray[np.uint8], rng: np.random.Generator, textures: Sequence[NDArray[np.uint8]] = ()
) -> NDArray[np.uint8]:
    """Shift, exchange channels, invert, change the light and add noise, each picture its own way.

    Args:
        images: uint8 ``[batch, height, width, 3]``; not changed.
        rng: what is drawn from.
        textures: photos; with them, pieces of photos are added to a quarter of the pictures.
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
        if textures and rng.random() < _TEXTURED:
            picture = picture + rng.uniform(*_STRENGTH) * _texture((height, width), textures, rng)
        gain, offset = rng.uniform(0.75, 1.3), rng.uniform(-20, 20)
        # One draw of noise for the batch, at another place and of another strength for each.
        moved = np.roll(noise, (int(rng.integers(height)), int(rng.integers(width))), axis=(0, 1))
        picture = picture * gain + (offset + rng.uniform(0, 5) * moved)
        result[n] = np.clip(picture, 0, 255)
    return result


def _texture(
    size: tuple[int, int], textures: Sequence[NDArray[np.uint8]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A piece of a photo about its mean, turned, mirrored or taken coarsely."""
    photo = textures[int(rng.integers(len(textures)))]
    if rng.random() < 0.5:
        photo = photo.transpose(1, 0, 2)
    height, width = size
    has_room = photo.shape[0] > 2 * height and photo.shape[1] > 2 * width
    step = int(rng.integers(1, 3)) if has_room else 1
    y = int(rng.integers(photo.shape[0] - step * height + 1))
    x = int(rng.integers(photo.shape[1] - step * width + 1))
    piece = photo[y : y + step * height : step, x : x + step * width : step].astype(np.float32)
    down, right, sign = (1 - 2 * rng.integers(2, size=3)).tolist()
    turned: NDArray[np.float32] = piece[::down, ::right] - piece.mean()
    return turned * np.float32(sign)
