"""Draws a name as a camera may see a label: any font, over a photo, askew, blurred, dark, noisy.

Fonts are those of Debian packages, photos those that ``scikit-image`` carries. Whole families of
fonts and whole photos are held out: no training picture shows them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "HEIGHT",
    "HELD_OUT",
    "PACKAGES",
    "TRAIN",
    "WIDTH",
    "Scenery",
    "load_photos",
    "load_scenery",
    "render",
]

HEIGHT, WIDTH = 32, 192
"""Size of a picture, pixels."""

#: A picture is drawn at this many times its size, then warped down to it.
_SCALE = 2
_MARGIN = 3 * _SCALE
_FONT_SIZES = (15 * _SCALE, 26 * _SCALE)
#: Of letters to what is behind them, in levels of 255: at least this, and so many times as much as
#: that varies.
_SMALLEST_CONTRAST, _VARIATIONS = 70.0, 1.5

_FONT_FOLDER = Path("/usr/share/fonts")

PACKAGES: tuple[str, ...] = (
    "fonts-cantarell", "fonts-comic-neue", "fonts-crosextra-caladea", "fonts-crosextra-carlito",
    "fonts-dejavu", "fonts-ebgaramond", "fonts-firacode", "fonts-freefont-ttf", "fonts-hack",
    "fonts-inter", "fonts-junicode", "fonts-lato", "fonts-league-spartan", "fonts-liberation",
    "fonts-linuxlibertine", "fonts-noto-core", "fonts-open-sans", "fonts-quicksand",
    "fonts-roboto-unhinted", "fonts-sil-gentium", "fonts-urw-base35",
)  # fmt: skip
"""Debian packages of all fonts."""


@dataclass(frozen=True)
class Choice:
    """Which fonts and photos a set of pictures is made of, by name.

    Attributes:
        families: how the files of each family of fonts begin.
        photos: files of ``skimage/data``.
    """

    families: tuple[str, ...]
    photos: tuple[str, ...]


TRAIN = Choice(
    (
        "C059", "Cantarell", "Carlito", "ComicNeue", "DejaVuSans", "DejaVuSansCondensed",
        "DejaVuSansMono", "DejaVuSerif", "FreeMono", "FreeSans", "FreeSerif", "Hack", "Inter",
        "InterDisplay", "JunicodeTwoBeta", "Lato", "LeagueSpartan", "LiberationMono",
        "LiberationSans", "LiberationSansNarrow", "LiberationSerif", "LinBiolinum", "LinLibertine",
        "NimbusMonoPS", "NimbusRoman", "NimbusSans", "NimbusSansNarrow", "NotoSans",
        "NotoSansDisplay", "NotoSerif", "NotoSerifDisplay", "OpenSans", "P052", "Quicksand",
        "URWBookman", "URWGothic",
    ),
    (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
        "coins.png", "grass.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "retina.jpg",
    ),
)  # fmt: skip
"""What training pictures are made of."""

HELD_OUT = Choice(
    ("Caladea", "EBGaramond12", "FiraCode", "Gentium", "Roboto", "RobotoCondensed"),
    ("coffee.png", "gravel.png", "motorcycle_left.png", "rocket.jpg"),
)
"""What test pictures are made of. No font here is a copy of one above under another name."""

#: Others are too thin or too heavy for 32 pixels.
_STYLES = frozenset(
    (
        "", "Regular", "Roman", "Book", "R", "Medium", "Retina", "Bold", "Semibold", "SemiBold",
        "Demi", "RB", "Italic", "Oblique", "I", "RI", "BoldItalic", "BoldOblique", "Light",
    )
)  # fmt: skip


#: Ornamental capitals alone.
_NO_LETTERS = frozenset(("LinLibertine_I",))


@dataclass(frozen=True)
class Scenery:
    """Fonts by family, and photos uint8 ``[height, width, 3]``."""

    families: tuple[tuple[str, ...], ...]
    photos: tuple[NDArray[np.uint8], ...]


def load_scenery(choice: Choice) -> Scenery:
    """Find the fonts and read the photos.

    Raises:
        ExportError: a font's package or scikit-image is not installed.
    """
    by_family: dict[str, list[str]] = {}
    for path in sorted(_FONT_FOLDER.glob("*type/**/*.[ot]tf")):
        family, style = _family_and_style(path.stem)
        if style in _STYLES and path.stem not in _NO_LETTERS:
            by_family.setdefault(family, []).append(str(path))
    missing = [family for family in choice.families if family not in by_family]
    if missing:
        raise ExportError(
            f"no font {', '.join(missing)} in {_FONT_FOLDER}; install the fonts of the labels: "
            f"apt-get install {' '.join(PACKAGES)}"
        )
    families = tuple(tuple(by_family[family]) for family in choice.families)
    return Scenery(families, load_photos(choice))


def load_photos(choice: Choice) -> tuple[NDArray[np.uint8], ...]:
    """Photos uint8 ``[height, width, 3]``.

    Raises:
        ExportError: scikit-image is not installed.
    """
    # Its photos are read as files: the package itself and what it imports are not needed.
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ExportError("scikit-image, whose photos are used, comes with mmedge[train]")
    folder = Path(package.origin).with_name("data")
    photos = []
    for name in choice.photos:
        with Image.open(folder / name) as photo:
            photos.append(np.array(photo.convert("RGB")))
    return tuple(photos)


def _family_and_style(stem: str) -> tuple[str, str]:
    """``FreeSansBold`` and ``NotoSans-Bold`` are both written in these packages."""
    for mark in ("-", "_"):
        if mark in stem:
            family, style = stem.split(mark, 1)
            return family, style
    if stem.startswith("Free"):
        for style in ("BoldOblique", "BoldItalic", "Bold", "Oblique", "Italic"):
            if stem.endswith(style):
                return stem.removesuffix(style), style
    return stem, ""


@lru_cache(maxsize=4096)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def render(text: str, scenery: Scenery, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of a label, uint8 ``[32, 192, 3]``; the same for the same state of ``rng``."""
    family = scenery.families[rng.integers(len(scenery.families))]
    path = family[rng.integers(len(family))]
    background = _background(scenery.photos[rng.integers(len(scenery.photos))], rng)
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
    ink = _warped(letters, warp)
    if rng.random() < 0.5:  # a plate behind the letters, as on a sign
        plate = Image.new("L", canvas)
        pad = int(rng.integers(2, 12))
        corners = (x - pad, y - pad, x + width + pad, y + height + pad)
        ImageDraw.Draw(plate).rounded_rectangle(corners, radius=int(rng.integers(1, 12)), fill=255)
        cover = _warped(plate, warp)[..., None] * rng.uniform(0.5, 1.0)
        background = background * (1 - cover) + rng.uniform(0, 255, 3) * cover
    picture = background + (_ink_color(background, ink, rng) - background) * ink[..., None]
    return _photographed(picture, rng)


def _background(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float64]:
    """A piece of a photo at any scale that fits."""
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


def _warped(mask: Image.Image, coefficients: Sequence[float]) -> NDArray[np.float64]:
    """A mask of the canvas as the picture sees it, 0 to 1 ``[32, 192]``."""
    small = mask.transform(
        (WIDTH, HEIGHT), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(small, np.float64) / 255


def _photographed(picture: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the camera adds: blur, low light, noise."""
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.1)))
    light = rng.uniform(0.35, 0.8) if rng.random() < 0.4 else rng.uniform(0.8, 1.15)
    noise = rng.standard_normal((HEIGHT, WIDTH, 3)) * rng.uniform(0, 9)
    exposed = np.asarray(image, np.float64) * light + noise
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)
