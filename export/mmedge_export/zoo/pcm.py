"""Sampled speech as the network takes it, and as files have it."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.zoo.vqa.audio import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def to_float(pcm: NDArray[Any]) -> NDArray[np.float32]:
    """16-bit samples to float32, -1 to 1, of the same shape."""
    scaled: NDArray[np.float32] = pcm.astype(np.float32) / np.float32(32768)
    return scaled


def to_int16(pcm: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples of -1 to 1, what is beyond them cut, to 16 bits, of the same shape."""
    scaled: NDArray[np.int16] = np.clip(np.round(pcm * 32767), -32768, 32767).astype(np.int16)
    return scaled


def write(path: Path, clip: NDArray[np.int16], rate: int = 16_000) -> None:
    """Write a mono WAV file of 16 bits.

    Args:
        path: of the file.
        clip: int16 ``[samples]``.
        rate: Hz.
    """
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(clip.astype("<i2").tobytes())


def pad(clips: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Stack clips of different lengths with zeros after the shorter.

    Args:
        clips: float32 ``[samples]`` each.

    Returns:
        float32 ``[clips, samples]``, at least 1,600 samples long.
    """
    out = np.zeros((len(clips), max(SAMPLES[0], *(len(c) for c in clips))), np.float32)
    for row, clip in zip(out, clips, strict=True):
        row[: len(clip)] = clip
    return out
