"""Text encoders: token ids to tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge_export.zoo.layers import Transformer
from mmedge_export.zoo.recurrent import GRU

LENGTH = 16
"""Token ids in a question; id 0 pads, and a row of zeros says that there is no text."""

VOCABULARY = 32
"""Rows of the embedding table; the shipped tokenizer uses the first 28."""


class TransformerText(nn.Module):
    """Two transformer layers over embedded words."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, d)
        self.position = nn.Parameter(torch.randn(1, LENGTH, d) * 0.02)
        self.body = Transformer(d, layers=2, heads=4, hidden=2 * d)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ``[B, 16]`` to tokens ``[B, 16, d]`` and valid bool ``[B, 16]``."""
        valid = ids != 0
        return self.body(self.embedding(ids) + self.position, valid), valid


class GruText(nn.Module):
    """A forward GRU over embedded words."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, d)
        self.gru = GRU(d)
        self.norm = nn.LayerNorm(d)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ``[B, 16]`` to tokens ``[B, 16, d]`` and valid bool ``[B, 16]``."""
        return self.norm(self.gru(self.embedding(ids))), ids != 0
