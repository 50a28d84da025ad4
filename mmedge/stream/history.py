"""The samples that ``Exact`` and ``Interpolate`` choose from, in order of their stamps."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from mmedge.stream.policies import Exact
from mmedge.stream.sample import SLACK

if TYPE_CHECKING:
    from mmedge.stream.policies import Interpolate
    from mmedge.stream.sample import StreamSample

__all__ = ["History", "Pick"]

#: Samples farther apart than so many periods, or seconds where no rate is stated, lie around a gap.
PERIODS, WIDE = 2.5, 1.0


class Pick(NamedTuple):
    """What stands for a time: one sample, two to interpolate between, or none.

    ``absent`` says why there is none, ``note`` what a reader should know about what there is.
    """

    samples: tuple[StreamSample, ...]
    absent: str | None = None
    note: str = ""


class History:
    """Samples sorted by stamp, at most ``depth``.

    Args:
        policy: how to choose.
        limit: farthest in seconds that a sample may lie from the time it stands for; None: any.
        depth: samples kept.
        rate_hz: nominal rate of the samples; None: not stated.
    """

    def __init__(
        self,
        policy: Exact | Interpolate,
        limit: float | None,
        depth: int,
        rate_hz: float | None = None,
    ) -> None:
        self.samples: list[StreamSample] = []
        self._policy, self._depth = policy, depth
        self._limit = float("inf") if limit is None else limit
        if isinstance(policy, Exact):
            self._limit = min(self._limit, policy.tolerance_ms / 1000.0)
        self._usual = WIDE if rate_hz is None else PERIODS / rate_hz
        #: Newest stamp of what had to make room.
        self._evicted: float | None = None
        self._asked_until: float | None = None

    def __contains__(self, t: float) -> bool:
        """Whether a sample of this stamp is kept."""
        return any(sample.t == t for sample in self.samples)

    def insert(self, sample: StreamSample) -> StreamSample | None:
        """Put a sample in its place; return the oldest if it has to make room."""
        self.samples.insert(bisect_left(self.samples, sample.t, key=_stamp), sample)
        if len(self.samples) <= self._depth:
            return None
        oldest = self.samples.pop(0)
        self._evicted = oldest.t
        return oldest

    def is_useful(self, sample: StreamSample) -> bool:
        """Whether a trigger after the last one can still choose ``sample``, which came late."""
        if len(self.samples) >= self._depth and sample.t < self.samples[0].t:
            return False
        until = self._asked_until
        if until is None:
            return True
        if isinstance(self._policy, Exact):
            return sample.t >= until - self._policy.tolerance_ms / 1000.0 - SLACK
        # It is, unless a sample lies between it and the last trigger.
        at = bisect_right(self.samples, sample.t, key=_stamp)
        return at == len(self.samples) or self.samples[at].t > until

    def is_settled(self, t: float) -> bool:
        """Whether waiting for more samples would be of no use for time ``t``."""
        if not self.samples:
            return False
        if isinstance(self._policy, Exact):
            is_past = self.samples[-1].t > t + self._limit
            return is_past or any(abs(t - s.t) <= self._limit + SLACK for s in self.samples)
        return self.samples[-1].t >= t

    def pick(self, t: float) -> Pick:
        """What stands for time ``t``."""
        self._asked_until = t if self._asked_until is None else max(t, self._asked_until)
        if not self.samples:
            return Pick(())
        near = [sample for sample in self.samples if abs(t - sample.t) <= self._limit + SLACK]
        pick = self._pick_exact(t, near) if isinstance(self._policy, Exact) else self._mix(t, near)
        if self._misses(t, pick):
            return Pick(
                (),
                f"history_too_short: the trigger's time is {self.samples[0].t - t:.6g} s before "
                f"the oldest of {len(self.samples)} samples kept; raise the stream's depth, "
                f"{self._depth}, or push fewer samples a second",
            )
        if not pick.samples:
            ages = [t - sample.t for sample in self.samples]
            return Pick(
                (),
                f"too_old: no sample within {self._limit:.6g} s, the nearest is "
                f"{min(ages, key=abs):.6g} s old",
            )
        return pick

    def _misses(self, t: float, pick: Pick) -> bool:
        """Whether a sample that had to make room would stand for time ``t`` better."""
        gone = self._evicted
        if gone is None or t >= self.samples[0].t:
            return False
        if gone >= t:
            return True
        if t - gone > self._limit + SLACK:
            return False
        if isinstance(self._policy, Exact) and pick.samples:
            return t - gone < pick.samples[0].t - t
        return True

    def _pick_exact(self, t: float, near: list[StreamSample]) -> Pick:
        best = min(reversed(near), key=lambda sample: abs(t - sample.t), default=None)
        return Pick(() if best is None else (best,))

    def _mix(self, t: float, near: list[StreamSample]) -> Pick:
        """The two samples around ``t``, or what is left to hold."""
        at = bisect_right(near, t, key=_stamp)
        before = near[at - 1] if at else None
        after = near[at] if at < len(near) else None
        if before is not None and before.t == t:
            return Pick((before,))
        if before is None or after is None:
            neighbor = before or after
            if neighbor is None:
                return Pick(())
            side = "after" if before is not None else "before"
            why = f"no usable sample {side} the trigger"
            return Pick((neighbor,), note=f"held, not interpolated: {why}")
        if before.sizes != after.sizes:
            neighbor = before if t - before.t <= after.t - t else after
            return Pick(
                (neighbor,), note="held, not interpolated: its neighbors have different sizes"
            )
        apart = after.t - before.t
        note = f"interpolated over {apart:.6g} s without a usable sample"
        return Pick((before, after), note=note if apart > self._usual else "")

    def discard(self, sample: StreamSample) -> bool:
        """Take a sample out; say whether it was kept."""
        if sample not in self.samples:
            return False
        self.samples.remove(sample)
        return True

    def clear(self, keep: frozenset[tuple[float, float]] = frozenset()) -> list[StreamSample]:
        """Begin anew with samples of these stamps and arrivals; return the others."""
        gone = [sample for sample in self.samples if (sample.t, sample.arrival) not in keep]
        self.samples = [sample for sample in self.samples if (sample.t, sample.arrival) in keep]
        self._evicted = self._asked_until = None
        return gone


def _stamp(sample: StreamSample) -> float:
    return sample.t
