"""Audio encoders: raw PCM of any length to tokens, the spectrogram included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmedge_export.zoo.audio_layers import ConvBlock, Stem, halve
from mmedge_export.zoo.recurrent import GRU
from mmedge_export.zoo.spectrum import LogSpectrum

if TYPE_CHECKING:
    from mmedge_export.zoo.logmel import LogBands

SAMPLES = (1_600, 80_000)
"""Shortest and longest signal, samples at 16 kHz (0.1 s to 5 s)."""


class CnnAudio(nn.Module):
    """Convolutions only, on log-mel bands or other features: one token in 80 ms."""

    def __init__(self, d: int, features: LogBands | None = None) -> None:
        super().__init__()
        self.stem = Stem(d, features)
        self.reduce = nn.Conv1d(d, d, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            ConvBlock(d, width=5, dilation=n, dropout=0.1) for n in (1, 2, 1, 2)
        )
        self.norm = nn.LayerNorm(d)

    def forward(self, pcm: Tensor) -> tuple[Tensor, Tensor]:
        """float32 ``[B, samples]`` to tokens ``[B, T, d]`` and valid bool ``[B, T]``."""
        x, valid = self.stem(pcm)
        valid = halve(valid)
        x = self.reduce(x.transpose(1, 2)).transpose(1, 2) * valid.transpose(1, 2)
        for block in self.blocks:
            x = block(x, valid)
        return self.norm(x), valid.squeeze(1) > 0


class SpectrumCnn(CnnAudio):
    """The same convolutions on a power spectrum of linear frequency."""

    def __init__(self, d: int) -> None:
        super().__init__(d, LogSpectrum())


class CrnnAudio(nn.Module):
    """Convolutions, then two forward GRU layers: one token in 80 ms."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.stem = Stem(d)
        self.reduce = nn.Conv1d(d, d, 3, stride=2, padding=1)
        self.block = ConvBlock(d, width=5, dilation=1, dropout=0.1)
        self.gru = nn.Sequential(GRU(d), GRU(d))
        self.norm = nn.LayerNorm(d)

    def forward(self, pcm: Tensor) -> tuple[Tensor, Tensor]:
        """float32 ``[B, samples]`` to tokens ``[B, T, d]`` and valid bool ``[B, T]``."""
        x, valid = self.stem(pcm)
        valid = halve(valid)
        x = self.reduce(x.transpose(1, 2)).transpose(1, 2) * valid.transpose(1, 2)
        x = self.block(x, valid)
        return self.norm(x + self.gru(x)), valid.squeeze(1) > 0
