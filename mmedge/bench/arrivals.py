"""When calls are made: one after another, at a fixed rate whatever happens, or after a pause.

A closed loop makes the next call when the last has ended: what the machine can do. It hides what a
sensor sees, since a slow call also delays the calls after it, which are then not counted as late
(Gil Tene's "coordinated omission", from "How NOT to Measure Latency"). At a fixed rate (an open
loop) arrivals are scheduled beforehand, and latency counts from the scheduled arrival to the end of
the call: one call at a time, the others wait their turn, and their waiting is part of it.
"""

from __future__ import annotations

import gc
import math
import time
from array import array
from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["BACKLOG", "KINDS", "Kind", "Load", "Series", "in_turn", "run"]

T = TypeVar("T")

Kind = Literal["closed", "rate", "gap"]
KINDS: tuple[Kind, ...] = ("closed", "rate", "gap")
#: Arrivals that may wait. With more the run ends: latency would only tell how long it ran.
BACKLOG = 10_000
#: The last part of a wait is spun through, since the system wakes a sleeper late; in ns.
SPIN_NS = 200_000
#: Calls between two words of progress: drawing a bar after each call would cool the caches.
TELL_EVERY = 50
#: Least time to the next arrival in which a bar is drawn; else drawing would be in its latency.
ROOM_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """How calls are made.

    Attributes:
        kind: ``"closed"``: the next call begins when the last ended. ``"rate"``: calls arrive
            ``rate_hz`` times a second, whether or not the last has ended. ``"gap"``: a call
            arrives ``gap_ms`` after the last ended.
        calls: how many, or
        seconds: for how long; one of the two.
        rate_hz: arrivals a second; with ``"rate"`` alone.
        gap_ms: pause in milliseconds; with ``"gap"`` alone.

    Raises:
        ValueError: a kind that there is not, numbers that cannot be, or that do not belong to the
            kind.
    """

    kind: Kind = "closed"
    calls: int | None = None
    seconds: float | None = None
    rate_hz: float | None = None
    gap_ms: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if (self.calls is None) == (self.seconds is None):
            raise ValueError(
                f"either calls or seconds say when to end, got {self.calls} and {self.seconds}"
            )
        if self.calls is not None and self.calls < 1:
            raise ValueError(f"calls must be >= 1, got {self.calls}")
        for name, value, kind in (
            ("seconds", self.seconds, self.kind),
            ("rate_hz", self.rate_hz, "rate"),
            ("gap_ms", self.gap_ms, "gap"),
        ):
            if value is not None and (kind != self.kind or not 0.0 < value < math.inf):
                raise ValueError(
                    f"{name} must be > 0 and belongs to kind {kind!r}; got {value} with "
                    f"kind {self.kind!r}"
                )
        if (self.kind == "rate") != (self.rate_hz is not None):
            raise ValueError("kind 'rate' needs rate_hz, the arrivals a second")
        if (self.kind == "gap") != (self.gap_ms is not None):
            raise ValueError("kind 'gap' needs gap_ms, the pause in milliseconds")


@dataclass(frozen=True, slots=True)
class Series:
    """The calls of a run, in order; arrays of int64 nanoseconds, one value a call.

    Attributes:
        start_ns: arrival of each call, from the first: scheduled in ``rate`` and ``gap``, and when
            it began in a closed loop.
        latency_ns: from the arrival to the end of the call.
        wait_ns: from the arrival to the begin of the call, a part of the latency: behind other
            calls, and what the wake-up was late. 0 in a closed loop.
        late_ns: what the wake-up alone was late, of the calls that were waited for.
        unserved: arrivals that fell due and were not answered when the run ended.
        elapsed_ns: first arrival to the end of the last call.
    """

    start_ns: array[int] = field(default_factory=lambda: array("q"))
    latency_ns: array[int] = field(default_factory=lambda: array("q"))
    wait_ns: array[int] = field(default_factory=lambda: array("q"))
    late_ns: array[int] = field(default_factory=lambda: array("q"))
    unserved: int = 0
    elapsed_ns: int = 0


