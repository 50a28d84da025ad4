"""Clips to judge a lower precision on: known requests by held-out voices, in both languages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.zoo.hear.phrases import LANGUAGES
from mmedge_export.zoo.pcm import to_float

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mmedge_export.zoo.characters import Characters

__all__ = ["COUNT", "Evaluation"]

#: Of them 128 give the ranges.
COUNT = 1328


class Evaluation:
    """Synthesised anew, and alike, each time it is iterated, by held-out voices.

    Yields inputs with a batch of one and the right text. Iterating raises
    :class:`mmedge.errors.ExportError` where espeak-ng is not installed.
    """

    def __init__(self, characters: Characters, count: int = COUNT, seed: int = 4) -> None:
        self._characters, self._count, self._seed = characters, count, seed

    def __iter__(self) -> Iterator[tuple[dict[str, NDArray[Any]], str]]:
        # Data that most users of the network never need.
        from mmedge_export.zoo import speech, voices
        from mmedge_export.zoo.hear import phrases

        known = phrases.load().known
        rng = np.random.default_rng(self._seed)
        each = -(-self._count // len(known))
        utterances = voices.draw("test", [phrase.english for phrase in known], each, self._seed)
        order = rng.permutation(len(utterances))[: self._count].tolist()
        for number, picked in enumerate(order):
            phrase = known[picked // each]
            language = LANGUAGES[number % len(LANGUAGES)]
            audio = to_float(speech.synthesise(utterances[picked]))[None]
            token = np.array([[self._characters.language(language)]])
            yield {"audio": audio, "language": token}, phrase.text(language)
