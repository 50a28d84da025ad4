"""The synthetic speakers: which espeak-ng voices speak in training and which are held out.

A speaker is an espeak-ng *variant* (vocal tract, intonation) speaking in an *accent*. Whole
variants are held out, never only a speed or a pitch of one; one accent is in the test corpus only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

# Variants of espeak-ng 1.51. Left out: whispers, croaks, effects, and the higher numbers of a
# family (robosoft2 to 8, klatt5 and 6 and the like).
VARIANTS: tuple[str, ...] = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique",
    "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "RicishayMax",
    "Storm", "UniRobot", "adam", "anika", "antonio", "aunty", "belinda", "benjamin", "boris",
    "caleb", "david", "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5", "grandma",
    "grandpa", "iven", "iven2", "john", "kaukovalta", "klatt", "klatt2", "klatt3", "klatt4",
    "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel",
    "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "robosoft",
    "sandro", "shelby", "steph", "steph2", "travis", "victor", "zac",
)  # fmt: skip

HELD_OUT: tuple[str, ...] = VARIANTS[3::6]
"""Every sixth variant, by position: chosen before any network was trained."""

TRAIN: tuple[str, ...] = tuple(v for v in VARIANTS if v not in HELD_OUT)

TRAIN_ACCENTS: tuple[str, ...] = (
    "en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip

TEST_ACCENTS: tuple[str, ...] = ("en-gb", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc")
"""``en-gb-x-rp`` (Received Pronunciation) is in no training clip."""

SPEED_WPM = (130, 210)
"""Range of speaking rates, words per minute (espeak-ng's default is 175)."""

PITCH = (25, 80)
"""Range of espeak-ng's pitch setting, which runs from 0 to 99 (default 50)."""


@dataclass(frozen=True)
class Utterance:
    """One way of saying one sentence.

    Attributes:
        text: the sentence.
        accent: espeak-ng language, e.g. ``en-gb``.
        variant: espeak-ng voice variant, e.g. ``f3``.
        speed: words per minute.
        pitch: espeak-ng pitch, 0 to 99.
    """

    text: str
    accent: str
    variant: str
    speed: int
    pitch: int


def plan(split: str, questions: list[str], takes: int, seed: int = 0) -> list[Utterance]:
    """Who says what: every question by every variant of the split, ``takes`` times.

    Args:
        split: ``train`` or ``test`` (the held-out variants).
        questions: the distinct sentences.
        takes: readings by each variant; each draws its own accent, speed and pitch.
        seed: of the draws.

    Returns:
        ``len(questions) * len(variants) * takes`` utterances, in a fixed order.
    """
    variants, accents = _speakers(split)
    rng = np.random.default_rng([seed, split == "train"])
    return [
        _utterance(text, variant, accents, rng)
        for text in questions
        for variant in variants
        for _ in range(takes)
    ]


def draw(split: str, sentences: Sequence[str], each: int, seed: int = 0) -> list[Utterance]:
    """Who says what, where there are too many sentences for every variant to say them all.

    Args:
        split: ``train`` or ``test`` (the held-out variants).
        sentences: the distinct sentences.
        each: readings of each sentence, by as many variants drawn for it.
        seed: of the draws.

    Returns:
        ``len(sentences) * each`` utterances, in a fixed order.

    Raises:
        ValueError: the split has fewer variants.
    """
    variants, accents = _speakers(split)
    if each > len(variants):
        raise ValueError(f"{each} readings of each sentence; {split} has {len(variants)} variants")
    rng = np.random.default_rng([seed, split == "train", each])
    return [
        _utterance(text, variants[n], accents, rng)
        for text in sentences
        for n in rng.permutation(len(variants))[:each].tolist()
    ]


def _speakers(split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Variants and accents."""
    return (TRAIN, TRAIN_ACCENTS) if split == "train" else (HELD_OUT, TEST_ACCENTS)


def _utterance(
    text: str, variant: str, accents: Sequence[str], rng: np.random.Generator
) -> Utterance:
    return Utterance(
        text,
        accents[int(rng.integers(len(accents)))],
        variant,
        int(rng.integers(SPEED_WPM[0], SPEED_WPM[1] + 1)),
        int(rng.integers(PITCH[0], PITCH[1] + 1)),
    )
