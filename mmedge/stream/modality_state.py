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
from mmedge.stream.ring import Ring
from mmedge.stream.sample import SLACK, Item, SampleAccounting, State, StreamSample
from mmedge.stream.source_clock import SourceClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Modality, Stage, TensorSpec

__all__ = ["ModalityState"]

#: An encoding that takes longer than this many seconds, and than so many times what 95 % of those
#: before it took, is taken to hang.
HANG, HANG_RATIO = 1.0, 3.0


class ModalityState:
    """Holdings and presence of one modality.

    Args:
        modality: its contract.
        policy: which samples stand for it at a trigger.
        specs: its inputs.
        stages: its encoder's stages in order; none where the fusion takes its inputs themselves.
        lazy: encoded at the trigger and not on arrival.
        depth: samples kept for ``Exact`` and ``Interpolate``.
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
        #: Newest item whose features are there; inputs and features of the last run of the encoder.
        self.ready: Item | None = None
        self.encoded: tuple[Mapping[str, Any], dict[str, Any]] | None = None
        self._recover_after = recover_after
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
        self._turns = policy.turns_of(specs) if isinstance(policy, Interpolate) else {}
        #: Of a lazy modality, what came with the newest sample: one item, or a chunk's windows.
        self._newest: list[Item] = []
        self._queue: list[Item] = []
        self._running: Item | None = None
        self._epoch = 0
        #: Why the last epoch ended.
        self._ended_by = ""
        # Presence. `_problem` is what befell the newest sample if it was bad; `_lying` if its
        # content was, which says that the sensor is faulty and not only late.
        self._problem: str | None = None
        self._lying = False
        self._is_lost = self._was_used = False
        self._good = 0
        #: Why the newest sample was dropped, for results that use an older one; empty: it was not.
        self.refusal = ""

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
                self._note_problem(fault, lying=lying)
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
            self._begin_window_anew(f"a chunk was dropped as {reason}")
        self.ledger.drop(sample, reason)
        if reason != "duplicate":
            self.refusal = f"its newest sample was dropped: {reason}"

    def _note_problem(self, reason: str, *, lying: bool) -> None:
        self._problem = reason
        self._lying = self._lying or lying
        self._good = 0

    def _accept(self, sample: StreamSample) -> list[Item]:
        if self._history is not None:
            self._insert(self._history, sample)
            return [self._item(sample)]
        self._note_good()
        items, gone = [self._item(sample)], list[StreamSample]()
        if self._ring is not None:
            items, gone = self._cut_windows(self._ring, sample)
        if items and self.lazy:
            self._replace_newest(items, "superseded")
        elif items:
            self._drop_queue("superseded")
            for item in items:
                self._enqueue(item)
        # Not before the windows that they are part of are held.
        self.ledger.release(gone, "superseded")
        return items

    def _note_good(self) -> None:
        self._problem = None
        self.refusal = ""
        self._lying = False
        self._good += 1

    def _item(self, sample: StreamSample) -> Item:
        values, key = sample.values, (sample.seq,)
        return Item((sample,), sample.t, sample.t, sample.sizes, lambda: values, key, self._epoch)

    def _cut_windows(
        self, ring: Ring, sample: StreamSample
    ) -> tuple[list[Item], list[StreamSample]]:
        """The windows that end in a chunk, oldest first, and the chunks that no later one needs."""
        gap = ring.gap(sample)
        if gap is not None:
            self._begin_window_anew(gap)
        self.ledger.hold((sample,))
        windows, gone, left_out = ring.add(sample)
        sizes = {**sample.sizes, **ring.sizes}
        items: list[Item] = []
        for window in windows:
            key = ("window", sample.seq, len(items))
            fields = window.samples, window.first_t, window.last_t, sizes, window.build, key
            items.append(Item(*fields, self._epoch))
        if self.windows is not None:
            self.windows.skip(left_out, "queue_full")
            for _ in items:
                self.windows.take()
        return items, gone

    def _begin_window_anew(self, why: str) -> None:
        if self._ring is not None:
            self.ledger.release(self._ring.clear(why), "gap")

    def _insert(self, history: History, sample: StreamSample) -> None:
        self._note_good()
        self.ledger.hold((sample,))
        oldest = history.insert(sample)
        if oldest is not None:
            self.ledger.release((oldest,), "queue_full")

    def _restart(self, sample: StreamSample) -> list[Item]:
        """Begin a new history: the source's clock was set back."""
        self.jumps += 1
        self._clear("clock_jump", "its source's clock was set back", keep=self._clock.suspects)
        self._clock.restart(sample.t, sample.arrival)
        return self._accept(sample)

    def _clear(
        self, reason: str, why: str, *, keep: frozenset[tuple[float, float]] = frozenset()
    ) -> None:
        self._drop_queue(reason)
        self._replace_newest([], reason)
        self.ready = self._replace(self.ready, None, reason)
        if self._history is not None:
            self.ledger.release(self._history.clear(keep), reason)
        if self._ring is not None:
            self.ledger.release(self._ring.clear(why), reason)
        self._clock.clear()
        self._epoch += 1
        self._ended_by = reason

    def forget(self, reason: str, problem: str | None = None) -> None:
        """Begin as if nothing had come; ``problem`` is why it is absent until something does."""
        self._drop_queue(reason, with_pinned=True)
        self._clear(reason, f"the stream was told to forget ({reason})")
        self._problem, self.encoder_error = problem, None
        self._lying = self._is_lost = self._was_used = False
        self._good = 0
        self.refusal = ""

    def close(self) -> None:
        """Let go of everything; nothing comes any more."""
        self._drop_queue("closed", with_pinned=True)
        if self._running is not None:
            self.release(self._running, "closed")
            self._running = None
        self._clear("closed", "the stream was closed")

    # Who holds an item keeps its samples, and the window that it is, from being counted as dropped.

    def hold(self, item: Item) -> None:
        """Keep an item."""
        self.ledger.hold(item.samples)
        if self.windows is not None:
            self.windows.hold((item,))

    def release(self, item: Item, reason: str) -> None:
        """Undo one :meth:`hold`."""
        self.ledger.release(item.samples, reason)
        if self.windows is not None:
            self.windows.release((item,), reason)

    def condemn(self, item: Item, reason: str) -> None:
        """If it comes to be dropped, it is for ``reason``."""
        self.ledger.condemn(item.samples, reason)
        if self.windows is not None:
            self.windows.condemn((item,), reason)

    def use(self, item: Item) -> None:
        """Note that an item went into a delivered computation."""
        self.ledger.use(item.samples)
        if self.windows is not None:
            self.windows.use((item,))

    def window_counts(self) -> dict[str, Any]:
        """The windows' account, as :class:`mmedge.stream.ModalityHealth` has it."""
        if self.windows is None:
            return {}
        return {
            "windows": self.windows.pushed,
            "windows_used": self.windows.used,
            "windows_dropped": dict(self.windows.dropped),
            "windows_pending": self.windows.pending,
        }

    def _replace(
        self, old: Item | None, new: Item | None, reason: str = "superseded"
    ) -> Item | None:
        """Hold ``new`` where ``old`` was held."""
        if new is not None:
            self.hold(new)
        if old is not None:
            self.release(old, reason)
        return new

    def _replace_newest(self, items: list[Item], reason: str) -> None:
        for item in items:
            self.hold(item)
        for item in self._newest:
            self.release(item, reason)
        self._newest = items

    # The encoder.

    def _enqueue(self, item: Item) -> None:
        self.hold(item)
        item.state = State.QUEUED
        self._queue.append(item)

    def _drop_queue(self, reason: str, *, with_pinned: bool = False) -> None:
        for item in list(self._queue):
            if with_pinned or not item.pinned:
                self.withdraw(item, reason)

    def withdraw(self, item: Item, reason: str) -> None:
        """Take an item whose encoding has not begun out of the queue."""
        if item in self._queue:
            self._queue.remove(item)
            item.state = State.NEW
            self.release(item, reason)

    def submit(self, item: Item) -> None:
        """See to it that an item that a trigger waits for is encoded."""
        item.pinned = True
        if not self.stages:
            item.state = State.READY
        elif item.state is State.NEW:
            self._enqueue(item)

    def follow_clock(self, ahead: float) -> None:
        """Go on timing the encoding under way after a jump of the time, in seconds."""
        self.started += ahead

    def next_job(self, now: float) -> Item | None:
        """The item to encode now; None while there is none or one is being encoded."""
        if self._running is not None or not self._queue:
            return None
        self._running = self._queue.pop(0)
        self._running.state = State.RUNNING
        self.started = now
        return self._running

    def finish(self, item: Item, features: Mapping[str, Any], now: float, *, skipped: bool) -> None:
        """Note that an encoding is done; ``skipped``: the content was that of the one before."""
        self._running = None
        item.features = features
        item.state = State.READY
        self.encoder_error = None
        if skipped:
            self.skipped += 1
        else:
            self.encodes += 1
            self.encoding.observe(now - self.started)
        if item.epoch == self._epoch:
            self.ready = self._replace(self.ready, item)
        # Of this epoch it is held as ready now, and the reason has no effect.
        self.release(item, self._ended_by)

    def fail(self, item: Item, message: str) -> None:
        """Note that an encoding failed."""
        self._running = None
        item.state = State.FAILED
        item.error = message
        self.errors += 1
        self.last_error = message
        if item.epoch == self._epoch:
            self.encoder_error = message
            self._note_problem(f"encoder_error: {message}", lying=False)
        if len(item.samples) == 1:
            self.condemn(item, "encoder_error")
            if item in self._newest:
                self._newest.remove(item)
                self.release(item, "encoder_error")
            if self._history is not None and self._history.discard(item.samples[0]):
                self.ledger.release(item.samples, "encoder_error")
        self.release(item, "encoder_error")

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
        elif self._newest:
            item = self._newest[-1]
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
        return Item(samples, before.t, after.t, before.sizes, build, key, self._epoch)

    def is_settled(self, t: float) -> bool:
        """Whether waiting for more samples would be of no use for a trigger's time ``t``."""
        return self._history is None or self._history.is_settled(t)

    def unready(self, t: float) -> Item | None:
        """The newest sample's item if it would do at time ``t`` but is still being encoded."""
        under_way = self._under_way()
        if self.lazy or not under_way:
            return None
        newest = under_way[-1]
        usable = newest.epoch == self._epoch and self.why_absent(newest, t) is None
        return newest if usable else None

    def due(self, t: float, now: float) -> float | None:
        """When the first item that would do at a trigger's time ``t`` is expected to be encoded.

        None: none is under way. Before any encoding was timed, they are taken to take no time.
        """
        for item in self._under_way():
            if item.epoch == self._epoch and self.why_absent(item, t) is None:
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
        return now if self._running is None else self.started

    def _under_way(self) -> list[Item]:
        return ([] if self._running is None else [self._running]) + self._queue

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
        if self._lying and self.limit is None and not is_trigger:
            return f"{self._problem}: the newest sample is bad and no maximum age is stated"
        if item is None:
            return self._problem or self._filling() or "no sample yet"
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
        if self._is_lost and self._good < self._recover_after:
            return f"recovering ({self._good} of {self._recover_after}){self._after_problem()}"
        return None

    def newest_note(self) -> str:
        """What a result that uses an older sample should say of the newest; empty: nothing."""
        filling = self._filling()
        return self.refusal or (f"an older window; the next is {filling}" if filling else "")

    def _filling(self) -> str | None:
        return None if self._ring is None else self._ring.filling()

    def _after_problem(self) -> str:
        if self._problem is not None:
            return f"; newest sample dropped: {self._problem}"
        if self._clock.behind:
            return f"; its source's clock was set back, {self._clock.behind:.6g} s behind now"
        filling = self._filling()
        return f"; window {filling}" if filling else ""

    def conclude(self, reason: str | None) -> None:
        """Note that a result used the modality (None) or did without it.

        An optional modality that a result used and a later one did without is lost; it is back
        after ``recover_after`` good samples in a row, so that a sensor that comes and goes does
        not make the results flicker.
        """
        if self.required:
            return
        if reason is None:
            self._was_used, self._is_lost = True, False
        elif self._was_used and not (
            self._is_lost and reason.startswith(("recovering", "encoder_error"))
        ):
            self._is_lost = True
            self._good = 0

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
        return self._problem if self._lying and self.limit is None else None

    def _newest_item(self) -> Item | None:
        """The newest item there is, encoded or not."""
        if self._history is not None:
            return self._item(self._history.samples[-1]) if self._history.samples else None
        if self._queue:
            return self._queue[-1]
        return (self._newest[-1] if self._newest else None) or self._running or self.ready
