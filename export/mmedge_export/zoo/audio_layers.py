"""Layers that audio encoders share: a spectrogram to tokens, convolutions over valid ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.logmel import LogBands, LogMel

__all__ = ["ConvBlock", "Stem", "halve"]


def halve(valid: Tensor) -> Tensor:
    """Validity after a convolution of stride 2: float ``[B, 1, T]`` to ``[B, 1, ceil(T / 2)]``.

    A step stands for steps ``2 i`` and ``2 i + 1`` of what it was made from, so that padding with
    steps that are not valid makes none that is.
    """
    # Not max_pool1d: torch.export fixes its length to that of the example.
    return F.max_pool2d(F.pad(valid, (0, 1)), (1, 2), stride=(1, 2))


class Stem(nn.Module):
    """Spectrogram, then two strided 2-D convolutions and a projection: one token in 40 ms.

    Steps without signal are zeroed before every convolution. They then equal the zeros that a
    convolution pads with, so neither the padding of a batch nor trailing silence changes a result.

    Args:
        d: width of a token.
        features: the spectrogram, of a multiple of 4 bands; None: log-mel.
    """

    def __init__(self, d: int, features: LogBands | None = None) -> None:
        super().__init__()
        self.features = features or LogMel()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.project = nn.Linear(32 * self.features.bands // 4, d)
        self.norm = nn.LayerNorm(d)

    def forward(self, pcm: Tensor) -> tuple[Tensor, Tensor]:
        """float32 ``[B, samples]`` to ``[B, T, d]`` and valid float ``[B, 1, T]`` of 0 and 1."""
        power, signal = self.features(pcm)
        valid = signal.to(power.dtype)[:, None, :]
        # The mean over time of each band is the speaker's loudness and the microphone's colour.
        mean = (power * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1.0)
        x = ((power - mean) * valid * 0.5)[:, None]
        valid = halve(valid)
        x = F.relu(self.conv1(x)) * valid[:, None]
        valid = halve(valid)
        x = F.relu(self.conv2(x)).flatten(1, 2).transpose(1, 2)
        return self.norm(self.project(x)) * valid.transpose(1, 2), valid


class ConvBlock(nn.Module):
    """Residual 1-D convolution over time, normalised over channels."""

    def __init__(self, d: int, *, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d, d, width, padding=width // 2 * dilation, dilation=dilation)
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """``x [B, T, d]``, ``valid`` float ``[B, 1, T]`` to ``[B, T, d]``, zero where not valid."""
        y = self.dropout(F.gelu(self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2))))
        masked_sum: Tensor = (x + y) * valid.transpose(1, 2)
        return masked_sum
