"""What a stream hands out: results, and a snapshot of its health."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mmedge.stream.network_id import UNKNOWN, NetworkId

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Health", "ModalityHealth", "Result", "Used"]


class Used(NamedTuple):
    """One sample that went into a result: its number within its modality, from 0, and its stamp.

    The stamp is moved where the stream's clock was set since (see :class:`Result`).
    """

    seq: int
    t: float


@dataclass(frozen=True, slots=True)
class Result:
    """What one trigger came to. All times in seconds of the stream's clock, as it was at ``made``.

    Where that clock was set while the trigger was under way, all times from before are moved by as
    much, and neither ``latency`` nor ``ages`` count the jump.

    Attributes:
        outputs: array by output name; None where there are none, and ``reason`` says why. Of a loop
            also what it gives, such as ``text`` and ``finish`` (:meth:`mmedge.Pipeline.run`).
        t: the trigger's time: the triggering sample's stamp, or the tick.
        made: when the result was ready.
        latency: ``made - t``; from its arrival, where the stamp ``t`` was ahead of that, and by its
            own clock, where the source's was set back.
        ages: for each modality ``t`` minus the stamp of what was used: of its oldest sample, where
            several were mixed; of the oldest row of a window (see :class:`mmedge.stream.Window`).
            Negative where it is newer than the trigger; None where a stand-in was used.
        samples: for each modality that was used, which samples; for a window, its chunks.
        absent: why each absent modality was. What is in ``samples`` too is an old value that
            stood in: ``absent: last``, or the last good one after a failed encoding. With
            ``fresh=False`` also what repeated outputs used and is too old by now.
        dropped: samples dropped since the previous result that was handed out: modality -> reason
            -> count.
        fresh: computed for this trigger. False: the last good outputs again, or none.
        met: whether it is fresh and ``latency`` was within the deadline; None without a deadline.
        reason: why there are no outputs, why they are not fresh, or why a loop gives what it has so
            far; else empty.
        notes: what a reader should know of a modality that is present, such as a value that was
            held instead of interpolated, or values that its encoder's state has missed since the
            result before; and by a fusion stage's name, that its state began anew.
        lateness: seconds that it waited after ``made`` until :meth:`Stream.result` handed it out;
            a reader that is too slow sees it grow (``result(latest=True)`` catches up). Neither
            ``latency`` nor ``met`` counts it.
        outputs_t: the trigger's time that ``outputs`` were computed for: ``t`` where they are
            fresh, an earlier one where they are repeated (of an action chunk, the steps of
            ``t - outputs_t`` seconds have passed); None without outputs.
        trigger: the modality whose sample it was made for; None for a tick.
        drift: score by modality then, of a stream with a drift profile: about 0 as calibrated, 1
            and above an alarm (see :class:`mmedge.drift.DriftProfile`). Those of which nothing is
            known, or that are not watched, are left out.
        network: which network made ``outputs``, all of them; without outputs, the one that ran
            then. Another one than before after :meth:`Stream.swap`.
    """

    outputs: Mapping[str, Any] | None
    t: float
    made: float
    latency: float
    ages: Mapping[str, float | None]
    samples: Mapping[str, tuple[Used, ...]]
    absent: Mapping[str, str]
    dropped: Mapping[str, Mapping[str, int]]
    fresh: bool
    met: bool | None
    reason: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    lateness: float = 0.0
    outputs_t: float | None = None
    trigger: str | None = None
    drift: Mapping[str, float] = field(default_factory=dict)
    network: NetworkId = UNKNOWN

    @property
    def latency_ms(self) -> float:
        """``latency`` in milliseconds, as deadlines are given."""
        return self.latency * 1e3

    @property
    def ages_ms(self) -> dict[str, float | None]:
        """``ages`` in milliseconds, as maximum ages are given."""
        return {name: None if age is None else age * 1e3 for name, age in self.ages.items()}


@dataclass(frozen=True, slots=True)
class ModalityHealth:
    """Counters and state of one modality; ``pushed == used + sum(dropped) + pending`` always.

    Attributes:
        pushed: samples whose push returned.
        used: samples that went into at least one delivered computation; where its encoder has a
            state, also those that the state has taken.
        dropped: the others that are gone, by reason.
        pending: the others, still held.
        present: whether a result at this moment would use it.
        reason: why not; empty if present.
        encodes: runs of its encoder.
        encodes_skipped: encodings saved, because the content was that of the one before.
        errors: encoder runs that failed.
        last_error: message of the last of them; empty if none.
        clock_jumps: how often the source's clock was set back and its history restarted.
        windows: windows that its chunks made; 0 under other policies. They are accounted for as
            samples are: ``windows == windows_used + sum(windows_dropped) + windows_pending``.
        windows_used: those that went into at least one delivered computation.
        windows_dropped: the others that are gone, by reason.
        windows_pending: the others, still held.
        state_missed: values that came and that its encoder's state has not taken, because they were
            dropped or could not be encoded; of windows, at least so many.
        state_resets: how often that state began anew by itself (``reset_after``), or because the
            network was switched.
        drift: of a stream with a drift profile, how far what comes is from what is normal: about 0
            as calibrated, 1 and above an alarm. It stays while nothing comes. None: nothing is
            known, or it is not watched.
        drift_since: when its alarm began, in seconds of the stream's clock; None: there is none.
        drift_reason: the alarm in words; empty if there is none.
    """

    pushed: int
    used: int
    dropped: Mapping[str, int]
    pending: int
    present: bool
    reason: str
    encodes: int
    encodes_skipped: int
    errors: int
    last_error: str
    clock_jumps: int
    windows: int = 0
    windows_used: int = 0
    windows_dropped: Mapping[str, int] = field(default_factory=dict)
    windows_pending: int = 0
    state_missed: int = 0
    state_resets: int = 0
    drift: float | None = None
    drift_since: float | None = None
    drift_reason: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Snapshot of a stream; ``triggers == results + superseded + closed + under way`` always.

    Attributes:
        modalities: by name.
        triggers: triggers so far.
        triggers_superseded: replaced by a newer one while another was at work.
        triggers_closed: under way when the stream was closed or reset, or of a modality that was
            forgotten.
        triggers_pending: under way now: one at work, and one that waits (or the windows of one
            chunk that do).
        results: results made, of every kind.
        stale: those that repeat the last good outputs.
        empty: those without outputs.
        deadline_misses: fresh ones later than the deadline.
        results_dropped: those that nobody fetched before the queue was full, that were passed over
            by ``result(latest=True)``, or that used what was forgotten.
        latency_p95: 95 % quantile of the latency of computed results in seconds, newer ones
            weighing more, relaxed by each skip; None before the first.
        clock_jumps: how often the stream's clock was set back or ahead.
        clock_glitches: readings of it that were not used.
        failure: why the stream ended by itself; empty if it did not.
        state_resets: how often states of fusion stages began anew by themselves (``reset_after``),
            or because the network was switched.
        events: how often each kind of event happened (:class:`mmedge.stream.Event`).
    """

    modalities: Mapping[str, ModalityHealth]
    triggers: int
    triggers_superseded: int
    triggers_closed: int
    triggers_pending: int
    results: int
    stale: int
    empty: int
    deadline_misses: int
    results_dropped: int
    latency_p95: float | None
    clock_jumps: int = 0
    clock_glitches: int = 0
    failure: str = ""
    state_resets: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
