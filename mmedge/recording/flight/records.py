"""What a flight recorder keeps: samples, runs on states, results, events, states of the machine.

Arrays are kept by reference. ``nbytes`` is what a record counts in the recorder's memory: its
arrays, and an allowance for Python's objects, of which benchmarks/flight_recorder.py measures that
it is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array
    from mmedge.stream.observer import Event

__all__ = [
    "RESULT_FIELDS",
    "EventRecord",
    "ItemRecord",
    "MachineRecord",
    "Record",
    "ResultRecord",
    "RunRecord",
    "SampleRecord",
    "array_bytes",
]

#: Bytes of Python's objects of one record, by kind, beside its arrays.
SAMPLE_BYTES, RUN_BYTES, RESULT_BYTES, EVENT_BYTES, MACHINE_BYTES = 1024, 1024, 4096, 1024, 4096

#: What is kept of a :class:`mmedge.stream.Result` beside its outputs, of which copies are kept.
RESULT_FIELDS = (
    "t", "made", "latency", "trigger", "fresh", "met", "outputs_t", "reason", "ages", "samples",
    "absent", "notes", "dropped", "drift",
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Record:
    """What all have.

    Attributes:
        time: when it was told, in seconds that never go backward: those of the stream's clock,
            without the steps by which it was set back or ahead.
        nbytes: what it counts.
        uses: records in the ring that need it.
        in_ring: whether it is in the ring itself, and not only needed there.
        needs: records without which it cannot be run again.
    """

    time: float
    nbytes: int
    uses: int = field(default=0, kw_only=True)
    in_ring: bool = field(default=True, kw_only=True)
    needs: tuple[Record, ...] = field(default=(), kw_only=True)

    @property
    def is_kept(self) -> bool:
        """Whether it is in the ring, or needed by a record that is."""
        return self.in_ring or self.uses > 0


@dataclass(slots=True, eq=False)
class SampleRecord(Record):
    """One pushed sample.

    Attributes:
        modality: its name.
        seq: its number within its modality.
        value: text, or arrays by input; None: not kept, and ``missing`` says why.
        t: its stamp in seconds of the stream's clock, as ``arrival`` is.
        arrival: when it was pushed.
        fault: why it was dropped at once; None: it was accepted.
        missing: see ``value``.
        told: pushes, encodings and results that the stream had told of before.
        stamp: ``t`` on the clock of :attr:`time`.
    """

    modality: str
    seq: int
    value: Mapping[str, Any] | str | None
    t: float
    arrival: float
    fault: str | None
    missing: str
    told: int
    stamp: float

    @property
    def key(self) -> tuple[str, int]:
        """What it is found by."""
        return self.modality, self.seq


@dataclass(slots=True, eq=False)
class ItemRecord:
    """What was encoded: one sample, a window's chunks, or two samples with a weight between them.

    Attributes:
        modality: its name.
        samples: oldest first.
        first_row: of a window, where it begins in its first chunk; None: no window.
        weight: of the second of two samples, 0 to 1; None: nothing is interpolated.
        run: of an encoder with state, the run that encoded it.
    """

    modality: str
    samples: tuple[SampleRecord, ...]
    first_row: int | None = None
    weight: float | None = None
    run: RunRecord | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for the same content."""
        numbers = tuple(sample.seq for sample in self.samples)
        return self.modality, numbers, self.first_row, self.weight


@dataclass(slots=True, eq=False)
class RunRecord(Record):
    """One run of an encoder with state.

    Attributes:
        item: what it took.
        epoch: another number where the state began anew.
        states: what it began with, by stage and input, empty for the first values; None: not kept.
        network: index of the network whose encoder it is, as of :class:`ResultRecord`.
        succeeded: whether it gave features; None: it is not known yet.
    """

    item: ItemRecord
    network: int
    epoch: int
    states: Mapping[str, Mapping[str, Array]] | None
    succeeded: bool | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is found by."""
        return "run", self.network, *self.item.key


@dataclass(slots=True, eq=False)
class ResultRecord(Record):
    """One result, and what it was made of.

    Attributes:
        fields: what the result says, as :data:`RESULT_FIELDS` names it.
        outputs: copies of its outputs: a reader of the result may write to those; None: none.
        number: of results since the recorder began, from 0.
        network: index of the one that ran, of those that the recorder has seen.
        items: what the fusion took of each modality, None for a stand-in; None: no fusion ran.
        sizes: of the dynamic dimensions, which stand-ins have.
        turns: of fusion stages with state: the epoch, and the states (:class:`RunRecord`).
        steps: those of a loop.
        end: why and with which ``finish`` its loop was ended; None: it came to its own end.
        told: as of :class:`SampleRecord`.
    """

    fields: tuple[Any, ...]
    outputs: Mapping[str, Any] | None
    number: int
    network: int
    items: Mapping[str, ItemRecord | None] | None
    sizes: Mapping[str, int]
    turns: Mapping[str, tuple[int, Mapping[str, Array] | None]]
    steps: int
    end: tuple[str, str | None] | None
    told: int


@dataclass(slots=True, eq=False)
class EventRecord(Record):
    """One event; ``told`` as of :class:`SampleRecord`."""

    event: Event
    told: int


@dataclass(slots=True, eq=False)
class MachineRecord(Record):
    """The state of the machine at one moment, as plain data."""

    state: Mapping[str, Any]


def array_bytes(values: Mapping[str, Any]) -> int:
    """Bytes of all arrays on the host among ``values``."""
    return sum([value.nbytes for value in values.values() if isinstance(value, np.ndarray)])
