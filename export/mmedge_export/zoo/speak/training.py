"""Training: durations, and bands and pitch of each frame at the durations that are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.hear.phrases import LETTERS
from mmedge_export.zoo.speak.network import SpeakNet
from mmedge_export.zoo.speak.text import encode
from mmedge_export.zoo.speak.vocoder import BANDS
from mmedge_export.zoo.training import CooldownRecipe, CooldownTrainer, Counts, option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmedge_export.zoo.speak.readings import Target, Targets

__all__ = ["Parts", "SpeakBatch", "SpeakRecipe", "SpeakTrainer", "collate", "errors"]

#: Batches that are sorted by length together, so that little of each is padding.
_POOL = 16

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class SpeakRecipe(CooldownRecipe):
    """The recipe of ``zoo:speak``."""

    epochs: int = option(60, "epochs of training, each over every sentence")
    cooldown: int = option(12, "last epochs, in which the rate goes to 0 along a line")
    rate: float = option(2e-3, "peak learning rate of AdamW")
    decay: float = option(0.01, "weight decay of matrices and kernels")
    warmup: int = option(100, "steps of linear warm-up")
    sentences: int = option(16, "sentences in a batch")
    width: int = option(128, "of all layers")
    layers: int = option(2, "of the Transformer over characters")


@dataclass(frozen=True)
class SpeakBatch:
    """One step's data.

    Attributes:
        text: int64 ``[B, T]``, padded with 0.
        durations: float32 ``[B, T]``, frames.
        frames: float32 ``[B, frames, BANDS + 2]``.
        valid: bool ``[B, frames]``, where the sentence has a frame.
    """

    text: Tensor
    durations: Tensor
    frames: Tensor
    valid: Tensor


def collate(targets: Sequence[Target]) -> SpeakBatch:
    """Stack sentences, with zeros after the shorter."""
    most = max(len(target.frames) for target in targets)
    text = encode([target.text for target in targets])
    durations = np.zeros(text.shape, np.float32)
    frames = np.zeros((len(targets), most, BANDS + 2), np.float32)
    valid = np.zeros((len(targets), most), np.bool_)
    for row, target in enumerate(targets):
        durations[row, : len(target.text)] = target.durations
        frames[row, : len(target.frames)] = target.frames
        valid[row, : len(target.frames)] = True
    return SpeakBatch(*(torch.from_numpy(array) for array in (text, durations, frames, valid)))


def errors(net: SpeakNet, batch: SpeakBatch) -> Parts:
    """How far a network is from what a batch asks for, a scalar each.

    ``durations``: mean distance, frames a character. ``bands``: mean distance of the natural
    logarithm of energy. ``pitch``: mean distance of its natural logarithm, weighed by voicing.
    ``voicing``: cross entropy.
    """
    x, durations = net.predictor.encode(batch.text)
    frames = batch.frames.shape[1]
    (bands, pitch, voicing), inside = net.predictor.decode(x, batch.durations, frames)
    # The last frame of a reading is often half silence, past the end of its last character.
    valid = (inside & batch.valid).to(bands.dtype)
    count = valid.sum()
    targets, right_pitch = batch.frames[..., :BANDS], batch.frames[..., BANDS]
    right_voicing = batch.frames[..., BANDS + 1]
    voiced = valid * right_voicing
    distance = (bands - targets).abs().mean(dim=2)
    pitch_distance = (pitch.log() - right_pitch.clamp(min=1.0).log()).abs()
    entropy = F.binary_cross_entropy_with_logits(voicing, right_voicing, reduction="none")
    letters = batch.text != 0
    return {
        "durations": (durations - batch.durations).abs().sum() / letters.sum(),
        "bands": (distance * valid).sum() / count,
        "pitch": (pitch_distance * voiced).sum() / voiced.sum().clamp(min=1.0),
        "voicing": (entropy * valid).sum() / count,
    }


class SpeakTrainer(CooldownTrainer[SpeakNet, SpeakBatch]):
    """Trains ``zoo:speak``.

    Args:
        recipe: what to train and how.
        targets: the sentences.
    """

    recipe: SpeakRecipe

    def __init__(self, recipe: SpeakRecipe, targets: Targets) -> None:
        self.targets = targets
        super().__init__(recipe, max(1, len(targets) // recipe.sentences))

    def networks(self) -> tuple[SpeakNet, nn.Module]:
        """The network; nothing else is trained."""
        return SpeakNet(LETTERS, self.recipe.width, self.recipe.layers), nn.Module()

    def batches(self) -> Iterator[SpeakBatch]:
        """Sentences in a random order, those of like length together; some may be left over."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, self.epoch])
        order = rng.permutation(len(self.targets)).tolist()
        for first in range(0, self.steps, _POOL):
            batches = min(_POOL, self.steps - first)
            pool = order[first * recipe.sentences : (first + batches) * recipe.sentences]
            pool.sort(key=lambda number: len(self.targets[number].frames))
            for number in rng.permutation(batches):
                picked = pool[number * recipe.sentences : (number + 1) * recipe.sentences]
                yield collate([self.targets[n] for n in picked])

    def loss(self, batch: SpeakBatch) -> tuple[Tensor, Counts]:
        """Distances of bands, durations and pitch, and cross entropy of voicing, weighed."""
        parts = errors(self.net, batch)
        loss = parts["bands"] + 0.3 * parts["durations"] + 3.0 * parts["pitch"]
        return loss + 0.3 * parts["voicing"], {}
