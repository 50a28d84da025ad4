"""Samples at the times at which they came, in real time."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmedge.recording.sample import Recorded, Recording

__all__ = ["Pace", "pace"]

#: Seconds behind its time from which a push counts as late.
LATE = 0.001
#: Samples that are read before they are due, so that the disk makes no push late.
AHEAD = 64
#: Seconds between two looks whether to stop.
LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """How well a feeder kept the recorded times.

    Attributes:
        pushed: samples pushed.
        late: those pushed more than 1 ms after their time.
        latest_ms: how late the latest was, in ms.
        seconds: from the first sample's time to the last one's.
    """

    pushed: int
    late: int
    latest_ms: float
    seconds: float


def pace(
    recording: Recording,
    push: Callable[[Recorded, float, float], None],
    *,
    stop: threading.Event,
    speed: float = 1.0,
) -> Pace:
    """Hand each sample of a recording to ``push`` at its arrival, in real time, until ``stop``.

    ``push`` is given the sample, the time at which it was due and its stamp, both on
    ``time.monotonic``, where the first sample's arrival is now. A push that takes long makes the
    next ones late; none is left out. Samples are read by a thread of their own, ahead of time.

    Raises:
        InputError: the recording cannot be read; or whatever ``push`` raises.
    """
    start = origin = due = 0.0
    count = late = 0
    latest = 0.0
    for sample in _ahead(recording, stop):
        if not count:
            start, origin = monotonic(), sample.arrival
        due = start + (sample.arrival - origin) / speed
        wait = due - monotonic()
        if stop.wait(wait) if wait > 0 else stop.is_set():
            break
        behind = monotonic() - due
        late += behind > LATE
        latest = max(latest, behind)
        count += 1
        # From the stamp alone, so that equal stamps stay equal.
        push(sample, due, start + (sample.t - origin) / speed)
    return Pace(count, late, latest * 1e3, max(0.0, due - start))


def _ahead(recording: Recording, stop: threading.Event) -> Iterator[Recorded]:
    """The recording's samples, read by a thread of their own before they are asked for."""
    waiting: queue.Queue[Any] = queue.Queue(AHEAD)
    end = object()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=LOOK)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for sample in recording:
                if stop.is_set():
                    return
                put(sample)
            put(end)
        except BaseException as error:  # noqa: BLE001  # raised again where samples are taken
            put(error)

    threading.Thread(target=read, name="mmedge replay reader", daemon=True).start()
    while not stop.is_set():
        try:
            item = waiting.get(timeout=LOOK)
        except queue.Empty:
            continue
        if item is end:
            return
        if isinstance(item, BaseException):
            raise item
        yield item
