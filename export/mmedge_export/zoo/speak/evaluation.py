"""Whether speech is understood: ``zoo:hear`` writes down what ``zoo:speak`` says."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from mmedge_export.quantize.metrics import exact_match, word_accuracy
from mmedge_export.zoo import data_files, weight_file
from mmedge_export.zoo.hear.evaluation import torch_writer
from mmedge_export.zoo.hear.network import SAMPLES, HearNet
from mmedge_export.zoo.pcm import pad, to_float
from mmedge_export.zoo.speak import espeak
from mmedge_export.zoo.speak.pitch import track
from mmedge_export.zoo.speak.text import encode
from mmedge_export.zoo.speak.training import collate, errors
from mmedge_export.zoo.speak.vocoder import Vocoder, log_energies
from mmedge_export.zoo.text_evaluation import word_error_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mmedge_export.zoo.speak.network import SpeakNet
    from mmedge_export.zoo.speak.readings import Targets

    Speaker = Callable[[list[str]], list[NDArray[np.float32]]]

__all__ = [
    "distances",
    "espeak_speaker",
    "listen",
    "torch_speaker",
    "understood",
    "vocoder_speaker",
    "words_understood",
]


def torch_speaker(net: SpeakNet) -> Speaker:
    """Texts to clips, by torch, each cut to its speech."""
    net.eval()

    def clips(texts: list[str]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            spoken = net(torch.from_numpy(encode(texts)))
        rows = zip(spoken["audio"].numpy(), spoken["samples"].tolist(), strict=True)
        return [row[:count] for row, count in rows]

    return clips


def espeak_speaker(texts: list[str]) -> list[NDArray[np.float32]]:
    """Texts to clips, by the voice that was learned.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    return [to_float(espeak.read(text).pcm) for text in texts]


def vocoder_speaker(texts: list[str]) -> list[NDArray[np.float32]]:
    """Texts to clips, by the vocoder from what was measured in readings of the voice.

    That is the best that the network could do.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    vocoder, clips = Vocoder(), []
    for clip in espeak_speaker(texts):
        energies = log_energies(torch.from_numpy(clip))
        measured = (energies, *(torch.from_numpy(row) for row in track(clip)))
        clips.append(vocoder(*(row[None] for row in measured))[0].numpy())
    return clips


@cache
def _hear() -> Callable[[NDArray[np.float32], str], list[str]]:
    path = data_files.weight_path("hear", None, "hear")
    return torch_writer(weight_file.load(path, HearNet))


def listen(clips: Sequence[NDArray[np.float32]]) -> list[str]:
    """What ``zoo:hear`` hears in clips; what is longer than it takes is cut.

    Raises:
        ExportError: the weights of ``zoo:hear`` are not there.
    """
    return _hear()(pad([clip[: SAMPLES[1]] for clip in clips]), "en")


def words_understood(outputs: Sequence[dict[str, NDArray[Any]]], targets: Sequence[str]) -> float:
    """Mean share of words that ``zoo:hear`` gets right: the metric of ``zoo:speak``.

    Args:
        outputs: ``audio`` float32 ``[1, samples]`` and ``samples`` int64 ``[1]`` each.
        targets: the sentences.

    Raises:
        ExportError: the weights of ``zoo:hear`` are not there.
    """
    texts: list[str] = []
    for output in outputs:
        texts += listen([output["audio"][0, : int(output["samples"][0])]])
    return word_accuracy([{"text": texts}], [list(targets)])


def understood(speaker: Speaker, texts: Sequence[str], *, batch: int = 32) -> dict[str, float]:
    """How sentences are understood that a speaker says.

    Returns:
        ``word_error_rate``, of ``zoo:hear``; ``exact``, the share of sentences without an error;
        ``sentences``, how many.

    Raises:
        ExportError: the weights of ``zoo:hear`` are not there.
    """
    heard: list[str] = []
    # Sentences of like length together, so that little of a batch is padding.
    order = sorted(texts, key=len)
    for start in range(0, len(order), batch):
        heard += listen(speaker(order[start : start + batch]))
    return {
        "word_error_rate": word_error_rate(heard, order),
        "exact": exact_match([{"text": heard}], [order]),
        "sentences": len(order),
    }


@torch.inference_mode()
def distances(net: SpeakNet, targets: Targets, *, batch: int = 32) -> dict[str, float]:
    """Mean distances to readings of espeak-ng, at its own durations (:func:`errors`)."""
    net.eval()
    order = sorted(targets, key=lambda target: len(target.frames))
    sums: dict[str, float] = {}
    for start in range(0, len(order), batch):
        picked = order[start : start + batch]
        for name, value in errors(net, collate(picked)).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(picked)
    return {name: value / len(order) for name, value in sums.items()}
