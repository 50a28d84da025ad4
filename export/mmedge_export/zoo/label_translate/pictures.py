"""Pictures of names, rendered once and kept in a folder; the same seed gives the same pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mmedge_export.zoo.label_translate import rendering
from mmedge_export.zoo.label_translate.rendering import HEIGHT, WIDTH, load_scenery, render

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge_export.zoo.label_translate.names import Name, Names
    from mmedge_export.zoo.label_translate.rendering import Choice

__all__ = ["DICTIONARY_SHARE", "Pictures", "held_out_pictures", "pictures", "training_pictures"]

DICTIONARY_SHARE = 0.6
"""Share of training pictures whose name is in the dictionary; the others are only read."""

#: To be raised when :func:`render` changes, so that no picture of before is taken.
_RENDERING = 1


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


def training_pictures(names: Names, count: int, seed: int, cache: Path) -> Pictures:
    """So many pictures of names drawn at random."""
    rng = np.random.default_rng([seed, 0])
    shown: list[Name] = []
    for share, place in rng.random((count, 2)).tolist():
        group = names.dictionary if share < DICTIONARY_SHARE else names.reading
        shown.append(group[int(place * len(group))])
    return pictures(shown, rendering.TRAIN, seed, cache)


def held_out_pictures(names: Sequence[Name], each: int, seed: int, cache: Path) -> Pictures:
    """Each name so many times, in fonts and over photos that no training picture has."""
    return pictures([name for name in names for _ in range(each)], rendering.HELD_OUT, seed, cache)


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
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    path = cache / f"labels-{key}.npy"
    if not path.exists():
        scenery = load_scenery(choice)
        cache.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, so that a broken run leaves no half cache.
        partial = path.with_suffix(".partial")
        images = np.lib.format.open_memmap(
            partial, "w+", np.dtype(np.uint8), (len(shown), HEIGHT, WIDTH, 3)
        )
        for number, name in enumerate(tqdm(shown, desc="rendering", mininterval=5)):
            rng = np.random.default_rng([seed, number])
            images[number] = render(name.english, scenery, rng)
        images.flush()
        partial.rename(path)
    return Pictures(np.load(path, mmap_mode="r"), tuple(shown))
