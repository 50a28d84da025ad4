"""Random changes to spoken clips at training time that leave the words as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo.logmel import RATE
from mmedge_export.zoo.pcm import to_float
from mmedge_export.zoo.vqa.audio import SAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["clip", "color"]


def _noise(samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise of unit power, from white to strongly low-pass."""
    white = rng.standard_normal(samples, dtype=np.float32)
    colour = rng.uniform(0, 0.95)
    # A two-sided moving average darkens the noise without a loop over samples.
    width = int(1 + colour * 12)
    noise = np.convolve(white, np.ones(width, np.float32), mode="same")
    level = np.sqrt(np.mean(noise**2) + 1e-12)
    scaled: NDArray[np.float32] = (noise / level).astype(np.float32)
    return scaled


def clip(
    pcm: NDArray[np.int16], rng: np.random.Generator, longest: int = SAMPLES[1]
) -> NDArray[np.float32]:
    """Stretch, delay, scale and add noise to a clip.

    Args:
        pcm: int16 ``[samples]``, 16 kHz.
        rng: source of all draws.
        longest: samples after which the clip is cut.

    Returns:
        float32 ``[samples]``, -1 to 1, of another length: played 0.88 to 1.14 times as fast (pitch
        and formants move too), after a pause of 0 to 0.3 s, at -14 to 0 dB of full scale, three
        times in four with noise 8 to 40 dB below the voice.
    """
    voice = to_float(pcm)
    speed = rng.uniform(0.88, 1.14)
    positions = np.arange(0, len(voice) - 1, speed, dtype=np.float32)
    voice = np.interp(positions, np.arange(len(voice), dtype=np.float32), voice).astype(np.float32)
    pause = rng.integers(0, int(0.3 * RATE))
    voice = np.pad(voice, (int(pause), int(rng.integers(0, int(0.1 * RATE)))))[:longest]
    peak = 10 ** (rng.uniform(-14, 0) / 20)
    voice *= peak / (np.abs(voice).max() + 1e-6)
    if rng.random() < 0.75:
        power = float(np.sqrt(np.mean(voice**2)))
        voice = voice + _noise(len(voice), rng) * power * 10 ** (-rng.uniform(8, 40) / 20)
    return np.clip(voice, -1, 1).astype(np.float32)


def color(pcm: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Another microphone, and what a listener may miss: filter a clip, and damp pieces of it.

    The bands and the pieces are what SpecAugment (Park et al. 2019) masks, in the signal itself.

    Args:
        pcm: float32 ``[samples]``, 16 kHz.
        rng: source of all draws.

    Returns:
        float32 ``[samples]``, -1 to 1: with gains that go along lines between -10 and 10 dB at six
        frequencies, up to two bands of up to 500 Hz damped by 30 dB, and up to two pieces of up to
        80 ms damped by 30 dB.
    """
    # A length with small factors alone: a transform of a large prime takes many times as long.
    length = -(-len(pcm) // 4000) * 4000
    spectrum = np.fft.rfft(pcm, length)
    hz = np.linspace(0, RATE / 2, len(spectrum))
    gain_db = np.interp(hz, np.linspace(0, RATE / 2, 6), rng.uniform(-10, 10, 6))
    for _ in range(int(rng.integers(3))):
        low = rng.uniform(0, RATE / 2)
        gain_db[(hz >= low) & (hz < low + rng.uniform(0, 500))] -= 30
    colored = np.fft.irfft(spectrum * 10 ** (gain_db / 20), length)[: len(pcm)].astype(np.float32)
    for _ in range(int(rng.integers(3))):
        at, width = int(rng.integers(len(pcm))), int(rng.uniform(0, 0.08) * RATE)
        colored[at : at + width] *= np.float32(10 ** (-30 / 20))
    louder = np.abs(pcm).max() / (np.abs(colored).max() + 1e-6)
    result: NDArray[np.float32] = np.clip(colored * louder, -1, 1).astype(np.float32)
    return result
