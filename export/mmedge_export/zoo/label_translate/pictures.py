"""Pictures of names, and their letters alone, drawn once and kept in a folder.

The same seed gives the same pictures.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mmedge_export.zoo.label_translate import scenery
from mmedge_export.zoo.label_translate.rendering import HEIGHT, WIDTH, letter, render
from mmedge_export.zoo.label_translate.scenery import load_families, load_scenery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge_export.zoo.label_translate.names import Name, Names
    from mmedge_export.zoo.label_translate.scenery import Choice

__all__ = [
    "DICTIONARY_SHARE",
    "Letterings",
    "Pictures",
    "held_out_pictures",
    "letterings",
    "pictures",
    "training_letterings",
]

DICTIONARY_SHARE = 0.6
"""Share of training pictures whose name is in the dictionary; the others are only read."""

#: To be raised when :func:`render` or :func:`letter` changes, so that no picture of before is
#: taken.
_RENDERING, _LETTERING = 1, 1


@dataclass(frozen=True)
class Pictures:
    """Rendered names.

    Attributes:
        images: uint8 ``[count, 32, 192, 3]``.
        names: what each shows.
    """

    images: NDArray[np.uint8]
    names: tuple[Name, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Letterings:
    """Names as they stand on labels, without colors and background.

    Attributes:
        masks: uint8 ``[count, 2, 32, 192]``, of :func:`letter`.
        names: what each says.
    """

    masks: NDArray[np.uint8]
    names: tuple[Name, ...]

    def __len__(self) -> int:
        return len(self.names)


def training_letterings(names: Names, count: int, seed: int, cache: Path) -> Letterings:
    """So many letterings of names drawn at random, in the fonts of training."""
    rng = np.random.default_rng([seed, 0])
    shown: list[Name] = []
    for share, place in rng.random((count, 2)).tolist():
        group = names.dictionary if share < DICTIONARY_SHARE else names.reading
        shown.append(group[int(place * len(group))])
    return letterings(shown, scenery.TRAIN, seed, cache)


def held_out_pictures(names: Sequence[Name], each: int, seed: int, cache: Path) -> Pictures:
    """Each name so many times, in fonts and over photos that no training picture has."""
    return pictures([name for name in names for _ in range(each)], scenery.HELD_OUT, seed, cache)


def pictures(shown: Sequence[Name], choice: Choice, seed: int, cache: Path) -> Pictures:
    """A picture of each name, from the cache or rendered into it.

    Args:
        shown: the names; one that comes twice gets two pictures.
        choice: fonts and photos.
        seed: of fonts, places, colors, light and noise.
        cache: folder for the pictures, 18 KiB each.

    Raises:
        ExportError: a font or scikit-image is not installed.
    """
    facts = [_RENDERING, seed, astuple(choice), [name.english for name in shown]]

    def start() -> Callable[[str, np.random.Generator], NDArray[np.uint8]]:
        loaded = load_scenery(choice)
        return lambda text, rng: render(text, loaded, rng)

    images = _kept(facts, cache / "labels", (HEIGHT, WIDTH, 3), shown, seed, start)
    return Pictures(images, tuple(shown))


def letterings(shown: Sequence[Name], choice: Choice, seed: int, cache: Path) -> Letterings:
    """A lettering of each name, from the cache or drawn into it.

    Args:
        shown: the names; one that comes twice gets two letterings.
        choice: fonts; its photos are not used.
        seed: of fonts, sizes, places and plates.
        cache: folder for the masks, 12 KiB each.

    Raises:
        ExportError: a font is not installed.
    """
    facts = [_LETTERING, seed, choice.families, [name.english for name in shown]]

    def start() -> Callable[[str, np.random.Generator], NDArray[np.uint8]]:
        families = load_families(choice)
        return lambda text, rng: letter(text, families, rng)

    masks = _kept(facts, cache / "letterings", (2, HEIGHT, WIDTH), shown, seed, start)
    return Letterings(masks, tuple(shown))


def _kept(
    facts: Sequence[object],
    start_of_path: Path,
    shape: tuple[int, ...],
    shown: Sequence[Name],
    seed: int,
    start: Callable[[], Callable[[str, np.random.Generator], NDArray[np.uint8]]],
) -> NDArray[np.uint8]:
    """uint8 ``[count, *shape]``, drawn name by name unless a file of these facts has it."""
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    path = start_of_path.with_name(f"{start_of_path.name}-{key}.npy")
    if not path.exists():
        draw = start()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, so that a broken run leaves no half cache.
        partial = path.with_suffix(".partial")
        images = np.lib.format.open_memmap(partial, "w+", np.dtype(np.uint8), (len(shown), *shape))
        for number, name in enumerate(tqdm(shown, desc="rendering", mininterval=5)):
            images[number] = draw(name.english, np.random.default_rng([seed, number]))
        images.flush()
        partial.rename(path)
    stored: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return stored
