"""The state machine of a stream: triggers, what each result waits for, and what it is made of.

It knows no thread and reads no clock, so that threads and a simulation drive the same code. Not
thread-safe; the stream's lock is held around every call.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmedge.deadline import Predictor
from mmedge.stream.result import Health, ModalityHealth, Result, Used
from mmedge.stream.sample import Item, Sample, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array
    from mmedge.stream.compute import Encoded
    from mmedge.stream.track import Track

__all__ = ["Active", "Choice", "Core"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What stands for a modality: an item, or None for its stand-in; and why it is absent."""

    item: Item | None
    absent: str | None


@dataclass(frozen=True, slots=True)
class Trigger:
    """A reason to make a result: a tick, or an item of a modality that just came."""

    t: float
    track: Track | None = None
    item: Item | None = None


@dataclass(slots=True)
class Active:
    """The trigger at work. ``asked`` are items it waits for; once fusing, ``choices`` is whole."""

    trigger: Trigger
    asked: dict[str, Choice] = field(default_factory=dict)
    gave_up: set[str] = field(default_factory=set)
    choices: dict[str, Choice] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    fusing: bool = False
    taken: bool = False
    held: list[tuple[Track, Item]] = field(default_factory=list)

    @property
    def items(self) -> dict[str, Item | None]:
        """What the fusion is to be run on."""
        return {name: choice.item for name, choice in self.choices.items()}


