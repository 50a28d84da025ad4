"""What the fusion networks of tests are made of: layers, inputs and formulas of their work."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mmedge_export import Input

RNG = np.random.default_rng(11)

#: Batch of every example.
BATCH = 2
#: Tokens of :class:`Patches`, and the example's words.
TOKENS_IMAGE, WORDS = 16, 10
#: Width of tokens, of the layer between them, and heads of attention.
WIDTH, HIDDEN, HEADS = 32, 64, 4


@dataclass(frozen=True)
class Expected:
    """Operations of MatMul, Gemm, Conv and GRU at the example's sizes, by stage.

    ``encoders`` are by modality and hold all that depends on it alone, ``pushed`` the part of that
    which the network itself computes after a concatenation, row by row, so that it can be pushed
    before it. No encoder is left out for being small, and nothing cheap is given to the fusion
    stage to make the cut narrower. ``crossing`` is how many tensors go from each encoder to the
    fusion stage; empty where that is not certain.
    """

    encoders: dict[str, int]
    fusion: int
    pushed: dict[str, int] = field(default_factory=dict)
    crossing: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Of the whole network."""
        return sum(self.encoders.values()) + self.fusion


def floats(*shape: int) -> np.ndarray:
    """Standard normal, float32."""
    return RNG.standard_normal(shape).astype(np.float32)


def linear(rows: int, taken: int, given: int) -> int:
    """A linear layer: two operations for each weight and row."""
    return 2 * rows * taken * given


def conv(side: int, taken: int, given: int, kernel: int) -> int:
    """A square convolution that yields ``side`` x ``side`` pixels, on the batch."""
    return 2 * BATCH * side * side * given * taken * kernel * kernel


def attention(queries: int, keys: int) -> int:
    """Scores and weighted sums of all heads together, on the batch, without projections."""
    return 2 * 2 * BATCH * queries * keys * WIDTH


def feedforward(rows: int) -> int:
    """The two linear layers of a transformer layer."""
    return linear(rows, WIDTH, HIDDEN) + linear(rows, HIDDEN, WIDTH)


def transformer_layer(length: int) -> int:
    """Projections, attention and feed-forward part over ``length`` tokens, on the batch."""
    projections = linear(BATCH * length, WIDTH, 4 * WIDTH)
    return projections + attention(length, length) + feedforward(BATCH * length)


def layer(*, norm_first: bool = False) -> nn.TransformerEncoderLayer:
    """One of torch's, at the sizes above."""
    return nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, "gelu", batch_first=True, norm_first=norm_first
    )


class Patches(nn.Module):
    """32 x 32 pixels -> 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.position = nn.Parameter(torch.randn(16, WIDTH))

    def forward(self, image: Tensor) -> Tensor:
        return self.project(image).flatten(2).transpose(1, 2) + self.position


PATCHES = conv(4, 3, WIDTH, 8)


class Words(nn.Module):
    """Token ids with a mask -> as many tokens, through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.layer = layer()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        # Attention over nothing is NaN: without a valid token (no text), all are seen.
        hidden = ~mask & mask.any(1, keepdim=True)
        return self.layer(self.embed(ids), src_key_padding_mask=hidden)


def words() -> dict[str, Input]:
    """Inputs of :class:`Words`, the second row two tokens shorter; optional, dynamic length."""
    mask = np.ones((BATCH, WORDS), np.bool_)
    mask[1, -2:] = False
    ids = np.where(mask, RNG.integers(1, 50, mask.shape), 0)
    axes = {0: "batch", 1: "words"}
    return {
        "ids": Input(ids, modality="text", dynamic=axes, required=False),
        "mask": Input(mask, modality="text", dynamic=axes, required=False),
    }


def image(channels: int = 3, side: int = 32) -> Input:
    """A picture, channels first."""
    return Input(floats(BATCH, channels, side, side), dynamic={0: "batch"})
