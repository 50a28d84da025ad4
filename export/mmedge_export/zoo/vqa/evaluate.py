"""Accuracy on the whole test split, for each set of modalities that a question may come by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmedge_export.zoo.pcm import pad, to_float
from mmedge_export.zoo.speech import Corpus, corpus
from mmedge_export.zoo.vqa.tokenizer import encode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge_export.zoo.vqa.network import VqaNet
    from mmedge_export.zoo.vqa.questions import Questions

TAKES = 2
"""Readings of each question by each held-out voice."""

SUBSETS = {
    "image+text": (True, False),
    "image+voice": (False, True),
    "image+text+voice": (True, True),
}
"""Name of each set of modalities, and whether it has text and voice."""


def held_out(texts: list[str], cache: Path) -> Corpus:
    """The test clips: every question by every held-out voice."""
    return corpus("test", texts, cache, takes=TAKES)


def draw(data: Questions, clips: Corpus, seed: int = 0) -> NDArray[np.int64]:
    """The clip that asks each question of the split: int64 ``[questions]``, drawn uniformly."""
    rng = np.random.default_rng(seed)
    readings = clips.by_question()
    return np.array([rng.choice(readings[data.texts[t]]) for t in data.text], dtype=np.int64)


def _encode_all(
    net: VqaNet, modality: str, chunks: Iterable[NDArray[np.generic]]
) -> list[tuple[Tensor, Tensor]]:
    memories = []
    for chunk in chunks:
        memory, valid = net.encode(modality, torch.from_numpy(chunk))
        memories += list(zip(memory, valid, strict=True))
    return memories


def _stack(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Rows of one modality as a batch; token sets of different lengths are padded as not valid."""
    valid = torch.nn.utils.rnn.pad_sequence([v for _, v in rows], batch_first=True)
    if rows[0][0].dim() == 1:
        return torch.stack([m for m, _ in rows]), valid
    return torch.nn.utils.rnn.pad_sequence([m for m, _ in rows], batch_first=True), valid


def accuracy(net: VqaNet, data: Questions, clips: Corpus, *, batch: int = 256) -> dict[str, float]:
    """Share of right answers for each of :data:`SUBSETS`; arguments of :func:`right_answers`."""
    answers = right_answers(net, data, clips, batch=batch)
    return {name: int(right.sum()) / len(data) for name, right in answers.items()}


@torch.inference_mode()
def right_answers(
    net: VqaNet, data: Questions, clips: Corpus, *, batch: int = 256
) -> dict[str, NDArray[np.bool_]]:
    """Whether each question is answered right, bool ``[questions]``, for each of :data:`SUBSETS`.

    Args:
        net: the network; it is put in evaluation mode.
        data: the split.
        clips: readings of its questions by held-out voices, one drawn for each question asked.
        batch: questions answered at a time.
    """
    net.eval()
    clip_numbers = draw(data, clips)
    step = 64
    images = _encode_all(
        net, "image", (data.images[n : n + step] for n in range(0, len(data.images), step))
    )
    texts = _encode_all(net, "text", [encode(data.texts)])
    # Clips of like length together, so that little of a batch is padding.
    order = sorted(set(clip_numbers.tolist()), key=lambda i: len(clips.clip(i)))
    audio = (
        pad([to_float(clips.clip(i)) for i in order[n : n + step]])
        for n in range(0, len(order), step)
    )
    voices = dict(zip(order, _encode_all(net, "audio", audio), strict=True))
    right = {name: np.zeros(len(data), np.bool_) for name in SUBSETS}
    for start in range(0, len(data), batch):
        pick = slice(start, start + batch)
        image = _stack([images[i] for i in data.image[pick]])
        text = _stack([texts[i] for i in data.text[pick]])
        voice = _stack([voices[i] for i in clip_numbers[pick].tolist()])
        answer = torch.from_numpy(data.answer[pick])
        for name, (has_text, has_voice) in SUBSETS.items():
            memories = {
                "image": image,
                "text": (text[0], text[1] & has_text),
                "audio": (voice[0], voice[1] & has_voice),
            }
            right[name][pick] = (net.fuse(memories).argmax(dim=1) == answer).numpy()
    return right