class Core:
    """See the module.

    Args:
        tracks: by modality, in the manifest's order.
        triggers: modalities whose samples trigger.
        deadline: seconds from a trigger to its result; None: none.
        keep: results that wait to be fetched.
    """

    def __init__(
        self,
        tracks: Mapping[str, Track],
        triggers: frozenset[str],
        *,
        deadline: float | None,
        keep: int,
    ) -> None:
        self.tracks = tracks
        self.results: deque[Result] = deque()
        self.closed = False
        self._triggering = triggers
        self._deadline = deadline
        self._keep = keep
        self._predictor = Predictor()
        self._active: Active | None = None
        self._waiting: Trigger | None = None
        self._good: tuple[Result, float] | None = None
        self._made = self._triggers = self._superseded = self._orphaned = 0
        self._stale = self._empty = self._missed = self._lost = 0

    def push(
        self, name: str, sample: Sample, fault: str | None, now: float, *, lying: bool
    ) -> None:
        """Take in a sample that :meth:`Track.receive` describes, and start what it triggers."""
        track = self.tracks[name]
        for item in track.receive(sample, fault, lying=lying):
            if name in self._triggering:
                self.fire(Trigger(item.t, track, item), now)

    def tick(self, t: float, missed: int, now: float) -> None:
        """A timer's tick; ``missed`` earlier ones passed while nobody could look."""
        self._triggers += missed
        self._superseded += missed
        self.fire(Trigger(t), now)

    def fire(self, trigger: Trigger, now: float) -> None:
        """Start on a trigger, or let it wait for the one at work."""
        self._triggers += 1
        if trigger.track is not None and trigger.item is not None:
            trigger.track.ledger.hold(trigger.item.samples)
        if self._waiting is not None:
            self._superseded += 1
            self._let_go(self._waiting)
        self._waiting = trigger
        self._proceed(now)

    def _let_go(self, trigger: Trigger, reason: str = "superseded") -> None:
        if trigger.track is not None and trigger.item is not None:
            trigger.track.ledger.release(trigger.item.samples, reason)

    def _proceed(self, now: float) -> None:
        """Do what can be done without computing."""
        while True:
            if self._active is None:
                if self._waiting is None:
                    return
                trigger, self._waiting = self._waiting, None
                self._begin(trigger, now)
            if self._active is not None and (self._active.fusing or not self._gather(now)):
                return

    def _begin(self, trigger: Trigger, now: float) -> None:
        if self._deadline is not None and self._good is not None:
            expected = self._predictor.estimate()
            if expected is not None and expected > self._deadline:
                self._repeat(trigger, expected, now)
                return
        self._active = active = Active(trigger)
        for track in self.tracks.values():
            if trigger.track is track and trigger.item is not None:
                absent = track.why_absent(trigger.item, trigger.t, own=True)
                choice = Choice(trigger.item, absent)
            elif track.lazy:
                choice = Choice(*track.choose(trigger.t))
            else:
                continue
            if choice.absent is not None and not track.repeats:
                choice = Choice(None, choice.absent)
            if choice.item is not None:
                track.ledger.hold(choice.item.samples)
                active.held.append((track, choice.item))
                track.submit(choice.item)
            active.asked[track.name] = choice

    def _gather(self, now: float) -> bool:
        """Begin to fuse if nothing is to be waited for; say whether the trigger is done with."""
        active = self._active
        if active is None:
            return True
        choices: dict[str, Choice] = {}
        for track in self.tracks.values():
            choice = self._choose(active, track)
            if choice is None:
                continue
            if choice.absent is not None and track.required:
                self._finish_empty(active, track, choice.absent, now)
                return True
            choices[track.name] = choice
        if len(choices) < len(self.tracks):
            return False
        conflict = self._merge_sizes(active, choices)
        for name, choice in choices.items():
            self.tracks[name].conclude(choice.absent)
        active.choices = choices
        if conflict is not None:
            self._deliver(active, None, conflict, now)
            self._end(active)
            return True
        for name, choice in choices.items():
            if choice.item is not None:
                self.tracks[name].ledger.hold(choice.item.samples)
                active.held.append((self.tracks[name], choice.item))
        active.fusing = True
        return False

    def _choose(self, active: Active, track: Track) -> Choice | None:
        """What stands for a modality; None: that is to be waited for."""
        t = active.trigger.t
        asked = active.asked.get(track.name)
        if asked is not None:
            if asked.item is None or asked.item.state is State.READY:
                return asked
            if asked.item.state is not State.FAILED:
                return None
        absent = track.why_absent(track.ready, t)
        if absent is None:
            return Choice(track.ready, None)
        if asked is None and track.name not in active.gave_up and track.in_flight(t):
            return None
        if asked is not None:
            absent = f"encoder_error: {track.last_error}"
        return Choice(track.ready if track.repeats else None, absent)

    def _merge_sizes(self, active: Active, choices: dict[str, Choice]) -> str | None:
        """Collect the sizes of what is used; say where two modalities disagree."""
        owner: dict[str, str] = {}
        # Old values that stand in come last, and give way to what is present.
        for name, choice in sorted(choices.items(), key=lambda pair: pair[1].absent is not None):
            if choice.item is None:
                continue
            sizes = choice.item.sizes
            clash = [s for s in sizes if active.sizes.get(s, sizes[s]) != sizes[s]]
            if clash and choice.absent is not None:
                choices[name] = Choice(None, choice.absent)
            elif clash:
                symbol = clash[0]
                return (
                    f"dimension {symbol!r} is {active.sizes[symbol]} in modality "
                    f"{owner[symbol]!r} and {sizes[symbol]} in {name!r}; push values of one size"
                )
            else:
                active.sizes.update(sizes)
                owner.update((symbol, name) for symbol in sizes if symbol not in owner)
        return None

    def _finish_empty(self, active: Active, missing: Track, why: str, now: float) -> None:
        active.choices = {missing.name: Choice(None, why)}
        self._deliver(active, None, f"required modality {missing.name!r} is absent: {why}", now)
        self._end(active)

    def _end(self, active: Active) -> None:
        """Let go of what the active trigger held."""
        for track, item in active.held:
            item.pinned = False
            if track.lazy:
                track.withdraw(item, "superseded")
            track.ledger.release(item.samples, "superseded")
        self._let_go(active.trigger)
        self._active = None

    # Work that the driver takes and brings back.

    def fusion(self) -> Active | None:
        """The fusion to run now, handed out once."""
        if self._active is None or not self._active.fusing or self._active.taken:
            return None
        self._active.taken = True
        return self._active

    def fused(
        self, active: Active, outputs: Mapping[str, Array] | None, message: str, now: float
    ) -> None:
        """Take the outputs of a fusion, or the message of what went wrong."""
        if self.closed:
            return
        self._deliver(active, outputs, message and f"fusion failed: {message}", now)
        self._end(active)
        self._proceed(now)

    def encoded(self, track: Track, item: Item, outcome: Encoded, now: float) -> None:
        """Take the outcome of an encoding."""
        if self.closed:
            return
        if outcome.features is not None:
            track.finish(item, outcome.features, skipped=outcome.skipped)
        else:
            track.fail(item, outcome.message)
            if self._active is not None:
                self._active.gave_up.add(track.name)
        self._proceed(now)

    # Results.

    def _deliver(
        self, active: Active, outputs: Mapping[str, Array] | None, reason: str, now: float
    ) -> None:
        t = active.trigger.t
        samples: dict[str, tuple[Used, ...]] = {}
        ages: dict[str, float | None] = dict.fromkeys(self.tracks)
        for name, choice in active.choices.items():
            if choice.item is not None:
                ages[name] = t - choice.item.t
                samples[name] = tuple(Used(s.seq, s.t) for s in choice.item.samples)
                if outputs is not None:
                    self.tracks[name].ledger.use(choice.item.samples)
        absent = {n: c.absent for n, c in active.choices.items() if c.absent is not None}
        result = self._result(outputs, t, now, ages, samples, absent, reason, fresh=not reason)
        if outputs is None:
            self._empty += 1
        else:
            self._good = result, t
            self._predictor.observe(now - t)
        self._put(result)

    def _repeat(self, trigger: Trigger, expected: float, now: float) -> None:
        """Deliver the last good outputs again, because new ones would be late."""
        if self._good is None or self._deadline is None:
            return
        last, since = self._good
        reason = (
            f"deadline: a result is expected to take {expected:.6g} s, {self._deadline:.6g} s are "
            f"allowed; these are the outputs of t={since:.6g} s"
        )
        ages = {
            name: None if age is None else age + trigger.t - since
            for name, age in last.ages.items()
        }
        if trigger.track is not None and trigger.item is not None:
            trigger.track.ledger.condemn(trigger.item.samples, "deadline")
            trigger.track.withdraw(trigger.item, "deadline")
        self._let_go(trigger, "deadline")
        self._predictor.relax()
        self._stale += 1
        self._put(
            self._result(
                last.outputs,
                trigger.t,
                now,
                ages,
                last.samples,
                last.absent,
                reason,
                fresh=False,
            )
        )

    def _result(
        self,
        outputs: Mapping[str, Array] | None,
        t: float,
        now: float,
        ages: Mapping[str, float | None],
        samples: Mapping[str, tuple[Used, ...]],
        absent: Mapping[str, str],
        reason: str,
        *,
        fresh: bool,
    ) -> Result:
        dropped = {name: track.ledger.since_last() for name, track in self.tracks.items()}
        return Result(
            outputs=outputs,
            t=t,
            made=now,
            latency=now - t,
            ages=ages,
            samples=samples,
            absent=absent,
            dropped={name: counts for name, counts in dropped.items() if counts},
            fresh=fresh,
            met=None if self._deadline is None else now - t <= self._deadline,
            reason=reason,
        )

    def _put(self, result: Result) -> None:
        self._made += 1
        self._missed += result.met is False
        self.results.append(result)
        if len(self.results) > self._keep:
            self.results.popleft()
            self._lost += 1

    def close(self) -> None:
        """Let go of everything; nothing changes any more after this."""
        if self.closed:
            return
        self.closed = True
        triggers = [] if self._waiting is None else [self._waiting]
        if self._active is not None:
            triggers.append(self._active.trigger)
            for track, item in self._active.held:
                track.ledger.release(item.samples, "closed")
        for trigger in triggers:
            self._orphaned += 1
            self._let_go(trigger, "closed")
        self._waiting = self._active = None
        for track in self.tracks.values():
            track.clear("closed")

    def health(self, now: float) -> Health:
        """The counters, and the presence of each modality at this moment."""
        modalities: dict[str, ModalityHealth] = {}
        for name, track in self.tracks.items():
            absent = track.why_absent(track.newest(), now)
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
            )
        return Health(
            modalities=modalities,
            triggers=self._triggers,
            triggers_superseded=self._superseded,
            triggers_closed=self._orphaned,
            triggers_pending=(self._active is not None) + (self._waiting is not None),
            results=self._made,
            stale=self._stale,
            empty=self._empty,
            deadline_misses=self._missed,
            results_dropped=self._lost,
            latency_p95=self._predictor.estimate(),
        )
