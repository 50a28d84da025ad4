"""Texts as tokens: small letters and the space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo.characters import Characters
from mmedge_export.zoo.hear.phrases import LETTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CHARACTERS", "TOKENIZER", "encode"]

CHARACTERS = Characters(LETTERS, ())
"""Their tokens are 1 to 27; 0 pads."""

TOKENIZER = Path(__file__).with_name("tokenizer.json")
"""The same for the ``tokenizers`` library."""


def encode(texts: Sequence[str]) -> NDArray[np.int64]:
    """Tokens of texts of small letters and spaces: ``[texts, T]``, with zeros after the shorter."""
    rows = [CHARACTERS.encode(text) for text in texts]
    tokens = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
    for filled, row in zip(tokens, rows, strict=True):
        filled[: len(row)] = row
    return tokens
