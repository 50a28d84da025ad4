"""Readings of sentences as the network learns them: durations, bands, pitch and voicing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from mmedge_export.zoo.logmel import RATE
from mmedge_export.zoo.pcm import to_float
from mmedge_export.zoo.speak import alignment, espeak, pitch, vocoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Target", "Targets", "load", "make"]


@dataclass(frozen=True)
class Target:
    """What one sentence is to become.

    Attributes:
        text: the sentence.
        durations: float32 ``[characters]``, frames of 10 ms.
        frames: float32 ``[frames, BANDS + 2]``: logarithms of energies, pitch in Hz, voicing.
    """

    text: str
    durations: NDArray[np.float32]
    frames: NDArray[np.float32]


Targets = list[Target]


def make(sentences: Sequence[str]) -> Targets:
    """Read and analyze sentences.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    readings = [espeak.read(text) for text in sentences]
    spans = alignment.durations(readings)
    scale = RATE / vocoder.HOP
    targets = []
    for reading, lengths in zip(
        tqdm(readings, desc="analyzing", mininterval=5), spans, strict=True
    ):
        pcm = to_float(reading.pcm)
        bands = vocoder.log_energies(torch.from_numpy(pcm)).numpy()
        frames = np.column_stack([bands, *pitch.track(pcm)]).astype(np.float32)
        targets.append(Target(reading.text, np.array(lengths, np.float32) * scale, frames))
    return targets


def load(sentences: Sequence[str], cache: Path) -> Targets:
    """The same from the cache, or made and written there.

    Args:
        sentences: what is read.
        cache: folder; other sentences or another voice make another file.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    settings = [espeak.VOICE, espeak.SPEED_WPM, espeak.PITCH, vocoder.BANDS, *sentences]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    path = cache / f"speak-{key}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        targets = make(sentences)
        # Written beside and renamed, so that a broken run leaves no half cache.
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            durations=np.concatenate([target.durations for target in targets]),
            frames=np.concatenate([target.frames for target in targets]),
            counts=np.array([len(target.frames) for target in targets]),
        )
        partial.rename(path)
    with np.load(path) as arrays:
        characters = np.cumsum([len(text) for text in sentences])[:-1]
        durations = np.split(arrays["durations"], characters)
        frames = np.split(arrays["frames"], np.cumsum(arrays["counts"])[:-1])
    return [Target(*parts) for parts in zip(sentences, durations, frames, strict=True)]
