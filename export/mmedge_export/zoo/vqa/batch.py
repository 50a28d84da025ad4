"""Batches for training: every question about a set of images, each modality encoded once.

About ten questions are asked about an image and only 107 questions exist, so a batch holds each
image, each question and one reading of each question once, and says which of them each pair uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmedge_export.zoo.pcm import pad, to_float
from mmedge_export.zoo.vqa import augment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mmedge_export.zoo.speech import Corpus
    from mmedge_export.zoo.vqa.questions import Questions

TEXT_ONLY, VOICE_ONLY = 0.3, 0.45
"""Shares of pairs asked by text alone and by voice alone; the rest are asked by both."""


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        image: uint8 ``[images, 64, 64, 3]``.
        text: int64 ``[texts, 16]``.
        audio: float32 ``[spoken, samples]``, readings of the first texts, padded with zeros.
        image_of: int64 ``[pairs]``, rows of ``image``.
        text_of: int64 ``[pairs]``, rows of ``text``.
        voice_of: int64 ``[pairs]``, rows of ``audio``; any row where there is no voice.
        has_text: bool ``[pairs]``, whether the pair is asked by text.
        has_voice: bool ``[pairs]``, whether the pair is asked by voice.
        answer: int64 ``[pairs]``.
    """

    image: Tensor
    text: Tensor
    audio: Tensor
    image_of: Tensor
    text_of: Tensor
    voice_of: Tensor
    has_text: Tensor
    has_voice: Tensor
    answer: Tensor


def batches(
    data: Questions,
    ids: NDArray[np.int64],
    corpus: Corpus,
    *,
    images: int,
    spoken: int,
    seed: int,
    epoch: int,
    augmented: bool = True,
) -> Iterator[Batch]:
    """All batches of one epoch; the same for the same seed and epoch.

    Args:
        data: the training split.
        ids: token ids of ``data.texts``, ``[texts, 16]``.
        corpus: readings of the questions by training voices.
        images: in a batch; a last, smaller batch is left out unless it is the only one.
        spoken: most questions of a batch that are read aloud, 0 for all; the others are asked by
            text alone. The voice takes most of a step's time.
        seed: of the run.
        epoch: number from 0.
        augmented: whether images and clips are changed at random; if not, they are as recorded.
            Which reading asks, and whether by text or by voice, is drawn all the same.
    """
    rng = np.random.default_rng([seed, epoch])
    readings = corpus.by_question()
    order = rng.permutation(len(data.images))
    pairs_of_image = [np.flatnonzero(data.image == n) for n in range(len(data.images))]
    for start in range(0, max(1, len(order) - images + 1), images):
        rows = order[start : start + images]
        pairs = np.concatenate([pairs_of_image[row] for row in rows])
        texts, text_of = np.unique(data.text[pairs], return_inverse=True)
        if 0 < spoken < len(texts):
            permutation = rng.permutation(len(texts))
            texts, text_of = texts[permutation], np.argsort(permutation)[text_of]
        aloud = texts[: spoken or None]
        clips = [corpus.clip(int(rng.choice(readings[data.texts[t]]))) for t in aloud]
        kind = np.where(text_of < len(aloud), rng.random(len(pairs)), 0.0)
        frames = data.images[rows]
        if augmented:
            frames = np.stack([augment.image(frame, rng) for frame in frames])
        voices = [augment.clip(c, rng) if augmented else to_float(c) for c in clips]
        yield Batch(
            image=torch.from_numpy(frames),
            text=torch.from_numpy(ids[texts]),
            audio=torch.from_numpy(pad(voices)),
            image_of=torch.from_numpy(
                np.repeat(np.arange(len(rows)), [len(pairs_of_image[r]) for r in rows])
            ),
            text_of=torch.from_numpy(text_of),
            voice_of=torch.from_numpy(np.minimum(text_of, len(aloud) - 1)),
            has_text=torch.from_numpy((kind < TEXT_ONLY) | (kind >= TEXT_ONLY + VOICE_ONLY)),
            has_voice=torch.from_numpy(kind >= TEXT_ONLY),
            answer=torch.from_numpy(data.answer[pairs]),
        )
