"""What is behind the labels of training pictures: photos changed and joined, and drawn clutter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from mmedge_export.zoo.label_translate.rendering import HEIGHT, WIDTH, piece_of_photo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Color = tuple[int, int, int]

__all__ = ["LARGEST_PHOTO", "draw_background"]

LARGEST_PHOTO = 800
"""Longest side of a photo, pixels: from here its pieces show about as much as a label is large."""

#: Shares of backgrounds: two photos that meet at an edge, shapes drawn over a photo, and over one
#: color. The others are one photo.
_JOINED, _DRAWN_OVER, _DRAWN = 0.15, 0.2, 0.1

#: How a photo's own contrast is changed, as a factor.
_CONTRAST = (0.6, 1.8)

#: Most shapes, and the factor at which they are drawn before they are made smaller.
_SHAPES, _SCALE = 14, 2


def draw_background(
    photos: Sequence[NDArray[np.uint8]], rng: np.random.Generator
) -> NDArray[np.float64]:
    """A background, another each time.

    Args:
        photos: uint8 ``[height, width, 3]``, of 32 by 192 pixels and more.
        rng: what is drawn from.

    Returns:
        ``[32, 192, 3]``, 0 to 255.
    """
    kind = rng.random()
    if kind < _DRAWN:
        return _clutter(np.broadcast_to(rng.uniform(0, 255, 3), (HEIGHT, WIDTH, 3)), rng)
    background = _piece(photos, rng)
    if kind < _DRAWN + _DRAWN_OVER:
        return _clutter(background, rng)
    if kind < _DRAWN + _DRAWN_OVER + _JOINED:
        return _join(background, _piece(photos, rng), rng)
    return background


def _piece(photos: Sequence[NDArray[np.uint8]], rng: np.random.Generator) -> NDArray[np.float64]:
    """A piece of a photo, turned, mirrored, of more or less contrast."""
    photo = photos[int(rng.integers(len(photos)))]
    if rng.random() < 0.3 and photo.shape[0] >= WIDTH and photo.shape[1] >= HEIGHT:
        photo = photo.transpose(1, 0, 2)
    piece = piece_of_photo(photo, rng)
    if rng.random() < 0.5:
        piece = piece[::-1]
    middle = piece.mean()
    changed: NDArray[np.float64] = np.clip(
        middle + rng.uniform(*_CONTRAST) * (piece - middle), 0, 255
    )
    return changed


def _join(
    first: NDArray[np.float64], second: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Two backgrounds on the two sides of a straight edge."""
    angle = rng.uniform(0, 2 * np.pi)
    down, right = np.ogrid[:HEIGHT, :WIDTH]
    y, x = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH)
    distance = np.cos(angle) * (right - x) + np.sin(angle) * (down - y)
    share = np.clip(distance + 0.5, 0, 1)[..., None]
    joined: NDArray[np.float64] = first * (1 - share) + second * share
    return joined


def _clutter(background: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Lines, stripes, rings, disks and bars in colors of any contrast, drawn over a background."""
    image = Image.fromarray(background.astype(np.uint8))
    image = image.resize((WIDTH * _SCALE, HEIGHT * _SCALE), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, _SHAPES + 1))):
        color: Color = tuple(rng.integers(0, 256, 3).tolist())
        width = int(rng.integers(1, 5)) * _SCALE // 2
        x, y = int(rng.integers(image.width)), int(rng.integers(image.height))
        kind = int(rng.integers(5))
        if kind == 0:
            other = (int(rng.integers(image.width)), int(rng.integers(image.height)))
            draw.line([(x, y), other], color, width)
        elif kind == 1:
            _stripes(draw, (x, y), color, width, rng)
        else:
            size = rng.integers(2, (60 * _SCALE, 24 * _SCALE)[kind == 4], 2).tolist()
            box = (x - size[0], y - size[1], x + size[0], y + size[1])
            if kind == 2:
                draw.ellipse(box, outline=color, width=width)
            elif kind == 3:
                draw.ellipse(box, fill=color)
            else:
                draw.rectangle(box, fill=color)
    small = image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return np.asarray(small, np.float64)


def _stripes(
    draw: ImageDraw.ImageDraw,
    start: tuple[int, int],
    color: Color,
    width: int,
    rng: np.random.Generator,
) -> None:
    """Parallel lines, side by side or from one point, as of a fence or of spokes."""
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(10, 120) * _SCALE
    fan = rng.uniform(0.1, 0.6) if rng.random() < 0.4 else 0.0
    gap = rng.uniform(1.5, 6) * width if not fan else 0.0
    for n in range(int(rng.integers(3, 12))):
        x = start[0] - n * gap * np.sin(angle)
        y = start[1] + n * gap * np.cos(angle)
        toward = angle + n * fan
        end = (x + length * np.cos(toward), y + length * np.sin(toward))
        draw.line([(x, y), end], color, width)
