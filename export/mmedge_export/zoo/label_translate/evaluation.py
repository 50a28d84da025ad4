"""How well labels are written: exact matches, and characters right by edit distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmedge_export.quantize.metrics import exact_match
from mmedge_export.zoo.label_translate.characters import Characters
from mmedge_export.zoo.label_translate.names import LANGUAGES
from mmedge_export.zoo.label_translate.pictures import held_out_pictures
from mmedge_export.zoo.text_evaluation import characters_right, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge_export.zoo.label_translate.names import Names
    from mmedge_export.zoo.label_translate.network import LabelNet
    from mmedge_export.zoo.label_translate.pictures import Pictures

    Writer = Callable[[NDArray[np.uint8], str], list[str]]

__all__ = [
    "KNOWN_EACH",
    "characters_right",
    "figures",
    "measure",
    "torch_writer",
]

KNOWN_EACH = 3
"""Test pictures of each name of the dictionary."""


def torch_writer(net: LabelNet) -> Writer:
    """Pictures and a language to texts, by torch."""
    net.eval()
    characters = Characters(net.parts["characters"])

    def texts(images: NDArray[np.uint8], language: str) -> list[str]:
        # A copy: pictures from the cache are read-only.
        rows = write(net, torch.from_numpy(np.array(images)), characters.language(language))
        return [characters.decode(row) for row in rows]

    return texts


def measure(
    writer: Writer, pictures: Pictures, language: str, *, batch: int = 128
) -> dict[str, float]:
    """``exact`` and ``characters`` of all pictures, written out in a language."""
    texts: list[str] = []
    for start in range(0, len(pictures), batch):
        texts += writer(pictures.images[start : start + batch], language)
    expected = [name.text(language) for name in pictures.names]
    return {
        "exact": exact_match([{"text": texts}], [expected]),
        "characters": characters_right(texts, expected),
        "pictures": len(pictures),
    }


def figures(writer: Writer, names: Names, cache: Path) -> dict[str, dict[str, float]]:
    """Every figure of the docs: known names in each language, and names never seen, in English.

    Args:
        writer: what is judged.
        names: of the installed ``iso-codes``.
        cache: folder for the pictures.
    """
    known = held_out_pictures(names.dictionary, KNOWN_EACH, 1, cache)
    unseen = held_out_pictures(names.unseen, 1, 2, cache)
    results = {f"known {language}": measure(writer, known, language) for language in LANGUAGES}
    return {**results, "unseen en": measure(writer, unseen, "en")}
