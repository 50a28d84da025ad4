"""Log-mel spectrogram computed from PCM by convolution, to export as part of the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE = 16_000
"""Samples a second, Hz."""

WINDOW = 400
"""Samples in a window: 25 ms."""

HOP = 160
"""Samples between windows: 10 ms."""

MELS = 40
"""Mel bands."""

BAND_HZ = (60.0, 7600.0)
"""Lower edge of the first mel band and upper edge of the last, Hz."""

FLOOR = 1e-6
"""Power below which the logarithm is cut, with full scale at 1."""


def mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hz to mel: ``2595 log10(1 + f / 700)`` (O'Shaughnessy 1987)."""
    mels: NDArray[np.float64] = 2595.0 * np.log10(1.0 + hz / 700.0)
    return mels


def filterbank() -> NDArray[np.float64]:
    """Triangular filters of peak 1, equally wide in mel: ``[MELS, WINDOW // 2 + 1]``."""
    low, high = mel(np.array(BAND_HZ))
    edges = 700.0 * (10 ** (np.linspace(low, high, MELS + 2) / 2595.0) - 1.0)
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    bank: NDArray[np.float64] = np.maximum(np.minimum(rising, falling), 0.0)
    return bank


def dft_basis() -> NDArray[np.float64]:
    """Real then imaginary parts of a Hann-windowed DFT: ``[2 * (WINDOW // 2 + 1), WINDOW]``.

    Scaled by the sum of the window, so that a sine of amplitude 1 has power 1/4 in its bin.
    """
    n = np.arange(WINDOW)
    window = 0.5 - 0.5 * np.cos(2 * math.pi * n / WINDOW)
    angle = 2 * math.pi * np.arange(WINDOW // 2 + 1)[:, None] * n / WINDOW
    basis: NDArray[np.float64] = np.concatenate([np.cos(angle), -np.sin(angle)])
    basis *= window / window.sum()
    return basis


class LogBands(nn.Module):
    """Log power in bands of frequency, and which windows carry any signal at all.

    The signal is followed by one window of zeros, so that every sample lies in some window and
    zero padding adds only windows that are not valid.

    Args:
        bank: weight of each bin of the DFT in each band, ``[bands, WINDOW // 2 + 1]``.
    """

    basis: Tensor
    bank: Tensor

    def __init__(self, bank: NDArray[np.float64]) -> None:
        super().__init__()
        self.bands = len(bank)
        basis = torch.from_numpy(dft_basis()).float()[:, None, :]
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("bank", torch.from_numpy(bank).float(), persistent=False)

    def forward(self, pcm: Tensor) -> tuple[Tensor, Tensor]:
        """Analyse PCM.

        Args:
            pcm: float32 ``[B, samples]``, 16 kHz, -1 to 1.

        Returns:
            Natural logarithm of the bands' power, float32 ``[B, bands, windows]`` with
            ``windows = samples // 160 + 1``, and valid bool ``[B, windows]``: a window is valid
            when any of its samples is not exactly zero.
        """
        signal = F.pad(pcm, (0, WINDOW))[:, None, :]
        real, imaginary = F.conv1d(signal, self.basis, stride=HOP).chunk(2, dim=1)
        power = torch.matmul(self.bank, real * real + imaginary * imaginary)
        # Not max_pool1d: torch.export fixes its length to that of the example.
        peak = F.max_pool2d(signal.abs()[:, None], (1, WINDOW), stride=(1, HOP))
        return torch.log(torch.clamp(power, min=FLOOR)), peak.flatten(1) > 0


class LogMel(LogBands):
    """Log power of :data:`MELS` bands that are equally wide in mel."""

    def __init__(self) -> None:
        super().__init__(filterbank())
