"""Which letters stand for which phonemes, so that each letter of a text has a duration.

A letter stands for at most three phonemes that follow each other (x: k, s; a silent e: none). How
likely a letter stands for these is counted over the best alignments, and the best alignments follow
from the counts, in turns (hard expectation maximization).
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise
from math import inf, log
from typing import TYPE_CHECKING

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mmedge_export.zoo.speak.espeak import Reading

__all__ = ["durations"]

_MOST = 3
#: A silent letter or a second phoneme is dearer before anything is known.
_PRIOR = (0.1, 1.0, 0.05, 0.002)
_TURNS = 6

Unit = tuple[str, tuple[str, ...]]
"""Letters, and the phonemes that are read for them all: a word, or words that run together."""


def durations(readings: Sequence[Reading]) -> list[list[float]]:
    """How long each character of each text is heard, s; the sum is the length of the reading.

    A space is heard where espeak-ng makes a pause of it; a letter whose phoneme began with another
    one is not heard.
    """
    units = [_units(reading) for reading in readings]
    spans = _alignments(
        dict.fromkeys((letters, sounds) for row in units for letters, sounds in row)
    )
    results = []
    for reading, row in zip(readings, units, strict=True):
        lengths, number = [], 0
        for unit in row:
            for count in spans[unit]:
                sounds = reading.sounds[number : number + count]
                lengths.append(sum(sound.end - sound.start for sound in sounds))
                number += count
        results.append(lengths)
    return results


def _units(reading: Reading) -> list[Unit]:
    """The text cut where a word with phonemes of its own begins."""
    places = sorted({sound.word for sound in reading.sounds})
    units = []
    for start, end in pairwise([0, *places[1:], len(reading.text)]):
        inside = (s.phoneme for s in reading.sounds if start <= s.word < end)
        units.append((reading.text[start:end], tuple(inside)))
    return units


def _alignments(units: Iterable[Unit]) -> dict[Unit, list[int]]:
    """How many phonemes each letter of a unit stands for."""
    units = list(units)
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    totals: Counter[str] = Counter()
    best: dict[Unit, list[int]] = {}
    for _ in range(_TURNS):
        seen, letters_seen = counts, totals

        @cache
        def cost(
            letter: str,
            sounds: tuple[str, ...],
            seen: Counter[tuple[str, tuple[str, ...]]] = seen,
            letters_seen: Counter[str] = letters_seen,
        ) -> float:
            # A space is silent; smoothing by one letter's worth of the prior.
            prior = _PRIOR[len(sounds)] * (1 if letter != " " or not sounds else 1e-6)
            return -log((seen[letter, sounds] + prior) / (letters_seen[letter] + 1))

        best = {unit: _best(unit, cost) for unit in units}
        counts, totals = Counter(), Counter()
        for (letters, sounds), row in best.items():
            number = 0
            for letter, count in zip(letters, row, strict=True):
                counts[letter, sounds[number : number + count]] += 1
                totals[letter] += 1
                number += count
    return best


def _best(unit: Unit, cost: Callable[[str, tuple[str, ...]], float]) -> list[int]:
    """The cheapest way to share phonemes among letters in order (Viterbi)."""
    letters, sounds = unit
    costs = [[0.0, *[inf] * len(sounds)]]
    choices: list[list[int]] = []
    for letter in letters:
        row, picked = [inf] * (len(sounds) + 1), [0] * (len(sounds) + 1)
        for end in range(len(sounds) + 1):
            for count in range(min(_MOST, end) + 1):
                before = costs[-1][end - count]
                if before == inf:
                    continue
                total = before + cost(letter, sounds[end - count : end])
                if total < row[end]:
                    row[end], picked[end] = total, count
        costs.append(row)
        choices.append(picked)
    if costs[-1][-1] == inf:
        raise ExportError(
            f"{letters!r} has {len(sounds)} phonemes, of which a letter takes {_MOST} at most"
        )
    counts, end = [], len(sounds)
    for picked in reversed(choices):
        counts.append(picked[end])
        end -= picked[end]
    return counts[::-1]
