"""Choosing a token from the scores of all: the best, or one drawn by its probability.

docs/reference/bundle.md ("Choosing a token") specifies it, so that every runtime draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import BackendError
from mmedge.execution.random_numbers import uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmedge.spec import Array

__all__ = ["Sampling", "choose"]

#: How many probabilities are put in order at first.
_FIRST_SORTED = 256


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; as the fields of :class:`mmedge.loop_spec.GenerateLoop`."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def choose(
    scores: Array, sampling: Sampling, choice: int, suppress: Sequence[int] | NDArray[np.intp]
) -> list[int]:
    """One token for each row.

    Args:
        scores: [batch, vocabulary], floating-point.
        sampling: how.
        choice: which choice of the loop it is, from 0.
        suppress: tokens that are not chosen.

    Raises:
        BackendError: the scores of a row hold NaN, or none that may be chosen; or plus infinity,
            where a token is drawn.
    """
    if len(suppress):
        # Never in place: the scores may be a cache's.
        scores = scores.copy()
        scores[:, suppress] = -inf
    if not sampling.temperature:
        # In float64 the largest is the same, and of equal ones the first.
        if len(scores) == 1:
            row = scores[0]
            token = row.argmax()
            # NaN counts as the largest, and is not above anything.
            if not row[token] > -inf:
                raise _no_number(choice)
            return [int(token)]
        best = scores.argmax(axis=-1)
        if not (scores[np.arange(len(scores)), best] > -inf).all():
            raise _no_number(choice)
        tokens: list[int] = best.tolist()
        return tokens
    numbers = uniform(sampling.seed, choice, len(scores))
    return [
        _draw(row, sampling, float(u), choice)
        for row, u in zip(scores.astype(np.float64), numbers, strict=True)
    ]


def _no_number(choice: int) -> BackendError:
    return BackendError(
        f"the scores for token {choice} hold NaN or infinity, or nothing but minus infinity, so "
        "that no token can be chosen; look at the inputs of this call, and run mmedge verify on "
        "the bundle"
    )


def _draw(scores: NDArray[np.float64], sampling: Sampling, u: float, choice: int) -> int:
    with np.errstate(over="ignore"):
        scores = scores / sampling.temperature
    largest = scores.max()
    # NaN counts as the largest, and plus infinity less itself is no number.
    if not -inf < largest < inf:
        raise _no_number(choice)
    tokens = None
    if 0 < sampling.top_k < scores.size:
        tokens = _largest(scores, sampling.top_k)
        scores = scores[tokens]
    token = _place(scores, np.exp(scores - largest), sampling.top_p, u)
    return token if tokens is None else int(tokens[token])


def _place(scores: NDArray[np.float64], shares: NDArray[np.float64], top_p: float, u: float) -> int:
    """The place that ``u`` falls on, where places lie from the largest score to the smallest.

    By their shares, the order of two that are nearly equal would depend on the last bit of ``exp``,
    which is another one on another machine. Only as many are put in order as it takes: of tens of
    thousands, most often the first hundreds.
    """
    total, count = shares.sum(), _FIRST_SORTED
    while True:
        is_all = count >= len(scores)
        # All that equal the last one are there, too.
        least = -inf if is_all else np.partition(scores, -count)[-count]
        candidates = np.flatnonzero(scores >= least)
        order = candidates[np.argsort(-scores[candidates], kind="stable")]
        sums = np.cumsum(shares[order])
        end = len(order)
        if top_p < 1.0:
            end = min(int(np.searchsorted(sums, top_p * total, side="left")) + 1, end)
            is_all = is_all or sums[end - 1] >= top_p * total
            target = u * sums[end - 1]
        else:
            target = u * total
            is_all = is_all or sums[-1] > target
        if is_all:
            place = int(np.searchsorted(sums[:end], target, side="right"))
            return int(order[min(place, end - 1)])
        count *= 16


def _largest(scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Places of the ``count`` largest in their own order; of equal ones the first."""
    least = np.partition(scores, -count)[-count]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: count - len(above)]
    return np.sort(np.concatenate((above, equal)))
