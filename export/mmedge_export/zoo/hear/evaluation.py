"""How well requests are heard: words of English, whole texts of Chinese."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmedge_export.quantize.metrics import exact_match
from mmedge_export.zoo import speech, voices
from mmedge_export.zoo.characters import Characters
from mmedge_export.zoo.hear.phrases import LANGUAGES, Phrase, Phrases
from mmedge_export.zoo.pcm import pad, to_float
from mmedge_export.zoo.text_evaluation import characters_right, word_error_rate, write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge_export.zoo.hear.network import HearNet
    from mmedge_export.zoo.speech import Corpus

    Writer = Callable[[NDArray[np.float32], str], list[str]]

__all__ = ["KNOWN_EACH", "UNSEEN_EACH", "figures", "held_out", "measure", "torch_writer"]

KNOWN_EACH, UNSEEN_EACH = 2, 4
"""Held-out voices that say each known and each unseen request."""


def held_out(requests: Sequence[Phrase], each: int, seed: int, cache: Path) -> Corpus:
    """Each request by so many held-out voices.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    utterances = voices.draw("test", [phrase.english for phrase in requests], each, seed)
    return speech.record(utterances, "test", cache)


def torch_writer(net: HearNet) -> Writer:
    """Clips and a language to texts, by torch."""
    net.eval()
    characters = Characters(net.parts["characters"], LANGUAGES)

    def texts(audio: NDArray[np.float32], language: str) -> list[str]:
        rows = write(net, torch.from_numpy(audio), characters.language(language))
        return [characters.decode(row) for row in rows]

    return texts


def measure(
    writer: Writer,
    clips: Corpus,
    requests: Sequence[Phrase],
    language: str,
    *,
    batch: int = 64,
) -> dict[str, float]:
    """How all clips are written out in a language.

    Returns:
        ``exact``, the share of texts that are right in every character; ``characters``, 1 minus
        the edit distance for each; ``word_error_rate``, of texts with spaces between words;
        ``clips``, how many.
    """
    right = {phrase.english: phrase.text(language) for phrase in requests}
    # Clips of like length together, so that little of a batch is padding.
    order = np.argsort(np.diff(clips.starts), kind="stable").tolist()
    texts: list[str] = []
    for start in range(0, len(order), batch):
        picked = order[start : start + batch]
        texts += writer(pad([to_float(clips.clip(n)) for n in picked]), language)
    expected = [right[clips.utterances[n].text] for n in order]
    results = {
        "exact": exact_match([{"text": texts}], [expected]),
        "characters": characters_right(texts, expected),
        "clips": len(clips),
    }
    if language == "en":
        results["word_error_rate"] = word_error_rate(texts, expected)
    return results


def figures(writer: Writer, requests: Phrases, cache: Path) -> dict[str, dict[str, float]]:
    """Every figure of the docs: known and unseen requests by held-out voices, in each language.

    Args:
        writer: what is judged.
        requests: of the grammar.
        cache: folder for the clips.
    """
    results = {}
    for kind, part, each, seed in (
        ("known", requests.known, KNOWN_EACH, 1),
        ("unseen", requests.unseen, UNSEEN_EACH, 2),
    ):
        clips = held_out(part, each, seed, cache)
        for language in LANGUAGES:
            results[f"{kind} {language}"] = measure(writer, clips, part, language)
    return results
