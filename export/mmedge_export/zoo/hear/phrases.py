"""The requests: a small grammar with Chinese beside each part.

A :class:`Family` is a sentence with places to fill in; its requests are all ways to fill them in.
Some of them are *known*: training hears them. Some others are held out, to see whether words are
put together anew: *unseen*. A hash of the English text decides, before any network was trained.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from mmedge_export.zoo.hear.grammar import FAMILIES, FIXED

if TYPE_CHECKING:
    from mmedge_export.zoo.hear.grammar import Family

__all__ = ["LANGUAGES", "LETTERS", "Phrase", "Phrases", "characters", "load"]

LANGUAGES: tuple[str, ...] = ("en", "zh")
"""What a request is written out in: English (what was said), Chinese."""

LETTERS = " abcdefghijklmnopqrstuvwxyz"
"""What English text is made of: small letters and spaces, no punctuation."""


@dataclass(frozen=True)
class Phrase:
    """One request.

    Attributes:
        english: what is said, in small letters without punctuation.
        chinese: its translation, without punctuation.
    """

    english: str
    chinese: str

    def text(self, language: str) -> str:
        """The right answer in a language."""
        return {"en": self.english, "zh": self.chinese}[language]


@dataclass(frozen=True)
class Phrases:
    """All requests that are used; none is in both.

    Attributes:
        known: training hears them, by other voices than tests.
        unseen: no training clip says them; each of their words is in some known request.
    """

    known: tuple[Phrase, ...]
    unseen: tuple[Phrase, ...]


def load() -> Phrases:
    """The grammar's requests, in a fixed order."""
    known = [Phrase(*texts) for texts in FIXED.items()]
    unseen: list[Phrase] = []
    for family in FAMILIES:
        requests = sorted(_requests(family), key=_hash)
        number = len(requests) if family.known is None else family.known
        known += requests[:number]
        unseen += requests[number : number + family.unseen]
    return Phrases(tuple(known), tuple(unseen))


def characters() -> list[str]:
    """Every character of a right answer, in order of its code."""
    phrases = load()
    everything = {*LETTERS}
    for phrase in (*phrases.known, *phrases.unseen):
        everything.update(phrase.chinese)
    return sorted(everything)


def _requests(family: Family) -> list[Phrase]:
    requests = []
    for parts in product(*family.parts.values()):
        english = {name: part[0] for name, part in zip(family.parts, parts, strict=True)}
        chinese = {name: part[1] for name, part in zip(family.parts, parts, strict=True)}
        # A part that is left out leaves two spaces.
        text = " ".join(family.english.format(**english).split())
        requests.append(Phrase(text, family.chinese.format(**chinese)))
    return requests


def _hash(phrase: Phrase) -> bytes:
    return hashlib.sha256(phrase.english.encode()).digest()
