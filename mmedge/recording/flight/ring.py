"""The last seconds of a stream, bounded in time and in bytes.

What a record that is kept needs (the instruction that was pushed minutes ago and that each result
uses, the run of an encoder with state) is kept with it, and counts as well. Not thread-safe.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from mmedge.recording.flight.records import RunRecord, SampleRecord

if TYPE_CHECKING:
    from typing import Any

    from mmedge.recording.flight.records import Record

__all__ = ["FlightRing"]


class FlightRing:
    """See the module.

    Args:
        seconds: of the newest record's time that are kept.
        memory_bytes: most of them, as :attr:`Record.nbytes` counts; of more, the oldest go.

    Attributes:
        records: those in the window, in the order in which they were told.
        nbytes: of all that is kept.
        evicted: records that were younger than ``seconds`` and had to go for bytes, by kind.
        evicted_until: time of the newest of these; None: there was none.
        is_whole: whether nothing has gone yet.
    """

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        self.records: deque[Record] = deque()
        self.nbytes = 0
        self.evicted: Counter[str] = Counter()
        self.evicted_until: float | None = None
        self.is_whole = True
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._index: dict[tuple[Any, ...], SampleRecord | RunRecord] = {}
        #: Those that have left the window, and are needed by records in it.
        self._held: dict[tuple[Any, ...], SampleRecord | RunRecord] = {}

    @property
    def held(self) -> list[SampleRecord | RunRecord]:
        """Samples and runs from before the window that records in it need."""
        return list(self._held.values())

    def find(self, key: tuple[Any, ...]) -> SampleRecord | RunRecord | None:
        """What is kept under a key; None: it is not there."""
        return self._index.get(key)

    def hold(self, record: SampleRecord | RunRecord) -> None:
        """Keep what is not in the window for a record that is about to be added, which needs it."""
        record.in_ring = False
        self._index[record.key] = self._held[record.key] = record
        self.nbytes += record.nbytes
        for needed in record.needs:
            needed.uses += 1

    def add(self, record: Record) -> None:
        """Add the newest record, and let go of what is too old or too much."""
        self.records.append(record)
        self.nbytes += record.nbytes
        for needed in record.needs:
            needed.uses += 1
        if isinstance(record, SampleRecord | RunRecord):
            self._index[record.key] = record
        self.trim(record.time)

    def trim(self, now: float) -> None:
        """Let go of what is older than the window at time ``now``, or too much."""
        oldest, records = now - self._seconds, self.records
        while records and (records[0].time < oldest or self.nbytes > self._memory_bytes):
            record = records.popleft()
            if record.time >= oldest:
                self.evicted[type(record).__name__.removesuffix("Record").lower()] += 1
                self.evicted_until = record.time
            self.is_whole = False
            record.in_ring = False
            if not record.uses:
                self._drop(record)
            elif isinstance(record, SampleRecord | RunRecord):
                self._held[record.key] = record

    def _drop(self, record: Record) -> None:
        self.nbytes -= record.nbytes
        if isinstance(record, SampleRecord | RunRecord):
            key = record.key
            self._index.pop(key, None)
            self._held.pop(key, None)
        for needed in record.needs:
            needed.uses -= 1
            if not needed.uses and not needed.in_ring:
                self._drop(needed)
