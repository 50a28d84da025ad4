"""The last seconds of a stream in memory, written to a file when something goes wrong."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any

from mmedge.closable import Closable
from mmedge.errors import BackendError, InputError
from mmedge.forks import ADVICE, watch
from mmedge.recording.flight.cut import MemoryCut, NetworkRecord, Origin
from mmedge.recording.flight.dump_thread import DumpThread
from mmedge.recording.flight.machine_state import MachineSampler
from mmedge.recording.flight.memory import FlightMemory
from mmedge.recording.flight.triggers import (
    DumpLimits,
    DumpReason,
    DumpTriggers,
    Misses,
    check_after,
)
from mmedge.recording.recorder import need_mcap
from mmedge.stream.clock import SimulatedClock, read_seconds
from mmedge.stream.observer import Event, Observer

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from mmedge.stream.compute import Fused
    from mmedge.stream.network_id import NetworkId
    from mmedge.stream.result import Result, Used
    from mmedge.stream.sample import Item
    from mmedge.stream.state_sequence import Turn
    from mmedge.stream.stream import Stream

__all__ = ["FlightRecorder"]

#: Default bytes of memory.
MEMORY_BYTES = 256 << 20
#: Dumps that may wait to be written: each keeps its records in memory.
MOST_WAITING = 2


class FlightRecorder(Observer, Closable):
    """Keeps the last seconds of a stream in memory; see docs/howto/flight-recorder.md.

    It keeps pushed samples, results with their outputs and reasons, events, states of encoders, and
    the state of the machine. Arrays are kept by reference: those of the stream's own copies, and of
    ``push(..., copy=False)`` the application's, which lives as long as it is kept here. Outputs are
    copied, since a reader of results may write to them. Arrays on a GPU are not kept, and the dump
    says so. Nothing is written before a trigger; then a thread writes one MCAP file, which
    ``mmedge replay`` runs again and compares.

    Args:
        stream: what is watched, from now on. Make the recorder before the first push: only a dump
            of a whole run on a simulated clock can be compared in all that it says.
        folder: where dumps are written; it is made at the first one.
        seconds: of the stream's clock that are kept, above 0.
        memory_bytes: most bytes that are kept; of more, the oldest records go, and a dump says how
            many. While a dump is written its records stay in memory as well; two may wait.
        triggers: what makes a dump.
        limits: how much is written.
        machine_period_s: seconds between two samples of the machine's state; None: none.

    Attributes:
        dumps: paths of the files written so far.
        failures: in words, what could not be written, and dumps that limits refused.

    Raises:
        InputError: a number that cannot be, or a signal outside of the main thread.
        BackendError: the mcap library is not installed, or the stream is closed.
    """

    def __init__(
        self,
        stream: Stream,
        folder: str | os.PathLike[str],
        *,
        seconds: float = 60.0,
        memory_bytes: int = MEMORY_BYTES,
        triggers: DumpTriggers | None = None,
        limits: DumpLimits | None = None,
        machine_period_s: float | None = 1.0,
    ) -> None:
        if not read_seconds(seconds, "seconds") > 0:
            raise InputError(f"seconds must be above 0, got {seconds}")
        if type(memory_bytes) is not int or memory_bytes < 1:
            raise InputError(f"memory_bytes must be a whole number from 1, got {memory_bytes!r}")
        if machine_period_s is not None and not read_seconds(machine_period_s, "period") > 0:
            raise InputError(f"machine_period_s must be above 0 or None, got {machine_period_s}")
        need_mcap()
        check_after((limits or DumpLimits()).after_s, float(seconds))
        self._stream = stream
        self._triggers, self._limits = triggers or DumpTriggers(), limits or DumpLimits()
        self._seconds, self._memory_bytes = float(seconds), memory_bytes
        self._misses = Misses(self._triggers)
        self._memory = FlightMemory(self._seconds, memory_bytes, stream.now())
        #: Around the memory and all that follows: callers are the stream, the sampler and ``dump``.
        self._lock = threading.Lock()
        self._networks = [NetworkRecord.of(stream.network, stream.network.id)]
        self._network, self._index = stream.network.id, 0
        self._pending: list[DumpReason] = []
        self._due: float | None = None
        self._held_off: Counter[str] = Counter()
        self._last_trigger: float | None = None
        self._closed = self._disowned = False
        self._is_simulated = isinstance(stream.clock, SimulatedClock)
        self._origin = Origin.of(stream, self._memory.time)
        self._thread = DumpThread(
            Path(folder), self._limits, self._cut_now, self._tell, self._triggers.signal
        )
        self.dumps, self.failures = self._thread.dumps, self._thread.failures
        self._end = stream.observe(self)
        self._sampler = (
            None if machine_period_s is None else MachineSampler(self._sampled, machine_period_s)
        )
        watch(self)

    # What the stream tells: with its lock held, so each method returns at once.

    def on_push(
        self,
        modality: str,
        seq: int,
        value: Mapping[str, Any] | str,
        t: float,
        arrival: float,
        fault: str | None,
    ) -> None:
        """Keep a sample (:class:`mmedge.stream.Observer`)."""
        with self._lock:
            self._memory.add_push(modality, seq, value, t, arrival, fault)
            self._look_at_time()
            if fault is not None and fault in self._triggers.faults:
                message = f"sample {seq} of {modality!r} was dropped: {fault}"
                self._fire(DumpReason("fault", arrival, message))

    def on_state_run(self, modality: str, item: Item) -> None:
        """Keep the run of an encoder with state."""
        with self._lock:
            self._memory.add_run(modality, item, self._index_of(self._stream.network.id))

    def on_encoded(
        self,
        modality: str,  # noqa: ARG002 - as all observers have it
        samples: Sequence[Used],  # noqa: ARG002
        values: Mapping[str, Any],  # noqa: ARG002
        features: Mapping[str, Any] | None,
        now: float,  # noqa: ARG002
    ) -> None:
        """Note whether a run gave features."""
        with self._lock:
            self._memory.end_run(succeeded=features is not None)

    def on_fused(
        self,
        items: Mapping[str, Item | None],
        sizes: Mapping[str, int],
        turns: Mapping[str, Turn],
        outcome: Fused,
    ) -> None:
        """Remember what the result that comes next was made of."""
        with self._lock:
            self._memory.add_fused(items, sizes, turns, outcome)

    def on_result(self, result: Result) -> None:
        """Keep a result."""
        with self._lock:
            self._memory.add_result(result, self._index_of(result.network))
            is_late = result.met is False
            is_empty = result.outputs is None and self._triggers.no_outputs
            if self._due is None and not is_late and not is_empty:
                return
            self._memory.settle()
            self._look_at_time()
            if message := self._misses.add(result, self._memory.time):
                self._fire(DumpReason("deadline", result.made, message))
            if is_empty:
                message = f"a result had no outputs: {result.reason}"
                self._fire(DumpReason("no_outputs", result.made, message))

    def on_event(self, event: Event) -> None:
        """Keep an event, and look whether it makes a dump."""
        with self._lock:
            self._memory.add_event(event)
            self._look_at_time()
            if event.kind in self._triggers.events and not event.kind.startswith("flight_"):
                reason = DumpReason("event", event.t, f"{event.kind}: {event.message}")
                # After a failure there is no next one.
                self._fire(reason, is_urgent=event.kind == "failure")
            if event.kind == "close" and self._due is not None:
                self._cut()  # nothing comes any more

    def _look_at_time(self) -> None:
        """Make the dump whose time has come."""
        if self._due is not None and self._memory.time >= self._due:
            self._cut()

    def _index_of(self, network: NetworkId) -> int:
        """Where a network is among those that were seen; most often it is the one of before."""
        if network is not self._network:
            self._network = network
            numbers = [seen.number for seen in self._networks]
            if network.number not in numbers:
                self._networks.append(NetworkRecord.of(self._stream.network, network))
                numbers.append(network.number)
            self._index = numbers.index(network.number)
        return self._index

    def _sampled(self, state: dict[str, Any]) -> None:
        """Keep the state of the machine, from the sampler's thread."""
        with self._lock:
            self._memory.add_machine(state)

    # Dumps.

    def _fire(
        self, trigger: DumpReason, after: float | None = None, *, is_urgent: bool = False
    ) -> None:
        """Plan a dump, or name the trigger in the one that is planned; with the lock held.

        ``is_urgent``: whatever was written lately.
        """
        if self._due is not None:
            self._pending.append(trigger)
            return
        now, last = self._memory.time, self._last_trigger
        is_held_off = last is not None and now - last < self._limits.hold_off_s
        is_last = is_urgent and trigger.kind == "event"  # the stream's failure
        is_full = self._thread.backlog >= MOST_WAITING and not is_last
        if is_full or (is_held_off and not is_urgent):
            self._held_off[trigger.kind] += 1
            self._thread.merge(trigger)
            return
        self._last_trigger = self._memory.time
        self._pending = [trigger]
        after = self._limits.after_s if after is None else after
        self._due = self._memory.time + after
        if after == 0.0:
            self._cut()
        elif not self._is_simulated:
            self._thread.cut_after(after)

    def _cut(self) -> None:
        """Hand what is kept now to the thread that writes it; with the lock held."""
        self._due = None
        triggers, self._pending = tuple(self._pending), []
        held_off, self._held_off = dict(self._held_off), Counter()
        self._thread.put(
            MemoryCut(
                records=tuple(self._memory.ring.records),
                held=tuple(self._memory.ring.held),
                triggers=triggers,
                held_off=held_off,
                time=self._memory.time,
                t=self._memory.t,
                unix_ns=time_ns(),
                seconds=self._seconds,
                memory_bytes=self._memory_bytes,
                nbytes=self._memory.ring.nbytes,
                evicted=dict(self._memory.ring.evicted),
                evicted_until=self._memory.ring.evicted_until,
                is_whole=self._memory.ring.is_whole
                and len(self._networks) == 1
                and self._origin.has_costs_of(self._stream),
                told=self._memory.told,
                networks=tuple(self._networks),
                origin=self._origin,
            )
        )

    def _cut_now(self, signal: int | None) -> None:
        """From the thread: the signal came, or the time after a trigger is over with no sample."""
        with self._lock:
            self._memory.settle()
            if signal is not None:
                self._fire(DumpReason("signal", self._memory.t, f"signal {signal}"), is_urgent=True)
            elif self._due is not None:
                self._cut()

    def dump(self, reason: str, *, after_s: float = 0.0, wait: bool = True) -> Path | None:
        """Write a dump now, whatever was written lately.

        An observer of the stream calls it with ``wait=False``: it holds the stream's lock.

        Args:
            reason: is written into it.
            after_s: seconds of the stream's clock from now that are to be in it, too. If they do
                not pass in as many of real time and half a second, it is written then.
            wait: False returns at once, and a failure is an event alone.

        Returns:
            The file's path; None if it was not waited for.

        Raises:
            InputError: a number that cannot be.
            BackendError: it could not be written, or a limit refused it; or the recorder is closed.
        """
        if self._disowned:
            raise BackendError(f"a flight recorder: {ADVICE}")
        check_after(after_s, self._seconds)
        if after_s and wait and self._is_simulated:
            raise InputError("after_s on a simulated clock: nothing advances it; use wait=False")
        with self._lock:
            self._memory.settle()
            if self._closed:
                raise BackendError("the flight recorder is closed; make a new one")
            if wait and self._due is None and self._thread.backlog >= MOST_WAITING:
                raise BackendError(
                    f"{MOST_WAITING} dumps are still to be written; wait until they are, so that "
                    "memory stays bounded"
                )
            ticket = self._thread.ticket()
            trigger = DumpReason("application", self._memory.t, str(reason))
            self._fire(trigger, float(after_s), is_urgent=True)
        return self._thread.wait(ticket) if wait else None

    def _tell(self, kind: str, message: str, **details: Any) -> None:  # noqa: ANN401
        """Have the stream tell of a dump, from the thread that wrote it."""
        with suppress(BackendError):  # a stream that failed or was closed
            self._stream.tell(kind, message, **details)

    def close(self) -> None:
        """End: write the dump that is planned, wait for it, and watch no more. Twice is fine."""
        if self._disowned or self._closed:
            return
        self._end()
        if self._sampler is not None:
            self._sampler.close()
        with self._lock:
            self._closed = True
            self._memory.settle()
            if self._due is not None:
                self._cut()
        self._thread.close()

    def disown(self) -> None:
        """See :class:`mmedge.forks.Inherited`: its threads are the parent's."""
        self._disowned = True
