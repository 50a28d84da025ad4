"""Training of networks that write text: loss in each language, an auxiliary CTC head, the rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.characters import END, Characters
from mmedge_export.zoo.text_decoder import TextNet
from mmedge_export.zoo.training import (
    CooldownRecipe,
    CooldownTrainer,
    Counts,
    Recipe,
    option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LetterSpotter", "TextRecipe", "TextTrainer", "Texts"]

_IGNORED = -100

Net = TypeVar("Net", bound=TextNet)
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class TextRecipe(Recipe, CooldownRecipe):
    """What the recipes of networks that write text have in common."""

    cooldown: int = option(8, "last epochs, in which the rate goes to 0 along a line")
    steps: int = option(250, "batches of an epoch")
    rate: float = option(1.2e-3, "peak learning rate of AdamW")
    warmup: int = option(300, "steps of linear warm-up; the rate then stays until the cool-down")
    average: float = option(0.998, "decay of the exponential average of weights, which is kept")
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

    def corrupted(self, share: float, characters: Characters) -> Tensor:
        """Some characters replaced: the decoder must not look at its own text alone."""
        wrong = torch.rand(self.tokens.shape) < share
        wrong[:, 0] = False
        others = torch.randint(characters.first, len(characters), self.tokens.shape)
        return torch.where(wrong, others, self.tokens)


class LetterSpotter(nn.Module):
    """Auxiliary head, used in training only: letters in their order, by CTC (Graves et al. 2006).

    The encoder learns from it to read or to hear long before the decoder attends to the right
    tokens.

    Args:
        width: of the encoder's tokens.
        letters: what the texts are made of.
        characters: the tokens of texts.
        steps: of CTC for each of the encoder's tokens: one step holds one letter at most.
    """

    def __init__(self, width: int, letters: str, characters: Characters, *, steps: int = 1) -> None:
        super().__init__()
        self.steps = steps
        self.letters = nn.Linear(width, steps * (1 + len(letters)))
        # CTC's blank is class 0.
        classes = torch.zeros(len(characters), dtype=torch.int64)
        classes[characters.encode(letters)] = torch.arange(1, 1 + len(letters))
        self.register_buffer("classes", classes)

    def forward(self, encoded: Tensor, texts: Texts, valid: Tensor | None = None) -> Tensor:
        """Loss of finding ``texts`` in ``encoded [batch, tokens, width]``, a scalar.

        ``valid`` bool ``[batch, tokens]`` says how many tokens of each row count, from the first to
        the last that is; None: all.
        """
        scores = self.letters(encoded).unflatten(2, (self.steps, -1)).flatten(1, 2)
        scores = scores.float().log_softmax(dim=-1).transpose(0, 1)
        lengths = (texts.expected != _IGNORED).sum(dim=1) - 1
        if valid is None:
            tokens = torch.full_like(lengths, encoded.shape[1])
        else:
            tokens = (valid * torch.arange(1, 1 + valid.shape[1])).amax(dim=1)
        targets = cast("Tensor", self.classes)[texts.tokens[:, 1:]]
        return F.ctc_loss(scores, targets, self.steps * tokens, lengths, zero_infinity=True)


class TextTrainer(CooldownTrainer[Net, Batch]):
    """Trains a network that writes text in several languages.

    Args:
        recipe: what to train and how.
        characters: the tokens.
    """

    recipe: TextRecipe

    def __init__(self, recipe: TextRecipe, characters: Characters) -> None:
        self.characters = characters
        super().__init__(recipe, recipe.steps)

    def text_loss(
        self,
        seen: Mapping[str, Tensor],
        texts: Mapping[str, Texts],
        rows: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Counts]:
        """Sum over the languages of the mean cross entropy of a character, and what was right.

        Args:
            seen: what :meth:`TextNet.look` gave for the batch.
            texts: by language.
            rows: by language, int64: which rows of the batch its texts belong to; None: all.
        """
        total = torch.zeros(())
        counts: Counts = {}
        for language, expected_texts in texts.items():
            tokens = expected_texts.corrupted(self.recipe.corruption, self.characters)
            mine = seen if rows is None else {k: v[rows[language]] for k, v in seen.items()}
            logits = self.net.write(tokens, mine).float()
            expected = expected_texts.expected.flatten()
            total = total + F.cross_entropy(
                logits.flatten(0, 1),
                expected,
                ignore_index=_IGNORED,
                label_smoothing=self.recipe.smoothing,
            )
            hits = logits.detach().argmax(dim=-1).flatten() == expected
            counts[language] = (int(hits.sum()), int((expected != _IGNORED).sum()))
        return total, counts
