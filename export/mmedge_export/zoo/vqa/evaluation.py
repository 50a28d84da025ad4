"""Questions to judge a lower precision on: by text and by voice in turn, from the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.zoo.pcm import to_float
from mmedge_export.zoo.vqa.sample_set import SILENCE
from mmedge_export.zoo.vqa.tokenizer import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["COUNT", "Evaluation"]

#: Of them 128 give the ranges; 1,200 can show a drop of 0.003 where no answer changes.
COUNT = 1328


class Evaluation:
    """Drawn anew, and alike, each time it is iterated.

    Yields inputs with a batch of one and the index of the right answer. Iterating raises
    :class:`mmedge.errors.ExportError` where easy-vqa or espeak-ng is not installed.
    """

    def __init__(self, count: int = COUNT, seed: int = 0) -> None:
        self._count, self._seed = count, seed

    def __iter__(self) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
        # Data that most users of the network never need.
        from mmedge_export.zoo import speech, voices
        from mmedge_export.zoo.vqa import questions

        data = questions.load("test")
        utterances: dict[str, list[voices.Utterance]] = {}
        for utterance in voices.plan("test", data.texts, 1, self._seed):
            utterances.setdefault(utterance.text, []).append(utterance)
        rng = np.random.default_rng(self._seed)
        rows = rng.permutation(len(data))[: self._count]
        for number, question in enumerate(rows):
            text = data.texts[data.text[question]]
            ids = encode([text])
            audio = np.zeros((1, SILENCE), np.float32)
            if number % 2:
                ids = np.zeros_like(ids)
                voice = utterances[text][rng.integers(len(utterances[text]))]
                audio = to_float(speech.synthesise(voice))[None]
            image = data.images[data.image[question]][None]
            yield {"image": image, "text": ids, "audio": audio}, int(data.answer[question])
