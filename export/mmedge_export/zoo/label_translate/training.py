"""Training: reading and both translations of each picture at once, with an auxiliary CTC head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmedge_export.zoo import weight_file
from mmedge_export.zoo.label_translate.augment import augment, warp
from mmedge_export.zoo.label_translate.backgrounds import draw_background
from mmedge_export.zoo.label_translate.names import LANGUAGES, LETTERS
from mmedge_export.zoo.label_translate.network import D, LabelNet, PictureEncoder
from mmedge_export.zoo.label_translate.rendering import photograph
from mmedge_export.zoo.text_training import LetterSpotter, TextRecipe, Texts, TextTrainer
from mmedge_export.zoo.training import Counts, autocast, option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mmedge_export.zoo.label_translate.characters import Characters
    from mmedge_export.zoo.label_translate.pictures import Letterings

__all__ = ["LabelRecipe", "LabelTrainer"]


@dataclass(frozen=True)
class LabelRecipe(TextRecipe):
    """The recipe of ``zoo:label-translate``."""

    epochs: int = option(29, "epochs of training")
    images: int = option(64, "pictures in a batch, each written out in every language it has")
    pictures: int = option(160_000, "letterings that are rendered and drawn from")
    plain_epochs: int = option(11, "first epochs, without slanted letters and added texture")
    compute: str = option("bfloat16", "type of convolutions and products; weights are float32")
    start: str = option("", "weight file that is trained further; none: a fresh network")


@dataclass(frozen=True)
class LabelBatch:
    """One step's data.

    Attributes:
        images: uint8 ``[pictures, 32, 192, 3]``.
        rows: by language, int64: which pictures are written out in it.
        texts: by language, for those pictures.
    """

    images: Tensor
    rows: dict[str, Tensor]
    texts: dict[str, Texts]


class LabelTrainer(TextTrainer[LabelNet, LabelBatch]):
    """Trains ``zoo:label-translate``.

    Args:
        recipe: what to train and how.
        data: training names as they stand on labels.
        characters: the tokens.
        photos: what is behind them, and what pieces are added of.
    """

    recipe: LabelRecipe

    def __init__(
        self,
        recipe: LabelRecipe,
        data: Letterings,
        characters: Characters,
        photos: Sequence[NDArray[np.uint8]],
    ) -> None:
        self.data, self.photos = data, photos
        super().__init__(recipe, characters)

    def networks(self) -> tuple[LabelNet, nn.Module]:
        """The network, and the head that spots letters; the latter is always a fresh one."""
        # The layout that kernels for bfloat16 take without a copy.
        net = LabelNet(self.characters.characters).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.recipe.start:
            weight_file.load_into(Path(self.recipe.start), net, may_lack=PictureEncoder.later_parts)
        return net, LetterSpotter(D, LETTERS, self.characters)

    def batches(self) -> Iterator[LabelBatch]:
        """Pictures drawn at random, none twice before all were drawn."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, self.epoch])
        order: list[int] = []
        for _ in range(recipe.steps):
            while len(order) < recipe.images:
                order += rng.permutation(len(self.data)).tolist()
            picked, order = sorted(order[: recipe.images]), order[recipe.images :]
            yield self._batch(picked, rng)

    def _batch(self, picked: list[int], rng: np.random.Generator) -> LabelBatch:
        names = [self.data.names[n] for n in picked]
        rows = {"en": list(range(len(names)))}
        for language in LANGUAGES[1:]:
            rows[language] = [n for n, name in enumerate(names) if name.translations]
        texts = {
            language: Texts(
                [self.characters.encode(names[n].text(language)) for n in rows[language]],
                self.characters.language(language),
            )
            for language in LANGUAGES
            if rows[language]
        }
        photos = self.photos
        is_plain = self.epoch < self.recipe.plain_epochs
        images = []
        # Colors and what is behind a label are others each time.
        for number in picked:
            masks = self.data.masks[number]
            background = draw_background(photos, rng)
            images.append(photograph(masks if is_plain else warp(masks, rng), background, rng))
        pictures = augment(np.stack(images), rng, () if is_plain else photos)
        return LabelBatch(
            torch.from_numpy(pictures), {k: torch.tensor(v) for k, v in rows.items()}, texts
        )

    def loss(self, batch: LabelBatch) -> tuple[Tensor, Counts]:
        """Mean cross entropy of a character in each language, and the CTC loss."""
        # Over so few tokens, attention spelled out takes half the time of the fused kernel's
        # backward pass on a CPU.
        with autocast(self.recipe.compute), sdpa_kernel(SDPBackend.MATH):
            encoded = self.net.encoder(batch.images)
            spotting_loss = self.auxiliary(encoded, batch.texts["en"])
            loss, counts = self.text_loss(self.net.look(encoded), batch.texts, batch.rows)
        return self.recipe.ctc * spotting_loss + loss, counts
