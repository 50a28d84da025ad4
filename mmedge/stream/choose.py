"""What stands for each modality in the result of a trigger, and what is waited for until then."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from mmedge.stream.jumps import NO_JUMPS, Jumps
from mmedge.stream.sample import Item, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.constraints import Relations
    from mmedge.spec import Array
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Network
    from mmedge.stream.state_sequence import Turn

__all__ = ["Active", "Choice", "Chooser", "Trigger", "merge_sizes"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What stands for a modality: an item, or None for its stand-in; and why it is absent.

    ``stands_in``: the item, within its age, replaces one that could not be encoded.
    ``note`` is what a reader of the result should know of a modality that is present.
    """

    item: Item | None
    absent: str | None
    stands_in: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A reason to make a result: a tick, or an item of a modality that just came.

    ``arrival`` is when it came. ``begin`` is what its latency counts from: ``t``, or its arrival
    where that was earlier or the source's clock was set to another time.

    ``jumps`` are those that the stream's time made ahead since it came. What they span never
    passed, so ``arrival`` and ``begin`` are moved by them; ``t`` is not, which is compared with the
    stamps of what came before.
    """

    t: float
    arrival: float
    begin: float
    track: ModalityState | None = None
    item: Item | None = None
    jumps: Jumps = NO_JUMPS

    def follow_clock(self, within: float, ahead: float) -> Trigger:
        """The same after a jump ``ahead`` in seconds; ``within`` is a time in the jump."""
        return replace(
            self,
            arrival=self.arrival + ahead,
            begin=self.begin + ahead,
            jumps=self.jumps.add(within, ahead),
        )


@dataclass(slots=True)
class Active:
    """The trigger at work. ``requests`` are items it waits for; once fusing, ``choices`` is whole.

    ``patience`` is the time until which it waits for optional modalities (None: not known),
    ``until`` that until which it waits for what a policy's ``wait_ms`` asks for, by modality, and
    ``alarm`` the first of these while it does wait. ``cold``: a stage runs for the first time, or a
    clock was set meanwhile, so that its latency says nothing of those to come. ``turns``: of each
    fusion stage with state, once fusing. ``first_step`` is when the first step of a loop ended.
    ``network`` is the one that fuses it.
    """

    trigger: Trigger
    patience: float | None
    alarm: float | None = None
    cold: bool = False
    begun: float = 0.0
    requests: dict[str, Choice] = field(default_factory=dict)
    until: dict[str, float] = field(default_factory=dict)
    gave_up: set[str] = field(default_factory=set)
    choices: dict[str, Choice] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    fusing: bool = False
    handed_out: bool = False
    holds: list[tuple[ModalityState, Item]] = field(default_factory=list)
    turns: dict[str, Turn] = field(default_factory=dict)
    first_step: float | None = None
    network: Network | None = None

    def wake_at(self, time: float) -> None:
        """Set the alarm, unless it rings before that."""
        self.alarm = time if self.alarm is None else min(self.alarm, time)

    def follow_clock(self, within: float, ahead: float) -> None:
        """Go on after a jump ``ahead`` in seconds as if there had been none."""
        self.trigger = self.trigger.follow_clock(within, ahead)
        self.begun += ahead
        self.first_step = None if self.first_step is None else self.first_step + ahead
        self.until = {name: until + ahead for name, until in self.until.items()}
        self.patience = None if self.patience is None else self.patience + ahead
        self.alarm = None if self.alarm is None else self.alarm + ahead

    @property
    def items(self) -> dict[str, Item | None]:
        """What the fusion is to be run on."""
        return {name: choice.item for name, choice in self.choices.items()}

    @property
    def states(self) -> dict[str, Mapping[str, Array]]:
        """What the fusion's stages take of states, by stage."""
        return {name: turn.states[name] for name, turn in self.turns.items() if name in turn.states}


