"""Sampled speech as the network takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.zoo.vqa.audio import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def to_float(pcm: NDArray[Any]) -> NDArray[np.float32]:
    """16-bit samples to float32, -1 to 1, of the same shape."""
    scaled: NDArray[np.float32] = pcm.astype(np.float32) / np.float32(32768)
    return scaled


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
