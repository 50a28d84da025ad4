"""What a flight recorder keeps, made of what a stream tells: records in the ring, and their times.

Not thread-safe.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mmedge.recording.flight.records import (
    EVENT_BYTES,
    MACHINE_BYTES,
    RESULT_BYTES,
    RESULT_FIELDS,
    RUN_BYTES,
    SAMPLE_BYTES,
    EventRecord,
    ItemRecord,
    MachineRecord,
    Record,
    ResultRecord,
    RunRecord,
    SampleRecord,
    array_bytes,
)
from mmedge.recording.flight.ring import FlightRing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array
    from mmedge.stream.compute import Fused
    from mmedge.stream.observer import Event
    from mmedge.stream.result import Result
    from mmedge.stream.sample import Item, StreamSample
    from mmedge.stream.state_sequence import Turn

__all__ = ["FlightMemory"]

#: States of more bytes than this are kept only every so many parts of the window.
SMALL_STATE, STATE_PARTS = 64 << 10, 60

#: Several times as fast as ``dataclasses.replace(result, outputs=None)``.
_read_fields = attrgetter(*RESULT_FIELDS)


class FlightMemory:
    """See the module.

    Args:
        seconds: that are kept.
        memory_bytes: most of them.
        t: seconds of the stream's clock now.

    Attributes:
        ring: the records.
        time: of the newest, as :attr:`Record.time`.
        t: the same in seconds of the stream's clock.
        told: pushes, encodings and results that the stream has told of.
    """

    def __init__(self, seconds: float, memory_bytes: int, t: float) -> None:
        self.ring = FlightRing(seconds, memory_bytes)
        self.time = self.t = t
        self.told = 0
        self._seconds = seconds
        #: What is to be added to told times for those of a clock that was never set back, and for
        #: those of one that was not set ahead either.
        self._offset = self._shift = 0.0
        self._results = 0
        self._states_kept: dict[str, tuple[int, float]] = {}
        self._run: RunRecord | None = None
        #: What the result that comes next was made of.
        self._fused: tuple[Any, ...] | None = None
        #: The newest result, with what its record will be made of.
        self._newest: tuple[Any, ...] | None = None
        #: Outputs of the newest result, and copies of them.
        self._outputs: tuple[Any, Mapping[str, Any] | None] = (None, None)
        #: What the newest result used of each modality, as the stream has it and as it is kept.
        self._items: dict[str, tuple[Item, int, ItemRecord]] = {}

    def add_push(
        self,
        modality: str,
        seq: int,
        value: Mapping[str, Any] | str,
        t: float,
        arrival: float,
        fault: str | None,
    ) -> None:
        """Keep a sample."""
        self.settle()
        self._add(self._sample(modality, seq, value, t, arrival, fault), arrival)
        self.told += 1

    def add_run(self, modality: str, item: Item, network: int) -> None:
        """Keep a run of an encoder with state, of which :meth:`end_run` says what it came to.

        ``network`` is its index, as of a result.
        """
        self.settle()
        turn = item.turn
        if turn is None:
            return
        made = self._item(modality, item)
        states = self._keep_states(modality, turn.epoch, turn.states)
        nbytes = RUN_BYTES + _state_bytes(states)
        self._run = RunRecord(
            self.time, nbytes, made, network, turn.epoch, states, needs=made.samples
        )
        self.ring.add(self._run)

    def end_run(self, *, succeeded: bool) -> None:
        """An encoder ran: with state, it is the run that was added last."""
        self.settle()
        self.told += 1
        run, self._run = self._run, None
        if run is not None:
            run.succeeded = succeeded

    def add_fused(
        self,
        items: Mapping[str, Item | None],
        sizes: Mapping[str, int],
        turns: Mapping[str, Turn],
        outcome: Fused,
    ) -> None:
        """Keep what the result that comes next was made of (:class:`mmedge.stream.Observer`)."""
        # An item may be encoded again before the record is made.
        chosen = [(name, item, item and item.turn) for name, item in items.items()]
        self._fused = chosen, sizes, turns, outcome.steps, outcome.end

    def add_result(self, result: Result, network: int) -> None:
        """Keep a result, of the network of this index.

        Its record is made when the next thing comes, or by :meth:`settle`: whoever waits for the
        result need not wait for that.
        """
        self.settle()
        fused, self._fused = self._fused, None
        outputs, copies = self._outputs
        if result.outputs is not outputs:
            # A reader of results may write to them. Repeated outputs are copied once.
            copies = _copy(result.outputs)
            self._outputs = result.outputs, copies
        self._newest = result, copies, fused, network

    def settle(self) -> None:
        """Make the record of the newest result, if it has none yet."""
        if self._newest is not None:
            result, outputs, fused, network = self._newest
            self._newest = None
            self._add(self._result(result, outputs, fused, network), result.made)
            self.told += 1

    def add_event(self, event: Event) -> None:
        """Keep an event, and follow a clock that was set."""
        self.settle()
        if event.kind == "clock_jump":
            # Times told from now on are of the clock as it was set.
            change = event.details.get("change", 0.0)
            self._offset += change
            self._shift += change - event.details.get("ahead", 0.0)
        nbytes = EVENT_BYTES + len(event.message)
        self._add(EventRecord(self.time, nbytes, event, self.told), event.t)

    def add_machine(self, state: Mapping[str, Any]) -> None:
        """Keep a state of the machine."""
        self.settle()
        self.ring.add(MachineRecord(self.time, MACHINE_BYTES, {"t": self.t, **state}))

    def _add(self, record: Record, t: float) -> None:
        """Add a record of time ``t`` in seconds of the stream's clock."""
        self.t = t
        # Threads may push in another order than their pushes began.
        self.time = record.time = max(self.time, t + self._shift)
        self.ring.add(record)

    def _sample(
        self,
        modality: str,
        seq: int,
        value: Mapping[str, Any] | str,
        t: float,
        arrival: float,
        fault: str | None,
    ) -> SampleRecord:
        missing, kept = "", value
        nbytes = SAMPLE_BYTES
        if isinstance(value, str):
            nbytes += len(value)
        else:
            for array in value.values():
                if not isinstance(array, np.ndarray):
                    missing = "it was on a GPU"
                    break
                nbytes += array.nbytes
        return SampleRecord(
            self.time, SAMPLE_BYTES if missing else nbytes, modality, seq,
            None if missing else kept, t, arrival, fault, missing, self.told, t + self._shift,
        )  # fmt: skip

    def _hold(self, modality: str, sample: StreamSample) -> SampleRecord:
        """The record of a sample that is used, also of one that has left the window."""
        record = self.ring.find((modality, sample.seq))
        if record is None:
            t, arrival = sample.t - self._offset, sample.arrival - self._offset
            record = self._sample(modality, sample.seq, sample.values, t, arrival, None)
            record.time = min(self.time, arrival + self._shift)
            self.ring.hold(record)
        return cast("SampleRecord", record)

    def _item(self, modality: str, item: Item) -> ItemRecord:
        samples = tuple([self._hold(modality, sample) for sample in item.samples])
        if item.key[0] == "window":
            return ItemRecord(modality, samples, first_row=item.first_row)
        weight = None
        if len(item.samples) == 2:
            # As the stream computes it, in the stream's own time.
            before, after = item.samples
            weight = (item.key[2] - before.t) / (after.t - before.t)
        return ItemRecord(modality, samples, weight=weight)

    def _used(
        self, modality: str, item: Item | None, turn: Turn | None, network: int
    ) -> ItemRecord | None:
        """What a result used; of what one before used, the same record."""
        if item is None:
            return None
        before = self._items.get(modality)
        if before is not None and before[0] is item and before[1] == network:
            made = before[2]
            # What a run needs comes before it.
            for record in made.samples if made.run is None else (*made.samples, made.run):
                if not record.is_kept:
                    self.ring.hold(cast("SampleRecord | RunRecord", record))
            return made
        made = self._item(modality, item)
        if turn is not None:
            run = self.ring.find(("run", network, *made.key))
            if run is None:
                # It began before the recorder did, or its record had to go; or it was encoded for a
                # network before it took over, which nobody was told of.
                states = turn.states if network == 0 else None
                nbytes = RUN_BYTES + _state_bytes(states)
                run = RunRecord(
                    self.time, nbytes, made, network, turn.epoch, states, succeeded=True,
                    needs=made.samples,
                )  # fmt: skip
                self.ring.hold(run)
            made.run = cast("RunRecord", run)
        self._items[modality] = item, network, made
        return made

    def _result(
        self,
        result: Result,
        outputs: Mapping[str, Any] | None,
        fused: tuple[Any, ...] | None,
        network: int,
    ) -> ResultRecord:
        nbytes = RESULT_BYTES + array_bytes(outputs or {})
        items: dict[str, ItemRecord | None] | None = None
        turns: dict[str, tuple[int, Mapping[str, Array] | None]] = {}
        sizes: Mapping[str, int] = {}
        steps, end = 0, None
        needs: list[Record] = []
        if fused is not None:
            chosen, sizes, begun, steps, end = fused
            items = {}
            for name, item, turn in chosen:
                items[name] = used = self._used(name, item, turn, network)
                if used is not None:
                    needs += used.samples if used.run is None else (used.run,)
            for stage, turn in begun.items():
                states = self._keep_states(f"stage {stage}", turn.epoch, turn.states)
                turns[stage] = turn.epoch, None if states is None else states.get(stage, {})
                nbytes += _state_bytes(states)
        self._results += 1
        return ResultRecord(
            self.time, nbytes, _read_fields(result), outputs, self._results - 1, network,
            items, dict(sizes), turns, steps, end, self.told, needs=tuple(needs),
        )  # fmt: skip

    def _keep_states(
        self, owner: str, epoch: int, states: Mapping[str, Mapping[str, Array]]
    ) -> Mapping[str, Mapping[str, Array]] | None:
        """The states to keep with a run; None: large ones that were kept a short time ago.

        A replay has them of the runs between.
        """
        if _state_bytes(states) <= SMALL_STATE:
            return states
        kept = self._states_kept.get(owner)
        period = self._seconds / STATE_PARTS
        if kept is not None and kept[0] == epoch and self.time - kept[1] < period:
            return None
        self._states_kept[owner] = epoch, self.time
        return states


def _copy(outputs: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if outputs is None:
        return None
    return {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in outputs.items()
    }


def _state_bytes(states: Mapping[str, Mapping[str, Array]] | None) -> int:
    return sum(array_bytes(arrays) for arrays in (states or {}).values())
