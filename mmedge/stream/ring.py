"""Windows over chunks of rows: keeps the chunks that the current and the next window need."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.align import Window
    from mmedge.spec import Array, TensorSpec
    from mmedge.stream.sample import Sample

__all__ = ["Ring"]


class Ring:
    """Rows are counted from the first chunk; a window covers rows ``[end - length, end)``."""

    def __init__(self, policy: Window, specs: Mapping[str, TensorSpec]) -> None:
        self.axes = {name: policy.axis_of(spec) for name, spec in specs.items()}
        #: Sizes that a window has and its chunks have not.
        self.sizes = {
            size: policy.length
            for name, spec in specs.items()
            if isinstance(size := spec.shape[self.axes[name]], str)
        }
        self._length, self._hop = policy.length, policy.hop
        self._chunks: deque[tuple[int, int, Sample]] = deque()
        self._rows = 0
        self._end = 0

    def add(self, sample: Sample) -> tuple[list[Sample], bool]:
        """Append a chunk; return the chunks that are needed no more, and whether a window is new.

        Fetch a new window before the next chunk is added.
        """
        name, axis = next(iter(self.axes.items()))
        start = self._rows
        self._rows += sample.values[name].shape[axis]
        self._chunks.append((start, self._rows, sample))
        end = self._rows // self._hop * self._hop
        new = end > self._end and end >= self._length
        self._end = end
        # What neither the window that ends at `end` nor any later one reaches back to.
        first = max(end, -(-self._length // self._hop) * self._hop) - self._length
        gone = []
        while self._chunks and self._chunks[0][1] <= first:
            gone.append(self._chunks.popleft()[2])
        return gone, new

    def window(self) -> tuple[tuple[Sample, ...], Callable[[], Mapping[str, Any]]]:
        """The chunks of the newest window, oldest first, and what puts it together."""
        start, end = self._end - self._length, self._end
        parts = [
            (sample, slice(max(start - first, 0), end - first))
            for first, stop, sample in self._chunks
            if first < end and stop > start
        ]
        return tuple(sample for sample, _ in parts), lambda: self._join(parts)

    def _join(self, parts: list[tuple[Sample, slice]]) -> dict[str, Array]:
        joined: dict[str, Array] = {}
        for name, axis in self.axes.items():
            before = (slice(None),) * axis
            joined[name] = np.concatenate(
                [sample.values[name][(*before, rows)] for sample, rows in parts], axis=axis
            )
        return joined

    def clear(self) -> list[Sample]:
        """Begin anew; return the chunks that were kept."""
        kept = [sample for _, _, sample in self._chunks]
        self._chunks.clear()
        self._rows = self._end = 0
        return kept

    def filling(self) -> str | None:
        """How far the first window is; None once there has been one."""
        if self._end >= self._length:
            return None
        return f"filling ({self._rows} of {self._length} rows)"