def run(
    call: Callable[[int], T],
    load: Load,
    *,
    schedule: Sequence[int] | None = None,
    keep: Callable[[T], None] | None = None,
    tell: Callable[[int, int], None] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Series:
    """Make the calls of ``load`` one at a time, in this thread.

    A wait sleeps, and spins through its last 0.2 ms. Should the system still wake it late, that
    counts: the application's sensor would have waited too. ``late_ns`` says how much it was.

    A run of ``seconds`` begins no call after them. A run at a rate that the calls do not keep up
    with ends when :data:`BACKLOG` arrivals wait. ``unserved`` counts what was left waiting.

    The garbage collector is off meanwhile: a collection of this process's own lists is no part of
    the pipeline.

    Args:
        call: made with the number of the call, from 0.
        load: which calls, and when.
        schedule: of ``load.calls`` calls at a rate, nanoseconds from the begin of the run to the
            arrival of each, in order; None: even ones.
        keep: given what each call returned, after its time was taken.
        tell: called now and then with what is done and what there is to do: calls, or whole
            seconds in a run of ``seconds``. Where calls arrive by the clock, only when the next is
            20 ms away: never, then, at 50 Hz and more.
        clock: now in nanoseconds.
        sleep: waits some seconds.

    Raises:
        ValueError: a schedule that is not of as many calls as the load, at a rate.
    """
    if schedule is not None and (load.kind != "rate" or len(schedule) != load.calls):
        raise ValueError(
            f"a schedule is of calls at a rate, as many as the load has: got {len(schedule)} "
            f"arrivals and {load.calls} calls of kind {load.kind!r}"
        )
    series = Series()
    with _no_collection():
        begun = clock()
        unserved, ended = _make(call, load, schedule, series, begun, keep, tell, clock, sleep)
    return replace(series, unserved=unserved, elapsed_ns=ended - begun)


def in_turn(
    calls: tuple[Callable[[int], T], Callable[[int], T]],
    count: int,
    *,
    keep: Callable[[int, T], None] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Series, Series]:
    """Two closed loops whose calls take turns, A B A B: each call comes after one of the other's.

    Args:
        calls: each made with the number of its call, from 0.
        count: calls of each, at least 1.
        keep: given 0 or 1 and what that one's call returned, after the time was taken.
        clock: now in nanoseconds.

    Returns:
        The series of each, on a clock of its own that runs during its own calls alone.
    """
    both = (Series(), Series())
    elapsed_ns = [0, 0]
    with _no_collection():
        for index in range(count):
            for which, (call, series) in enumerate(zip(calls, both, strict=True)):
                begun = clock()
                result = call(index)
                latency = clock() - begun
                series.start_ns.append(elapsed_ns[which])
                series.latency_ns.append(latency)
                series.wait_ns.append(0)
                elapsed_ns[which] += latency
                if keep is not None:
                    keep(which, result)
    first, second = (
        replace(series, elapsed_ns=elapsed)
        for series, elapsed in zip(both, elapsed_ns, strict=True)
    )
    return first, second


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _make(
    call: Callable[[int], T],
    load: Load,
    schedule: Sequence[int] | None,
    series: Series,
    begun: int,
    keep: Callable[[T], None] | None,
    tell: Callable[[int, int], None] | None,
    clock: Callable[[], int],
    sleep: Callable[[float], None],
) -> tuple[int, int]:
    """Fill ``series``; return how many arrivals were left, and when the last call ended."""
    period = 1e9 / load.rate_hz if load.rate_hz is not None else 0.0
    pause = round((load.gap_ms or 0.0) * 1e6)
    most = begun + round(load.seconds * 1e9) if load.seconds is not None else None

    def arrival_of(index: int, ended: int) -> int:
        """When a call arrives, the one before it having ended at ``ended``."""
        if not period:
            return ended + (pause if index else 0)
        if schedule is None:
            return begun + round(index * period)
        return begun + schedule[min(index, len(schedule) - 1)]

    index, ended = 0, begun
    while load.calls is None or index < load.calls:
        arrival = arrival_of(index, ended)
        start = clock()
        if most is not None and index and max(start, arrival) >= most:
            break
        if load.kind == "closed":
            arrival = start = clock()
        elif start < arrival:
            start = _wait(arrival, clock, sleep)
            series.late_ns.append(start - arrival)
        elif period and (start - arrival) / period > BACKLOG:
            break
        result = call(index)
        ended = clock()
        series.start_ns.append(arrival - begun)
        series.latency_ns.append(ended - arrival)
        series.wait_ns.append(start - arrival)
        if keep is not None:
            keep(result)
        index += 1
        room = load.kind == "closed" or arrival_of(index, ended) - ended >= ROOM_NS
        if tell is not None and room and index % TELL_EVERY == 0:
            if load.seconds is not None:
                tell(int((ended - begun) / 1e9), math.ceil(load.seconds))
            else:
                tell(index, load.calls or index)
    if not period:
        return 0, ended
    # Arrivals from 0 to the end, or to the limit of the run, less those that were answered.
    if schedule is not None:
        return bisect_right(schedule, max(ended, begun) - begun) - index, ended
    due = math.floor((min(max(ended, begun), most or ended) - begun) / period) + 1
    if most is not None:
        due = min(due, math.ceil((most - begun) / period))
    if load.calls is not None:
        due = min(due, load.calls)
    return max(due - index, 0), ended


def _wait(until: int, clock: Callable[[], int], sleep: Callable[[float], None]) -> int:
    """Sleep and then spin until the clock says ``until`` (ns); return what it says then."""
    while (remaining := until - clock()) > 0:
        if remaining > SPIN_NS:
            sleep((remaining - SPIN_NS) / 1e9)
    return clock()
