"""One modality in a stream: what has come, what is being encoded, what is ready.

Not thread-safe; the stream's lock is held around every call. It is long, because every change of
what a modality holds has to keep the one account of its samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.stream.history import History
from mmedge.stream.interpolation import blend
from mmedge.stream.jumps import NO_JUMPS, Jumps
from mmedge.stream.latency_predictor import LatencyPredictor
from mmedge.stream.policies import Exact, Hold, Interpolate, Policy, Window
from mmedge.stream.presence import Presence
from mmedge.stream.ring import Ring
from mmedge.stream.sample import (
    SLACK,
    Item,
    ItemAccounting,
    Progress,
    SampleAccounting,
    StreamSample,
)
from mmedge.stream.source_clock import SourceClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array, Modality, Stage, TensorSpec
    from mmedge.stream.state_sequence import StateSequence

__all__ = ["ModalityState"]

#: An encoding that takes longer than this many seconds, and than so many times what 95 % of those
#: before it took, is taken to hang.
HANG, HANG_RATIO = 1.0, 3.0
NO_SAMPLE = "no sample yet"


class ModalityState:
    """Holdings and presence of one modality.

    Args:
        modality: its contract.
        policy: which samples stand for it at a trigger.
        specs: its inputs.
        stages: its encoder's stages in order; none where the fusion takes its inputs themselves.
        lazy: encoded at the trigger and not on arrival.
        sequence: of its encoder's states; None where it has none.
        depth: samples of a history, and values that wait for an encoder with state.
        future: seconds that a stamp may be ahead of now.
        recover_after: good samples after which a lost optional modality is back.
    """

    def __init__(
        self,
        modality: Modality,
        policy: Policy,
        specs: Mapping[str, TensorSpec],
        stages: tuple[Stage, ...],
        *,
        lazy: bool,
        sequence: StateSequence | None,
        depth: int,
        future: float,
        recover_after: int,
    ) -> None:
        self.name = modality.name
        self.required = modality.required
        self.repeats = modality.absent == "last" and not modality.required
        self.policy = policy
        self.stages = stages
        self.lazy = lazy
        self.sequence = sequence
        self._depth = depth
        policy_limit_ms = (
            policy.max_age_ms if isinstance(policy, Hold | Interpolate | Window) else None
        )
        limit_ms = policy_limit_ms if policy_limit_ms is not None else modality.max_age_ms
        #: Farthest in seconds that what is used may lie from the trigger's time; None: any.
        self.limit = None if limit_ms is None else limit_ms / 1000.0
        #: Seconds that a trigger waits for what its policy asks for.
        self.wait = 0.0 if isinstance(policy, Window) else policy.wait_ms / 1000.0
        self.ledger = SampleAccounting()
        self.encodes = self.skipped = self.errors = self.jumps = 0
        #: How the stream's clock was set ahead since the trigger at work came.
        self.jumps_ahead: Jumps = NO_JUMPS
        self.last_error = ""
        #: Message of the newest run of the encoder where that failed; None: it gave features.
        self.encoder_error: str | None = None
        #: When the encoding under way was begun, in seconds, and how long encodings take.
        self.started = 0.0
        self.encoding = LatencyPredictor()
        self.ready: Item | None = None  # the newest whose features are there
        self.missing = NO_SAMPLE  # why there is none, if no more is known
        self.sensor = Presence(required=self.required, recover_after=recover_after)
        self._clock = SourceClock(self.limit, future)
        self._history: History | None = None
        self._ring: Ring | None = None
        #: What became of each window; None where there are none.
        self.windows: SampleAccounting | None = None
        if isinstance(policy, Exact | Interpolate):
            self._history = History(policy, self.limit, depth, modality.rate_hz)
        elif isinstance(policy, Window):
            rows_hz = policy.rate_hz or modality.sample_rate_hz
            self._ring = Ring(policy, specs, rows_hz=rows_hz, chunks_hz=modality.rate_hz)
            self.windows = SampleAccounting()
        self.items = ItemAccounting(self.ledger, self.windows)
        self._turns = policy.turns_of(specs) if isinstance(policy, Interpolate) else {}
        #: Of a lazy modality, what came with the newest sample: one item, or a chunk's windows.
        self.newest: list[Item] = []
        self.queue: list[Item] = []
        self.running: Item | None = None
        self.epoch = 0
        #: Why the last epoch ended.
        self._ended_by = ""

    # What comes in.

    @property
    def row_axes(self) -> Mapping[str, int] | None:
        """The axis of the rows of a chunk by input; None where pushes bring whole values."""
        return None if self._ring is None else self._ring.axes

    @property
    def behind(self) -> float:
        """Seconds by which its source's clock was set back, and is behind since."""
        return self._clock.lag

    def stamp_fault(self, t: float, now: float) -> str | None:
        """Why a sample of this stamp is refused whatever it holds; None: it is not."""
        fault = self._clock.fault(t, now)
        if fault is None and self._history is not None and t in self._history:
            # Of a clock that was set back, stamps may come again.
            return None if self._clock.is_set_back(t, now) else "duplicate"
        return fault

    def receive(self, sample: StreamSample, fault: str | None, *, lying: bool) -> list[Item]:
        """Take in a sample, or drop it; return what may trigger, oldest first.

        ``fault`` says why it is bad, and ``lying`` that this is about its content.
        """
        if fault is not None:
            if fault != "duplicate":
                self.sensor.note_problem(fault, lying=lying)
            if not lying:
                self._clock.suspect(sample.t, sample.arrival)
            self._refuse(sample, fault)
            return []
        if self._clock.newest is None or sample.t > self._clock.newest:
            self._clock.accept(sample.t, sample.arrival)
            return self._accept(sample)
        if self._clock.is_set_back(sample.t, sample.arrival):
            return self._restart(sample)
        self._clock.suspect(sample.t, sample.arrival)
        if self._history is None:
            self._refuse(sample, "out_of_order")
        elif self._history.is_useful(sample):
            self._insert(self._history, sample)
        else:
            self._refuse(sample, "late")
        return []

    def _refuse(self, sample: StreamSample, reason: str) -> None:
        if self._ring is not None and not self._ring.repeats(sample):
            # A window over the gap would join what was not one after the other.
            self._begin_window_anew(f"a chunk was dropped as {reason}", reason)
        elif self._ring is None and reason != "duplicate":
            self._miss(1, reason)
        self.ledger.drop(sample, reason)
        if reason != "duplicate":
            self.sensor.refusal = f"its newest sample was dropped: {reason}"

    def _accept(self, sample: StreamSample) -> list[Item]:
        if self._history is not None:
            self._insert(self._history, sample)
            return [self._item(sample)]
        self.sensor.note_good()
        items, gone = [self._item(sample)], list[StreamSample]()
        if self._ring is not None:
            items, gone = self._cut_windows(self._ring, sample)
        if items and self.lazy:
            self._replace_newest(items, "superseded")
        elif items:
            if self.sequence is None:
                self._drop_queue("superseded")
            for item in items:
                self._enqueue(item)
            if self.sequence is not None:
                self._miss(self._trim_queue(max(self._depth, len(items))), "queue_full")
        # Not before the windows that they are part of are held.
        self.ledger.release(gone, "superseded")
        return items

    def _item(self, sample: StreamSample) -> Item:
        values, key = sample.values, (sample.seq,)
        return Item((sample,), sample.t, sample.t, sample.sizes, lambda: values, key, self.epoch)

    def _cut_windows(
        self, ring: Ring, sample: StreamSample
    ) -> tuple[list[Item], list[StreamSample]]:
        """The windows that end in a chunk, oldest first, and the chunks that no later one needs."""
        gap = ring.gap(sample)
        if gap is not None:
            self._begin_window_anew(gap, "gap")
        self.ledger.hold((sample,))
        windows, gone, left_out = ring.add(sample)
        sizes = {**sample.sizes, **ring.sizes}
        items: list[Item] = []
        for window in windows:
            key = ("window", sample.seq, len(items))
            fields = window.samples, window.first_t, window.last_t, sizes, window.build, key
            items.append(Item(*fields, self.epoch, first_row=window.first_row))
        if self.windows is not None:
            self.windows.skip(left_out, "queue_full")
            self._miss(left_out, "queue_full")
            for _ in items:
                self.windows.take()
        return items, gone

    def _begin_window_anew(self, why: str, reason: str) -> None:
        if self._ring is not None:
            self.ledger.release(self._ring.clear(why), "gap")
            # How many windows the rows would have made, nobody can tell.
            self._miss(1, reason)

    def _miss(self, count: int, reason: str) -> None:
        """Note values that its encoder's state will not take."""
        if self.sequence is not None:
            self.sequence.miss(count, reason)

    def _insert(self, history: History, sample: StreamSample) -> None:
        self.sensor.note_good()
        self.ledger.hold((sample,))
        oldest = history.insert(sample)
        if oldest is not None:
            self.ledger.release((oldest,), "queue_full")

    def _restart(self, sample: StreamSample) -> list[Item]:
        """Begin a new history: the source's clock was set back."""
        self.jumps += 1
        self._miss(self._drop_queue("clock_jump"), "clock_jump")
        self._clear("clock_jump", "its source's clock was set back", keep=self._clock.suspects)
        if self.sequence is not None:
            self.sequence.jump()
        self._clock.restart(sample.t, sample.arrival)
        return self._accept(sample)

    def _clear(
        self, reason: str, why: str, *, keep: frozenset[tuple[float, float]] = frozenset()
    ) -> None:
        self._drop_queue(reason)
        self._replace_newest([], reason)
        self.ready, self.missing = self._replace(self.ready, None, reason), NO_SAMPLE
        if self._history is not None:
            self.ledger.release(self._history.clear(keep), reason)
        if self._ring is not None:
            self.ledger.release(self._ring.clear(why), reason)
        self._clock.clear()
        self.epoch += 1
        self._ended_by = reason

    def forget(self, reason: str, problem: str | None = None) -> None:
        """Begin as if nothing had come; ``problem`` is why it is absent until something does."""
        self._drop_queue(reason, with_pinned=True)
        self._clear(reason, f"the stream was told to forget ({reason})")
        if self.sequence is not None:
            self.sequence.restart()
        self.encoder_error = None
        self.sensor.begin(problem)

    def close(self) -> None:
        """Let go of everything; nothing comes any more."""
        self._drop_queue("closed", with_pinned=True)
        if self.running is not None:
            self.items.release(self.running, "closed")
            self.running = None
        self._clear("closed", "the stream was closed")

    def _replace(
        self, old: Item | None, new: Item | None, reason: str = "superseded"
    ) -> Item | None:
        """Hold ``new`` where ``old`` was held."""
        if new is not None:
            self.items.hold(new)
        if old is not None:
            self.items.release(old, reason)
        return new

    def _replace_newest(self, items: list[Item], reason: str) -> None:
        for item in items:
            self.items.hold(item)
        for item in self.newest:
            self.items.release(item, reason)
        self.newest = items

    # The encoder.

    def _enqueue(self, item: Item) -> None:
        self.items.hold(item)
        item.progress = Progress.QUEUED
        self.queue.append(item)

    def _drop_queue(self, reason: str, *, with_pinned: bool = False) -> int:
        """Drop what waits to be encoded; how many items that were."""
        items = [item for item in self.queue if with_pinned or not item.pinned]
        for item in items:
            self._dequeue(item, reason)
        return len(items)

    def _trim_queue(self, most: int) -> int:
        """Drop the oldest of more than ``most`` items; how many that were.

        No trigger waits for one of them: one that waits is of the newest, or has it pinned.
        """
        unpinned = [item for item in self.queue if not item.pinned]
        items = unpinned[: max(0, len(self.queue) - most)]
        for item in items:
            self._dequeue(item, "queue_full")
        return len(items)

    def _dequeue(self, item: Item, reason: str) -> None:
        self.queue.remove(item)
        item.progress = Progress.NEW
        self.items.release(item, reason)

    def withdraw(self, item: Item, reason: str) -> None:
        """Take an item whose encoding has not begun out of the queue: no trigger needs it any more.

        An encoder with state takes it all the same.
        """
        if item in self.queue and self.sequence is None:
            self._dequeue(item, reason)

    def submit(self, item: Item) -> None:
        """See to it that an item that a trigger waits for is encoded."""
        item.pinned = True
        if not self.stages:
            item.progress = Progress.READY
        elif item.progress is Progress.NEW:
            self._enqueue(item)

    def follow_clock(self, ahead: float) -> None:
        """Go on timing what is under way after a jump of the time, in seconds."""
        self.started += ahead
        if self.sequence is not None:
            self.sequence.follow_clock(ahead)

    def next_job(self, now: float) -> Item | None:
        """The item to encode now; None while there is none or one is being encoded."""
        if self.running is not None or not self.queue:
            return None
        self.running = self.queue.pop(0)
        self.running.progress = Progress.RUNNING
        if self.sequence is not None:
            self.running.turn = self.sequence.begin(self.running.end)
        self.started = now
        return self.running

    def finish(
        self,
        item: Item,
        features: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Array]],
        now: float,
        *,
        skipped: bool,
    ) -> None:
        """Note that an encoding is done; ``skipped``: the content was that of the one before."""
        self.running = None
        turn = item.turn
        if self.sequence is not None and turn is not None and self.sequence.finish(turn, states):
            # Whether a result uses its features or not, those after it depend on it.
            self.items.use(item)
        item.features = features
        item.progress = Progress.READY
        self.encoder_error = None
        if skipped:
            self.skipped += 1
        else:
            self.encodes += 1
            self.encoding.observe(now - self.started)
        if item.epoch == self.epoch:
            self.ready, self.missing = self._replace(self.ready, item), NO_SAMPLE
        # Of this epoch it is held as ready now, and the reason has no effect.
        self.items.release(item, self._ended_by)

    def fail(self, item: Item, message: str) -> None:
        """Note that an encoding failed."""
        self.running = None
        item.progress = Progress.FAILED
        item.error = message
        self.errors += 1
        self.last_error = message
        if self.sequence is not None and item.turn is not None:
            self.sequence.fail(item.turn, "encoder_error")
        if item.epoch == self.epoch:
            self.encoder_error = message
            self.sensor.note_problem(f"encoder_error: {message}", lying=False)
        if len(item.samples) == 1:
            self.items.condemn(item, "encoder_error")
            if item in self.newest:
                self.newest.remove(item)
                self.items.release(item, "encoder_error")
            if self._history is not None and self._history.discard(item.samples[0]):
                self.ledger.release(item.samples, "encoder_error")
        self.items.release(item, "encoder_error")

    def drop_ended(self, item: Item) -> None:
        """Let go of an item of an epoch that has ended, whose encoding is void."""
        item.progress = Progress.NEW
        if self.sequence is not None and item.turn is not None:
            self.sequence.fail(item.turn, self._ended_by)
        self.items.release(item, self._ended_by)

    # What goes out.

    def choose(self, t: float) -> tuple[Item | None, str | None, str]:
        """For a lazy modality: what stands for it at a trigger's time, why it is absent, a note.

        With an item and a reason for absence, the item is an old value that may stand in.
        """
        item, why, note = None, None, ""
        if self._history is not None:
            pick = self._history.pick(t)
            note = pick.note
            if pick.samples:
                item = self._mix(*pick.samples, t=t)
            elif self._history.samples:
                item = self._item(self._history.samples[-1])
                why = f"{pick.absent}{self._after_problem()}"
        elif self.newest:
            item = self.newest[-1]
        if item is not None and self.ready is not None and item.key == self.ready.key:
            item = self.ready
        absent = self.why_absent(item, t)
        return item, why or absent, note

    def _mix(self, before: StreamSample, after: StreamSample | None = None, *, t: float) -> Item:
        """An item of one sample, or of two, interpolated for time ``t``."""
        if after is None:
            return self._item(before)
        weight = (t - before.t) / (after.t - before.t)

        def build() -> dict[str, Any]:
            return {
                name: blend(value, after.values[name], weight, *self._turns.get(name, ()))
                for name, value in before.values.items()
            }

        samples, key = (before, after), (before.seq, after.seq, t)
        return Item(samples, before.t, after.t, before.sizes, build, key, self.epoch)

    def is_settled(self, t: float) -> bool:
        """Whether waiting for more samples would be of no use for a trigger's time ``t``."""
        return self._history is None or self._history.is_settled(t)

    def unready(self, t: float) -> Item | None:
        """The newest sample's item if it would do at time ``t`` but is still being encoded."""
        under_way = self._under_way()
        if self.lazy or not under_way:
            return None
        newest = under_way[-1]
        usable = newest.epoch == self.epoch and self.why_absent(newest, t) is None
        return newest if usable else None

    def due(self, t: float, now: float) -> float | None:
        """When the first item that would do at a trigger's time ``t`` is expected to be encoded.

        None: none is under way. Before any encoding was timed, they are taken to take no time.
        """
        for item in self._under_way():
            if item.epoch == self.epoch and self.why_absent(item, t) is None:
                return self.expected_end(item, now)
        return None

    def expected_end(self, item: Item, now: float) -> float:
        """When an item whose encoding is under way is expected to be done, in seconds."""
        took = self.encoding.estimate() or 0.0
        return self._begun(now) + took * (self._under_way().index(item) + 1)

    def overdue(self, now: float) -> float:
        """From when on the encoder must be taken to hang, in seconds."""
        return self._begun(now) + max(HANG, HANG_RATIO * (self.encoding.estimate() or 0.0))

    def _begun(self, now: float) -> float:
        """When the encoding under way was begun; now, where the next is just about to be."""
        return now if self.running is None else self.started

    def _under_way(self) -> list[Item]:
        return ([] if self.running is None else [self.running]) + self.queue

    @property
    def matches_times(self) -> bool:
        """Whether its policy chooses by time, and not what is newest."""
        return self._history is not None

    def older(self, t: float) -> Item | None:
        """The newest encoded item where it would do at time ``t`` in place of one that is not."""
        if self.matches_times or self.encoder_error is not None:
            return None
        return self.ready if self.why_absent(self.ready, t) is None else None

    def last_good(self, t: float) -> Item | None:
        """What may stand in after a failed encoding: the newest encoded item within a stated age.

        None for a required modality, which nothing stands in for.
        """
        if self.required or self.limit is None or self.why_absent(self.ready, t) is not None:
            return None
        return self.ready

    def age(self, item: Item, t: float) -> float:
        """How old what is used for the trigger at work is at its time ``t``, in seconds."""
        return t - item.t + self._lead(item)

    def _lead(self, item: Item) -> float:
        """Seconds that the clock was set ahead by after the trigger came and before an item did."""
        if self.jumps_ahead is NO_JUMPS:
            return 0.0
        return self.jumps_ahead.since() - self.jumps_ahead.since(item.samples[0].arrival)

    def why_absent(self, item: Item | None, t: float, *, is_trigger: bool = False) -> str | None:
        """Why the modality is absent at time ``t`` if ``item`` is what there is; None: it is not.

        ``is_trigger``: the item triggered, so it was good whatever came after it.
        """
        if self.sensor.lying and self.limit is None and not is_trigger:
            return f"{self.sensor.problem}: the newest sample is bad and no maximum age is stated"
        if item is None:
            return self.sensor.problem or self._filling() or self.missing
        if self.limit is not None:
            t += self._lead(item)
            if t - item.t > self.limit + SLACK:
                oldest = " for the oldest row of the window" if self._ring is not None else ""
                return (
                    f"too_old: {t - item.t:.6g} s, limit {self.limit:.6g} s{oldest}"
                    f"{self._after_problem()}"
                )
            if item.end - t > self.limit + SLACK:
                advice = (
                    "" if self._history is not None else "; Exact or Interpolate keep older ones"
                )
                return (
                    f"too_new: {item.end - t:.6g} s newer than the trigger, limit "
                    f"{self.limit:.6g} s{advice}{self._after_problem()}"
                )
        recovering = self.sensor.recovering()
        return None if recovering is None else f"{recovering}{self._after_problem()}"

    def state_note(self, item: Item, outputs: object) -> str:
        """What a result that uses ``item`` should say of its encoder's state; empty: nothing.

        Nothing without ``outputs``: a later result says it.
        """
        if self.sequence is None or item.turn is None or outputs is None:
            return ""
        return self.sequence.tell(item.turn)

    def newest_note(self) -> str:
        """What a result that uses an older sample should say of the newest; empty: nothing."""
        filling = self._filling()
        return self.sensor.refusal or (f"an older window; the next is {filling}" if filling else "")

    def _filling(self) -> str | None:
        return None if self._ring is None else self._ring.filling()

    def _after_problem(self) -> str:
        if self.sensor.problem is not None:
            return f"; newest sample dropped: {self.sensor.problem}"
        if self._clock.behind:
            return f"; its source's clock was set back, {self._clock.behind:.6g} s behind now"
        filling = self._filling()
        return f"; window {filling}" if filling else ""

    def presence(self, now: float) -> str | None:
        """Why a result at this moment would do without the modality; None: it would not."""
        if self.encoder_error is not None:
            return f"encoder_error: {self.encoder_error}"
        if now >= self.overdue(now):
            return f"its encoder has run for {now - self.started:.6g} s"
        newest = self._newest_item()
        # It is asked about now, and not about the trigger at work.
        return self.why_absent(newest, now if newest is None else now - self._lead(newest))

    def distrust(self) -> str | None:
        """Why what is held of the modality does not count, however young it is; None: it does."""
        if self.encoder_error is not None:
            return f"encoder_error: {self.encoder_error}"
        return self.sensor.problem if self.sensor.lying and self.limit is None else None

    def _newest_item(self) -> Item | None:
        """The newest item there is, encoded or not."""
        if self._history is not None:
            return self._item(self._history.samples[-1]) if self._history.samples else None
        if self.queue:
            return self.queue[-1]
        return (self.newest[-1] if self.newest else None) or self.running or self.ready
