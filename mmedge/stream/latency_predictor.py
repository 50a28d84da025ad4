"""Predicts how long the next result takes: a decaying 95 % quantile of what was observed."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from itertools import accumulate

__all__ = ["LatencyPredictor"]

#: Share of the observed weight that lies at or below the prediction.
QUANTILE = 0.95
#: Observations after which one counts half.
HALF_LIFE = 16
#: Observations that are kept; the oldest of them weighs 1/16.
KEPT = 64
#: What a skipped computation leaves of the estimate. Nothing is learned by skipping, so without
#: this one slow spell would end all computing for ever.
RELAXED = 0.9


#: Weight of an observation by how many are newer, and of so many together.
WEIGHTS = [0.5 ** (newer / HALF_LIFE) for newer in range(KEPT)]
TOTALS = [0.0, *accumulate(WEIGHTS)]


class LatencyPredictor:
    """Latency in seconds that the next result is expected to stay within."""

    def __init__(self) -> None:
        self._observations: deque[tuple[float, int]] = deque()
        # The same in order of their values: kept so, because it is asked at every result.
        self._sorted: list[tuple[float, int]] = []
        self._count = 0

    def observe(self, latency: float) -> None:
        """Take in the latency of a computed result, in seconds."""
        if len(self._observations) == KEPT:
            del self._sorted[bisect_left(self._sorted, self._observations.popleft())]
        observation = latency, self._count
        self._count += 1
        self._observations.append(observation)
        insort(self._sorted, observation)

    def relax(self) -> None:
        """Trust the observations less, because none was made this time."""
        self._observations = deque(
            (value * RELAXED, number) for value, number in self._observations
        )
        self._sorted = sorted(self._observations)

    def estimate(self) -> float | None:
        """The weighted quantile, an observed (or relaxed) value; None before any observation."""
        # From the largest down, as long as what lies above is no more than the rest of the weight.
        spare = (1.0 - QUANTILE) * TOTALS[len(self._observations)]
        quantile = None
        for value, number in reversed(self._sorted):
            # Rounding may leave a hair of the total.
            if spare < -1e-9:
                break
            quantile = value
            spare -= WEIGHTS[self._count - 1 - number]
        return quantile
