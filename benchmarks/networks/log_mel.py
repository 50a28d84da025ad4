"""Whisper's front end: sound to its log-mel spectrogram.

The sizes and the formula are those of https://github.com/openai/whisper (audio.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from speech_clips import RATE
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MELS", "SAMPLES", "LogMel"]

MELS = 80
#: What one spectrogram shows: 30 s.
SAMPLES = 30 * RATE
#: Samples of a frame's window, and from frame to frame.
WINDOW, HOP = 400, 160


class LogMel(nn.Module):
    """Samples [batch, up to 480000] to their log-mel spectrogram [batch, 80, 3000].

    The discrete Fourier transform of each window is a convolution, which every backend has.
    """

    def __init__(self) -> None:
        super().__init__()
        angles = 2 * np.pi / WINDOW * np.outer(np.arange(WINDOW // 2 + 1), np.arange(WINDOW))
        window = 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))
        waves = np.concatenate([np.cos(angles), np.sin(angles)]) * window
        self.waves: Tensor
        self.filters: Tensor
        self.register_buffer("waves", torch.from_numpy(waves[:, None]).float(), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filters()).float(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Silence up to 30 s, power of each band, its logarithm within 8 of the largest."""
        padded = F.pad(audio, (0, SAMPLES - audio.shape[-1]))[:, None]
        padded = F.pad(padded, (WINDOW // 2, WINDOW // 2), mode="reflect")
        real, imaginary = F.conv1d(padded, self.waves, stride=HOP)[..., :-1].chunk(2, dim=1)
        power = real * real + imaginary * imaginary
        log = torch.clamp(self.filters @ power, min=1e-10).log10()
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - 8)
        return (log + 4) / 4


def mel_filters() -> NDArray[np.float64]:
    """Triangles [80, 201] over frequencies, each of area 1, spaced by the mel scale of Slaney.

    The scale (Auditory Toolbox, 1998) is linear up to 1000 Hz, 200/3 Hz a mel, and logarithmic from
    there on, 27 mels for a factor of 6.4.
    """
    linear, factor = 200 / 3, np.log(6.4) / 27
    knee = 1000 / linear
    top = knee + np.log(RATE / 2 / 1000) / factor
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < knee, mels * linear, 1000 * np.exp((mels - knee) * factor))
    left, center, right = (edges[n : n + MELS, None] for n in range(3))
    frequencies = np.arange(WINDOW // 2 + 1) * (RATE / WINDOW)
    rise, fall = (frequencies - left) / (center - left), (right - frequencies) / (right - center)
    filters: NDArray[np.float64] = np.clip(np.minimum(rise, fall), 0, None) * 2 / (right - left)
    return filters
