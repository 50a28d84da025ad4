"""The network: a picture of a label to what a decoder looks at, and the decoder's step."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.label_translate.characters import FIRST
from mmedge_export.zoo.label_translate.rendering import HEIGHT, WIDTH
from mmedge_export.zoo.layers import FeedForward, Transformer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HEADS", "LAYERS", "PLACES", "STATES", "D", "LabelNet", "PictureEncoder", "Step"]

D = 144
"""Width of every token."""

HEADS, LAYERS = 4, 2
"""Heads of attention, and layers of the decoder."""

PLACES = 32
"""Most tokens of a text, the language and the end among them."""

COLUMNS = WIDTH // 4
"""Tokens of a picture: strips of four pixels' width."""

STATES: tuple[str, ...] = tuple(f"{kind}_{n}" for n in range(LAYERS) for kind in ("key", "value"))
"""What a decoder's layers keep of the text so far, and what they take of the picture."""


def _heads(x: Tensor) -> Tensor:
    """``[batch, tokens, D]`` to ``[batch, HEADS, tokens, D / HEADS]``."""
    return x.reshape(*x.shape[:2], HEADS, D // HEADS).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class _Block(nn.Module):
    """Residual block of two 3 x 3 convolutions; the first may take strides."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


class PictureEncoder(nn.Module):
    """A CNN that keeps the width, then a Transformer over the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(24)
        self.blocks = nn.Sequential(
            _Block(24, 48, (2, 2)), _Block(48, 80, (2, 1)), _Block(80, 112, (2, 1))
        )
        self.columns = nn.Linear(112 * HEIGHT // 16, D)
        self.place = nn.Parameter(torch.randn(1, COLUMNS, D) * 0.02)
        self.body = Transformer(D, layers=1, heads=HEADS, hidden=3 * D)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 ``[batch, 32, 192, 3]`` to ``[batch, 48, D]``."""
        # Cast first: TensorRT takes uint8 inputs only when their first reader is a cast.
        pixels = image.to(torch.float32).permute(0, 3, 1, 2)
        # Relative to the picture's own light.
        middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
        spread = ((pixels - middle) ** 2).mean(dim=(1, 2, 3), keepdim=True).sqrt()
        x = (pixels - middle) / (spread + 4.0)
        x = self.blocks(F.relu(self.stem_norm(self.stem(x))))
        tokens = self.columns(x.permute(0, 3, 1, 2).flatten(2)) + self.place
        valid = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        encoded: Tensor = self.body(tokens, valid)
        return encoded


class _Layer(nn.Module):
    """A layer of the decoder: attention to the text so far, to the picture, feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(D), nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.cross_norm, self.query = nn.LayerNorm(D), nn.Linear(D, D)
        self.cross_out = nn.Linear(D, D)
        self.feed_forward = FeedForward(D, 4 * D)


class Step(nn.Module):
    """New tokens int64 ``[batch, new]`` to scores of each one's next, and the grown states."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, D)
        self.place = nn.Embedding(PLACES, D)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(D)
        nn.init.normal_(self.embedding.weight, std=D**-0.5)
        nn.init.normal_(self.place.weight, std=D**-0.5)

    def forward(self, language: Tensor, position: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Scores after each token.

        Args:
            language: the tokens; the first of a text is its language.
            position: int64 ``[new]``, how many tokens are before each.
            tensors: ``past_key_0`` and the like, ``[batch, HEADS, past, D / HEADS]``, empty at
                first; ``cross_key_0`` and the like of :class:`LabelNet`.

        Returns:
            ``logits`` ``[batch, new, vocabulary]``, and ``present_key_0`` and the like.
        """
        outputs: dict[str, Tensor] = {}
        x = D**0.5 * (self.embedding(language) + self.place(position))
        mask: Tensor | None = None
        for n, layer in enumerate(cast("list[_Layer]", list(self.layers))):
            query, key, value = (_heads(t) for t in layer.qkv(layer.norm(x)).chunk(3, dim=-1))
            key = torch.cat([tensors[f"past_key_{n}"], key], dim=2)
            value = torch.cat([tensors[f"past_value_{n}"], value], dim=2)
            outputs |= {f"present_key_{n}": key, f"present_value_{n}": value}
            if mask is None:  # no token sees a later one
                mask = torch.arange(key.shape[2], device=x.device) <= position[:, None]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            x = x + layer.out(_joined(mixed))
            query = _heads(layer.query(layer.cross_norm(x)))
            looked = F.scaled_dot_product_attention(
                query, tensors[f"cross_key_{n}"], tensors[f"cross_value_{n}"]
            )
            x = layer.feed_forward(x + layer.cross_out(_joined(looked)))
        return {"logits": F.linear(self.norm(x), self.embedding.weight), **outputs}


class LabelNet(nn.Module):
    """A picture to keys and values of the decoder's layers; :attr:`step` is the decoder.

    Args:
        characters: all that it writes, in the order of their tokens.
    """

    def __init__(self, characters: str) -> None:
        super().__init__()
        self.parts = {"characters": characters}
        self.encoder = PictureEncoder()
        self.cross = nn.ModuleList(nn.Linear(D, 2 * D) for _ in range(LAYERS))
        self.step = Step(FIRST + len(characters))

    def look(self, encoded: Tensor) -> dict[str, Tensor]:
        """What :class:`PictureEncoder` gave, to what :class:`Step` takes of it."""
        outputs: dict[str, Tensor] = {}
        for n, project in enumerate(self.cross):
            key, value = project(encoded).chunk(2, dim=-1)
            outputs |= {f"cross_key_{n}": _heads(key), f"cross_value_{n}": _heads(value)}
        return outputs

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """uint8 ``[batch, 32, 192, 3]`` to ``cross_key_0`` and the like ``[batch, 4, 48, 36]``."""
        return self.look(self.encoder(image))

    def write(self, tokens: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
        """Scores after each of ``tokens [batch, length]``, as when all are known beforehand."""
        batch, length = tokens.shape
        empty = seen["cross_key_0"].new_zeros((batch, HEADS, 0, D // HEADS))
        past = {f"past_{name}": empty for name in STATES}
        position = torch.arange(length, device=tokens.device)
        logits: Tensor = self.step(tokens, position, **past, **seen)["logits"]
        return logits
