"""Draws a name as a camera may see a label: any font, over a photo, askew, blurred, dark, noisy."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmedge_export.zoo.label_translate.scenery import Scenery

__all__ = ["HEIGHT", "WIDTH", "letter", "photograph", "piece_of_photo", "render"]

HEIGHT, WIDTH = 32, 192
"""Size of a picture, pixels."""

#: A picture is drawn at this many times its size, then warped down to it.
_SCALE = 2
_MARGIN = 3 * _SCALE
_FONT_SIZES = (15 * _SCALE, 26 * _SCALE)
#: Of letters to what is behind them, in levels of 255: at least this, and so many times as much as
#: that varies.
_SMALLEST_CONTRAST, _VARIATIONS = 70.0, 1.5


@lru_cache(maxsize=4096)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def render(text: str, scenery: Scenery, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of a label, uint8 ``[32, 192, 3]``; the same for the same state of ``rng``."""
    path = _choose_font(scenery.families, rng)
    background = piece_of_photo(scenery.photos[rng.integers(len(scenery.photos))], rng)
    return photograph(_draw(text, path, rng), background, rng)


def letter(
    text: str, families: Sequence[Sequence[str]], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A label without colors and background: where letters are, and the plate behind them.

    Args:
        text: what it says.
        families: paths of fonts by family.
        rng: what is drawn from.

    Returns:
        uint8 ``[2, 32, 192]``, cover of the letters and of the plate, 0 to 255; half of the labels
        have no plate, and zeros there.
    """
    return _draw(text, _choose_font(families, rng), rng)


def _choose_font(families: Sequence[Sequence[str]], rng: np.random.Generator) -> str:
    family = families[int(rng.integers(len(families)))]
    return family[int(rng.integers(len(family)))]


def _draw(text: str, path: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """:func:`letter` in one font."""
    size = int(rng.integers(_FONT_SIZES[0], _FONT_SIZES[1] + 1))
    left, top, right, bottom = _font(path, size).getbbox(text)
    canvas = (WIDTH * _SCALE, HEIGHT * _SCALE)
    room = min(
        (canvas[0] - 2 * _MARGIN) / (right - left), (canvas[1] - 2 * _MARGIN) / (bottom - top)
    )
    if room < 1:
        size = max(8, int(size * room))
        left, top, right, bottom = _font(path, size).getbbox(text)
    width, height = int(right - left), int(bottom - top)
    x = int(rng.integers(_MARGIN, max(_MARGIN + 1, canvas[0] - width - _MARGIN + 1)))
    y = int(rng.integers(_MARGIN, max(_MARGIN + 1, canvas[1] - height - _MARGIN + 1)))
    letters = Image.new("L", canvas)
    ImageDraw.Draw(letters).text((x - left, y - top), text, fill=255, font=_font(path, size))
    warp = _perspective(rng)
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    masks[0] = _warped(letters, warp)
    if rng.random() < 0.5:  # a plate behind the letters, as on a sign
        plate = Image.new("L", canvas)
        pad = int(rng.integers(2, 12))
        corners = (x - pad, y - pad, x + width + pad, y + height + pad)
        ImageDraw.Draw(plate).rounded_rectangle(corners, radius=int(rng.integers(1, 12)), fill=255)
        masks[1] = _warped(plate, warp)
    return masks


def photograph(
    masks: NDArray[np.uint8], background: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The picture that a camera takes of a label.

    Args:
        masks: from :func:`letter`.
        background: what is behind the label, ``[32, 192, 3]``, 0 to 255.
        rng: what colors, blur, light and noise are drawn from.

    Returns:
        uint8 ``[32, 192, 3]``.
    """
    ink, plate = masks.astype(np.float64) / 255
    if plate.any():
        cover = plate[..., None] * rng.uniform(0.5, 1.0)
        background = background * (1 - cover) + rng.uniform(0, 255, 3) * cover
    picture = background + (_ink_color(background, ink, rng) - background) * ink[..., None]
    return _exposed(picture, rng)


def piece_of_photo(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float64]:
    """A piece of a photo at any scale that fits, ``[32, 192, 3]``, 0 to 255."""
    largest = min(photo.shape[1] / WIDTH, photo.shape[0] / HEIGHT)
    scale = rng.uniform(min(0.75, largest), largest)
    width, height = int(WIDTH * scale), int(HEIGHT * scale)
    x = int(rng.integers(photo.shape[1] - width + 1))
    y = int(rng.integers(photo.shape[0] - height + 1))
    piece = Image.fromarray(photo[y : y + height, x : x + width])
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(piece.resize((WIDTH, HEIGHT), Image.Resampling.BOX), np.float64)


def _ink_color(
    background: NDArray[np.float64], ink: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """A color that can be told from what is behind the letters."""
    weight = ink / max(float(ink.sum()), 1e-6)
    levels = background.mean(axis=2)
    behind = float((levels * weight).sum())
    variation = float(((levels - behind) ** 2 * weight).sum()) ** 0.5
    contrast = max(_SMALLEST_CONTRAST, _VARIATIONS * variation)
    for _ in range(20):
        color = rng.uniform(0, 255, 3)
        if abs(float(color.mean()) - behind) >= contrast:
            return color
    return np.full(3, 0.0 if behind > 127 else 255.0)


def _perspective(rng: np.random.Generator) -> list[float]:
    """Coefficients for a view of the canvas that is a little off its middle, as Pillow has them."""
    width, height = WIDTH * _SCALE, HEIGHT * _SCALE
    seen = np.array([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], np.float64)
    corners = seen * _SCALE + rng.uniform(-1, 1, (4, 2)) * (0.02 * width, 0.1 * height)
    rows, values = [], []
    for (u, v), (x, y) in zip(seen, corners, strict=True):
        rows += [[u, v, 1, 0, 0, 0, -x * u, -x * v], [0, 0, 0, u, v, 1, -y * u, -y * v]]
        values += [x, y]
    coefficients: list[float] = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    return coefficients


def _warped(mask: Image.Image, coefficients: Sequence[float]) -> NDArray[np.uint8]:
    """A mask of the canvas as the picture sees it, 0 to 255 ``[32, 192]``."""
    small = mask.transform(
        (WIDTH, HEIGHT), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(small)


def _exposed(picture: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the camera adds: blur, low light, noise."""
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.1)))
    light = rng.uniform(0.35, 0.8) if rng.random() < 0.4 else rng.uniform(0.8, 1.15)
    noise = rng.standard_normal((HEIGHT, WIDTH, 3)) * rng.uniform(0, 9)
    exposed = np.asarray(image, np.float64) * light + noise
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)
