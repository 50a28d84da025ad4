"""Ticks at a fixed rate, and how many passed unseen."""

from __future__ import annotations

__all__ = ["Ticker"]


class Ticker:
    """Ticks at ``start + k / hz`` for k = 1, 2, ..."""

    def __init__(self, start: float, hz: float) -> None:
        self._start, self._hz, self._count = start, hz, 0

    @property
    def next(self) -> float:
        """Time of the next tick."""
        return self._start + (self._count + 1) / self._hz

    def due(self, now: float) -> tuple[float, int] | None:
        """The newest tick that is due and how many were missed before it; None: none is due."""
        if now < self.next:
            return None
        count = max(int((now - self._start) * self._hz), self._count + 1)
        # Rounding in the product may be off by one tick in either direction.
        while self._start + (count + 1) / self._hz <= now:
            count += 1
        while self._start + count / self._hz > now:
            count -= 1
        missed, self._count = count - self._count - 1, count
        return self._start + count / self._hz, missed

    def restart(self, now: float) -> None:
        """Tick at ``now``, and from then on: time jumped ahead, and nothing was missed."""
        self._start, self._count = now - 1.0 / self._hz, 0
        # Rounding may have made the first tick a hair later than now.
        self._start -= max(0.0, self.next - now)
