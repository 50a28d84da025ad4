"""Characters of labels as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.zoo import characters
from mmedge_export.zoo.characters import END
from mmedge_export.zoo.label_translate.names import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["END", "FIRST", "Characters"]

FIRST = 1 + len(LANGUAGES)
"""Token of the first character; those of the languages are before it."""


class Characters(characters.Characters):
    """Texts to tokens and back, in the languages of labels.

    Args:
        characters: all that there are, in the order of their tokens.
    """

    def __init__(self, characters: Sequence[str]) -> None:
        super().__init__(characters, LANGUAGES)
