"""Times several ways of one thing in turn, by blocks of calls, and tells which is faster.

Whatever slows the machine meanwhile hits neighbors in time alike, so ways are compared by the
ratios of blocks of the same round. A round is short, and its ratios have outliers: their median has
an interval by order statistics. Sessions that are minutes long are compared by
:func:`mmedge.bench.stats.resample.pairs`.

Other processes that use the cores make any way look fast or slow. What was measured beside them is
measured again, a few times, and the least disturbed is taken; a :class:`Disturbance` says how
disturbed that was.
"""

from __future__ import annotations

import math
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mmedge.bench.machine.neighbours import BUSY, Neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "Disturbance",
    "Timing",
    "compare_times",
    "interleave",
    "note_disturbance",
    "turns",
]

Item = TypeVar("Item")

#: Times that one measurement is made at most, those of one body that are made again at most, and
#: seconds before the next: a longer disturbance is not waited for.
TRIES, AGAIN, PAUSE_S = 3, 6, 0.5

#: Seconds of one block of calls, and most calls in one.
BLOCK_S, MOST_CALLS = 0.02, 200

#: How often :func:`compare_times` measures where it is not clear which is faster.
REPEATS = 4


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one way takes, by blocks of calls.

    Attributes:
        blocks: milliseconds a call of each round.
    """

    blocks: tuple[float, ...]

    @property
    def median(self) -> float:
        """Milliseconds a call."""
        return float(np.median(self.blocks))

    def times_faster(self, other: Timing) -> tuple[float, float, float]:
        """Median of ``other``'s time over this one's, round by round, and its confidence interval.

        The interval has at least 90 %: order statistics, by the binomial distribution. Fewer than 5
        rounds have none, and give the smallest and the largest ratio.
        """
        ratios = np.sort(np.divide(other.blocks, self.blocks))
        tail, rank = 0.0, 0
        for successes in range(len(ratios) // 2):
            tail += math.comb(len(ratios), successes) / 2 ** len(ratios)
            if tail > 0.05:
                break
            rank = successes
        return float(np.median(ratios)), float(ratios[rank]), float(ratios[-1 - rank])

    def __add__(self, other: Timing) -> Timing:
        """The rounds of both."""
        return Timing(self.blocks + other.blocks)


@dataclass
class Disturbance:
    """What other processes did while times were taken.

    Attributes:
        share: largest share of the cores' time that others took during a measurement that was kept;
            None: it cannot be told here.
        again: measurements that were made again.
    """

    share: float | None = None
    again: int = 0

    @property
    def busy(self) -> bool:
        """Whether something that was kept was disturbed."""
        return self.share is not None and self.share >= BUSY

    def note(self, share: float | None) -> None:
        """A measurement was kept."""
        if share is not None:
            self.share = max(share, self.share or 0.0)


#: The innermost is the one that counts.
_disturbances: list[Disturbance] = [Disturbance()]


@contextmanager
def note_disturbance(*, patient: bool = True) -> Iterator[Disturbance]:
    """See how disturbed the body's times are; without ``patient`` none is taken again."""
    disturbance = Disturbance(again=0 if patient else AGAIN)
    _disturbances.append(disturbance)
    try:
        yield disturbance
    finally:
        _disturbances.pop()


def compare_times(
    ways: Mapping[str, Any],
    baseline: str,
    *,
    rounds: int = 11,
    measure: Callable[..., dict[str, Timing]] | None = None,
) -> tuple[dict[str, Timing], dict[str, tuple[float, float, float]]]:
    """Time all ``ways`` until each is known to be faster or slower than ``baseline``, or long.

    Args:
        ways: what to time.
        baseline: one of them.
        rounds: of one measurement.
        measure: times ways, with ``rounds`` and ``seed``; None: :func:`interleave`, which calls
            them.

    Returns:
        The timings, and of every other way how many times as fast it is as ``baseline``
        (:meth:`Timing.times_faster`).
    """
    measure = measure or interleave
    times = measure(ways, rounds=rounds)
    for repeat in range(1, REPEATS):
        ratios = {n: t.times_faster(times[baseline]) for n, t in times.items() if n != baseline}
        if not any(low <= 1.0 <= high for _, low, high in ratios.values()):
            break
        more = measure(ways, rounds=rounds, seed=repeat)
        times = {name: timing + more[name] for name, timing in times.items()}
    return times, {n: t.times_faster(times[baseline]) for n, t in times.items() if n != baseline}


def interleave(
    ways: Mapping[str, Callable[[], object]], *, rounds: int = 9, seed: int = 0
) -> dict[str, Timing]:
    """Time all ``ways``: in each round every one for a block of calls, in random order.

    Where other processes take the cores it is done again (see the module's head).

    Args:
        ways: what to call.
        rounds: blocks of each.
        seed: of the order.
    """
    disturbance = _disturbances[-1]
    tries: list[tuple[float, dict[str, Timing]]] = []
    while True:
        with Neighbours() as others:
            times = _rounds(ways, rounds=rounds, seed=seed)
        if others.share is None:
            return times
        tries.append((others.share, times))
        if others.share < BUSY or len(tries) == TRIES or disturbance.again == AGAIN:
            break
        disturbance.again += 1
        time.sleep(PAUSE_S)
    share, times = min(tries, key=lambda one: one[0])
    disturbance.note(share)
    return times


def turns(items: Sequence[Item], rounds: int, seed: int = 0) -> Iterator[tuple[int, Item]]:
    """The number of the round and an item: in each round every item once, in random order."""
    order = random.Random(seed)  # noqa: S311 - an order of measurement, no secret
    for number in range(rounds):
        for item in order.sample(items, len(items)):
            yield number, item


def _rounds(
    ways: Mapping[str, Callable[[], object]], *, rounds: int, seed: int
) -> dict[str, Timing]:
    calls = {}
    for name, way in ways.items():
        way()  # allocations of a first call
        start = time.perf_counter()
        way()
        took = time.perf_counter() - start
        calls[name] = int(np.clip(BLOCK_S / max(took, 1e-7), 1, MOST_CALLS))
    blocks: dict[str, list[float]] = {name: [] for name in ways}
    for _, name in turns(list(ways), rounds, seed):
        way, count = ways[name], calls[name]
        start = time.perf_counter()
        for _ in range(count):
            way()
        blocks[name].append((time.perf_counter() - start) / count * 1e3)
    return {name: Timing(tuple(values)) for name, values in blocks.items()}
