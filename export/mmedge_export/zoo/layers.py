"""Layers that the encoders and the fusions share: masked attention, feed-forward, pooling."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

MASKED = -1e4
"""Added to the score of an invalid key.

``exp`` of it is exactly 0 in float32 and it is finite in float16, so a row whose keys are all
invalid gives finite values, where minus infinity would give NaN.
"""


def key_bias(valid: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Additive attention mask: 0 where a key is valid, :data:`MASKED` where not.

    Args:
        valid: bool ``[B, keys]``.
        dtype: of the scores.

    Returns:
        ``[B, 1, 1, keys]``.
    """
    return ((~valid).to(dtype) * MASKED)[:, None, None, :]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Multi-head scaled dot-product attention.

    Args:
        q: ``[B, queries, d]``.
        k: ``[B, keys, d]``.
        v: ``[B, keys, d]``.
        bias: ``[B, 1, 1, keys]`` from :func:`key_bias`.
        heads: a divisor of ``d``.

    Returns:
        ``[B, queries, d]``.
    """
    width = q.shape[2] // heads
    q, k, v = (t.reshape(*t.shape[:2], heads, width).transpose(1, 2) for t in (q, k, v))
    # Expanded over the queries: ONNX Runtime's CPU kernel for opset 23 broadcasts no such axis.
    mask = bias.expand(-1, -1, q.shape[2], -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Pre-norm residual MLP over the last axis."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.expand = nn.Linear(d, hidden)
        self.contract = nn.Linear(hidden, d)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d]`` to ``[..., d]``."""
        y: Tensor = x + self.contract(F.gelu(self.expand(self.norm(x))))
        return y


class SelfAttention(nn.Module):
    """Pre-norm residual multi-head self-attention."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """``x [B, L, d]`` and ``bias [B, 1, 1, L]`` to ``[B, L, d]``."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        y: Tensor = x + self.out(attend(q, k, v, bias, self.heads))
        return y


class Transformer(nn.Module):
    """A stack of pre-norm transformer encoder layers, normalised at the end."""

    def __init__(self, d: int, *, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList(SelfAttention(d, heads) for _ in range(layers))
        self.mlp = nn.ModuleList(FeedForward(d, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """``x [B, L, d]`` and ``valid`` bool ``[B, L]`` to ``[B, L, d]``."""
        bias = key_bias(valid, x.dtype)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = mlp(attention(x, bias))
        y: Tensor = self.norm(x)
        return y


class Pool(nn.Module):
    """Attention pooling of a token set into one vector by a learned score for each token."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.score = nn.Linear(d, 1)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """``tokens [B, L, d]``, ``valid`` bool ``[B, L]`` to ``[B, d]``, finite even if none is."""
        score = self.score(tokens) + (~valid).to(tokens.dtype)[..., None] * MASKED
        return (torch.softmax(score, dim=1) * tokens).sum(dim=1)


class Present(nn.Module):
    """Stands a learned vector in for a modality that is absent."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.randn(d) * 0.02)

    def forward(self, vector: Tensor, valid: Tensor) -> Tensor:
        """``vector [B, d]`` where any of ``valid [B, L]`` holds, the learned vector elsewhere."""
        return torch.where(valid.any(dim=1, keepdim=True), vector, self.absent)


def mlp(sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of the given sizes with GELU between them."""
    steps: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        steps += [nn.GELU(), nn.Dropout(dropout)] if steps else []
        steps.append(nn.Linear(width_in, width_out))
    return nn.Sequential(*steps)
