"""Ready metrics of what loops give, for :class:`Task` and :class:`mmedge_export.Model`.

Each is the mean of a score of single samples, from 0 to 1, larger is better: so that a drop has a
bound that holds for few samples. A sample's target is what is right: a text or tokens, or a list of
them where a call has several rows.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["chrf", "edit_distance", "exact_match", "token_accuracy", "word_accuracy"]

#: Longest pieces of a text that :func:`chrf` counts, and how much more it weighs recall.
PIECES, RECALL = 6, 2.0


def exact_match(outputs: Sequence[Mapping[str, Any]], targets: Sequence[Any]) -> float:
    """The share of texts that are right, letter for letter; spaces around them do not count."""
    return _texts(outputs, targets, lambda text, right: float(text.strip() == right.strip()))


def word_accuracy(outputs: Sequence[Mapping[str, Any]], targets: Sequence[Any]) -> float:
    """1 minus the word error rate of each text, but no less than 0; their mean.

    Words are small letters, digits and apostrophes: other signs and case do not count. It is the
    mean over texts, and not over all words.
    """

    def score(text: str, right: str) -> float:
        words, expected = _words(text), _words(right)
        return max(0.0, 1.0 - edit_distance(expected, words) / max(1, len(expected)))

    return _texts(outputs, targets, score)


def chrf(outputs: Sequence[Mapping[str, Any]], targets: Sequence[Any]) -> float:
    """The F-score of pieces of 1 to 6 characters of each text, recall weighed twice; their mean.

    M. Popovic, "chrF: character n-gram F-score for automatic MT evaluation" (2015), for each text
    by itself. Spaces do not count.
    """
    return _texts(outputs, targets, _chrf)


def token_accuracy(outputs: Sequence[Mapping[str, Any]], targets: Sequence[Any]) -> float:
    """The share of tokens that are right in their place, of the longer of the two; the mean."""

    def score(tokens: Sequence[int], right: Sequence[int]) -> float:
        same = sum(one == other for one, other in zip(tokens, right, strict=False))
        longest = max(len(tokens), len(right))
        return same / longest if longest else 1.0

    def rows(output: Mapping[str, Any]) -> list[Sequence[int]]:
        pairs = zip(output["tokens"], output["lengths"], strict=True)
        return [row[:length].tolist() for row, length in pairs]

    def expected(target: Any) -> list[Sequence[int]]:  # noqa: ANN401
        is_row = len(target) == 0 or np.ndim(target[0]) == 0
        return [target] if is_row else list(target)

    return _mean([rows(o) for o in outputs], [expected(target) for target in targets], score)


def edit_distance(right: Sequence[Any], got: Sequence[Any]) -> int:
    """How many elements are put in, left out or changed (Levenshtein's distance)."""
    row = list(range(len(got) + 1))
    for n, expected in enumerate(right, 1):
        before, row[0] = row[0], n
        for m, element in enumerate(got, 1):
            before, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, before + (expected != element))
    return row[-1]


def _texts(
    outputs: Sequence[Mapping[str, Any]],
    targets: Sequence[str | Sequence[str]],
    score: Callable[[str, str], float],
) -> float:
    expected = [[target] if isinstance(target, str) else list(target) for target in targets]
    return _mean([list(output["text"]) for output in outputs], expected, score)


def _mean(
    samples: Sequence[Sequence[Any]],
    targets: Sequence[Sequence[Any]],
    score: Callable[[Any, Any], float],
) -> float:
    """Of the rows of each sample, then of the samples."""
    means = [
        np.mean([score(row, right) for row, right in zip(rows, rights, strict=True)])
        for rows, rights in zip(samples, targets, strict=True)
    ]
    return float(np.mean(means))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _chrf(text: str, right: str) -> float:
    got, expected = "".join(text.split()), "".join(right.split())
    scores = []
    for size in range(1, PIECES + 1):
        pieces, rights = (
            Counter(string[at : at + size] for at in range(len(string) - size + 1))
            for string in (got, expected)
        )
        if not rights and not pieces:
            continue  # both are shorter
        same = (pieces & rights).total()
        precision, recall = same / max(1, pieces.total()), same / max(1, rights.total())
        weighed = RECALL**2 * precision + recall
        scores.append((1 + RECALL**2) * precision * recall / weighed if weighed else 0.0)
    return sum(scores) / len(scores) if scores else 1.0
