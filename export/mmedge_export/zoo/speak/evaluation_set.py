"""Sentences to judge a lower precision on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.speak.text import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["COUNT", "Evaluation"]

#: Of them 128 give the ranges.
COUNT = 728


class Evaluation:
    """Unseen requests of the grammar, then known ones, in a fixed order.

    Yields inputs with a batch of one and the sentence.
    """

    def __init__(self, count: int = COUNT) -> None:
        self._count = count

    def __iter__(self) -> Iterator[tuple[dict[str, NDArray[Any]], str]]:
        requests = phrases.load()
        # Known ones from the end of the list: the first are all of few families.
        for phrase in (*requests.unseen, *reversed(requests.known))[: self._count]:
            yield {"text": encode([phrase.english])}, phrase.english
