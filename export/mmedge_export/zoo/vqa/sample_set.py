"""The shipped samples: real questions about real test images, spoken by held-out voices."""

from __future__ import annotations

import json
import wave
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mmedge_export.zoo import data_files
from mmedge_export.zoo.logmel import RATE
from mmedge_export.zoo.pcm import to_float
from mmedge_export.zoo.vqa.network import ANSWERS
from mmedge_export.zoo.vqa.tokenizer import encode

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SILENCE = 16_000
"""Samples of digital silence that stand in for an absent voice: one second."""


@dataclass(frozen=True)
class ShippedSample:
    """One question about one image.

    Attributes:
        image: name of the PNG file.
        voice: name of the WAV file, mono 16-bit 16 kHz.
        question: the words, as the data set writes them.
        answer: one of ``ANSWERS``.
        image_id: number of the image in the test split of easy-vqa.
        speaker: espeak-ng accent and variant, speed in words a minute, pitch.
    """

    image: str
    voice: str
    question: str
    answer: str
    image_id: int
    speaker: str

    def frame(self) -> NDArray[np.uint8]:
        """uint8 ``[64, 64, 3]``, RGB."""
        with Image.open(_folder() / self.image) as picture:
            return np.array(picture.convert("RGB"))

    def pcm(self) -> NDArray[np.float32]:
        """float32 ``[samples]``, 16 kHz, -1 to 1."""
        with wave.open(str(_folder() / self.voice)) as reader:
            raw = reader.readframes(reader.getnframes())
        return to_float(np.frombuffer(raw, "<i2"))

    def feeds(self, *, text: bool, voice: bool) -> dict[str, NDArray[Any]]:
        """The network's inputs with a batch of one; what is left out is zeros."""
        ids = encode([self.question])
        return {
            "image": self.frame()[None],
            "text": ids if text else np.zeros_like(ids),
            "audio": self.pcm()[None] if voice else np.zeros((1, SILENCE), np.float32),
        }


def _folder() -> Path:
    return data_files.samples("vqa")


def load() -> list[ShippedSample]:
    """The shipped samples."""
    index = json.loads((_folder() / "samples.json").read_text())
    return [ShippedSample(**entry) for entry in index["samples"]]


def golden() -> list[tuple[dict[str, NDArray[Any]], int]]:
    """Inputs and the right answer's index; of each sample: by text, by voice, by both."""
    ways = ((True, False), (False, True), (True, True))
    return [
        (sample.feeds(text=text, voice=voice), ANSWERS.index(sample.answer))
        for sample in load()
        for text, voice in ways
    ]


def write(directory: Path, cache: Path, seed: int = 0) -> None:
    """Draw the samples and write them; nothing but the seed and the wanted answers chooses.

    Twelve different images: one for each of the three shapes, five of the eight colours, and two
    each for yes and no.

    Args:
        directory: for the files.
        cache: of the spoken questions (see ``mmedge-train --cache``).
        seed: of the draw.
    """
    from mmedge_export.zoo.vqa import questions
    from mmedge_export.zoo.vqa.evaluate import held_out

    data = questions.load("test")
    clips = held_out(data.texts, cache)
    readings = clips.by_question()
    rng = np.random.default_rng(seed)
    shapes = ["circle", "rectangle", "triangle"]
    colours = sorted(set(ANSWERS) - {*shapes, "yes", "no"})
    answers = [*shapes, *rng.permutation(colours)[:5].tolist(), "yes", "no", "yes", "no"]
    directory.mkdir(parents=True, exist_ok=True)
    used_images: set[int] = set()
    samples: list[ShippedSample] = []
    for number, answer in enumerate(answers):
        fits = [
            n
            for n in np.flatnonzero(data.answer == ANSWERS.index(answer))
            if data.image[n] not in used_images
        ]
        pair = int(rng.choice(fits))
        row, question = int(data.image[pair]), data.texts[data.text[pair]]
        used_images.add(row)
        clip = int(rng.choice(readings[question]))
        utterance = clips.utterances[clip]
        speaker = (
            f"{utterance.accent}+{utterance.variant}, {utterance.speed} words/min, "
            f"pitch {utterance.pitch}"
        )
        name = f"{number:02d}"
        Image.fromarray(data.images[row]).save(directory / f"{name}.png", optimize=True)
        with wave.open(str(directory / f"{name}.wav"), "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(2)
            writer.setframerate(RATE)
            writer.writeframes(clips.clip(clip).astype("<i2").tobytes())
        image_id = int(data.ids[row])
        samples.append(
            ShippedSample(f"{name}.png", f"{name}.wav", question, answer, image_id, speaker)
        )
    index = {
        "data": f"easy-vqa {questions.VERSION}, test split (MIT); espeak-ng, held-out voices",
        "seed": seed,
        "samples": [asdict(sample) for sample in samples],
    }
    (directory / "samples.json").write_text(json.dumps(index, indent=2) + "\n")
