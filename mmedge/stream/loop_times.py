"""How long the steps of loops take, so that one is ended in time."""

from __future__ import annotations

from mmedge.stream.latency_predictor import LatencyPredictor

__all__ = ["LoopTimes"]


class LoopTimes:
    """Times of a loop's steps, in seconds. The first step of each run is not like the others."""

    def __init__(self) -> None:
        self._step = LatencyPredictor()
        self._end = LatencyPredictor()
        self._since = 0.0

    def begin_step(self, now: float) -> None:
        """A step begins."""
        self._since = now

    def end_step(self, now: float, *, is_first: bool) -> None:
        """The step ends."""
        if not is_first:
            self._step.observe(now - self._since)
        self._since = now

    def end(self, now: float) -> None:
        """What follows the last step ends, such as a decoder."""
        self._end.observe(now - self._since)

    def expected(self) -> float:
        """What one more step is expected to take, with what follows the last one."""
        return (self._step.estimate() or 0.0) + (self._end.estimate() or 0.0)

    def follow_clock(self, ahead: float) -> None:
        """Leave a jump of the time out."""
        self._since += ahead
