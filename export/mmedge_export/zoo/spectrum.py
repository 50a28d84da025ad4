"""Log power spectrum of linear frequency, computed from PCM as the log-mel spectrogram is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo.logmel import WINDOW, LogBands

if TYPE_CHECKING:
    from numpy.typing import NDArray

BANDS = 80
"""Bands of the spectrum."""

BINS = 2
"""Bins of the DFT in a band: 80 Hz, what a Hann window of 25 ms tells apart at half amplitude."""

FIRST = 1
"""First bin of the first band; bin 0 is the mean of the signal."""


def bands() -> NDArray[np.float64]:
    """Which bins each band adds up: ``[BANDS, WINDOW // 2 + 1]`` of 0 and 1.

    Bands are next to each other, from 20 to 6,420 Hz. Between 6,420 Hz and the 8,000 Hz that the
    rate allows there is little but the hiss of fricatives, which reaches below as well.
    """
    bank = np.zeros((BANDS, WINDOW // 2 + 1))
    for band in range(BANDS):
        start = FIRST + band * BINS
        bank[band, start : start + BINS] = 1.0
    return bank


class LogSpectrum(LogBands):
    """Log power of :data:`BANDS` equally wide bands."""

    def __init__(self) -> None:
        super().__init__(bands())
