"""Image encoders: a camera's 64 x 64 RGB frame to tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.layers import Transformer

SIZE = 64
"""Height and width of a frame, pixels."""


def normalise(frame: Tensor) -> Tensor:
    """uint8 ``[B, H, W, 3]`` (0 to 255) to float32 ``[B, 3, H, W]`` (-1 to 1)."""
    # Cast first: TensorRT takes uint8 inputs only when their first reader is a cast.
    return (frame.to(torch.float32) / 127.5 - 1.0).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions that halves height and width (He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, before, H, W]`` to ``[B, after, H / 2, W / 2]``."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


class ResNet(nn.Module):
    """Small residual CNN: 16 tokens, one for each cell of a 4 x 4 grid.

    Args:
        d: width of a token.
        channels: of :meth:`features`.
    """

    def __init__(self, d: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(32)
        self.blocks = nn.Sequential(Block(32, 48), Block(48, 96), Block(96, d))
        self.norm = nn.LayerNorm(d)

    def features(self, frame: Tensor) -> Tensor:
        """What the first convolution sees: uint8 ``[B, H, W, 3]`` to ``[B, channels, H, W]``."""
        return normalise(frame)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 ``[B, 64, 64, 3]`` to tokens ``[B, 16, d]`` and bool ``[B, 16]``, all valid."""
        x = F.relu(self.stem_norm(self.stem(self.features(frame))))
        tokens = self.norm(self.blocks(x).flatten(2).transpose(1, 2))
        return tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool)


class ViT(nn.Module):
    """Small vision transformer (Dosovitskiy et al. 2021) on 8 x 8 patches: 64 tokens."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, d, 8, stride=8)
        self.position = nn.Parameter(torch.randn(1, (SIZE // 8) ** 2, d) * 0.02)
        self.body = Transformer(d, layers=3, heads=4, hidden=2 * d)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 ``[B, 64, 64, 3]`` to tokens ``[B, 64, d]`` and bool ``[B, 64]``, all valid."""
        x = self.patch(normalise(frame)).flatten(2).transpose(1, 2) + self.position
        valid = x.new_ones(x.shape[:2], dtype=torch.bool)
        return self.body(x, valid), valid
