"""Windows over chunks of rows: keeps the chunks that coming windows need, and sees missing rows."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmedge.stream.sample import SLACK
from mmedge.stream.sanity import same_content

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmedge.spec import Array, TensorSpec
    from mmedge.stream.policies import Window
    from mmedge.stream.sample import StreamSample

__all__ = ["Ring", "Rows"]

#: Without a stated rate, the time between two chunks is compared with the median of so many.
INTERVALS = 15
#: While there is nothing to compare with, chunks this many seconds apart do not belong together.
FIRST_INTERVAL = 1.0
#: Seconds by which chunks without a stated rate may come late: their stamps are often the times of
#: their arrival.
JITTER = 0.02
#: Windows that one chunk may make; of more, the newest.
MOST_WINDOWS = 1024


class Rows(NamedTuple):
    """One window: its chunks, times of its oldest and newest row, its inputs, where it begins.

    ``first_row`` is of the first chunk.
    """

    samples: tuple[StreamSample, ...]
    first_t: float
    last_t: float
    build: Callable[[], Mapping[str, Any]]
    first_row: int


class Ring:
    """Rows are counted from the first chunk; a window covers rows ``[end - length, end)``.

    Args:
        policy: length, hop, and what a gap is.
        specs: the modality's inputs.
        rows_hz: stated rate of the rows; None: not stated.
        chunks_hz: nominal rate of the modality's samples; None: not stated.
    """

    def __init__(
        self,
        policy: Window,
        specs: Mapping[str, TensorSpec],
        *,
        rows_hz: float | None = None,
        chunks_hz: float | None = None,
    ) -> None:
        self.axes = {name: policy.axis_of(spec) for name, spec in specs.items()}
        #: Sizes that a window has and its chunks have not.
        self.sizes = {
            size: policy.length
            for name, spec in specs.items()
            if isinstance(size := spec.shape[self.axes[name]], str)
        }
        self._length, self._hop = policy.length, policy.hop
        #: End of the first window.
        self._least = -(-policy.length // policy.hop) * policy.hop
        self._max_gap = None if policy.max_gap_ms is None else policy.max_gap_ms / 1000.0
        self._row = None if rows_hz is None else 1.0 / rows_hz
        self._first_interval = max(FIRST_INTERVAL, 1.5 / chunks_hz if chunks_hz else 0.0)
        #: Seconds a row took in the intervals between chunks, where that is not stated.
        self._intervals: deque[float] = deque(maxlen=INTERVALS)
        self._chunks: deque[tuple[int, int, StreamSample]] = deque()
        self._newest: StreamSample | None = None
        self._rows = 0
        self._end = 0
        self._why = ""

    def gap(self, sample: StreamSample) -> str | None:
        """Why rows are missing between the newest chunk and ``sample``; None: none are.

        Ask once for each chunk, before it is added: without a stated rate, the time between chunks
        is learned here.
        """
        before = self._newest
        if before is None:
            return None
        rows, interval = self._count(sample), sample.t - before.t
        row, jitter = self._row, 0.0
        if row is None:
            intervals = sorted(self._intervals)
            self._intervals.append(interval / rows)
            if not intervals:
                if interval <= self._first_interval + SLACK:
                    return None
                return (
                    f"{interval:.6g} s lie between the first two chunks, more than "
                    f"{self._first_interval:.6g} s; state the rows' rate (Window(rate_hz=)) if "
                    "chunks come this slowly"
                )
            row, jitter = intervals[(len(intervals) - 1) // 2], JITTER
        max_gap = self._max_gap
        if max_gap is None:
            max_gap = max(0.5 * row * min(rows, self._count(before)), jitter)
        if interval - rows * row <= max_gap + SLACK:
            return None
        return (
            f"{interval:.6g} s lie between two chunks, but {rows} rows take {rows * row:.6g} s and "
            f"{max_gap:.6g} s may be missing"
        )

    def add(self, sample: StreamSample) -> tuple[list[Rows], list[StreamSample], int]:
        """Append a chunk.

        Returns:
            Its new windows in order, the chunks that are needed no more, and how many windows were
            left out because one chunk made more than ``MOST_WINDOWS``.
        """
        start = self._rows
        self._rows += self._count(sample)
        self._chunks.append((start, self._rows, sample))
        self._newest = sample
        last = self._rows // self._hop * self._hop
        ends = range(max(self._end + self._hop, self._least), last + 1, self._hop)
        left_out = max(0, len(ends) - MOST_WINDOWS)
        windows = [self._window(end) for end in ends[left_out:]]
        self._end = last
        # What no coming window reaches back to.
        first_row = max(last + self._hop, self._least) - self._length
        gone = []
        while self._chunks and self._chunks[0][1] <= first_row:
            gone.append(self._chunks.popleft()[2])
        return windows, gone, left_out

    def _count(self, sample: StreamSample) -> int:
        name, axis = next(iter(self.axes.items()))
        rows: int = sample.values[name].shape[axis]
        return rows

    def _window(self, end: int) -> Rows:
        start = end - self._length
        parts = [
            (sample, slice(max(start - begin, 0), min(end, stop) - begin))
            for begin, stop, sample in self._chunks
            if begin < end and stop > start
        ]
        # Chunks that come faster than their rate overlap in time: the oldest and newest of all.
        return Rows(
            tuple(sample for sample, _ in parts),
            min(self._time(sample, rows.start) for sample, rows in parts),
            max(self._time(sample, rows.stop - 1) for sample, rows in parts),
            partial(join_rows, parts, self.axes),
            parts[0][1].start,
        )

    def _time(self, sample: StreamSample, row: int) -> float:
        """When a row of a chunk was measured; without a stated rate, the chunk's stamp."""
        if self._row is None:
            return sample.t
        return sample.t - (self._count(sample) - 1 - row) * self._row

    def repeats(self, sample: StreamSample) -> bool:
        """Whether a chunk of this stamp and content is held already, so that no row is missing."""
        chunks = [chunk for _, _, chunk in self._chunks]
        if self._newest is not None:
            chunks.append(self._newest)
        return any(
            chunk.t == sample.t and same_content(chunk.values, sample.values) for chunk in chunks
        )

    def clear(self, why: str) -> list[StreamSample]:
        """Begin anew, for a reason; return the chunks that were kept."""
        chunks = [sample for _, _, sample in self._chunks]
        self._chunks.clear()
        self._newest = None
        self._rows = self._end = 0
        self._why = why
        return chunks

    def filling(self) -> str | None:
        """How far the first window is, and why it began anew; None once there has been one."""
        if self._end >= self._length:
            return None
        anew = f"; began anew: {self._why}" if self._why else ""
        return f"filling ({self._rows} of {self._least} rows){anew}"


def join_rows(
    parts: Sequence[tuple[StreamSample, slice]], axes: Mapping[str, int]
) -> dict[str, Array]:
    """The inputs of a window: some rows of each chunk, along the axis of each input."""
    arrays: dict[str, Array] = {}
    for name, axis in axes.items():
        before = (slice(None),) * axis
        arrays[name] = np.concatenate(
            [sample.values[name][(*before, rows)] for sample, rows in parts], axis=axis
        )
    return arrays
