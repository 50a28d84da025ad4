"""Clocks of a stream: its own, without its source's jumps, and a simulated one with known costs."""

from __future__ import annotations

import heapq
from math import inf, isfinite
from numbers import Complex, Number, Real
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import BackendError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["SimulatedClock", "StreamClock", "read_seconds"]

#: Seconds by which a clock may go backward before it was set back; below, time holds still.
BACKWARD = 0.1
#: Seconds by which a clock may run ahead of real time, and how many times as fast it may run (a
#: simulator's does), before it was set forward.
FORWARD, FASTEST = 1.0, 20.0
#: Real seconds for which a clock may give nothing of use.
PATIENCE = 1.0

#: How seconds are had of what is none: attribute -> expression.
CONVERSIONS: Mapping[str, str] = {
    "nanoseconds": "t.nanoseconds / 1e9",
    "nanosec": "t.sec + t.nanosec / 1e9",
    "to_sec": "t.to_sec()",
    "total_seconds": "t.total_seconds()",
    "timestamp": "t.timestamp()",
    "item": "t.item()",
}


def read_seconds(value: Any, what: str) -> float:  # noqa: ANN401
    """Finite seconds as a float.

    Taken are Python's numbers (int, float, Fraction, Decimal) and NumPy's integers and floats of 64
    bits or more, rounded to float64. All else is refused: bool, text, dates, durations, messages of
    ROS, arrays, and float32, which tells no two frames of this year apart.

    Args:
        value: what a caller handed in.
        what: what it is, for the error.

    Raises:
        InputError: it is none, or not finite; the message says how seconds are had of it.
    """
    if type(value) is not float:
        # Abstract classes are slow to ask.
        if type(value) is not int and not _is_number(value):
            raise InputError(
                f"{what}: expected a number of seconds (int, float), got "
                f"{type(value).__name__} {value!r:.60}{_conversion(value)}"
            )
        try:
            value = float(value)
        except (OverflowError, ValueError) as error:
            raise InputError(f"{what}: {type(value).__name__} is no float: {error}") from error
    if not isfinite(value):
        raise InputError(f"{what}: expected finite seconds, got {value}")
    seconds: float = value
    return seconds


def _is_number(value: object) -> bool:
    if isinstance(value, np.generic):
        whole = isinstance(value, np.integer) and not isinstance(value, np.timedelta64)
        return whole or (isinstance(value, np.floating) and value.dtype.itemsize >= 8)
    if isinstance(value, bool) or not isinstance(value, Number):
        return False
    # Decimal is a number, and none of the others.
    return isinstance(value, Real) or not isinstance(value, Complex)


def _conversion(value: object) -> str:
    if isinstance(value, np.floating):
        return "; its 4 bytes or fewer are too coarse for a time: keep stamps in float64"
    if isinstance(value, np.datetime64 | np.timedelta64):
        return "; pass t / np.timedelta64(1, 's') of the time since the clock's zero"
    for attribute, expression in CONVERSIONS.items():
        if hasattr(value, attribute):
            return f"; pass {expression}"
    return ""


