"""The network: a caption to a condition, and a small U-Net that predicts the velocity of a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.draw.measure import SIDE
from mmedge_export.zoo.layers import Transformer, mlp

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["VOCABULARY", "D", "Decoder", "DrawNet", "Step"]

D = 128
"""Width of a word, of the condition and of the time."""

VOCABULARY = 32
"""Rows of the embedding table; the shipped tokenizer uses the first 28."""

_UNKNOWN = 1
_FINE, _MIDDLE, _COARSE = 32, 96, 144
"""Channels at 32 x 32, 16 x 16 and 8 x 8."""

_MAPS = 8
"""Maps that a condition makes at 8 x 8: they say where, as FiLM, alike everywhere, cannot."""

_GROUPS = 8
_FREQUENCIES = 32


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions; a condition scales and shifts between them.

    The scale and the shift are FiLM: Perez et al., "FiLM: Visual Reasoning with a General
    Conditioning Layer" (2018).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(_GROUPS, out_channels)
        self.film = nn.Linear(D, 2 * out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``x [B, channels, H, W]`` and ``condition [B, D]`` to ``[B, channels, H, W]``."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))
        total: Tensor = self.skip(x) + y
        return total


class Step(nn.Module):
    """The flow's velocity at a noisy picture.

    It predicts the clean picture and makes the velocity of that: Li and He, "Back to Basics: Let
    Denoising Generative Models Denoise" (2025). So the last step of Euler's method, to time 0,
    gives the predicted picture itself, without a rest of noise.

    Convolutions work on patches of 2 x 2 pixels, so at 32 x 32, and mostly at 16 x 16 and 8 x 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.time = mlp([2 * _FREQUENCIES, D, D])
        self.stem = nn.Conv2d(12, _FINE, 3, padding=1)
        self.down1 = nn.Conv2d(_FINE, _MIDDLE, 3, stride=2, padding=1)
        self.place1 = nn.Parameter(torch.randn(1, _MIDDLE, SIDE // 4, SIDE // 4) * 0.2)
        self.block1 = Block(_MIDDLE, _MIDDLE)
        self.down2 = nn.Conv2d(_MIDDLE, _COARSE, 3, stride=2, padding=1)
        self.place2 = nn.Parameter(torch.randn(1, _COARSE, SIDE // 8, SIDE // 8) * 0.2)
        self.map = nn.Linear(D, _MAPS * (SIDE // 8) ** 2)
        self.map_in = nn.Conv2d(_MAPS, _COARSE, 1)
        self.block2 = Block(_COARSE, _COARSE)
        self.mixer = Transformer(_COARSE, layers=1, heads=4, hidden=2 * _COARSE)
        self.block3 = Block(_COARSE, _COARSE)
        self.up1 = nn.Conv2d(_COARSE, _MIDDLE, 1)
        self.block4 = Block(2 * _MIDDLE, _MIDDLE)
        self.up2 = nn.Conv2d(_MIDDLE, _FINE, 1)
        self.norm = nn.GroupNorm(_GROUPS, 2 * _FINE)
        self.fine = nn.Conv2d(2 * _FINE, _FINE, 3, padding=1)
        self.out = nn.Conv2d(_FINE, 12, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, latent: Tensor, time: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """The velocity, from the picture to the noise.

        Args:
            latent: float32 ``[B, 3, 64, 64]``, ``(1 - time) * picture + time * noise``.
            time: float32 ``[]`` or ``[B]``, above 0, at most 1.
            condition: float32 ``[B, D]`` of :class:`DrawNet`.

        Returns:
            ``prediction``, float32 ``[B, 3, 64, 64]``.
        """
        sample = self.sample(latent, time, condition)
        return {"prediction": (latent - sample) / time.reshape(-1, 1, 1, 1)}

    def sample(self, latent: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """The clean picture as predicted, about -1 to 1; arguments as :meth:`forward` has them."""
        octaves = torch.arange(_FREQUENCIES, dtype=torch.float32, device=latent.device)
        # From one period over all times to 1/100 of that.
        angle = time.reshape(-1, 1) * (2 * torch.pi * 100 ** (octaves / (_FREQUENCIES - 1)))
        waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
        condition = F.silu(condition + self.time(waves))
        fine = self.stem(F.pixel_unshuffle(latent, 2))
        middle = self.block1(self.down1(fine) + self.place1, condition)
        maps = self.map(condition).reshape(-1, _MAPS, SIDE // 8, SIDE // 8)
        x = self.block2(self.down2(middle) + self.place2 + self.map_in(maps), condition)
        tokens = x.flatten(2).transpose(1, 2)
        valid = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        x = x + self.mixer(tokens, valid).transpose(1, 2).reshape(x.shape)
        x = self.block3(x, condition)
        x = F.interpolate(self.up1(x), scale_factor=2.0, mode="nearest")
        x = self.block4(torch.cat([x, middle], dim=1), condition)
        x = F.interpolate(self.up2(x), scale_factor=2.0, mode="nearest")
        x = self.fine(F.silu(self.norm(torch.cat([x, fine], dim=1))))
        return F.pixel_shuffle(self.out(F.silu(x)), 2)


class Decoder(nn.Module):
    """The last latent to a picture."""

    def forward(self, latent: Tensor) -> Tensor:
        """float32 ``[B, 3, 64, 64]``, about -1 to 1, to ``[B, 64, 64, 3]`` RGB, 0 to 1."""
        return (0.5 + 0.5 * latent).clamp(0.0, 1.0).permute(0, 2, 3, 1)


class DrawNet(nn.Module):
    """A caption to a condition; :attr:`step` is the U-Net, :attr:`decoder` makes the picture.

    Each word becomes a vector by itself and the vectors are added up, so what a color does to the
    picture cannot depend on the shape beside it until the U-Net sees both. It is what lets the
    network draw colors and shapes together that it never saw together. The order of the words does
    not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: Mapping[str, str] = {}
        self.embedding = nn.Embedding(VOCABULARY, D)
        self.word = mlp([D, 2 * D, D])
        self.norm = nn.LayerNorm(D)
        self.step = Step()
        self.decoder = Decoder()

    def forward(self, text: Tensor) -> dict[str, Tensor]:
        """int64 ``[B, 16]`` token ids to ``condition`` float32 ``[B, D]``.

        Padding and words that the tokenizer does not know are left out; a text of them alone asks
        for any picture.
        """
        # Not masked_fill with indexing: a product has the same operators for any batch.
        counts = (text > _UNKNOWN).to(torch.float32)[..., None]
        words = self.word(self.embedding(text)) * counts
        return {"condition": self.norm(words.sum(dim=1))}
