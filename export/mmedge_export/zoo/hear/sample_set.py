"""The shipped samples: requests spoken by held-out voices."""

from __future__ import annotations

import json
import wave
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo import data_files, pcm
from mmedge_export.zoo.hear import phrases

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["HearSample", "folder", "load", "write"]

_KNOWN, _UNSEEN = 6, 4


@dataclass(frozen=True)
class HearSample:
    """One clip and what is to be written.

    Attributes:
        audio: name of the WAV file, mono 16-bit 16 kHz.
        language: one of ``LANGUAGES``.
        text: the right answer.
        english: what is said.
        is_known: whether training heard the request, by other voices.
        speaker: espeak-ng accent and variant, speed in words a minute, pitch.
    """

    audio: str
    language: str
    text: str
    english: str
    is_known: bool
    speaker: str

    def pcm(self) -> NDArray[np.float32]:
        """float32 ``[samples]``, 16 kHz, -1 to 1."""
        with wave.open(str(folder() / self.audio)) as reader:
            raw = reader.readframes(reader.getnframes())
        return pcm.to_float(np.frombuffer(raw, "<i2"))


def folder() -> Path:
    """Where they are."""
    return data_files.samples("hear")


def load() -> list[HearSample]:
    """The shipped samples."""
    index = json.loads((folder() / "samples.json").read_text(encoding="utf-8"))
    return [HearSample(**entry) for entry in index["samples"]]


def write(directory: Path, seed: int = 3) -> None:
    """Draw the samples and write them; nothing but the seed chooses.

    Six known requests and four unseen ones, in the two languages in turn.

    Args:
        directory: for the files.
        seed: of requests and voices.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    from mmedge_export.zoo import speech, voices

    requests, rng = phrases.load(), np.random.default_rng(seed)
    known = [requests.known[n] for n in rng.permutation(len(requests.known))[:_KNOWN]]
    unseen = [requests.unseen[n] for n in rng.permutation(len(requests.unseen))[:_UNSEEN]]
    picked = [*known, *unseen]
    utterances = voices.draw("test", [phrase.english for phrase in picked], 1, seed)
    directory.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, (phrase, utterance) in enumerate(zip(picked, utterances, strict=True)):
        language = phrases.LANGUAGES[number % len(phrases.LANGUAGES)]
        file = f"{number:02d}.wav"
        pcm.write(directory / file, speech.synthesise(utterance))
        speaker = (
            f"{utterance.accent}+{utterance.variant}, {utterance.speed} words/min, "
            f"pitch {utterance.pitch}"
        )
        text = phrase.text(language)
        samples.append(HearSample(file, language, text, phrase.english, number < _KNOWN, speaker))
    index = {
        "data": "requests of mmedge's grammar; espeak-ng, held-out voices",
        "seed": seed,
        "samples": [asdict(sample) for sample in samples],
    }
    text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    (directory / "samples.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the shipped samples anew."""
    write(folder())


if __name__ == "__main__":
    main()
