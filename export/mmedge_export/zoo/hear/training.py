"""Training: both languages of each clip at once, with an auxiliary CTC head over its letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mmedge_export.zoo import clip_augment
from mmedge_export.zoo.hear.network import SAMPLES, SIZE, HearNet
from mmedge_export.zoo.hear.phrases import LANGUAGES, LETTERS
from mmedge_export.zoo.pcm import pad
from mmedge_export.zoo.text_training import LetterSpotter, TextRecipe, Texts, TextTrainer
from mmedge_export.zoo.training import Counts, option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mmedge_export.zoo.characters import Characters
    from mmedge_export.zoo.hear.phrases import Phrase
    from mmedge_export.zoo.speech import Corpus

__all__ = ["HearBatch", "HearRecipe", "HearTrainer"]

#: Batches that are sorted by length together, so that little of each is padding.
_POOL = 16


@dataclass(frozen=True)
class HearRecipe(TextRecipe):
    """The recipe of ``zoo:hear``."""

    epochs: int = option(24, "epochs of training")
    steps: int = option(300, "batches of an epoch")
    clips: int = option(32, "clips in a batch, each written out in every language")
    voices: int = option(18, "training voices that say each request")
    corruption: float = option(0.15, "share of characters shown wrong to the decoder")


@dataclass(frozen=True)
class HearBatch:
    """One step's data.

    Attributes:
        audio: float32 ``[clips, samples]``, padded with zeros.
        texts: by language.
    """

    audio: Tensor
    texts: dict[str, Texts]


class HearTrainer(TextTrainer[HearNet, HearBatch]):
    """Trains ``zoo:hear``.

    Args:
        recipe: what to train and how.
        corpus: known requests by training voices.
        phrases: the known requests.
        characters: the tokens.
    """

    recipe: HearRecipe

    def __init__(
        self,
        recipe: HearRecipe,
        corpus: Corpus,
        phrases: Sequence[Phrase],
        characters: Characters,
    ) -> None:
        self.corpus = corpus
        self._phrases = {phrase.english: phrase for phrase in phrases}
        super().__init__(recipe, characters)

    def networks(self) -> tuple[HearNet, nn.Module]:
        """The network, and the head that spots letters."""
        characters = self.characters
        # A token of 40 ms is longer than a letter of fast speech.
        spotter = LetterSpotter(SIZE.width, LETTERS, characters, steps=2)
        return HearNet(characters.characters), spotter

    def batches(self) -> Iterator[HearBatch]:
        """Clips drawn at random, none twice before all were; those of like length together."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, self.epoch])
        lengths = np.diff(self.corpus.starts)
        order: list[int] = []
        while len(order) < recipe.steps * recipe.clips:
            order += rng.permutation(len(self.corpus)).tolist()
        for first in range(0, recipe.steps, _POOL):
            batches = min(_POOL, recipe.steps - first)
            pool = order[first * recipe.clips : (first + batches) * recipe.clips]
            pool.sort(key=lengths.__getitem__)
            for number in rng.permutation(batches):
                yield self._batch(pool[number * recipe.clips : (number + 1) * recipe.clips], rng)

    def _batch(self, picked: Sequence[int], rng: np.random.Generator) -> HearBatch:
        phrases = [self._phrases[self.corpus.utterances[n].text] for n in picked]
        texts = {
            language: Texts(
                [self.characters.encode(phrase.text(language)) for phrase in phrases],
                self.characters.language(language),
            )
            for language in LANGUAGES
        }
        clips = [self._augmented(self.corpus.clip(n), rng) for n in picked]
        return HearBatch(torch.from_numpy(pad(clips)), texts)

    @staticmethod
    def _augmented(pcm: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.float32]:
        clip = clip_augment.clip(pcm, rng, SAMPLES[1])
        return clip_augment.color(clip, rng) if rng.random() < 0.5 else clip

    def loss(self, batch: HearBatch) -> tuple[Tensor, Counts]:
        """Mean cross entropy of a character in each language, and the CTC loss."""
        encoded, valid = self.net.encoder(batch.audio)
        spotting_loss = self.auxiliary(encoded, batch.texts["en"], valid)
        loss, counts = self.text_loss(self.net.look(encoded, valid), batch.texts)
        return self.recipe.ctc * spotting_loss + loss, counts
