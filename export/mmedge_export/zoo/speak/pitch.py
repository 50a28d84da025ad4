"""Pitch and voicing of a clean synthetic voice, by autocorrelation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo.logmel import RATE
from mmedge_export.zoo.speak.vocoder import HOP

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RANGE_HZ", "track"]

RANGE_HZ = (60.0, 250.0)
"""Lowest and highest pitch that is looked for."""

_WINDOW = 640  # 40 ms: two periods of the lowest pitch and more
_SHORTEST, _LONGEST = int(RATE / RANGE_HZ[1]), int(RATE / RANGE_HZ[0])
#: Where a periodic signal has a peak, it has one at twice the lag too: the first that is nearly
#: as high is taken.
_NEARLY = 0.85
#: Normalized autocorrelation of no voice at all, and of a whole one.
_VOICING = (0.35, 0.85)


def track(pcm: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pitch, Hz, and voicing, 0 to 1, of each frame.

    The autocorrelation is divided by that of the window, as P. Boersma, "Accurate short-term
    analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled sound"
    (1993), does it. The pitch of frames without voice lies on a line between those with.

    Args:
        pcm: float32 ``[samples]``, 16 kHz.

    Returns:
        float32 ``[ceil(samples / HOP)]`` each.
    """
    frames = -(-len(pcm) // HOP)
    half = (_WINDOW - HOP) // 2
    padded = np.pad(pcm.astype(np.float64), (half, half + frames * HOP - len(pcm)))
    window = np.hanning(_WINDOW)
    view = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP]
    cut = (view - view.mean(axis=1, keepdims=True)) * window
    correlation = _autocorrelation(cut) / np.maximum(_autocorrelation(window[None]), 1e-9)
    energy = correlation[:, :1]
    # Digital silence has no peak, and no voice.
    scores = correlation / np.where(energy > 1e-9, energy, np.inf)
    lags, peaks = np.ones(frames), np.zeros(frames)
    for number, row in enumerate(scores):
        inside = row[_SHORTEST - 1 : _LONGEST + 2]
        is_top = (inside[1:-1] >= inside[:-2]) & (inside[1:-1] > inside[2:])
        tops = np.flatnonzero(is_top) + _SHORTEST
        if not tops.size:
            continue
        lag = int(tops[np.argmax(row[tops] >= _NEARLY * row[tops].max())])
        before, middle, after = row[lag - 1 : lag + 2]
        # The top of a parabola through three points.
        bend = before - 2 * middle + after
        lags[number] = lag + (0.5 * (before - after) / bend if bend < 0 else 0.0)
        peaks[number] = middle
    low, high = _VOICING
    voicing = np.clip((peaks - low) / (high - low), 0.0, 1.0)
    is_voiced = voicing > 0.5
    if not is_voiced.any():
        return np.full(frames, 100.0, np.float32), voicing.astype(np.float32)
    places = np.arange(frames)
    pitch = np.interp(places, places[is_voiced], RATE / lags[is_voiced])
    return _median(pitch).astype(np.float32), voicing.astype(np.float32)


def _autocorrelation(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(rows, 2 * _WINDOW)
    result: NDArray[np.float64] = np.fft.irfft(np.abs(spectrum) ** 2)[:, :_WINDOW]
    return result


def _median(values: NDArray[np.float64], width: int = 5) -> NDArray[np.float64]:
    """The median of each value and its neighbors, which drops lone errors of an octave."""
    padded = np.pad(values, width // 2, mode="edge")
    rows = np.lib.stride_tricks.sliding_window_view(padded, width)
    middle: NDArray[np.float64] = np.median(rows, axis=1)
    return middle
