"""One modality in a stream: what has come, what is being encoded, what is ready.

Not thread-safe; the stream's lock is held around every call.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import partial
from typing import TYPE_CHECKING, Any

from mmedge.align import Exact, Hold, Interpolate, Policy, Window, blend
from mmedge.deadline import Predictor
from mmedge.stream.ring import Ring
from mmedge.stream.sample import Item, Ledger, Sample, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Modality, Stage, TensorSpec

__all__ = ["JUMP", "SLACK", "Track"]

#: Seconds by which an age may exceed its limit: float64 seconds since 1970 resolve 0.24 us, so that
#: the difference of two stamps may come out above a limit that it equals.
SLACK = 1e-6
#: A stamp this many seconds behind the newest may mean that the source's clock was set back.
JUMP = 1.0
#: So many of them in a row, increasing among themselves, do mean it.
JUMP_SAMPLES = 3


class Track:
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
        own = policy.max_age_ms if isinstance(policy, Hold | Interpolate) else None
        limit_ms = own if own is not None else modality.max_age_ms
        #: Oldest age in seconds that may be used; None: any.
        self.limit = None if limit_ms is None else limit_ms / 1000.0
        self.ledger = Ledger()
        self.encodes = self.skipped = self.errors = self.jumps = 0
        self.last_error = ""
        #: Message of the newest run of the encoder where that failed; None: it gave features.
        self.encoder_error: str | None = None
        #: When the encoding under way was begun, in seconds, and how long encodings take.
        self.started = 0.0
        self.encoding = Predictor()
        #: Newest item whose features are there; inputs and features of the last run of the encoder.
        self.ready: Item | None = None
        self.encoded: tuple[Mapping[str, Any], dict[str, Any]] | None = None
        self._sorted = isinstance(policy, Exact | Interpolate)
        self._depth, self._future, self._recover_after = depth, future, recover_after
        self._ring = Ring(policy, specs) if isinstance(policy, Window) else None
        self._history: list[Sample] = []
        self._newest: Item | None = None
        self._queue: list[Item] = []
        self._running: Item | None = None
        self._last: float | None = None
        self._suspects: list[Sample] = []
        self._asked_until: float | None = None
        self._epoch = 0
        # Presence. `_problem` is what befell the newest sample if it was bad; `_lying` if its
        # content was, which says that the sensor is faulty and not only late.
        self._problem: str | None = None
        self._lying = False
        self._lost = self._seen = False
        self._good = 0

    # What comes in.

    @property
    def row_axes(self) -> Mapping[str, int] | None:
        """The axis of the rows of a chunk by input; None where pushes bring whole values."""
        return None if self._ring is None else self._ring.axes

    def stamp_fault(self, t: float, now: float) -> str | None:
        """Why a sample of this stamp is refused whatever it holds; None: it is not."""
        if t > now + self._future:
            return "future"
        if self.limit is not None and now - t > self.limit + SLACK:
            return "too_old"
        known = t == self._last or any(t == sample.t for sample in self._suspects)
        if known or (self._sorted and any(t == sample.t for sample in self._history)):
            return "duplicate"
        return None

    def receive(self, sample: Sample, fault: str | None, *, lying: bool) -> list[Item]:
        """Take in a sample, or drop it; return what may trigger, oldest first.

        ``fault`` says why it is bad, and ``lying`` that this is about its content.
        """
        if fault is not None:
            self.ledger.drop(sample, fault)
            if fault != "duplicate":
                self._note_problem(fault, lying=lying)
            if lying and self._ring is not None:
                # A window over the gap would join what was not one after the other.
                self.ledger.release(self._ring.clear(), "superseded")
            return []
        if self._last is None or sample.t > self._last:
            self._forget_suspects()
            return self._accept(sample)
        if sample.t < self._last - JUMP:
            if self._suspects and sample.t < self._suspects[-1].t:
                self._forget_suspects()
            self.ledger.hold((sample,))
            self._suspects.append(sample)
            return self._restart() if len(self._suspects) == JUMP_SAMPLES else []
        self._forget_suspects()
        if not self._sorted:
            self.ledger.drop(sample, "out_of_order")
        elif self._is_useful(sample):
            self._insert(sample)
        else:
            self.ledger.drop(sample, "late")
        return []

    def _note_problem(self, reason: str, *, lying: bool) -> None:
        self._problem = reason
        self._lying = self._lying or lying
        self._good = 0

    def _accept(self, sample: Sample) -> list[Item]:
        self._last = sample.t
        if self._sorted:
            self._insert(sample)
            return [self._item(sample)]
        self._note_good()
        if self._ring is not None:
            self.ledger.hold((sample,))
            gone, new = self._ring.add(sample)
            self.ledger.release(gone, "superseded")
            if not new:
                return []
            chunks, build = self._ring.window()
            key = ("window", *(chunk.seq for chunk in chunks))
            sizes = {**sample.sizes, **self._ring.sizes}
            item = Item(chunks, chunks[-1].t, sizes, build, key, self._epoch)
        else:
            item = self._item(sample)
        if self.lazy:
            self._newest = self._replace(self._newest, item)
        else:
            self._drop_queue("superseded")
            self._enqueue(item)
        return [item]

    def _note_good(self) -> None:
        self._problem = None
        self._lying = False
        self._good += 1

    def _item(self, sample: Sample) -> Item:
        values = sample.values
        return Item((sample,), sample.t, sample.sizes, lambda: values, (sample.seq,), self._epoch)

    def _insert(self, sample: Sample) -> None:
        self._note_good()
        self.ledger.hold((sample,))
        self._history.insert(bisect_left(self._history, sample.t, key=_stamp), sample)
        if len(self._history) > self._depth:
            self.ledger.release((self._history.pop(0),), "queue_full")

    def _is_useful(self, sample: Sample) -> bool:
        """Whether a trigger after the last one can still choose ``sample``, which came late."""
        if len(self._history) >= self._depth and sample.t < self._history[0].t:
            return False
        asked = self._asked_until
        if asked is None:
            return True
        if isinstance(self.policy, Exact):
            return sample.t >= asked - self.policy.tolerance_ms / 1000.0 - SLACK
        # It is, unless a sample lies between it and the last trigger.
        at = bisect_right(self._history, sample.t, key=_stamp)
        return at == len(self._history) or self._history[at].t > asked

    def _forget_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        self.ledger.release(suspects, "late" if self._sorted else "out_of_order")

    def _restart(self) -> list[Item]:
        """Begin a new history with the suspects: the source's clock was set back."""
        self.jumps += 1
        self.clear("clock_jump", keep_suspects=True)
        suspects, self._suspects = self._suspects, []
        items = [item for sample in suspects for item in self._accept(sample)]
        self.ledger.release(suspects, "superseded")
        return items

    def clear(self, reason: str, *, keep_suspects: bool = False) -> None:
        """Let go of everything; samples that no trigger holds are dropped for ``reason``."""
        self._drop_queue(reason, pinned=keep_suspects is False)
        if self._running is not None and not keep_suspects:
            self.ledger.release(self._running.samples, reason)
            self._running = None
        self._newest = self._replace(self._newest, None, reason)
        self.ready = self._replace(self.ready, None, reason)
        self.ledger.release(self._history, reason)
        self._history = []
        if self._ring is not None:
            self.ledger.release(self._ring.clear(), reason)
        if not keep_suspects:
            self.ledger.release(self._suspects, reason)
            self._suspects = []
        self._last = self._asked_until = None
        self._epoch += 1

    def _replace(
        self, old: Item | None, new: Item | None, reason: str = "superseded"
    ) -> Item | None:
        """Hold ``new`` where ``old`` was held."""
        if new is not None:
            self.ledger.hold(new.samples)
        if old is not None:
            self.ledger.release(old.samples, reason)
        return new

    # The encoder.

    def _enqueue(self, item: Item) -> None:
        self.ledger.hold(item.samples)
        item.state = State.QUEUED
        self._queue.append(item)

    def _drop_queue(self, reason: str, *, pinned: bool = False) -> None:
        for item in list(self._queue):
            if pinned or not item.pinned:
                self.withdraw(item, reason)

    def withdraw(self, item: Item, reason: str) -> None:
        """Take an item whose encoding has not begun out of the queue."""
        if item in self._queue:
            self._queue.remove(item)
            item.state = State.NEW
            self.ledger.release(item.samples, reason)

    def submit(self, item: Item) -> None:
        """See to it that an item that a trigger waits for is encoded."""
        item.pinned = True
        if not self.stages:
            item.state = State.READY
        elif item.state is State.NEW:
            self._enqueue(item)

    def next_job(self, clock: Callable[[], float]) -> Item | None:
        """The item to encode now; None while there is none or one is being encoded."""
        if self._running is not None or not self._queue:
            return None
        self._running = self._queue.pop(0)
        self._running.state = State.RUNNING
        self.started = clock()
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
        self.ledger.release(item.samples, "clock_jump")

    def fail(self, item: Item, message: str) -> None:
        """Note that an encoding failed."""
        self._running = None
        item.state = State.FAILED
        item.error = message
        self.errors += 1
        self.last_error = self.encoder_error = message
        if item.epoch == self._epoch:
            self._note_problem(f"encoder_error: {message}", lying=False)
        if len(item.samples) == 1:
            self.ledger.condemn(item.samples, "encoder_error")
            if self._newest is item:
                self._newest = self._replace(item, None, "encoder_error")
            if item.samples[0] in self._history:
                self._history.remove(item.samples[0])
                self.ledger.release(item.samples, "encoder_error")
        self.ledger.release(item.samples, "encoder_error")

    # What goes out.

    def choose(self, t: float) -> tuple[Item | None, str | None]:
        """For a lazy modality: what stands for it at a trigger's time, and why it is absent.

        With both, the item is an old value that may stand in.
        """
        self._asked_until = t if self._asked_until is None else max(t, self._asked_until)
        item, why = self._newest, None
        if self._sorted:
            item = self._choose_sorted(t)
            if item is None and self._history:
                item = self._item(self._history[-1])
                limit = self._tolerance()
                ages = [t - sample.t for sample in self._history]
                why = (
                    f"too_old: no sample within {limit:.6g} s, the nearest is "
                    f"{min(ages, key=abs):.6g} s old{self._after_problem()}"
                )
        if item is not None and self.ready is not None and item.key == self.ready.key:
            item = self.ready
        absent = self.why_absent(item, t)
        return item, why or absent

    def _tolerance(self) -> float:
        """Farthest that a sample of a history may lie from the trigger's time, in seconds."""
        limit = float("inf") if self.limit is None else self.limit
        if isinstance(self.policy, Exact):
            return min(limit, self.policy.tolerance_ms / 1000.0)
        return limit

    def _choose_sorted(self, t: float) -> Item | None:
        limit = self._tolerance()
        near = [sample for sample in self._history if abs(t - sample.t) <= limit + SLACK]
        if isinstance(self.policy, Exact):
            best = min(reversed(near), key=lambda sample: abs(t - sample.t), default=None)
            return None if best is None else self._item(best)
        at = bisect_right(near, t, key=_stamp)
        before = near[at - 1] if at else None
        after = near[at] if at < len(near) else None
        if before is None or after is None or before.t == t:
            held = before or after
            return None if held is None else self._item(held)
        if before.sizes != after.sizes:
            return self._item(before if t - before.t <= after.t - t else after)
        return Item(
            (before, after),
            before.t,
            before.sizes,
            partial(self._mix, before, after, t),
            (before.seq, after.seq, t),
            self._epoch,
        )

    def _mix(self, before: Sample, after: Sample, t: float) -> dict[str, Any]:
        weight = (t - before.t) / (after.t - before.t)
        turns = self.policy.quaternions if isinstance(self.policy, Interpolate) else ()
        return {
            name: blend(value, after.values[name], weight, turns)
            for name, value in before.values.items()
        }

    def due(self, t: float) -> float | None:
        """When the first item that would do at a trigger's time ``t`` is expected to be encoded.

        None: none is under way. Before any encoding was timed, they are taken to take no time.
        """
        for item in self._under_way():
            if item.epoch == self._epoch and self.why_absent(item, t) is None:
                return self.expected(item)
        return None

    def expected(self, item: Item) -> float:
        """When an item whose encoding is under way is expected to be done, in seconds."""
        took = self.encoding.estimate() or 0.0
        return self.started + took * (self._under_way().index(item) + 1)

    def _under_way(self) -> list[Item]:
        return ([] if self._running is None else [self._running]) + self._queue

    def older(self, t: float) -> Item | None:
        """The newest encoded item where it would do at time ``t`` in place of one that is not."""
        if isinstance(self.policy, Exact | Interpolate) or self.encoder_error is not None:
            return None
        return self.ready if self.why_absent(self.ready, t) is None else None

    def held(self, t: float) -> Item | None:
        """What may stand in after a failed encoding: the newest encoded item within a stated age.

        None for a required modality, which nothing stands in for.
        """
        if self.required or self.limit is None or self.why_absent(self.ready, t) is not None:
            return None
        return self.ready

    def why_absent(self, item: Item | None, t: float, *, own: bool = False) -> str | None:
        """Why the modality is absent at time ``t`` if ``item`` is what there is; None: it is not.

        ``own``: the item triggered, so it was good whatever came after it.
        """
        if self._lying and self.limit is None and not own:
            return f"{self._problem}: the newest sample is bad and no maximum age is stated"
        if item is None:
            filling = None if self._ring is None else self._ring.filling()
            return self._problem or filling or "no sample yet"
        if self.limit is not None and t - item.t > self.limit + SLACK:
            return f"too_old: {t - item.t:.6g} s, limit {self.limit:.6g} s{self._after_problem()}"
        if self._lost and self._good < self._recover_after:
            return f"recovering ({self._good} of {self._recover_after}){self._after_problem()}"
        return None

    def _after_problem(self) -> str:
        return "" if self._problem is None else f"; newest sample dropped: {self._problem}"

    def conclude(self, reason: str | None) -> None:
        """Note that a result used the modality (None) or did without it.

        An optional modality that a result used and a later one did without is lost; it is back
        after ``recover_after`` good samples in a row, so that a sensor that comes and goes does
        not make the results flicker.
        """
        if self.required:
            return
        if reason is None:
            self._seen, self._lost = True, False
        elif self._seen and not (self._lost and reason.startswith(("recovering", "encoder_error"))):
            self._lost = True
            self._good = 0

    def newest(self) -> Item | None:
        """The newest item there is, encoded or not."""
        if self._sorted:
            return self._item(self._history[-1]) if self._history else None
        if self._queue:
            return self._queue[-1]
        return self._newest or self._running or self.ready


def _stamp(sample: Sample) -> float:
    return sample.t
