"""What a trigger comes to: results, repeated ones, and what each says of the samples it is of.

The part of the state machine that makes and hands out results. It is not used by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.stream.jumps import NO_JUMPS
from mmedge.stream.observer import Event, Observers
from mmedge.stream.outbox import Outbox
from mmedge.stream.result import Result, Used
from mmedge.stream.sample import SLACK
from mmedge.stream.state_sequence import FusionStates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array
    from mmedge.stream.change import Change
    from mmedge.stream.choose import Active, Trigger
    from mmedge.stream.drift import DriftObserver
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Network
    from mmedge.stream.network_id import NetworkId
    from mmedge.stream.state_sequence import StateSequence

__all__ = ["Delivery"]


class Delivery:
    """Makes results and hands them out. Not thread-safe.

    Args:
        tracks: by modality.
        network: the one that runs.
        deadline: seconds from a trigger to its result; None: none.
        keep: results that wait to be fetched.
        sequences: of the states of the fusion's stages, by stage.

    Attributes:
        results: those that wait to be fetched.
        network: the one that runs.
        change: what looks after other networks to come; None: nothing does.
        networks: how many there have been.
        owned: those that the stream frees.
        observers: who is told what happens.
        drift: what scores drift; None: nothing does.
    """

    def __init__(
        self,
        tracks: Mapping[str, ModalityState],
        network: Network,
        deadline: float | None,
        keep: int,
        sequences: Mapping[str, StateSequence],
    ) -> None:
        self.tracks = tracks
        self._states = FusionStates(sequences)
        self._outbox = Outbox(keep)
        self.results = self._outbox.results
        self.change: Change | None = None
        self.networks = 1
        self.owned: list[Network] = []
        self._set_network(network)
        self.observers = Observers()
        self.drift: DriftObserver | None = None
        #: What is to be taken from a time for the clock's own seconds, and for seconds that passed:
        #: how far it jumped ahead.
        self._offset = self._ahead = 0.0
        self.deadline = deadline
        self._good: tuple[Result, float] | None = None
        self._stale = self._empty = 0

    @property
    def results_total(self) -> int:
        """Results so far, of every kind."""
        return self._outbox.total

    @property
    def misses(self) -> int:
        """Results later than the deadline, and those that repeat outputs in place of such."""
        return self._outbox.misses + self._stale

    def _set_network(self, network: Network) -> None:
        self.network, self._times = network, network.timings
        for name, track in self.tracks.items():
            track.encoding = network.timings.encodings[name]

    def _let_go(self, trigger: Trigger, reason: str = "superseded") -> None:
        if trigger.track is not None and trigger.item is not None:
            trigger.track.items.release(trigger.item, reason)

    def _drop_results(self, name: str | None = None) -> None:
        """Drop results that wait to be fetched: all, or those that used a modality."""
        for drops in self._outbox.drop(name):
            # The next result tells what this one would have told.
            for modality, counts in drops.items():
                self.tracks[modality].ledger.tell_again(counts)

    def _deliver(
        self, active: Active, outputs: Mapping[str, Array] | None, reason: str, now: float
    ) -> None:
        trigger, offset = active.trigger, self._offset
        t, jumps = trigger.t, trigger.jumps
        samples: dict[str, tuple[Used, ...]] = {}
        ages: dict[str, float | None] = dict.fromkeys(self.tracks)
        absent: dict[str, str] = {}
        notes: dict[str, str] = {}
        for name, choice in active.choices.items():
            track, item, ahead = self.tracks[name], choice.item, 0.0
            if item is not None:
                ages[name] = track.age(item, t)
                if jumps is not NO_JUMPS:
                    ahead = jumps.since(item.samples[0].arrival)
                samples[name] = tuple([Used(s.seq, s.t + ahead - offset) for s in item.samples])
                if outputs is not None:
                    track.items.use(item)
            if choice.absent is not None:
                absent[name] = choice.absent
                continue
            newest = "" if trigger.track is track else track.newest_note()
            state = "" if item is None or item.turn is None else track.state_note(item, outputs)
            if choice.note or newest or ahead or state:
                jump = f"its age leaves out {ahead:.6g} s by which the clock was set ahead"
                remarks = (choice.note, newest, jump if ahead else "", state)
                notes[name] = "; ".join(filter(None, remarks))
        if outputs is not None and active.turns:
            notes.update(self._states.tell(active.turns))
        result = self._result(
            outputs,
            trigger,
            now,
            t,
            ages,
            samples,
            absent,
            reason,
            notes,
            (active.network or self.network).id,
            fresh=outputs is not None,
        )
        if outputs is None:
            self._empty += 1
        else:
            # What was held before a jump is older by it from now on: no outputs for repeating.
            self._good = (result, t) if jumps is NO_JUMPS else None
            if not active.cold:
                beyond_first = 0.0 if active.first_step is None else now - active.first_step
                self._times.latency.observe(result.latency - beyond_first)
        self._put(result, now)

    def _put(self, result: Result, now: float) -> None:
        self._outbox.put(result, now - self._ahead)
        if self.change is not None:
            self.change.on_result(result, now)
        if self.observers:
            self.observers.call("on_result", now, result)

    def _age_fault(self, name: str, t: float) -> str | None:
        """Why the last good outputs must not speak for a modality at time ``t``; None: they may."""
        if self._good is None:
            return None
        last, since = self._good
        track, age = self.tracks[name], last.ages[name]
        if age is not None and track.limit is not None and age + t - since > track.limit + SLACK:
            return f"too_old: {age + t - since:.6g} s, limit {track.limit:.6g} s"
        return track.distrust()

    def distrust_outputs(self) -> None:
        """Repeat none of the outputs that there have been."""
        self._good = None

    def _may_repeat(self, t: float) -> bool:
        """Whether every required modality of the last good outputs would still do at time ``t``."""
        return all(
            self._age_fault(name, t) is None
            for name, track in self.tracks.items()
            if track.required
        )

    def _repeat(self, trigger: Trigger, latency: float, now: float) -> None:
        """Deliver the last good outputs again, because new ones would be late."""
        if self._good is None or self.deadline is None:
            return
        last, since = self._good
        reason = (
            f"deadline: a result is expected to take {latency:.6g} s, {self.deadline:.6g} s are "
            f"allowed; these are the outputs of t={since - self._offset:.6g} s"
        )
        ages = {
            name: None if age is None else age + trigger.t - since
            for name, age in last.ages.items()
        }
        faults = {name: self._age_fault(name, trigger.t) for name in self.tracks}
        absent = {**last.absent, **{name: why for name, why in faults.items() if why is not None}}
        if trigger.track is not None and trigger.item is not None:
            trigger.track.items.condemn(trigger.item, "deadline")
            trigger.track.withdraw(trigger.item, "deadline")
        self._let_go(trigger, "deadline")
        self._times.latency.relax()
        self._stale += 1
        samples = last.samples
        self._put(
            self._result(
                last.outputs,
                trigger,
                now,
                since,
                ages,
                samples,
                absent,
                reason,
                {name: note for name, note in last.notes.items() if name not in absent},
                last.network,
                fresh=False,
            ),
            now,
        )

    def _result(
        self,
        outputs: Mapping[str, Array] | None,
        trigger: Trigger,
        now: float,
        outputs_t: float,
        ages: Mapping[str, float | None],
        samples: Mapping[str, tuple[Used, ...]],
        absent: Mapping[str, str],
        reason: str,
        notes: Mapping[str, str],
        network: NetworkId,
        *,
        fresh: bool,
    ) -> Result:
        drops = {name: track.ledger.since_last() for name, track in self.tracks.items()}
        latency = now - trigger.begin
        ahead = trigger.jumps.since()
        return Result(
            outputs=outputs,
            t=trigger.t + ahead - self._offset,
            made=now - self._offset,
            latency=latency,
            ages=ages,
            samples=samples,
            absent=absent,
            dropped={name: counts for name, counts in drops.items() if counts},
            fresh=fresh,
            met=None if self.deadline is None else fresh and latency <= self.deadline,
            reason=reason,
            notes=notes,
            outputs_t=None if outputs is None else outputs_t + ahead - self._offset,
            trigger=None if trigger.track is None else trigger.track.name,
            network=network,
            drift={} if self.drift is None else self.drift.scores(),
        )

    def take(self, now: float, *, latest: bool) -> Result:
        """Hand out the oldest of the results that there are, or the newest."""
        return self._outbox.take(now - self._ahead, latest=latest)

    def tell(self, kind: str, now: float, message: str, **details: Any) -> None:  # noqa: ANN401
        """Count an event, and tell those who watch the stream."""
        self.observers.tell(Event(kind, now - self._offset, message, details))
