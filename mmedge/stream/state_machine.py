"""The state machine of a stream: triggers, what each result waits for, and what it is made of.

It knows no thread and reads no clock, so that threads and a simulation drive the same code. Not
thread-safe; the stream's lock is held around every call. It is long, since each event may change
what the trigger at work waits for, and what its result says.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mmedge.stream.choose import Active, Choice, Chooser, Trigger, merge_sizes
from mmedge.stream.delivery import Delivery
from mmedge.stream.jumps import NO_JUMPS
from mmedge.stream.latency_predictor import LatencyPredictor
from mmedge.stream.renewal import renew, renew_item, requeue
from mmedge.stream.result import Health, ModalityHealth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.constraints import Relations
    from mmedge.stream.compute import Encoded, Fused
    from mmedge.stream.jumps import Jumps
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Network, Renewed
    from mmedge.stream.sample import Item, StreamSample
    from mmedge.stream.state_sequence import StateSequence
    from mmedge.stream.ticker import Ticker

__all__ = ["StreamStateMachine"]

#: Share of the deadline after which it is at risk: the rest is for a thread that wakes up late.
PATIENCE = 0.95


class StreamStateMachine(Delivery):
    """See the module.

    Args:
        tracks: by modality, in the manifest's order.
        triggers: modalities whose samples trigger.
        network: the one that runs.
        relations: between sizes, which what is used together must keep.
        rate: triggers a second, where known.
        deadline: seconds from a trigger to its result; None: none.
        keep: results that wait to be fetched.
        sequences: of the states of the fusion's stages, by stage.
        cancels: whether a newer trigger ends the loop of the one at work.
    """

    def __init__(
        self,
        tracks: Mapping[str, ModalityState],
        triggers: frozenset[str],
        network: Network,
        *,
        relations: Relations,
        rate: float | None,
        deadline: float | None,
        keep: int,
        sequences: Mapping[str, StateSequence],
        cancels: bool = False,
    ) -> None:
        super().__init__(tracks, network, deadline, keep, sequences)
        self._chooser = Chooser(
            has_deadline=deadline is not None, has_many_triggers=len(triggers) > 1
        )
        self.closed = False
        #: Why the stream ended by itself; None: it did not.
        self.failure: str | None = None
        #: What triggers at a rate; None: samples do.
        self.ticker: Ticker | None = None
        self._jumps: Jumps = NO_JUMPS
        self._triggering = triggers
        self._relations = relations
        self._patience = 1.0 / rate if rate else None
        if deadline is not None:
            self._patience = PATIENCE * deadline
        self._cancels = cancels
        self._fused = False
        self._active: Active | None = None
        self._waiting: deque[Trigger] = deque()
        self._triggers = self._superseded = self._orphaned = 0

    def push(
        self,
        name: str,
        sample: StreamSample,
        fault: str | None,
        now: float,
        *,
        lying: bool,
        text: str | None = None,
    ) -> None:
        """Take in a sample (:meth:`ModalityState.receive`), and start what it triggers.

        ``text`` is what was pushed where the sample's values were made of it.
        """
        track = self.tracks[name]
        if self.observers:
            value = sample.values if text is None else text
            t, arrival = sample.t - self._offset, sample.arrival - self._offset
            self.observers.call("on_push", now, name, sample.seq, value, t, arrival, fault)
        jumps = track.jumps
        items = track.receive(sample, fault, lying=lying)
        triggers = []
        if name in self._triggering:
            if track.jumps > jumps:
                self._forget_latencies()
            for item in items:
                begin = min(item.end + track.behind, now)
                triggers.append(Trigger(item.end, now, begin, track, item))
        if triggers:
            self.fire(triggers, now)
        elif self._active is not None and name in self._active.until:
            self._proceed(now)

    def _forget_latencies(self) -> None:
        """A clock was set: times from before it are not comparable with those after it."""
        self._times.latency = LatencyPredictor()
        self._good = None
        if self._active is not None:
            self._active.cold = True

    def follow_clock(self, now: float, ahead: float, offset: float) -> None:
        """The stream's clock was set: the time is ``now``, after a jump ``ahead`` in seconds.

        ``offset`` is what the time is ahead of the clock's seconds. What is under way goes on as if
        no time had passed in the jump.
        """
        change, self._offset = offset - self._offset, offset
        self._forget_latencies()
        jump = f"the clock was set ahead by {ahead:.6g} s" if ahead else "the clock was set back"
        self.tell("clock_jump", now, jump, ahead=ahead, offset=offset, change=change)
        if ahead == 0.0:
            return
        self._ahead += ahead
        self._times.loop.follow_clock(ahead)
        # It tells what came before the jump from what comes after.
        within = now - 0.5 * ahead
        self._waiting = deque(trigger.follow_clock(within, ahead) for trigger in self._waiting)
        if self._active is not None:
            self._active.follow_clock(within, ahead)
            self._set_jumps(self._active.trigger.jumps)
        for track in self.tracks.values():
            track.follow_clock(ahead)
        self._states.follow_clock(ahead)
        if self.ticker is not None:
            self.ticker.restart(now)

    def _set_jumps(self, jumps: Jumps) -> None:
        """Have ages count from the time of a trigger, since which the clock was set ahead."""
        self._jumps = jumps
        for track in self.tracks.values():
            track.jumps_ahead = jumps

    def tick(self, t: float, missed: int, now: float) -> None:
        """A timer's tick; ``missed`` earlier ones passed while nobody could look."""
        self._triggers += missed
        self._superseded += missed
        self.fire([Trigger(t, now, min(t, now))], now)

    def fire(self, triggers: list[Trigger], now: float) -> None:
        """Start on what one sample or tick triggers, or let it wait for the one at work.

        Several are the windows of one chunk, which run one after the other.
        """
        self._look_for_change(now)
        self._triggers += len(triggers)
        for trigger in triggers:
            if trigger.track is not None and trigger.item is not None:
                trigger.track.items.hold(trigger.item)
        self._superseded += len(self._waiting)
        for trigger in self._waiting:
            self._let_go(trigger)
        self._waiting = deque(triggers)
        self._proceed(now)

    def _proceed(self, now: float) -> None:
        """Do what can be done without computing."""
        while True:
            if self._active is None:
                if not self._waiting:
                    return
                self._begin(self._waiting.popleft(), now)
            if self._active is not None and (self._active.fusing or not self._gather(now)):
                return

    def _begin(self, trigger: Trigger, now: float) -> None:
        if self.deadline is not None and self._good is not None:
            latency = self._times.latency.estimate()
            if latency is not None and latency > self.deadline and self._may_repeat(trigger.t):
                self._repeat(trigger, latency, now)
                return
        patience = None
        if self._patience is not None:
            patience = trigger.begin + self._patience - (self._times.fusion.estimate() or 0.0)
        self._active = active = Active(trigger, patience)
        if trigger.jumps is not self._jumps:
            self._set_jumps(trigger.jumps)
        for track in self.tracks.values():
            self._chooser.begin(active, track, now)

    def _gather(self, now: float) -> bool:
        """Begin to fuse if nothing is to be waited for; say whether the trigger is done with."""
        active = self._active
        if active is None:
            return True
        choices: dict[str, Choice] = {}
        active.alarm = None
        for track in self.tracks.values():
            choice = self._chooser.choose(active, track, now)
            if choice is None:
                continue
            if choice.absent is not None and track.required:
                self._finish_empty(active, track, choice.absent, now)
                return True
            choices[track.name] = choice
        if len(choices) < len(self.tracks):
            return False
        conflict = merge_sizes(active, choices, self._relations)
        for name, choice in choices.items():
            if not choice.stands_in:
                self.tracks[name].sensor.conclude(choice.absent)
        active.choices = choices
        if conflict is not None:
            self._deliver(active, None, conflict, now)
            self._end(active)
            return True
        for name, choice in choices.items():
            if choice.item is not None:
                self.tracks[name].items.hold(choice.item)
                active.holds.append((self.tracks[name], choice.item))
        active.fusing = True
        active.begun = now
        return False

    def _finish_empty(self, active: Active, missing: ModalityState, why: str, now: float) -> None:
        active.choices = {missing.name: Choice(None, why)}
        self._deliver(active, None, f"required modality {missing.name!r} is absent: {why}", now)
        self._end(active)

    def _end(self, active: Active) -> None:
        """Let go of the trigger at work, which came to a result."""
        self._abandon("superseded")
        self._let_go(active.trigger)

    def _abandon(self, reason: str) -> Trigger | None:
        """Let go of what the trigger at work held; return the trigger, which is not let go of."""
        active, self._active = self._active, None
        if active is None:
            return None
        for track, item in active.holds:
            item.pinned = False
            if track.lazy:
                track.withdraw(item, reason)
            track.items.release(item, reason)
        return active.trigger

    def forget(self, name: str, now: float) -> None:
        """Begin one modality as if nothing had come: no result from now on uses what had."""
        track = self.tracks[name]
        triggers = list(self._waiting)
        if self._active is not None and any(track is other for other, _ in self._active.holds):
            # Begun anew, without it.
            current = self._abandon("superseded")
            triggers = [*([] if current is None else [current]), *triggers]
        self._waiting = deque(trigger for trigger in triggers if trigger.track is not track)
        for trigger in triggers:
            if trigger.track is track:
                self._orphaned += 1
                self._let_go(trigger, "forgotten")
        track.forget("forgotten", "forgotten")
        self._drop_results(name)
        self._states.forget(name)
        if self._good is not None and name in self._good[0].samples:
            self._good = None
        self.tell("forget", now, f"modality {name!r} was forgotten", modality=name)
        self._proceed(now)

    def reset(self, now: float) -> None:
        """Begin as if nothing had come at all; counters go on."""
        current = self._abandon("reset")
        triggers = [*([] if current is None else [current]), *self._waiting]
        self._waiting.clear()
        self._orphaned += len(triggers)
        for trigger in triggers:
            self._let_go(trigger, "reset")
        for track in self.tracks.values():
            track.forget("reset")
        self._drop_results()
        self._states.forget()
        self._good = None
        self.tell("reset", now, "the stream was reset")

    # Work that the driver takes and brings back.

    @property
    def alarm(self) -> float | None:
        """When to call :meth:`wake`, if nothing else happens until then."""
        return None if self._active is None or self._active.fusing else self._active.alarm

    def wake(self, now: float) -> None:
        """Go on without what was waited for in vain."""
        if not self.closed:
            self._proceed(now)

    def fusion(self) -> Active | None:
        """The fusion to run now, handed out once."""
        if self._active is None or not self._active.fusing or self._active.handed_out:
            return None
        self._active.handed_out = True
        self._active.network = self.network
        self._active.turns = self._states.begin(self._active.trigger.t)
        return self._active

    def fused(self, active: Active, outcome: Fused, now: float) -> None:
        """Take the outcome of a fusion."""
        if self.closed or active is not self._active:
            return
        if self.change is not None and not self.change.on_fused(active, outcome, now):
            self._proceed(now)
            return
        # Of a loop, what there must be time for is its first step: it can be ended after that.
        computed = now if active.first_step is None else active.first_step
        self._times.fusion.observe(computed - active.begun)
        if active.first_step is not None:
            self._times.loop.end(now)
        active.cold = active.cold or not self._fused
        if outcome.outputs is not None:
            self._fused = True
            if active.turns:
                used = (name for name, item in active.items.items() if item is not None)
                self._states.finish(active.turns, outcome.states, used)
        if self.observers:
            chosen = active.items, active.sizes, active.turns, outcome
            self.observers.call("on_fused", now, *chosen)
        failure = outcome.message and f"fusion failed: {outcome.message}"
        self._deliver(active, outcome.outputs, failure or outcome.remark, now)
        self._end(active)
        if self.change is not None:
            self.change.on_idle(now)
        self._proceed(now)

    def loop_end(self, active: Active, now: float) -> tuple[str, str | None] | None:
        """Why the loop of ``active`` is to take no more steps; None: it may take the next.

        In words, and as its outputs say it; None for that: nobody wants them.
        """
        if self.closed or active is not self._active:
            return "abandoned", None
        if self._cancels and self._waiting:
            return "canceled: a newer trigger came", "cancel"
        if self.deadline is not None:
            latency = now + self._times.loop.expected() - active.trigger.begin
            if latency > self.deadline:
                return "deadline: the loop was ended", "deadline"
        self._times.loop.begin_step(now)
        return None

    def stepped(self, active: Active, now: float) -> None:
        """Note that a step of a loop was taken."""
        if self.closed or active is not self._active:
            return
        self._times.loop.end_step(now, is_first=active.first_step is None)
        active.first_step = now if active.first_step is None else active.first_step

    def encoded(self, track: ModalityState, item: Item, outcome: Encoded, now: float) -> None:
        """Take the outcome of an encoding."""
        if self.closed:
            return
        if self.change is not None:
            self.change.on_encoded(track, outcome, now)
        if outcome.compute is not self.network.compute:
            # Switched meanwhile: nothing uses these features.
            requeue(track, item)
            self._proceed(now)
            return
        if outcome.features is not None:
            track.finish(item, outcome.features, outcome.states, now, skipped=outcome.skipped)
            if self._active is not None and track.encodes == 1 and not outcome.skipped:
                self._active.cold = True
        else:
            track.fail(item, outcome.message)
            if self._active is not None:
                self._active.gave_up.add(track.name)
        if self.observers:
            self.observers.encoded(track.name, item, outcome, now, self._offset)
        self._look_for_change(now)
        self._proceed(now)

    # Networks.

    @property
    def is_fusing(self) -> bool:
        """Whether a fusion is under way, which has to end on the network that it began on."""
        return self._active is not None and self._active.fusing

    def waiting_items(self) -> list[tuple[ModalityState, Item]]:
        """What the triggers bring along that are not being fused."""
        triggers = list(self._waiting)
        if self._active is not None and not self._active.fusing:
            triggers.append(self._active.trigger)
        return [(t.track, t.item) for t in triggers if t.track is not None and t.item is not None]

    def _look_for_change(self, now: float) -> None:
        if self.change is not None and not self.is_fusing:
            self.change.on_idle(now)

    def switch(
        self,
        network: Network,
        renewed: Mapping[str, Renewed],
        why: str,
        *,
        carry: bool,
    ) -> list[str]:
        """Have another network make every result from now on.

        The trigger at work, if any, begins anew. So do states, and their notes say ``why``, unless
        ``carry``: they mean the same in both networks. What is held of modalities is encoded anew,
        but for ``renewed``; returned are the names of those of which nothing is ready until then.
        Whoever calls this sees to it that the stream proceeds.
        """
        trigger = self._abandon("superseded")
        if trigger is not None:
            self._waiting.appendleft(trigger)
        self._set_network(network)
        names = []
        for name, track in self.tracks.items():
            if not renew(track, renewed.get(name), why, carry=carry):
                names.append(name)
        for waiting in self._waiting:
            if waiting.track is not None and waiting.item is not None:
                renew_item(waiting.track, waiting.item)
        if not carry:
            self._states.renew(why)
        return names

    def fail(self, why: str, now: float) -> None:
        """End, because the stream cannot go on."""
        if not self.closed:
            self.failure = why
            self.tell("failure", now, why)
            self.close(now)

    def close(self, now: float) -> None:
        """Let go of everything; nothing changes any more after this."""
        if self.closed:
            return
        if self.change is not None:
            self.change.close(now)
        self.tell("close", now, "the stream was closed")
        self.closed = True
        triggers = list(self._waiting)
        if self._active is not None:
            triggers.append(self._active.trigger)
            for track, item in self._active.holds:
                track.items.release(item, "closed")
        for trigger in triggers:
            self._orphaned += 1
            self._let_go(trigger, "closed")
        self._waiting.clear()
        self._active = None
        for track in self.tracks.values():
            track.close()

    def health(self, now: float, *, clock_jumps: int, clock_glitches: int) -> Health:
        """The counters, and the presence of each modality at this moment."""
        modalities: dict[str, ModalityHealth] = {}
        for name, track in self.tracks.items():
            absent = track.presence(now)
            modalities[name] = ModalityHealth(
                pushed=track.ledger.pushed,
                used=track.ledger.used,
                dropped=dict(track.ledger.dropped),
                pending=track.ledger.pending,
                present=absent is None,
                reason=absent or "",
                encodes=track.encodes,
                encodes_skipped=track.skipped,
                errors=track.errors,
                last_error=track.last_error,
                clock_jumps=track.jumps,
                **({} if self.drift is None else self.drift.health(name)),
                **({} if track.sequence is None else track.sequence.counts()),
                **track.items.window_counts(),
            )
        return Health(
            modalities=modalities,
            triggers=self._triggers,
            triggers_superseded=self._superseded,
            triggers_closed=self._orphaned,
            triggers_pending=(self._active is not None) + len(self._waiting),
            results=self._outbox.total,
            stale=self._stale,
            empty=self._empty,
            deadline_misses=self._outbox.misses,
            results_dropped=self._outbox.losses,
            latency_p95=self._times.latency.estimate(),
            clock_jumps=clock_jumps,
            clock_glitches=clock_glitches,
            failure=self.failure or "",
            state_resets=self._states.resets,
            events=dict(self.observers.events),
        )
