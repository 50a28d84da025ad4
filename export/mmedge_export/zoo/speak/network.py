"""The network: characters to durations, frames, bands and pitch, and by the vocoder to PCM."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.audio_layers import ConvBlock
from mmedge_export.zoo.hear.phrases import LETTERS
from mmedge_export.zoo.layers import Transformer
from mmedge_export.zoo.speak.vocoder import BANDS, FLOOR, HOP, Vocoder

__all__ = ["TOKENS", "Predictor", "SpeakNet", "Spoken", "frames_of"]

TOKENS = (1, 64)
"""Fewest and most characters of a text, padding included."""

_WIDTH = 128
_HEADS = 4
_PITCH_HZ = (60.0, 250.0)
_CHARACTER_FRAMES, _EXTRA_FRAMES = 8, 32

Spoken = tuple[Tensor, Tensor, Tensor]
"""Bands ``[B, frames, BANDS]``, pitch in Hz and logits of voicing ``[B, frames]``."""


def frames_of(tokens: int) -> int:
    """Frames that there are for so many tokens: of 10 ms, 80 ms a token and 320 ms more.

    All sentences of the training data need less. With the number of frames told by the size of the
    input, no shape depends on what the network computes.
    """
    return _CHARACTER_FRAMES * tokens + _EXTRA_FRAMES


class Predictor(nn.Module):
    """All that is trained: FastSpeech (Ren et al. 2019), with convolutions as its decoder."""

    def __init__(self, characters: int, *, width: int = _WIDTH, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters + 1, width)
        self.near = nn.ModuleList(ConvBlock(width, width=5, dilation=1, dropout=0.05) for _ in "12")
        self.body = Transformer(width, layers=layers, heads=_HEADS, hidden=3 * width)
        self.duration = nn.Linear(width, 1)
        self.place = nn.Linear(3, width)
        self.blocks = nn.ModuleList(
            ConvBlock(width, width=5, dilation=d, dropout=0.05) for d in (1, 2, 1, 1)
        )
        self.out = nn.Linear(width, BANDS + 2)

    def encode(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ``[B, T]`` to ``[B, T, width]`` and durations ``[B, T]``, frames; 0 pads both."""
        is_valid = text != 0
        valid = is_valid.to(torch.float32)[:, None, :]
        x = self.embedding(text) * valid.transpose(1, 2)
        for block in self.near:
            x = block(x, valid)
        x = self.body(x, is_valid)
        return x, F.softplus(self.duration(x).squeeze(2)) * 4.0 * valid.squeeze(1)

    def decode(self, x: Tensor, durations: Tensor, frames: int) -> tuple[Spoken, Tensor]:
        """Characters that last so long to what is spoken.

        A frame is of the character in whose time its middle lies. It knows how far that character's
        ends are, and which share of the character is over.

        Args:
            x: float32 ``[B, T, width]``.
            durations: float32 ``[B, T]``, frames.
            frames: how many there are.

        Returns:
            What is spoken, and a bool ``[B, frames]``: whether the frame is of any character.
        """
        ends = torch.cumsum(durations, dim=1)[:, None, :]
        lengths = durations[:, None, :]
        starts = ends - lengths
        middle = (torch.arange(frames, device=x.device) + 0.5)[None, :, None]
        inside = ((middle >= starts) & (middle < ends)).to(x.dtype)
        since, until = middle - starts, ends - middle
        share = since / lengths.clamp(min=1e-3)
        # Sums with one term that is not 0; far away, the others must not be infinite.
        features = [(inside * feature).sum(dim=2) for feature in (since / 10, until / 10, share)]
        is_valid = inside.sum(dim=2) > 0
        valid = is_valid.to(x.dtype)[:, None, :]
        y = torch.matmul(inside, x) + self.place(torch.stack(features, dim=2))
        y = F.gelu(y) * valid.transpose(1, 2)
        for block in self.blocks:
            y = block(y, valid)
        out = self.out(y)
        energies = out[..., :BANDS] * 3.0 - 9.0
        pitch = (100.0 * torch.exp(0.3 * out[..., BANDS])).clamp(*_PITCH_HZ)
        return (energies, pitch, out[..., BANDS + 1]), is_valid


class SpeakNet(nn.Module):
    """Text to speech; training uses :attr:`predictor` alone.

    Args:
        characters: all that it reads, in the order of their tokens, which begin with 1.
        width: of its layers.
        layers: of the Transformer.
    """

    def __init__(self, characters: str = LETTERS, width: int = _WIDTH, layers: int = 2) -> None:
        super().__init__()
        self.parts: dict[str, object] = {"characters": characters, "width": width, "layers": layers}
        self.predictor = Predictor(len(characters), width=width, layers=layers)
        self.vocoder = Vocoder()

    def forward(self, text: Tensor) -> dict[str, Tensor]:
        """Speak.

        Args:
            text: int64 ``[B, T]``, tokens of characters; 0 pads.

        Returns:
            ``audio`` float32 ``[B, 160 * (8 T + 32)]``, 16 kHz, -1 to 1, zeros after the speech,
            and ``samples`` int64 ``[B]``, how many of them are speech.
        """
        x, durations = self.predictor.encode(text)
        frames = frames_of(text.shape[1])
        (energies, pitch, voicing), is_valid = self.predictor.decode(x, durations, frames)
        energies = torch.where(is_valid[..., None], energies, math.log(FLOOR))
        audio = self.vocoder(energies, pitch, torch.sigmoid(voicing))
        # Past the last frame's middle there is no speech, but half of its window.
        valid = is_valid[..., None].expand(-1, -1, HOP).flatten(1)
        audio = torch.where(valid, audio, 0.0)
        return {"audio": audio, "samples": is_valid.sum(dim=1) * HOP}
