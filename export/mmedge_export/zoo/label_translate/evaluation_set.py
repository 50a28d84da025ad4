"""Pictures to judge a lower precision on: known names in every language, names never seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.zoo.label_translate.names import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mmedge_export.zoo.label_translate.characters import Characters

__all__ = ["COUNT", "Evaluation"]

#: Of them 128 give the ranges.
COUNT = 1328


class Evaluation:
    """Rendered anew, and alike, each time it is iterated, in fonts and over photos held out.

    Yields inputs with a batch of one and the right text. Iterating raises
    :class:`mmedge.errors.ExportError` where ``iso-codes``, a font or scikit-image is not installed.
    """

    def __init__(self, characters: Characters, count: int = COUNT, seed: int = 4) -> None:
        self._characters, self._count, self._seed = characters, count, seed

    def __iter__(self) -> Iterator[tuple[dict[str, NDArray[Any]], str]]:
        # Data that most users of the network never need.
        from mmedge_export.zoo.label_translate import names, rendering, scenery

        known = names.load().dictionary
        held_out = scenery.load_scenery(scenery.HELD_OUT)
        for number in range(self._count):
            rng = np.random.default_rng([self._seed, number])
            name = known[rng.integers(len(known))]
            language = LANGUAGES[number % len(LANGUAGES)]
            image = rendering.render(name.english, held_out, rng)[None]
            token = np.array([[self._characters.language(language)]])
            yield {"image": image, "language": token}, name.text(language)