class Chooser:
    """Chooses for the trigger at work; it keeps nothing of it.

    Args:
        has_deadline: whether results have a deadline, which optional modalities must not risk.
        has_many_triggers: whether several modalities trigger, so that waiting for the sample of one
            holds up the others.
    """

    def __init__(self, *, has_deadline: bool, has_many_triggers: bool) -> None:
        self._has_deadline, self._has_many_triggers = has_deadline, has_many_triggers

    def begin(self, active: Active, track: ModalityState, now: float) -> None:
        """Ask a modality for what its policy chooses, or find that it is to be waited for."""
        trigger = active.trigger
        until = self._until(active, track) if track.wait else -inf
        if trigger.track is track and trigger.item is not None:
            absent = track.why_absent(trigger.item, trigger.t, is_trigger=True)
            self._ask(active, track, Choice(trigger.item, absent))
        elif track.lazy and now < until and not track.is_settled(trigger.t):
            active.until[track.name] = until
        elif track.lazy:
            self._ask(active, track, self._choose_now(active, track))
        elif now < until and (newest := track.unready(trigger.t)) is not None:
            active.until[track.name] = until
            self._ask(active, track, Choice(newest, None))

    def choose(self, active: Active, track: ModalityState, now: float) -> Choice | None:
        """What stands for a modality; None: that is to be waited for."""
        t = active.trigger.t
        until = active.until.get(track.name)
        if until is not None and self._is_awaited(active, track):
            if now < until:
                active.wake_at(until)
                return None
            # What is ready, or below what a history has now.
            active.requests.pop(track.name, None)
        if until is not None and track.lazy and track.name not in active.requests:
            self._ask(active, track, self._choose_now(active, track))
        request = active.requests.get(track.name)
        if request is not None:
            if request.item is None or request.item.progress is Progress.READY:
                return request
            if request.item.progress is Progress.FAILED:
                return self._choose_failed(track, t, request.item.error)
            # Where a policy matches samples in time, none but the one asked for will do.
            instead = None if track.matches_times else track.ready
            end = track.expected_end(request.item, now)
            if self._waits(active, track, end, now, instead=instead):
                return None
            older = track.older(t)
            if older is not None:
                note = (
                    "an older value: the results would have to wait for the encoding of the newest"
                )
                return Choice(older, None, note=note)
            if self._has_deadline:
                return self._choose_late(track, "deadline: its encoding would take too long")
            why = track.why_absent(track.ready, t) or "late"
            running = f"its encoder has run for {now - track.started:.6g} s"
            return self._choose_late(track, f"{why}; {running}")
        absent = track.why_absent(track.ready, t)
        if absent is None and track.encoder_error is None:
            late = until is not None and track.unready(t) is not None
            note = f"a newer one was still being encoded after {track.wait:.6g} s" if late else ""
            return Choice(track.ready, None, note=note)
        due = None if track.name in active.gave_up else track.due(t, now)
        if due is not None and self._waits(active, track, due, now, instead=track.ready):
            return None
        if track.encoder_error is not None:
            return self._choose_failed(track, t, track.encoder_error)
        still = "" if due is None else "; a newer one is still being encoded"
        return self._choose_late(track, f"{absent}{still}")

    def _is_awaited(self, active: Active, track: ModalityState) -> bool:
        """Whether what ``wait_ms`` is for has not come yet."""
        request = active.requests.get(track.name)
        if request is not None:
            unready = (Progress.NEW, Progress.QUEUED, Progress.RUNNING)
            return not track.lazy and request.item is not None and request.item.progress in unready
        return track.lazy and not track.is_settled(active.trigger.t)

    def _waits(
        self, active: Active, track: ModalityState, due: float, now: float, *, instead: Item | None
    ) -> bool:
        """Whether to wait for an encoding that is expected to be done at ``due``.

        An optional modality must not set the rate of results: it is waited for while the deadline
        is not at risk; without a deadline, for one period of the trigger, and where there is
        nothing to take ``instead``, until its encoder seems to hang. So is the sample that
        triggered, unless others trigger, too, and have a deadline.
        """
        if track.required:
            return True
        if track.encoder_error is not None and track.name not in active.requests:
            return False
        if self._has_deadline:
            by_patience = self._has_many_triggers or active.trigger.track is not track
        else:
            by_patience = instead is not None and active.trigger.track is not track
        limit = active.patience if by_patience else track.overdue(now)
        if limit is None or now >= limit or (by_patience and due > limit):
            return False
        active.wake_at(limit)
        return True

    def _choose_late(self, track: ModalityState, absent: str) -> Choice:
        return Choice(track.ready if track.repeats else None, absent)

    def _choose_failed(self, track: ModalityState, t: float, message: str) -> Choice:
        """What stands for a modality that could not be encoded."""
        absent = f"encoder_error: {message}"
        last_good = track.last_good(t)
        if last_good is None:
            return self._choose_late(track, absent)
        age = f"its last good value stands in, age {track.age(last_good, t):.6g} s"
        return Choice(last_good, f"{absent}; {age}", stands_in=True)

    def _until(self, active: Active, track: ModalityState) -> float:
        """How long to wait for what a policy's ``wait_ms`` asks for."""
        until = active.trigger.arrival + track.wait
        if not self._has_deadline or active.patience is None or track.required:
            return until
        return min(until, active.patience)

    def _choose_now(self, active: Active, track: ModalityState) -> Choice:
        item, absent, note = track.choose(active.trigger.t)
        return Choice(item, absent, note=note)

    def _ask(self, active: Active, track: ModalityState, choice: Choice) -> None:
        """Settle what is to stand for a modality, and see to it that it is encoded."""
        if choice.absent is not None and not track.repeats:
            choice = Choice(None, choice.absent)
        if track.encoder_error is not None and choice.item in (None, track.ready):
            # Nothing is encoded for this trigger that could show the encoder to be well.
            choice = self._choose_failed(track, active.trigger.t, track.encoder_error)
        if choice.item is not None:
            track.items.hold(choice.item)
            active.holds.append((track, choice.item))
            track.submit(choice.item)
        active.requests[track.name] = choice


def merge_sizes(active: Active, choices: dict[str, Choice], relations: Relations) -> str | None:
    """Collect the sizes of what is used; say where two modalities do not go together."""
    owner: dict[str, str] = {}
    # Old values that stand in come last, and give way to what is present.
    for name, choice in sorted(choices.items(), key=lambda pair: pair[1].absent is not None):
        if choice.item is None:
            continue
        sizes = choice.item.sizes
        clash = [s for s in sizes if active.sizes.get(s, sizes[s]) != sizes[s]]
        has_relations = relations.any and not clash
        fault = relations.fault(active.sizes | dict(sizes)) if has_relations else None
        if (clash or fault) and choice.absent is not None:
            choices[name] = Choice(None, choice.absent)
        elif clash:
            symbol = clash[0]
            return (
                f"dimension {symbol!r} is {active.sizes[symbol]} in modality "
                f"{owner[symbol]!r} and {sizes[symbol]} in {name!r}; push values of one size"
            )
        elif fault:
            return fault
        else:
            active.sizes.update(sizes)
            owner.update((symbol, name) for symbol in sizes if symbol not in owner)
    return None
