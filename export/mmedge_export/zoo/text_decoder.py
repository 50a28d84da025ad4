"""The decoder that writes text: characters one by one, attending to what an encoder gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.layers import FeedForward, key_bias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DecoderSize", "Step", "TextNet"]


@dataclass(frozen=True)
class DecoderSize:
    """Size of a decoder.

    Attributes:
        width: of every token.
        heads: of attention, a divisor of ``width``.
        layers: of the decoder.
        places: most tokens of a text, the language and the end among them.
    """

    width: int
    heads: int
    layers: int
    places: int

    @property
    def states(self) -> tuple[str, ...]:
        """What the layers keep of the text so far, and what they take of the encoder."""
        return tuple(f"{kind}_{n}" for n in range(self.layers) for kind in ("key", "value"))

    def split(self, x: Tensor) -> Tensor:
        """``[batch, tokens, width]`` to ``[batch, heads, tokens, width / heads]``."""
        return x.reshape(*x.shape[:2], self.heads, self.width // self.heads).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class _Layer(nn.Module):
    """A layer of the decoder: attention to the text so far, to the encoder, feed-forward."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.cross_norm, self.query = nn.LayerNorm(d), nn.Linear(d, d)
        self.cross_out = nn.Linear(d, d)
        self.feed_forward = FeedForward(d, 4 * d)


class Step(nn.Module):
    """New tokens int64 ``[batch, new]`` to scores of each one's next, and the grown states."""

    def __init__(self, vocabulary: int, size: DecoderSize) -> None:
        super().__init__()
        self.size, d = size, size.width
        self.embedding = nn.Embedding(vocabulary, d)
        self.place = nn.Embedding(size.places, d)
        self.layers = nn.ModuleList(_Layer(d) for _ in range(size.layers))
        self.norm = nn.LayerNorm(d)
        nn.init.normal_(self.embedding.weight, std=d**-0.5)
        nn.init.normal_(self.place.weight, std=d**-0.5)

    def forward(self, language: Tensor, position: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Scores after each token.

        Args:
            language: the tokens; the first of a text is its language.
            position: int64 ``[new]``, how many tokens are before each.
            tensors: ``past_key_0`` and the like, ``[batch, heads, past, width / heads]``, empty at
                first; ``cross_key_0`` and the like of :meth:`TextNet.look`, and ``cross_bias``
                where it gives one.

        Returns:
            ``logits`` ``[batch, new, vocabulary]``, and ``present_key_0`` and the like.
        """
        split, d = self.size.split, self.size.width
        outputs: dict[str, Tensor] = {}
        x = d**0.5 * (self.embedding(language) + self.place(position))
        mask: Tensor | None = None
        bias = tensors.get("cross_bias")
        if bias is not None:
            # Expanded over the queries, as in mmedge_export.zoo.layers.attend.
            bias = bias.expand(-1, -1, x.shape[1], -1)
        for n, layer in enumerate(cast("list[_Layer]", list(self.layers))):
            query, key, value = (split(t) for t in layer.qkv(layer.norm(x)).chunk(3, dim=-1))
            key = torch.cat([tensors[f"past_key_{n}"], key], dim=2)
            value = torch.cat([tensors[f"past_value_{n}"], value], dim=2)
            outputs |= {f"present_key_{n}": key, f"present_value_{n}": value}
            if mask is None:  # no token sees a later one
                mask = torch.arange(key.shape[2], device=x.device) <= position[:, None]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            x = x + layer.out(_joined(mixed))
            query = split(layer.query(layer.cross_norm(x)))
            looked = F.scaled_dot_product_attention(
                query, tensors[f"cross_key_{n}"], tensors[f"cross_value_{n}"], attn_mask=bias
            )
            x = layer.feed_forward(x + layer.cross_out(_joined(looked)))
        return {"logits": F.linear(self.norm(x), self.embedding.weight), **outputs}


class TextNet(nn.Module):
    """An encoder, keys and values of its tokens for each of the decoder's layers, the decoder.

    Args:
        encoder: gives tokens ``[batch, tokens, width]``.
        vocabulary: how many characters and other tokens there are.
        size: of the decoder.
    """

    step: Step

    def __init__(self, encoder: nn.Module, vocabulary: int, size: DecoderSize) -> None:
        super().__init__()
        self.size = size
        self.encoder = encoder
        self.cross = nn.ModuleList(
            nn.Linear(size.width, 2 * size.width) for _ in range(size.layers)
        )
        self.step = Step(vocabulary, size)

    def look(self, encoded: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """What the encoder gave, to what :class:`Step` takes of it.

        Args:
            encoded: ``[batch, tokens, width]``.
            valid: bool ``[batch, tokens]``; None: all are.

        Returns:
            ``cross_key_0`` and the like ``[batch, heads, tokens, width / heads]``; with ``valid``
            also ``cross_bias`` ``[batch, 1, 1, tokens]``, which is added to scores.
        """
        outputs: dict[str, Tensor] = {}
        for n, project in enumerate(self.cross):
            key, value = project(encoded).chunk(2, dim=-1)
            outputs[f"cross_key_{n}"] = self.size.split(key)
            outputs[f"cross_value_{n}"] = self.size.split(value)
        if valid is not None:
            outputs["cross_bias"] = key_bias(valid, encoded.dtype)
        return outputs

    def past(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states before the first token, for what :meth:`look` gave."""
        size = self.size
        batch = len(seen["cross_key_0"])
        empty = seen["cross_key_0"].new_zeros((batch, size.heads, 0, size.width // size.heads))
        return {f"past_{name}": empty for name in size.states}

    def write(self, tokens: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
        """Scores after each of ``tokens [batch, length]``, as when all are known beforehand."""
        position = torch.arange(tokens.shape[1], device=tokens.device)
        logits: Tensor = self.step(tokens, position, **self.past(seen), **seen)["logits"]
        return logits
