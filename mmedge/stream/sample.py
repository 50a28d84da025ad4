"""Samples, what encoders are given, and the account of what became of each sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mmedge.stream.state_sequence import Turn

__all__ = [
    "SLACK",
    "Counted",
    "Item",
    "ItemAccounting",
    "Progress",
    "SampleAccounting",
    "StreamSample",
]

#: Seconds by which an age may exceed its limit: float64 seconds since 1970 resolve 0.24 us, so that
#: the difference of two stamps may come out above a limit that it equals.
SLACK = 1e-6


class Counted(Protocol):
    """What a :class:`SampleAccounting` counts."""

    holders: int
    is_settled: bool
    fate: str | None


@dataclass(eq=False, slots=True)
class StreamSample:
    """One pushed value. ``holders`` counts the places it is kept in; at none, it is done with.

    ``arrival`` is when it was pushed, in seconds of the stream's clock.
    """

    seq: int
    t: float
    values: Mapping[str, Any]
    sizes: Mapping[str, int]
    arrival: float = 0.0
    holders: int = 0
    is_settled: bool = False
    fate: str | None = None


class Progress(Enum):
    """How far an item is."""

    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"


@dataclass(eq=False, slots=True)
class Item:
    """What one encoding is made of: one sample, two to interpolate between, or a window's chunks.

    ``t`` is the time that ages count from, of the oldest sample or row; ``end`` is that of the
    newest. ``build`` makes the inputs; whoever encodes calls it, outside of any lock. ``pinned``: a
    trigger waits for it. ``epoch`` is its track's at making. ``turn``: where in the sequence of an
    encoder with state it is, once its encoding has begun. ``error`` says why it could not be
    encoded. ``first_row``: of a window, where it begins in its first chunk.
    """

    samples: tuple[StreamSample, ...]
    t: float
    end: float
    sizes: Mapping[str, int]
    build: Callable[[], Mapping[str, Any]]
    key: tuple[Any, ...]
    epoch: int
    progress: Progress = Progress.NEW
    features: Mapping[str, Any] | None = None
    pinned: bool = False
    turn: Turn | None = None
    error: str = ""
    first_row: int = 0
    holders: int = 0
    is_settled: bool = False
    fate: str | None = None


class SampleAccounting:
    """Says of every sample or window whether it was used, why it was dropped, or is pending."""

    def __init__(self) -> None:
        self.pushed = 0
        self.used = 0
        self.pending = 0
        self.dropped: Counter[str] = Counter()
        self._since: Counter[str] = Counter()

    def take(self) -> int:
        """Number of the next sample."""
        self.pushed += 1
        self.pending += 1
        return self.pushed - 1

    def skip(self, count: int, reason: str) -> None:
        """Count so many that were never held as dropped."""
        self.pushed += count
        if count:
            self.dropped[reason] += count

    def drop(self, sample: Counted, reason: str) -> None:
        """End a sample that nobody holds."""
        if not sample.is_settled:
            sample.is_settled = True
            self.pending -= 1
            self.dropped[sample.fate or reason] += 1
            self._since[sample.fate or reason] += 1

    def hold(self, samples: Iterable[Counted]) -> None:
        """Keep samples from being ended."""
        for sample in samples:
            sample.holders += 1

    def release(self, samples: Iterable[Counted], reason: str) -> None:
        """Undo one :meth:`hold`; who is held no more and was not used is dropped for ``reason``."""
        for sample in samples:
            sample.holders -= 1
            if sample.holders == 0:
                self.drop(sample, reason)

    def condemn(self, samples: Iterable[Counted], reason: str) -> None:
        """If these come to be dropped, it is for ``reason``, whoever releases them last."""
        for sample in samples:
            sample.fate = sample.fate or reason

    def use(self, samples: Iterable[Counted]) -> None:
        """Note samples that went into a delivered computation."""
        for sample in samples:
            if not sample.is_settled:
                sample.is_settled = True
                self.pending -= 1
                self.used += 1

    def tell_again(self, counts: Mapping[str, int]) -> None:
        """Add drops that :meth:`since_last` gave and that nobody was told of."""
        self._since.update(counts)

    def since_last(self) -> dict[str, int]:
        """Drops by reason since the last call."""
        drops = dict(self._since)
        self._since.clear()
        return drops


class ItemAccounting:
    """The account of items: of their samples, and of the windows that they are.

    Who holds an item keeps its samples, and its window, from being counted as dropped.

    Args:
        samples: the modality's account of what was pushed.
        windows: that of windows; None where items are none.
    """

    def __init__(self, samples: SampleAccounting, windows: SampleAccounting | None) -> None:
        self._samples, self._windows = samples, windows

    def hold(self, item: Item) -> None:
        """Keep an item."""
        self._samples.hold(item.samples)
        if self._windows is not None:
            self._windows.hold((item,))

    def release(self, item: Item, reason: str) -> None:
        """Undo one :meth:`hold`."""
        self._samples.release(item.samples, reason)
        if self._windows is not None:
            self._windows.release((item,), reason)

    def condemn(self, item: Item, reason: str) -> None:
        """If it comes to be dropped, it is for ``reason``."""
        self._samples.condemn(item.samples, reason)
        if self._windows is not None:
            self._windows.condemn((item,), reason)

    def use(self, item: Item) -> None:
        """Note that an item went into a delivered computation, or into an encoder's state."""
        self._samples.use(item.samples)
        if self._windows is not None:
            self._windows.use((item,))

    def window_counts(self) -> dict[str, Any]:
        """The windows' account, as :class:`mmedge.stream.ModalityHealth` has it."""
        if self._windows is None:
            return {}
        return {
            "windows": self._windows.pushed,
            "windows_used": self._windows.used,
            "windows_dropped": dict(self._windows.dropped),
            "windows_pending": self._windows.pending,
        }
