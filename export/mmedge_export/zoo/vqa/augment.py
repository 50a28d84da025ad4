"""Random changes to training images and clips that leave the answer as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo.logmel import RATE
from mmedge_export.zoo.pcm import to_float
from mmedge_export.zoo.vqa.audio import SAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHIFT = 4  # pixels


def image(frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mirror, shift, brighten a little and add sensor noise; uint8 ``[H, W, 3]`` to the same.

    Hue stays: colours are asked for.
    """
    if rng.random() < 0.5:
        frame = frame[:, ::-1]
    if rng.random() < 0.5:
        frame = frame[::-1]
    height, width = frame.shape[:2]
    down, right = rng.integers(0, 2 * _SHIFT + 1, size=2)
    padded = np.pad(frame, ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="edge")
    crop = padded[down : down + height, right : right + width].astype(np.float32)
    crop *= rng.uniform(0.94, 1.06)
    crop += rng.standard_normal(crop.shape, dtype=np.float32) * rng.uniform(0, 4)
    return np.clip(crop, 0, 255).astype(np.uint8)


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


def clip(pcm: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.float32]:
    """Stretch, delay, scale and add noise to a clip.

    Args:
        pcm: int16 ``[samples]``, 16 kHz.
        rng: source of all draws.

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
    voice = np.pad(voice, (int(pause), int(rng.integers(0, int(0.1 * RATE)))))[: SAMPLES[1]]
    peak = 10 ** (rng.uniform(-14, 0) / 20)
    voice *= peak / (np.abs(voice).max() + 1e-6)
    if rng.random() < 0.75:
        power = float(np.sqrt(np.mean(voice**2)))
        voice = voice + _noise(len(voice), rng) * power * 10 ** (-rng.uniform(8, 40) / 20)
    return np.clip(voice, -1, 1).astype(np.float32)
