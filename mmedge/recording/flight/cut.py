"""What a flight recorder kept at one moment, on its way to a file."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmedge.backends.registry import probe
from mmedge.device import cpu_model
from mmedge.recording.flight.options import options_to_json
from mmedge.stream.clock import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.recording.flight.records import Record, RunRecord, SampleRecord
    from mmedge.recording.flight.triggers import DumpReason
    from mmedge.stream.network import Network
    from mmedge.stream.network_id import NetworkId
    from mmedge.stream.stream import Stream

__all__ = ["MemoryCut", "NetworkRecord", "Origin"]


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """What computed results.

    Attributes:
        number: of the networks of the stream (:class:`mmedge.stream.network_id.NetworkId`).
        bundle: its name.
        digest: of its manifest.
        variant: identifier of the variant.
        target: what the variant runs on.
        plan: the plan that streams run.
        threads: most threads of a stage; None: the engine's default.
    """

    number: int
    bundle: str
    digest: str
    variant: str
    target: str
    plan: str
    threads: int | None

    @classmethod
    def of(cls, network: Network, id: NetworkId) -> NetworkRecord:  # noqa: A002 - as in Network
        """That of a network of a stream; of one that is not there any more, what is known."""
        if network.id.number != id.number:
            return cls(id.number, "", id.digest, id.variant, "", "cut", None)
        pipe = network.pipe
        manifest, variant = pipe.bundle.manifest, pipe.variant
        return cls(
            network.id.number,
            manifest.name,
            network.id.digest,
            network.id.variant,
            variant.target,
            manifest.stream_plan(variant),
            getattr(pipe, "threads", None),
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """What the recorder was attached to.

    Attributes:
        time: when, in seconds of the stream's clock.
        is_start: whether nothing had come to the stream before.
        modalities: of the bundle.
        options: of the stream, as JSON has them.
        clock: ``kind`` is ``simulated``, ``monotonic`` or ``other``; of a simulated one its
            ``start`` and ``costs``.
        device: processor, system and libraries that results may depend on.
    """

    time: float
    is_start: bool
    modalities: tuple[str, ...]
    options: Mapping[str, Any]
    clock: Mapping[str, Any]
    device: Mapping[str, Any]

    @classmethod
    def of(cls, stream: Stream, time: float) -> Origin:
        """That of a stream at a time."""
        health = stream.health()
        clock: dict[str, Any] = {"kind": "monotonic" if stream.clock is None else "other"}
        if isinstance(stream.clock, SimulatedClock):
            clock = {"kind": "simulated", "start": stream.start, "costs": dict(stream.clock.costs)}
        is_start = not health.triggers and not health.events
        is_start = is_start and not any(state.pushed for state in health.modalities.values())
        return cls(
            time,
            is_start,
            tuple(health.modalities),
            options_to_json(stream.options),
            clock,
            {
                "cpu": cpu_model(),
                "machine": platform.machine(),
                "libraries": dict(probe().libraries),
            },
        )

    def has_costs_of(self, stream: Stream) -> bool:
        """Whether stages take as long on a simulated clock as they did then."""
        clock = stream.clock
        return not isinstance(clock, SimulatedClock) or clock.costs == self.clock["costs"]


@dataclass(frozen=True, slots=True)
class MemoryCut:
    """Everything at one moment. Records are not changed any more, but for whether they are used.

    Attributes:
        records: the window, in the order in which they were told.
        held: samples and runs from before it that records in it need.
        triggers: why it is written.
        held_off: triggers since the dump before that made none, by kind.
        time: of the newest record; ``t``: the same in seconds of the stream's clock.
        unix_ns: nanoseconds since 1970 at that time.
        seconds: of the window.
        memory_bytes: that the recorder may keep.
        nbytes: that it kept.
        evicted: records that had to go for bytes since the recorder began, by kind.
        evicted_until: time of the newest of them; None: there were none.
        is_whole: whether nothing has left the ring since the recorder began, and one network ran,
            at the same costs of a simulated clock.
        told: pushes, encodings and results that the stream had told of.
        networks: that ran, in order.
        origin: see there.
    """

    records: tuple[Record, ...]
    held: tuple[SampleRecord | RunRecord, ...]
    triggers: tuple[DumpReason, ...]
    held_off: Mapping[str, int]
    time: float
    t: float
    unix_ns: int
    seconds: float
    memory_bytes: int
    nbytes: int
    evicted: Mapping[str, int]
    evicted_until: float | None
    is_whole: bool
    told: int
    networks: tuple[NetworkRecord, ...]
    origin: Origin
