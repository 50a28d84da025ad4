"""Four ways to fuse modalities.

Every fusion has two halves. ``memory`` is what it derives from one modality alone: it runs once for
each new reading of that sensor. ``forward`` mixes the memories of all modalities into one vector.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmedge_export.zoo.layers import FeedForward, Pool, Present, attend, key_bias, mlp

MODALITIES = ("image", "text", "audio")

Memories = Mapping[str, tuple[Tensor, Tensor]]
"""Of each modality, what ``memory`` gave for it and the validity of its tokens, bool ``[B, L]``."""


class Fusion(nn.Module, ABC):
    """What the four fusions have in common: the width of their result."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = d

    @abstractmethod
    def memory(self, modality: str, tokens: Tensor, valid: Tensor) -> Tensor:
        """What depends on one modality only; axis 0 stays the batch."""

    @abstractmethod
    def forward(self, memories: Memories) -> Tensor:
        """Fused vector ``[B, d]``."""


class _Pooled(Fusion):
    """Base of the fusions that need one vector for each modality."""

    def __init__(self, d: int, pooled: tuple[str, ...] = MODALITIES) -> None:
        super().__init__(d)
        self.pool = nn.ModuleDict({m: Pool(d) for m in pooled})
        self.present = nn.ModuleDict({m: Present(d) for m in pooled})

    def memory(self, modality: str, tokens: Tensor, valid: Tensor) -> Tensor:
        """Pooled vector ``[B, d]``."""
        pooled: Tensor = self.pool[modality](tokens, valid)
        return pooled

    def vectors(self, memories: Memories) -> list[Tensor]:
        """One ``[B, d]`` for each pooled modality, the learned one where it is absent."""
        return [present(*memories[m]) for m, present in self.present.items()]


class Concat(_Pooled):
    """The vectors of all modalities side by side, then an MLP."""

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self.mix = mlp([3 * d, 3 * d, 2 * d, d], dropout=0.1)

    def forward(self, memories: Memories) -> Tensor:
        """Fused vector ``[B, d]``."""
        fused: Tensor = self.mix(torch.cat(self.vectors(memories), dim=1))
        return fused


class Weighted(_Pooled):
    """Gated multimodal unit (Arevalo et al. 2017): a sum whose gates see all modalities."""

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self.value = nn.ModuleDict({m: nn.Linear(d, 2 * d) for m in MODALITIES})
        self.gate = mlp([3 * d, 2 * d, 3 * 2 * d])
        self.mix = mlp([2 * d, 2 * d, d], dropout=0.1)

    def forward(self, memories: Memories) -> Tensor:
        """Fused vector ``[B, d]``."""
        vectors = self.vectors(memories)
        gates = torch.sigmoid(self.gate(torch.cat(vectors, dim=1))).chunk(3, dim=1)
        values = [torch.tanh(self.value[m](v)) for m, v in zip(MODALITIES, vectors, strict=True)]
        fused: Tensor = self.mix(sum(g * v for g, v in zip(gates, values, strict=True)))
        return fused


class Conv(_Pooled):
    """The other modalities' vectors laid over the image's grid of tokens, then 2-D convolutions."""

    def __init__(self, d: int) -> None:
        super().__init__(d, MODALITIES[1:])
        self.cell = nn.Linear(d, d)
        self.nothing = nn.Parameter(torch.randn(d) * 0.02)
        self.question = mlp([2 * d, 2 * d, d], dropout=0.1)
        self.conv1 = nn.Conv2d(2 * d, d, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(d)
        self.conv2 = nn.Conv2d(d, d, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(d)
        self.mix = mlp([2 * d, 3 * d, d], dropout=0.1)

    def memory(self, modality: str, tokens: Tensor, valid: Tensor) -> Tensor:
        """Cells ``[B, L, d]`` of the image, a pooled vector ``[B, d]`` of any other modality."""
        if modality != "image":
            return super().memory(modality, tokens, valid)
        cells: Tensor = self.cell(tokens)
        return cells

    def forward(self, memories: Memories) -> Tensor:
        """Fused vector ``[B, d]``; the number of image tokens must be a square."""
        cells, valid = memories["image"]
        cells = torch.where(valid[..., None], cells, self.nothing)
        question = self.question(torch.cat(self.vectors(memories), dim=1))
        question_map = question[:, None].expand(-1, cells.shape[1], -1)
        side = math.isqrt(cells.shape[1])
        grid = torch.cat([cells, question_map], dim=2).transpose(1, 2)
        grid = torch.relu(self.norm1(self.conv1(grid.reshape(-1, 2 * self.d, side, side))))
        grid = torch.relu(grid + self.norm2(self.conv2(grid)))
        # The question again: what the answer must be like is not a property of any cell.
        fused: Tensor = self.mix(torch.cat([grid.amax(dim=(2, 3)), question], dim=1))
        return fused


class AttentionFusion(Fusion):
    """Learned queries attend over themselves and over every valid token of every modality.

    Keys and values of all layers are projected from each modality by itself, so a modality that did
    not change costs nothing.
    """

    def __init__(self, d: int, *, queries: int = 8, layers: int = 3, heads: int = 4) -> None:
        super().__init__(d)
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(1, queries, d) * 0.02)
        self.kind = nn.ParameterDict({m: nn.Parameter(torch.randn(d) * 0.02) for m in MODALITIES})
        self.keys_values = nn.Linear(d, layers * 2 * d)
        self.norm = nn.ModuleList(nn.LayerNorm(d) for _ in range(layers))
        self.qkv = nn.ModuleList(nn.Linear(d, 3 * d) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(d, d) for _ in range(layers))
        self.mlp = nn.ModuleList(FeedForward(d, 2 * d) for _ in range(layers))
        self.last = nn.LayerNorm(d)

    def memory(self, modality: str, tokens: Tensor, valid: Tensor) -> Tensor:
        """Keys and values of every layer, ``[B, L, layers * 2 * d]``."""
        del valid  # what is not valid is masked where the memories meet
        projected: Tensor = self.keys_values(tokens + self.kind[modality])
        return projected

    def forward(self, memories: Memories) -> Tensor:
        """Fused vector ``[B, d]``."""
        valid = torch.cat([memories[m][1] for m in MODALITIES], dim=1)
        x = self.queries.expand(valid.shape[0], -1, -1)
        # The queries are keys too, so that a softmax is never over nothing.
        bias = key_bias(torch.cat([valid.new_ones(x.shape[:2]), valid], dim=1), x.dtype)
        split = [torch.split(memories[m][0], self.d, dim=2) for m in MODALITIES]
        for n, (norm, qkv, out, feed) in enumerate(
            zip(self.norm, self.qkv, self.out, self.mlp, strict=True)
        ):
            q, k, v = qkv(norm(x)).chunk(3, dim=-1)
            keys = torch.cat([k, *(parts[2 * n] for parts in split)], dim=1)
            values = torch.cat([v, *(parts[2 * n + 1] for parts in split)], dim=1)
            x = feed(x + out(attend(q, keys, values, bias, self.heads)))
        fused: Tensor = self.last(x.mean(dim=1))
        return fused
