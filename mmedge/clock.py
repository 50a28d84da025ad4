"""Clocks of a stream: one that never goes backward, and a simulated one with known costs."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Monotone", "SimulatedClock"]


class Monotone:
    """A clock in seconds that holds still where its source goes backward. Not thread-safe."""

    def __init__(self, source: Callable[[], float]) -> None:
        self._source = source
        self._last = source()

    def __call__(self) -> float:
        """The source's time, or the last one seen where that is later."""
        self._last = max(self._last, self._source())
        return self._last


class SimulatedClock:
    """Time that moves only when told to: a stream on it runs as a discrete-event simulation.

    A stage's work is done at once, and its result becomes visible ``costs[stage]`` seconds of this
    clock later. No thread is used, so the same pushes at the same times give the same results, bit
    for bit. Events of the same time happen in the order in which they were planned.

    Args:
        start: first time, in seconds.
        costs: seconds that a run of each stage takes, by the stage's name; 0 for those not named.

    Raises:
        InputError: a cost is negative.
    """

    def __init__(self, start: float = 0.0, costs: Mapping[str, float] | None = None) -> None:
        self.costs = dict(costs or {})
        for stage, cost in self.costs.items():
            if not cost >= 0.0:
                raise InputError(f"the cost of stage {stage!r} must be 0 s or more, got {cost}")
        self._now = start
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass; see :meth:`advance_to`."""
        self.advance_to(self._now + seconds)

    def advance_to(self, time: float) -> None:
        """Let everything that is planned until ``time`` happen, in order; then it is ``time``.

        Raises:
            InputError: ``time`` has passed already.
        """
        if not time >= self._now:
            raise InputError(f"time does not go backward: it is {self._now} s, asked for {time} s")
        while self.step(time):
            pass
        self._now = time

    def step(self, limit: float) -> bool:
        """Let the next planned event happen if it is due by ``limit``; say whether one did."""
        if not self._planned or self._planned[0][0] > limit:
            return False
        time, _, event = heapq.heappop(self._planned)
        self._now = max(self._now, time)
        event()
        return True

    def call_at(self, time: float, event: Callable[[], None]) -> None:
        """Plan ``event`` for ``time``; one that has passed is due at once."""
        heapq.heappush(self._planned, (time, self._count, event))
        self._count += 1
