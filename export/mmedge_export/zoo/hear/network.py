"""The network: a voice to what a decoder attends to, and the decoder's step."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.audio_layers import ConvBlock, Stem
from mmedge_export.zoo.hear.phrases import LANGUAGES
from mmedge_export.zoo.layers import Transformer
from mmedge_export.zoo.text_decoder import DecoderSize, TextNet

__all__ = ["SAMPLES", "SIZE", "HearNet", "SpeechEncoder"]

SAMPLES = (1_600, 96_000)
"""Shortest and longest signal, samples at 16 kHz (0.1 s to 6 s)."""

SIZE = DecoderSize(width=128, heads=4, layers=2, places=48)
"""Of the decoder; heads are 32 wide."""

_LAYERS = 3
#: More tokens than the longest signal has: four windows of 10 ms are one.
_MOST_TOKENS = SAMPLES[1] // 640 + 2


def _waves(tokens: int, d: int) -> Tensor:
    """Sines and cosines of each token's place, ``[tokens, d]`` (Vaswani et al. 2017)."""
    rate = torch.exp(torch.arange(0, d, 2) * (-math.log(10_000.0) / d))
    angle = torch.arange(tokens)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class SpeechEncoder(nn.Module):
    """Log-mel spectrogram, convolutions, then a Transformer over tokens of 40 ms."""

    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        d = SIZE.width
        self.stem = Stem(d)
        self.blocks = nn.ModuleList(ConvBlock(d, width=5, dilation=1, dropout=0.1) for _ in "12")
        self.register_buffer("waves", _waves(_MOST_TOKENS, d), persistent=False)
        self.place_gain = nn.Parameter(torch.tensor(0.3))
        self.body = Transformer(d, layers=_LAYERS, heads=SIZE.heads, hidden=3 * d)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """float32 ``[batch, samples]`` to tokens ``[batch, T, 128]`` and valid bool ``[batch, T]``.

        A token is valid where the signal is not exactly zero for all of its time.
        """
        x, valid = self.stem(audio)
        for block in self.blocks:
            x = block(x, valid)
        # Not a slice: its bounds would have to be proven for every length of a signal.
        places = torch.arange(x.shape[1], device=x.device)
        x = x + self.place_gain * F.embedding(places, self.waves)
        is_valid = valid.squeeze(1) > 0
        return self.body(x, is_valid), is_valid


class HearNet(TextNet):
    """A voice to keys, values and a mask for the decoder's layers; ``step`` is the decoder.

    Args:
        characters: all that it writes, in the order of their tokens.
    """

    def __init__(self, characters: str) -> None:
        super().__init__(SpeechEncoder(), 1 + len(LANGUAGES) + len(characters), SIZE)
        self.parts = {"characters": characters}

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """float32 ``[batch, samples]``, 16 kHz, -1 to 1, to what the decoder takes.

        ``cross_key_0`` and the like ``[batch, 4, T, 32]``, ``cross_bias`` ``[batch, 1, 1, T]``.
        """
        return self.look(*self.encoder(audio))
