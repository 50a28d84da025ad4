"""From energies in bands, pitch and voicing to PCM, without weights: part of the network.

A channel vocoder (Dudley 1939) on a short-time Fourier transform. What is filtered is a train of
pulses at the pitch, mixed with noise where there is no voice. The filter divides by
the energy that this excitation itself has in each band of each frame, so that the result has the
wanted one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.logmel import RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BANDS", "FLOOR", "HOP", "WINDOW", "Bands", "Vocoder", "log_energies"]

HOP = 160
"""Samples between frames: 10 ms."""

WINDOW = 3 * HOP
"""Samples in a frame. The squares of three Hann windows that overlap so add up to 9/8."""

BANDS = 40
"""Bands from 0 to 8 kHz, of equal width below 2 kHz and wider above, about."""

FLOOR = 1e-7
"""Energy below which the logarithm is cut, with full scale at 1."""

_BINS = WINDOW // 2 + 1
_BEND_HZ = 2_000.0
_PERIODS = 400  # frames of noise, after which it repeats
_PARTS = 1 << 24
_FALL = 0.96


def _filters() -> NDArray[np.float64]:
    """Triangles that add up to 1 at every frequency: float64 ``[BANDS, bins]``."""
    top = math.log1p(RATE / 2 / _BEND_HZ)
    centers = _BEND_HZ * np.expm1(np.linspace(0, top, BANDS))
    bins = np.arange(_BINS) * RATE / WINDOW
    filters: NDArray[np.float64] = np.stack(
        [np.interp(bins, centers, row) for row in np.eye(BANDS)]
    )
    return filters


def _basis() -> NDArray[np.float64]:
    """Real and imaginary parts of the windowed transform: float64 ``[2 * bins, WINDOW]``."""
    n = np.arange(WINDOW)
    angle = 2 * math.pi * np.arange(_BINS)[:, None] * n / WINDOW
    waves: NDArray[np.float64] = np.concatenate([np.cos(angle), -np.sin(angle)])
    return waves * _hann()


def _hann() -> NDArray[np.float64]:
    hann: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(WINDOW) / WINDOW)
    return hann


def _inverse() -> NDArray[np.float64]:
    """Spectrum to a windowed frame, scaled so that overlapping frames add up to the signal."""
    n = np.arange(WINDOW)
    angle = 2 * math.pi * np.arange(_BINS)[:, None] * n / WINDOW
    weight = np.full((_BINS, 1), 2.0)
    weight[0] = weight[-1] = 1.0
    waves: NDArray[np.float64] = np.concatenate([weight * np.cos(angle), -weight * np.sin(angle)])
    return waves / WINDOW * _hann() / 1.125


class Bands(nn.Module):
    """Short-time Fourier transform, and the energy of its bands."""

    basis: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        basis = torch.from_numpy(_basis()).float()[:, None, :]
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("filters", torch.from_numpy(_filters()).float(), persistent=False)

    def spectrum(self, pcm: Tensor) -> Tensor:
        """float32 ``[B, frames * HOP]`` to ``[B, 2 * bins, frames]``: real, then imaginary parts.

        Frame ``t`` has its middle at sample ``(t + 0.5) * HOP``.
        """
        return F.conv1d(F.pad(pcm, (HOP, HOP))[:, None, :], self.basis, stride=HOP)

    def energies(self, spectrum: Tensor) -> Tensor:
        """Natural logarithm of the energy in each band: ``[B, frames, BANDS]``.

        Scaled so that a sine of amplitude 1 has the energy 1/4 in its bin.
        """
        real, imaginary = spectrum.chunk(2, dim=1)
        power = F.linear((real * real + imaginary * imaginary).transpose(1, 2), self.filters)
        return torch.log((power * (2.0 / WINDOW) ** 2).clamp(min=FLOOR))


@torch.no_grad()
def log_energies(pcm: Tensor) -> Tensor:
    """What the network learns: float32 ``[samples]`` to ``[ceil(samples / HOP), BANDS]``."""
    bands = Bands()
    signal = F.pad(pcm, (0, -len(pcm) % HOP))[None]
    return bands.energies(bands.spectrum(signal))[0]


class Vocoder(nn.Module):
    """Bands, pitch and voicing of each frame to PCM. It has no weights and draws no numbers."""

    inverse: Tensor
    noise: Tensor
    inside: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bands = Bands()
        inverse = torch.from_numpy(_inverse()).float()[:, None, :]
        self.register_buffer("inverse", inverse, persistent=False)
        noise = np.random.default_rng(0).standard_normal((_PERIODS, HOP))
        self.register_buffer("noise", torch.from_numpy(noise).float(), persistent=False)
        # Where in its frame a sample is.
        inside = (torch.arange(HOP) + 0.5) / RATE
        self.register_buffer("inside", inside, persistent=False)

    def excitation(self, pitch: Tensor, voicing: Tensor) -> Tensor:
        """Pulses and noise of power 1 together: ``[B, frames]`` each to ``[B, frames * HOP]``."""
        # Cycles since the start, in whole numbers of _PARTS: their sum is exact, and the same in
        # every runtime, where one of float32 would move pulses at the end.
        parts = torch.round(pitch * (HOP / RATE * _PARTS)).to(torch.int64)
        start = torch.remainder(torch.cumsum(parts, dim=1) - parts, _PARTS)
        phase = start.to(pitch.dtype)[..., None] / _PARTS + pitch[..., None] * self.inside
        # Poisson's kernel: the sum of all harmonics, each _FALL times as strong as the one below.
        # Those past 8 kHz fold back, 28 dB down at a pitch of 100 Hz.
        wave = 1.0 - 2.0 * _FALL * torch.cos(2.0 * math.pi * phase) + _FALL**2
        pulses = ((1.0 - _FALL**2) / wave - 1.0) * math.sqrt((1.0 - _FALL**2) / (2.0 * _FALL**2))
        places = torch.remainder(torch.arange(pitch.shape[1], device=pitch.device), _PERIODS)
        noise = F.embedding(places, self.noise)
        share = voicing.clamp(0.0, 1.0)[..., None]
        mixed = torch.sqrt(share) * pulses + torch.sqrt(1.0 - share) * noise
        return mixed.flatten(1)

    def forward(self, energies: Tensor, pitch: Tensor, voicing: Tensor) -> Tensor:
        """Synthesize.

        Args:
            energies: float32 ``[B, frames, BANDS]``, as :meth:`Bands.energies` gives them.
            pitch: float32 ``[B, frames]``, Hz, above 0; also where there is no voice.
            voicing: float32 ``[B, frames]``, the share of the power that is periodic.

        Returns:
            float32 ``[B, frames * HOP]``, 16 kHz, within -1 and 1.
        """
        spectrum = self.bands.spectrum(self.excitation(pitch, voicing))
        gain = 0.5 * (energies - self.bands.energies(spectrum))
        gains = torch.exp(F.linear(gain, self.bands.filters.T)).transpose(1, 2)
        shaped = spectrum * torch.cat([gains, gains], dim=1)
        signal = F.conv_transpose1d(shaped, self.inverse, stride=HOP)[:, 0, HOP:-HOP]
        return signal.clamp(-1.0, 1.0)
