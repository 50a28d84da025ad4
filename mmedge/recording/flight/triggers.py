"""What makes a flight recorder write a dump, and how often it may."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmedge.errors import InputError
from mmedge.stream.clock import read_seconds

if TYPE_CHECKING:
    from collections.abc import Collection

    from mmedge.stream.result import Result

__all__ = ["DumpLimits", "DumpReason", "DumpTriggers", "Misses", "check_after"]


@dataclass(frozen=True, slots=True)
class DumpReason:
    """Why a dump is written.

    Attributes:
        kind: ``deadline``, ``fault``, ``event``, ``no_outputs``, ``application`` or ``signal``.
        t: when, in seconds of the stream's clock.
        message: why, in words.
    """

    kind: str
    t: float
    message: str


@dataclass(frozen=True, slots=True)
class DumpTriggers:
    """What makes a dump, beside the application's call.

    Attributes:
        deadline_misses: so many results that missed the deadline within ``within_s``; None: none.
        within_s: seconds of the stream's clock.
        faults: kinds of samples that are dropped at once, such as ``nan``, ``inf``,
            ``out_of_range``, ``frozen`` and ``future``.
        events: kinds of events, such as ``clock_jump`` or ``drift``.
        no_outputs: any result without outputs.
        signal: number of a signal, such as ``signal.SIGUSR1``; None: none. Its handler is set when
            the recorder is made, which must then be in the main thread, and set back when it is
            closed. The handler that was there is called, too.

    Raises:
        InputError: a number that cannot be.
    """

    deadline_misses: int | None = None
    within_s: float = 10.0
    faults: Collection[str] = ()
    events: Collection[str] = ("failure",)
    no_outputs: bool = False
    signal: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        misses = self.deadline_misses
        if misses is not None and (type(misses) is not int or misses < 1):
            raise InputError(f"deadline_misses must be a whole number from 1, got {misses!r}")
        if not read_seconds(self.within_s, "within_s") > 0:
            raise InputError(f"within_s must be above 0 s, got {self.within_s}")
        for name in ("faults", "events"):
            kinds = getattr(self, name)
            if isinstance(kinds, str) or not all(isinstance(kind, str) for kind in kinds):
                raise InputError(f"{name}: expected a list of names, got {kinds!r:.80}")


@dataclass(frozen=True, slots=True)
class DumpLimits:
    """How much is written.

    Attributes:
        after_s: seconds of the stream's clock after the trigger that are in the dump, too.
        hold_off_s: seconds of the stream's clock after a trigger in which others make no dump; they
            are counted in the next one. The application's call, the signal and the stream's failure
            make one all the same.
        most_dumps: of one recorder.
        disk_bytes: of all dumps in the folder, those of earlier runs too. Nothing is deleted: what
            would be more is not written, which is an event.

    Raises:
        InputError: a number that cannot be.
    """

    after_s: float = 0.0
    hold_off_s: float = 60.0
    most_dumps: int = 10
    disk_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("after_s", "hold_off_s"):
            if not read_seconds(getattr(self, name), name) >= 0:
                raise InputError(f"{name} must be 0 s or more, got {getattr(self, name)}")
        for name in ("most_dumps", "disk_bytes"):
            value: Any = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name} must be a whole number from 1, got {value!r}")


class Misses:
    """Counts results that missed the deadline within a time."""

    def __init__(self, triggers: DumpTriggers) -> None:
        self._most, self._within = triggers.deadline_misses, triggers.within_s
        self._times: deque[float] = deque(maxlen=triggers.deadline_misses)

    def add(self, result: Result, time: float) -> str:
        """Count a result; say, in words, that there are too many. They are counted anew then."""
        if result.met is not False or self._most is None:
            return ""
        self._times.append(time)
        if len(self._times) < self._most or time - self._times[0] > self._within:
            return ""
        self._times.clear()
        return f"{self._most} results within {self._within:g} s missed the deadline"


def check_after(after_s: float, seconds: float) -> None:
    """Raise InputError where the trigger itself would have left the window."""
    if not 0 <= read_seconds(after_s, "after_s") < seconds:
        raise InputError(
            f"after_s must be from 0 s to below the {seconds:g} s that are kept, got {after_s}"
        )
