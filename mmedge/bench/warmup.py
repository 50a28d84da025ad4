"""Calls before the timed ones, until latency is steady."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmedge.bench.arrivals import Series

__all__ = ["RULE", "WarmUp", "beside", "is_steady", "warm_up"]

#: Calls in a window, windows that are compared, and how far their medians may lie apart.
WINDOW, WINDOWS, NEAR = 20, 4, 0.05
#: Where an unsteady machine is left as it is.
MOST_CALLS, MOST_S = 2000, 20.0

RULE = (
    f"the medians of the last {WINDOWS} windows of {WINDOW} calls lie within {NEAR:.0%} of the "
    "least and do not fall from each to the next"
)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What warm-up took: its ``calls``, whether latency ``settled``, and the ``rule`` in words."""

    calls: int
    settled: bool
    rule: str


def warm_up(
    call: Callable[[int], object],
    calls: int | None = None,
    *,
    tell: Callable[[int, int], None] | None = None,
    clock: Callable[[], int] = perf_counter_ns,
) -> WarmUp:
    """Make untimed calls, one after another, until latency is steady.

    Latency falls at first as caches fill, memory is taken and the clock frequency rises. Calls end
    once :func:`is_steady` holds, looked at after each window, or after 2,000 calls or 20 seconds,
    when it has not settled. With ``calls`` given just so many are made, and the same rule then
    says whether that was enough.

    Args:
        call: made with the number of the call, from 0.
        calls: how many; None: until latency is steady.
        tell: called after each window with calls done and the most there will be.
        clock: now in nanoseconds.

    Raises:
        ValueError: ``calls`` is negative.
    """
    if calls is not None and calls < 0:
        raise ValueError(f"warmup must be >= 0 calls, got {calls}")
    most = MOST_CALLS if calls is None else calls
    latency: list[int] = []
    steady = False
    begun = clock()
    while len(latency) < most:
        start = clock()
        call(len(latency))
        end = clock()
        latency.append(end - start)
        if len(latency) % WINDOW == 0:
            steady = is_steady(latency)
            if tell is not None:
                tell(len(latency), most)
            if calls is None and steady:
                break
        # Seconds bound calls that are slower than their windows.
        if calls is None and end - begun > MOST_S * 1e9:
            break
    if calls is None:
        rule = f"until {RULE}; at most {MOST_CALLS} calls or {MOST_S:g} s"
    else:
        rule = f"{calls} calls as asked for; settled where {RULE}"
    return WarmUp(len(latency), steady, rule)


def is_steady(latency: Sequence[float]) -> bool:
    """Whether the last windows of ``latency`` agree: their medians are near and do not all fall.

    The medians of the last 4 windows of 20 calls must lie within 5 % of the least of them. Four
    that fall one after the other are a trend, however small; by chance that happens to 1 in 24,
    and the next window tells.
    """
    last = latency[-WINDOW * WINDOWS :]
    if len(last) < WINDOW * WINDOWS:
        return False
    medians = [median(last[start : start + WINDOW]) for start in range(0, len(last), WINDOW)]
    falling = all(after < before for before, after in pairwise(medians))
    return max(medians) <= (1.0 + NEAR) * min(medians) and not falling


def beside(a: Series, b: Series) -> WarmUp:
    """What calls of two in turn came to: what is not steady yet in both alike leaves their ratio.

    Settled where the median of the calls' ratios in the second half lies within 5 % of that in the
    first.
    """
    ratios = [y / x for x, y in zip(a.latency_ns, b.latency_ns, strict=True) if x]
    half = len(ratios) // 2
    first, second = ratios[:half], ratios[half:]
    steady = bool(first) and abs(median(second) / median(first) - 1.0) <= NEAR
    rule = (
        f"{len(a.latency_ns)} calls of each in turn; settled where the median ratio of the second "
        f"half of them lies within {NEAR:.0%} of the first's"
    )
    return WarmUp(len(a.latency_ns), steady, rule)
