"""What a caption may say of a picture: color, shape, size and place, each of which may be left out.

Captions are sentences such as "a big teal triangle at the left".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge_export.zoo.vqa import tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

__all__ = [
    "COLORS",
    "HELD_OUT",
    "PLACES",
    "SHAPES",
    "SIZES",
    "TOKENIZER",
    "Caption",
    "build_tokenizer",
    "encode",
    "vary",
]

COLORS: tuple[str, ...] = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
"""Colors of easy-vqa's shapes."""

SHAPES: tuple[str, ...] = ("circle", "rectangle", "triangle")
"""Shapes of easy-vqa."""

SIZES: tuple[str, ...] = ("small", "big")
"""Sizes; :mod:`mmedge_export.zoo.draw.measure` says of how many pixels."""

PLACES: Mapping[str, tuple[str | None, str | None]] = {
    "at the left": (None, "left"),
    "at the right": (None, "right"),
    "at the top": ("top", None),
    "at the bottom": ("bottom", None),
    "at the top left": ("top", "left"),
    "at the top right": ("top", "right"),
    "at the bottom left": ("bottom", "left"),
    "at the bottom right": ("bottom", "right"),
    "in the middle": ("middle", "middle"),
}
"""Places, and the vertical and the horizontal band that each asks for; None: any."""

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("blue", "circle"),
        ("red", "rectangle"),
        ("teal", "triangle"),
        ("yellow", "triangle"),
    }
)
"""Colors and shapes that no training picture has together."""

TOKENIZER = Path(__file__).with_name("tokenizer.json")
"""The tokenizer of captions, a word a token; id 0 pads, and 1 stands for an unknown word."""

_SYNONYMS: Mapping[str, str] = {"big": "large", "gray": "grey", "in the middle": "in the center"}
"""Words that mean the same; half of the training captions that could have the second have it."""


@dataclass(frozen=True)
class Caption:
    """What a caption says.

    Attributes:
        color: one of :data:`COLORS`; None: it does not say.
        shape: one of :data:`SHAPES`; None: it does not say.
        size: one of :data:`SIZES`; None: it does not say.
        place: one of :data:`PLACES`; None: it does not say.
    """

    color: str | None = None
    shape: str | None = None
    size: str | None = None
    place: str | None = None

    @property
    def text(self) -> str:
        """As a sentence; "a shape" if it says nothing."""
        words = ("a", self.size, self.color, self.shape or "shape", self.place)
        return " ".join(word for word in words if word is not None)

    @property
    def is_held_out(self) -> bool:
        """Whether no training picture has its color and shape together."""
        return (self.color, self.shape) in HELD_OUT


def vary(caption: Caption, rng: np.random.Generator) -> str:
    """A training caption: parts left out at random, and synonyms.

    Color and shape stay in 8 of 10 captions each, size and place in 6 of 10.
    """
    kept = replace(
        caption,
        color=caption.color if rng.random() < 0.8 else None,
        shape=caption.shape if rng.random() < 0.8 else None,
        size=caption.size if rng.random() < 0.6 else None,
        place=caption.place if rng.random() < 0.6 else None,
    )
    text = kept.text
    for word, synonym in _SYNONYMS.items():
        if word in text and rng.random() < 0.5:
            text = text.replace(word, synonym)
    return text


def build_tokenizer() -> Tokenizer:
    """The tokenizer of :data:`TOKENIZER`, from every word that captions have."""
    sentences = [
        Caption(color, shape, size, place).text
        for color in COLORS
        for shape in (*SHAPES, None)
        for size in SIZES
        for place in PLACES
    ]
    return tokenizer.build([*sentences, *_SYNONYMS.values()])


def encode(texts: list[str]) -> NDArray[np.int64]:
    """Token ids of captions, int64 ``[captions, 16]``; those of an empty text are all 0."""
    return tokenizer.encode(texts, TOKENIZER)


def main() -> None:
    """Write the tokenizer anew."""
    build_tokenizer().save(str(TOKENIZER))


if __name__ == "__main__":
    main()
