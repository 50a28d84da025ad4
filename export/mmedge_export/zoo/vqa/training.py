"""Training of the networks that answer questions: recipe, loss, auxiliary head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.zoo import training, weight_file
from mmedge_export.zoo.training import Counts, option
from mmedge_export.zoo.vqa.batch import Batch, batches
from mmedge_export.zoo.vqa.network import D, VqaNet
from mmedge_export.zoo.vqa.text import VOCABULARY
from mmedge_export.zoo.vqa.tokenizer import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmedge_export.zoo.speech import Corpus
    from mmedge_export.zoo.vqa.questions import Questions

__all__ = ["Recipe", "Spotter", "Trainer"]


@dataclass(frozen=True)
class Recipe(training.Recipe):
    """The recipe of ``zoo:vqa-FUSION``."""

    image: str = option("resnet", "image encoder")
    text: str = option("transformer", "text encoder")
    audio: str = option("cnn", "audio encoder")
    fusion: str = option("attention", "fusion")
    epochs: int = option(24, "passes over the training images")
    images: int = option(64, "images in a batch, each with all its questions")
    spoken: int = option(0, "most questions of a batch that are read aloud, 0 for all")
    spotting: float = option(2.0, "weight of the auxiliary word-spotting loss of the voice")
    start: str = option("", "weight file whose encoders are trained further; none: fresh ones")
    takes: int = option(2, "readings of each question by each training voice")
    share: float = option(
        1.0, "share of the images, and of the readings of each question, drawn by the seed"
    )
    augment: bool = option(default=True, meaning="change images and clips at random")

    def network(self) -> VqaNet:
        """A network of these parts, fresh but for the encoders of ``start``.

        Raises:
            ExportError: when ``start`` is no weight file or has other encoders.
        """
        net = VqaNet(image=self.image, text=self.text, audio=self.audio, fusion=self.fusion)
        if self.start:
            start_net = weight_file.load(Path(self.start), VqaNet)
            if {**start_net.parts, "fusion": self.fusion} != net.parts:
                raise ExportError(
                    f"{self.start} holds {start_net.parts}, not encoders of {net.parts}"
                )
            net.encoders.load_state_dict(start_net.encoders.state_dict())
        return net


class Spotter(nn.Module):
    """Auxiliary head, used in training only: which words does a clip hold?

    The audio encoder gets a direct signal from it, long before answers depend on the voice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Linear(D, VOCABULARY)

    def forward(self, tokens: Tensor, valid: Tensor, ids: Tensor) -> Tensor:
        """Loss of spotting the words of ``ids [B, 16]`` in ``tokens [B, T, D]``, a scalar."""
        scores = self.words(tokens).masked_fill(~valid[..., None], -1e4).amax(dim=1)
        target = torch.zeros_like(scores).scatter_(1, ids, 1.0)
        target[:, 0] = 0.0
        return F.binary_cross_entropy_with_logits(scores, target)


class Trainer(training.Trainer[VqaNet, Batch]):
    """Trains one network.

    Args:
        recipe: what to train and how.
        data: the training split.
        corpus: readings of its questions by the training voices.
    """

    recipe: Recipe

    def __init__(self, recipe: Recipe, data: Questions, corpus: Corpus) -> None:
        self.data, self.corpus = data, corpus
        self.ids = encode(data.texts)
        super().__init__(recipe, max(1, len(data.images) // recipe.images))

    def networks(self) -> tuple[VqaNet, nn.Module]:
        """The network of the recipe, and the head that spots words."""
        return self.recipe.network(), Spotter()

    def batches(self) -> Iterator[Batch]:
        """Every image of the split once, with all its questions."""
        recipe = self.recipe
        return batches(
            self.data,
            self.ids,
            self.corpus,
            images=recipe.images,
            spoken=recipe.spoken,
            seed=recipe.seed,
            epoch=self.epoch,
            augmented=recipe.augment,
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Counts]:
        """The loss of a batch, and answers that were right by what asked: text, voice, both."""
        net = self.net
        image, image_valid = net.encode("image", batch.image)
        text, text_valid = net.encode("text", batch.text)
        tokens, audio_valid = net.encoders["audio"](batch.audio)
        audio = net.fusion.memory("audio", tokens, audio_valid)
        logits = net.fuse(
            {
                "image": (image[batch.image_of], image_valid[batch.image_of]),
                "text": (text[batch.text_of], text_valid[batch.text_of] & batch.has_text[:, None]),
                "audio": (
                    audio[batch.voice_of],
                    audio_valid[batch.voice_of] & batch.has_voice[:, None],
                ),
            }
        )
        loss = F.cross_entropy(logits, batch.answer, label_smoothing=self.recipe.smoothing)
        spotting_loss = self.auxiliary(tokens, audio_valid, batch.text[: len(tokens)])
        right = logits.argmax(dim=1) == batch.answer
        kinds = {
            "text": batch.has_text & ~batch.has_voice,
            "voice": batch.has_voice & ~batch.has_text,
            "both": batch.has_text & batch.has_voice,
        }
        counts = {name: (int(right[k].sum()), int(k.sum())) for name, k in kinds.items()}
        return loss + self.recipe.spotting * spotting_loss, counts
