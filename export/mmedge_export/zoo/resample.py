"""Polyphase windowed-sinc resampling of speech."""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ZERO_CROSSINGS = 16
_KAISER_BETA = 8.6  # about 90 dB of stop-band attenuation (Kaiser 1974: beta = 0.1102 (A - 8.7))
_ROLLOFF = (
    0.94  # cut-off as a share of the lower Nyquist frequency; leaves room for the transition band
)


@cache
def _filters(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Taps for each of the ``up`` phases, ``[up, 2 * half]``, and ``half`` in input samples."""
    cutoff = _ROLLOFF * min(1.0, up / down)
    half = int(np.ceil(_ZERO_CROSSINGS / cutoff))
    phase = (np.arange(up) * down % up) / up
    t = np.arange(-half + 1, half + 1)[None, :] - phase[:, None]
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (t / half) ** 2, 0, None))) / np.i0(
        _KAISER_BETA
    )
    taps = cutoff * np.sinc(cutoff * t) * window
    return taps / taps.sum(axis=1, keepdims=True), half


def resample(pcm: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Change the sampling rate of a mono signal.

    Args:
        pcm: float32 ``[samples]``.
        rate: its sampling rate, Hz.
        target: the wanted rate, Hz.

    Returns:
        float32 ``[ceil(samples * target / rate)]``, band-limited to the lower of the two Nyquist
        frequencies.

    Raises:
        ValueError: when a rate is not positive or ``pcm`` is not one-dimensional.
    """
    if rate <= 0 or target <= 0 or pcm.ndim != 1:
        raise ValueError(
            "expected a 1-D signal and positive rates,"
            f" got shape {pcm.shape}, {rate} Hz, {target} Hz"
        )
    if rate == target:
        return pcm.astype(np.float32)
    up, down = target // gcd(rate, target), rate // gcd(rate, target)
    taps, half = _filters(up, down)
    n = np.arange(-(-len(pcm) * up // down))
    padded = np.pad(pcm.astype(np.float64), (half, half + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    out = np.einsum("nt,nt->n", windows[n * down // up + 1], taps[n % up])
    resampled: NDArray[np.float32] = out.astype(np.float32)
    return resampled
