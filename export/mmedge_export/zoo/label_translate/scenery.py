"""What pictures of labels are made of: fonts of Debian packages, photos of such and scikit-image.

Whole families of fonts and whole photos are held out: no training picture shows them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "HELD_OUT",
    "PACKAGES",
    "PHOTO_PACKAGES",
    "TRAIN",
    "Choice",
    "Scenery",
    "load_families",
    "load_photos",
    "load_scenery",
]

_SHARE = Path("/usr/share")
_FONT_FOLDER = _SHARE / "fonts"

PACKAGES: tuple[str, ...] = (
    "fonts-adf-accanthis", "fonts-adf-baskervald", "fonts-adf-gillius", "fonts-adf-universalis",
    "fonts-b612", "fonts-cabin", "fonts-cantarell", "fonts-comic-neue", "fonts-courier-prime",
    "fonts-crosextra-caladea", "fonts-crosextra-carlito", "fonts-dejavu", "fonts-dosis",
    "fonts-ebgaramond", "fonts-fanwood", "fonts-firacode", "fonts-freefont-ttf",
    "fonts-goudybookletter", "fonts-hack", "fonts-inconsolata", "fonts-inter",
    "fonts-jetbrains-mono", "fonts-junction", "fonts-junicode", "fonts-jura", "fonts-karla",
    "fonts-lato", "fonts-league-spartan", "fonts-liberation", "fonts-linuxlibertine",
    "fonts-noto-core", "fonts-oldstandard", "fonts-open-sans", "fonts-paratype", "fonts-play",
    "fonts-prociono", "fonts-quicksand", "fonts-roboto-unhinted", "fonts-sil-andika",
    "fonts-sil-charis", "fonts-sil-gentium", "fonts-sora", "fonts-stix", "fonts-urw-base35",
    "fonts-vollkorn",
)  # fmt: skip
"""Debian packages of all fonts."""

PHOTO_PACKAGES: tuple[str, ...] = (
    "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds", "opencv-doc",
)  # fmt: skip
"""Debian packages of the training photos that scikit-image does not have."""


@dataclass(frozen=True)
class Choice:
    """Which fonts and photos a set of pictures is made of, by name.

    Attributes:
        families: how the files of each family of fonts begin.
        photos: files of ``skimage/data``; with a folder before it, of ``/usr/share``.
    """

    families: tuple[str, ...]
    photos: tuple[str, ...]


def _paths(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


TRAIN = Choice(
    (
        "AccanthisADFStd", "Andika", "B612", "B612Mono", "BaskervaldADFStd", "C059", "Cabin",
        "Cantarell", "Carlito", "CharisSIL", "ComicNeue", "Courier Prime", "DejaVuSans",
        "DejaVuSansCondensed", "DejaVuSansMono", "DejaVuSerif", "Dosis", "Fanwood", "FreeMono",
        "FreeSans", "FreeSerif", "GilliusADF", "GoudyBookletter1911", "Hack", "Inconsolata",
        "Inter", "InterDisplay", "JetBrainsMono", "Junction", "JunicodeTwoBeta", "Jura", "Karla",
        "Lato", "LeagueSpartan", "LiberationMono", "LiberationSans", "LiberationSansNarrow",
        "LiberationSerif", "LinBiolinum", "LinLibertine", "NimbusMonoPS", "NimbusRoman",
        "NimbusSans", "NimbusSansNarrow", "NotoSans", "NotoSansDisplay", "NotoSerif",
        "NotoSerifDisplay", "OldStandard", "OpenSans", "P052", "PTF55F", "PTM55F", "PTN57F",
        "PTS55F", "Play", "Prociono", "Quicksand", "STIXGeneral", "Sora", "URWBookman",
        "URWGothic", "UniversalisADFStd", "Vollkorn",
    ),
    (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
        "coins.png", "grass.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "retina.jpg",
        *_paths(
            "doc/opencv-doc/examples",
            "alphamat/input_images/plant.jpg", "data/aero1.jpg", "data/aloeL.jpg",
            "data/basketball1.png", "data/board.jpg", "data/box_in_scene.png",
            "data/building.jpg", "data/butterfly.jpg", "data/cards.png", "data/chicky_512.png",
            "data/ela_original.jpg", "data/fruits.jpg", "data/graf1.png", "data/home.jpg",
            "data/left01.jpg", "data/leuvenA.jpg", "data/pic4.png", "data/rubberwhale1.png",
            "data/smarties.png", "data/squirrel_cls.jpg", "data/starry_night.jpg",
            "data/stuff.jpg", "hfs/data/000.jpg",
        ),
        *_paths(
            "backgrounds",
            "Bridge_by_Sander_Klootwijk.jpg", "Dragonfly_by_Bolly.jpg",
            "Kleiber_by_Lukas_Baubkus.jpg", "Picture_0B_by_freespace.jpg",
            "Picture_1A_by_freespace.jpg", "Wine_by_Jakkub_Mede.jpg",
            "aitzgorri_by_Aitzol_Berasategi.jpg", "free_by_Peter_Nerlich.jpg",
            "friends_by_Aitzol_Berasategi.jpg", "greentock_by_Peter_Nerlich.jpg",
            "life_by_Aitzol_Berasategi.jpg", "picosdeeuropa_by_Aitzol_Berasategi.jpg",
            "seeding_by_Clements_Engelhardt.jpg", "sunset_by_Aitzol_Berasategi.jpg",
        ),
        *_paths(
            "backgrounds/mate",
            "abstract/Elephants.jpg", "nature/Aqua.jpg", "nature/Blinds.jpg", "nature/Dune.jpg",
            "nature/FreshFlower.jpg", "nature/Garden.jpg", "nature/GreenMeadow.jpg",
            "nature/LadyBird.jpg", "nature/RainDrops.jpg", "nature/Storm.jpg",
            "nature/TwoWings.jpg", "nature/Wood.jpg", "nature/YellowFlower.jpg",
        ),
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
        ExportError: a font's or a photo's package or scikit-image is not installed.
    """
    return Scenery(load_families(choice), load_photos(choice))


def load_families(choice: Choice) -> tuple[tuple[str, ...], ...]:
    """Paths of the fonts of each family.

    Raises:
        ExportError: a font's package is not installed.
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
    return tuple(tuple(by_family[family]) for family in choice.families)


def load_photos(choice: Choice, *, largest: int | None = None) -> tuple[NDArray[np.uint8], ...]:
    """Photos uint8 ``[height, width, 3]``.

    Args:
        choice: their names.
        largest: longest side, pixels; larger ones are made smaller. None: as they are.

    Raises:
        ExportError: a photo's package or scikit-image is not installed.
    """
    # Its photos are read as files: the package itself and what it imports are not needed.
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ExportError("scikit-image, whose photos are used, comes with mmedge[train]")
    folder = Path(package.origin).with_name("data")
    photos = []
    for name in choice.photos:
        path = (_SHARE if "/" in name else folder) / name
        try:
            with Image.open(path) as photo:
                if largest is not None:
                    photo.thumbnail((largest, largest), Image.Resampling.BOX)
                photos.append(np.array(photo.convert("RGB")))
        except OSError as error:
            raise ExportError(
                f"cannot read the photo {path}: {error}; install the photos of the labels: "
                f"apt-get install {' '.join(PHOTO_PACKAGES)}"
            ) from error
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
