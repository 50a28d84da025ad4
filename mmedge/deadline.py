"""Predicts how long the next result takes: a decaying 95 % quantile of what was observed."""

from __future__ import annotations

from collections import deque

__all__ = ["Predictor"]

#: Share of the observed weight that lies at or below the prediction.
QUANTILE = 0.95
#: Observations after which one counts half.
HALF_LIFE = 16
#: Observations that are kept; the oldest of them weighs 1/16.
KEPT = 64
#: What a skipped computation leaves of the estimate. Nothing is learned by skipping, so without
#: this one slow spell would end all computing for ever.
RELAXED = 0.9


class Predictor:
    """Latency in seconds that the next result is expected to stay within."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=KEPT)
        self._estimate: float | None = None

    def observe(self, latency: float) -> None:
        """Take in the latency of a computed result, in seconds."""
        self._seen.append(latency)
        self._estimate = None

    def relax(self) -> None:
        """Trust the observations less, because none was made this time."""
        self._seen = deque((value * RELAXED for value in self._seen), maxlen=KEPT)
        self._estimate = None

    def estimate(self) -> float | None:
        """The weighted quantile, an observed (or relaxed) value; None before any observation."""
        if self._estimate is None:
            self._estimate = self._quantile()
        return self._estimate

    def _quantile(self) -> float | None:
        newest = len(self._seen) - 1
        weighted = sorted(
            (value, 0.5 ** ((newest - i) / HALF_LIFE)) for i, value in enumerate(self._seen)
        )
        left = QUANTILE * sum(weight for _, weight in weighted)
        for value, weight in weighted:
            left -= weight
            # Rounding may leave a hair of the total behind the last one.
            if left <= 1e-9:
                return value
        return None
