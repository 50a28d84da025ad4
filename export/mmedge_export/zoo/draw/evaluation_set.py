"""Captions to judge a lower precision on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.zoo.draw.captions import COLORS, PLACES, SHAPES, SIZES, Caption, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["COUNT", "Evaluation"]

#: Of them 128 give the ranges. Each is a whole run of the loop, so there are few.
COUNT = 384


class Evaluation:
    """Drawn anew, and alike, each time it is iterated: color, shape, size and place of any kind.

    Yields inputs with a batch of one and the caption. Combinations that training never showed are
    among them.
    """

    def __init__(self, count: int = COUNT, seed: int = 5) -> None:
        self._count, self._seed = count, seed

    def __iter__(self) -> Iterator[tuple[dict[str, NDArray[Any]], Caption]]:
        rng = np.random.default_rng(self._seed)
        for _ in range(self._count):
            parts = [
                words[int(rng.integers(len(words)))]
                for words in (COLORS, SHAPES, SIZES, tuple(PLACES))
            ]
            caption = Caption(*parts)
            yield {"text": encode([caption.text])}, caption
