"""Training: reading and both translations of each picture at once, with an auxiliary CTC head."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.label_translate.augment import augment
from mmedge_export.zoo.label_translate.characters import END, FIRST, Characters
from mmedge_export.zoo.label_translate.names import LANGUAGES, LETTERS
from mmedge_export.zoo.label_translate.network import COLUMNS, D, LabelNet
from mmedge_export.zoo.training import Counts, Recipe, Trainer, option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mmedge_export.zoo.label_translate.pictures import Pictures

__all__ = ["LabelRecipe", "LabelTrainer"]

_IGNORED = -100


@dataclass(frozen=True)
class LabelRecipe(Recipe):
    """The recipe of ``zoo:label-translate``."""

    epochs: int = option(29, "epochs of training")
    cooldown: int = option(8, "last epochs, in which the rate goes to 0 along a line")
    steps: int = option(250, "batches of an epoch")
    images: int = option(64, "pictures in a batch, each written out in every language it has")
    pictures: int = option(96_000, "pictures that are rendered and drawn from")
    rate: float = option(1.2e-3, "peak learning rate of AdamW")
    warmup: int = option(300, "steps of linear warm-up; the rate then stays until the cool-down")
    average: float = option(0.998, "decay of the exponential average of weights, which is kept")
    plain_epochs: int = option(11, "first epochs, without shear and added texture")
    ctc: float = option(1.0, "weight of the auxiliary CTC loss of the encoder")
    corruption: float = option(0.1, "share of characters shown wrong to the decoder")


class Texts:
    """What one language's row of the batch is: tokens in, tokens expected.

    Args:
        texts: right answers, tokens without language and end.
        start: the language's token.
    """

    def __init__(self, texts: Sequence[Sequence[int]], start: int) -> None:
        length = 1 + max(len(text) for text in texts)
        self.tokens = torch.full((len(texts), length), END)
        self.expected = torch.full((len(texts), length), _IGNORED)
        self.tokens[:, 0] = start
        for row, text in enumerate(texts):
            self.tokens[row, 1 : 1 + len(text)] = torch.tensor(text)
            self.expected[row, : len(text) + 1] = torch.tensor([*text, END])


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


class LetterSpotter(nn.Module):
    """Auxiliary head, used in training only: letters in their order, by CTC (Graves et al. 2006).

    The encoder learns from it to read long before the decoder attends to the right columns.
    """

    def __init__(self, characters: Characters) -> None:
        super().__init__()
        self.letters = nn.Linear(D, 1 + len(LETTERS))
        # CTC's blank is class 0.
        classes = torch.zeros(len(characters), dtype=torch.int64)
        classes[characters.encode(LETTERS)] = torch.arange(1, 1 + len(LETTERS))
        self.register_buffer("classes", classes)

    def forward(self, encoded: Tensor, texts: Texts) -> Tensor:
        """Loss of reading ``texts`` in ``encoded [batch, columns, D]``, a scalar."""
        scores = self.letters(encoded).log_softmax(dim=-1).transpose(0, 1)
        lengths = (texts.expected != _IGNORED).sum(dim=1) - 1
        columns = torch.full_like(lengths, COLUMNS)
        targets = cast("Tensor", self.classes)[texts.tokens[:, 1:]]
        return F.ctc_loss(scores, targets, columns, lengths, zero_infinity=True)


class LabelTrainer(Trainer[LabelNet, LabelBatch]):
    """Trains ``zoo:label-translate``.

    Args:
        recipe: what to train and how.
        data: training pictures.
        characters: the tokens.
        textures: photos that pieces of are added to pictures; none: no shear and no texture.
    """

    recipe: LabelRecipe

    def __init__(
        self,
        recipe: LabelRecipe,
        data: Pictures,
        characters: Characters,
        textures: Sequence[NDArray[np.uint8]] = (),
    ) -> None:
        self.data, self.characters, self.textures = data, characters, textures
        super().__init__(recipe, recipe.steps)

    def networks(self) -> tuple[LabelNet, nn.Module]:
        """The network, and the head that spots letters."""
        return LabelNet(self.characters.characters), LetterSpotter(self.characters)

    def rate_factor(self) -> float:
        """A rate that stays can be trained on from any checkpoint before the cool-down."""
        rise = (self.step + 1) / self.recipe.warmup
        fall = (self.total - self.step) / max(1, self.recipe.cooldown * self.steps)
        return min(1.0, rise, fall)

    def continues(self, recipe: Mapping[str, object], epoch: int) -> bool:
        """As well as its own, a run for more or fewer epochs that was not in its cool-down."""
        mine = asdict(self.recipe)
        if {**recipe, "epochs": 0} != {**mine, "epochs": 0}:
            return False
        fewest = min(cast("int", recipe["epochs"]), self.recipe.epochs)
        return recipe == mine or epoch <= fewest - self.recipe.cooldown

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
        textures = self.textures if self.epoch >= self.recipe.plain_epochs else ()
        images = augment(self.data.images[picked], rng, textures)
        return LabelBatch(
            torch.from_numpy(images), {k: torch.tensor(v) for k, v in rows.items()}, texts
        )

    def loss(self, batch: LabelBatch) -> tuple[Tensor, Counts]:
        """Mean cross entropy of a character in each language, and the CTC loss."""
        recipe, net = self.recipe, self.net
        encoded = net.encoder(batch.images)
        seen = net.look(encoded)
        total = recipe.ctc * self.auxiliary(encoded, batch.texts["en"])
        counts: Counts = {}
        for language, texts in batch.texts.items():
            rows = batch.rows[language]
            tokens = self._corrupted(texts.tokens)
            logits = net.write(tokens, {name: value[rows] for name, value in seen.items()})
            expected = texts.expected.flatten()
            total = total + F.cross_entropy(
                logits.flatten(0, 1),
                expected,
                ignore_index=_IGNORED,
                label_smoothing=recipe.smoothing,
            )
            hits = logits.detach().argmax(dim=-1).flatten() == expected
            counts[language] = (int(hits.sum()), int((expected != _IGNORED).sum()))
        return total, counts

    def _corrupted(self, tokens: Tensor) -> Tensor:
        """Some characters replaced: the decoder must look at the picture, not only at its text."""
        wrong = torch.rand(tokens.shape) < self.recipe.corruption
        wrong[:, 0] = False
        others = torch.randint(FIRST, len(self.characters), tokens.shape)
        return torch.where(wrong, others, tokens)