class StreamClock:
    """The time of a stream: that of its source, without the source's jumps. Not thread-safe.

    Its time never goes backward. Where the source does by up to 0.1 s, it holds still; by more, the
    source was set back, and ``offset`` is changed so that time goes on as ``time.monotonic`` says
    it did. A step ahead by more than a second over what twenty times real time allows is believed
    if the source says the same when asked again, and is then a jump that time makes as well. One
    reading that is not finite, or that the source does not stand by, is a glitch: not used.

    Args:
        source: returns seconds.
        on_jump: called after a jump with the time, how far it jumped ahead beyond the real time
            that passed, and ``offset``.

    Attributes:
        offset: what is added to the source's seconds.
        ahead: seconds of this time that never passed: how far it jumped ahead, all jumps together.
        jumps: how often the source was set, back or ahead.
        glitches: readings that were not used.
        last: the last time that was given out.

    Raises:
        InputError: the first reading is no finite number.
    """

    def __init__(
        self,
        source: Callable[[], float],
        on_jump: Callable[[float, float, float], None] | None = None,
    ) -> None:
        self._source, self._on_jump = source, on_jump
        # These cannot be set; and a simulation may well skip an hour.
        self._trusted = source is monotonic or isinstance(source, SimulatedClock)
        self.offset = self.ahead = 0.0
        self.jumps = self.glitches = 0
        self._real = monotonic()
        self._useless_since: float | None = None
        self.last = read_seconds(self._read(), "the clock's first reading")

    def __call__(self) -> float:
        """The time in seconds: the source's plus ``offset``, or the last one given out.

        Raises:
            BackendError: the source raised, or gave nothing of use for a second.
        """
        if self._trusted:
            self.last = max(self.last, self._source())
            return self.last
        real = monotonic()
        reading = self._number(self._read())
        ahead = 0.0
        is_jump = False
        if not self._fits(reading, real):
            again = self._number(self._read())
            is_jump = abs(again - reading) <= FORWARD and not self._fits(again, real)
            if is_jump:
                ahead = self._jump(again, real)
            else:
                self.glitches += 1
                if not self._fits(again, real):
                    return self._hold(again, real)
            reading = again
        self._real, self._useless_since = real, None
        self.last = max(self.last, reading + self.offset)
        if is_jump and self._on_jump is not None:
            self._on_jump(self.last, ahead, self.offset)
        return self.last

    def _read(self) -> object:
        try:
            return self._source()
        except Exception as error:
            raise BackendError(
                f"the stream's clock raised {type(error).__name__}: {error}"
            ) from error

    def _number(self, reading: object) -> float:
        try:
            return read_seconds(reading, "a clock's reading")
        except InputError:
            return inf

    def _fits(self, reading: float, real: float) -> bool:
        step = reading + self.offset - self.last
        return -BACKWARD <= step <= FORWARD + FASTEST * (real - self._real)

    def _jump(self, reading: float, real: float) -> float:
        """Follow a source that was set; how far the time jumps ahead, in seconds."""
        self.jumps += 1
        elapsed = real - self._real
        step = reading + self.offset - self.last
        if step > 0.0:
            self.ahead += step - elapsed
            return step - elapsed
        self.offset += elapsed - step
        return 0.0

    def _hold(self, reading: float, real: float) -> float:
        if self._useless_since is None:
            self._useless_since = real
        elif real - self._useless_since > PATIENCE:
            raise BackendError(
                f"the stream's clock has given nothing of use for {PATIENCE:g} s; last {reading!r}"
            )
        return self.last


class SimulatedClock:
    """Time that moves only when told to: a stream on it runs as a discrete-event simulation.

    A stage's work is done at once, and its result becomes visible ``costs[stage]`` seconds of this
    clock later. No thread is used, so the same pushes at the same times give the same results, bit
    for bit. Events of the same time happen in the order in which they were planned.

    Args:
        start: first time, in seconds.
        costs: seconds that a run of each stage takes, by the stage's name, or by the variant's id
            and the stage's name as ``"ort-fp32-cpu/fuse"``, which goes first; 0 for those not
            named. It is read at each run, so that :attr:`costs` may be changed.

    Raises:
        InputError: a cost is negative, or the first time is not finite.
    """

    def __init__(self, start: float = 0.0, costs: Mapping[str, float] | None = None) -> None:
        self.costs = dict(costs or {})
        for stage, cost in self.costs.items():
            if not cost >= 0.0:
                raise InputError(f"the cost of stage {stage!r} must be 0 s or more, got {cost}")
        self._now = read_seconds(start, "the first time")
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self._now

    def cost(self, stages: Iterable[str], variant: str = "") -> float:
        """Seconds that a run of these stages takes, one after another, on a variant."""
        costs = self.costs
        return sum(costs.get(f"{variant}/{stage}", costs.get(stage, 0.0)) for stage in stages)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass; see :meth:`advance_to`."""
        self.advance_to(self._now + seconds)

    def advance_to(self, time: float) -> None:
        """Let everything that is planned until ``time`` happen, in order; then it is ``time``.

        Raises:
            InputError: ``time`` has passed already, or is not finite.
        """
        time = read_seconds(time, "the time to advance to")
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

    @property
    def next_time(self) -> float:
        """When the next planned event is due; infinity: none is planned."""
        return self._planned[0][0] if self._planned else inf

    def call_at(self, time: float, event: Callable[[], None]) -> None:
        """Plan ``event`` for ``time``; one that has passed is due at once."""
        heapq.heappush(self._planned, (time, self._count, event))
        self._count += 1
