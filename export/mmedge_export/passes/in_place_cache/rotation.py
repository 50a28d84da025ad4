"""Rotary position embeddings: tables of what a graph turns queries and keys by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge_export.onnx_graph.read_node import standard
from mmedge_export.passes.in_place_cache.placement import place, placement_of, take
from mmedge_export.passes.in_place_cache.probe import SHAPES, Probe
from mmedge_export.passes.in_place_cache.stage_feeds import RunSizes

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from mmedge.spec import Array
    from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor
    from mmedge_export.passes.in_place_cache.placement import Placement
    from mmedge_export.passes.in_place_cache.stage_feeds import StageFeeds

__all__ = ["Rotation", "RotationReader"]

#: Operators of a rotation, and most of them.
TURNING = frozenset({
    "Add", "Cast", "Concat", "Expand", "Gather", "Identity", "Mul", "Neg", "Reshape", "Slice",
    "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip
NODES = 40

#: What the size of a head is a multiple of, where the operator turns.
SIZES = 16

#: Positions whose angles are read in one run.
CHUNK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """A tensor was rotated by its position.

    Attributes:
        source: before.
        cos, sin: [positions, size / 2].
        interleaved: whether neighbors form a pair; else the two halves of a head do.
    """

    source: ir.Value
    cos: Array
    sin: Array
    interleaved: bool

    def is_like(self, other: Rotation) -> bool:
        """Whether both turn by the same angles in the same way."""
        return (
            self.interleaved == other.interleaved
            and np.array_equal(self.cos, other.cos)
            and np.array_equal(self.sin, other.sin)
        )


class RotationReader:
    """Finds rotations in a stage's graph.

    Args:
        model: the graph.
        feeds: of the stage.
        shapes: of all values in the run ``sizes``.
        sizes: of that run.
        positions: how many the tables hold.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: StageFeeds,
        shapes: dict[str, MeasuredTensor],
        sizes: RunSizes,
        positions: int,
    ) -> None:
        self._model, self._feeds, self._shapes, self._sizes = model, feeds, shapes, sizes
        self._positions = positions
        self._order = {node: index for index, node in enumerate(model.graph)}
        # Values that depend on more than sizes and positions.
        self._data = {v for v in model.graph.inputs if v.name != feeds.loop.position}
        for node in model.graph:
            if node.op_type not in SHAPES and any(value in self._data for value in node.inputs):
                self._data.update(node.outputs)

    def read(self, turned: ir.Value, heads: int, size: int) -> Rotation | None:
        """By what queries or keys were rotated; None where they were not, or in no known way.

        Args:
            turned: after it.
            heads: of it.
            size: of a head.
        """
        if size % SIZES:
            return None
        source = self._source(turned, heads, size)
        after = self._placement(turned, heads, size)
        if source is None or after is None:
            return None
        before = self._placement(source, heads, size)
        dtype = self._shapes[str(source.name)].dtype
        probe = Probe(self._model, [turned], [source], {str(source.name): dtype})
        # Without positions of its own a graph counts what its states hold.
        named = self._feeds.loop.position is not None
        begin = self._sizes.past - self._sizes.position if named else 0

        def turn(array: Array, first: int) -> Array:
            """[batch, heads, new, size] turned by the positions from ``first``."""
            batch, _, new, _ = array.shape
            run = RunSizes(batch, new, first + begin, first)
            given = place(array.astype(dtype.numpy()), before)
            (result,) = probe({**self._feeds.make(run), str(source.name): given})
            return take(result, after, heads)

        try:
            for interleaved in (False, True):
                cos, sin = self._tables(turn, heads, size, interleaved=interleaved)
                rotation = Rotation(source, cos, sin, interleaved)
                if self._holds(turn, rotation, heads, size):
                    return rotation
        except ExportError:
            return None
        return None

    def _placement(self, value: ir.Value, heads: int, size: int) -> Placement | None:
        return placement_of(self._shapes[str(value.name)].shape, self._sizes, heads, size)

    def _source(self, turned: ir.Value, heads: int, size: int) -> ir.Value | None:
        """The nearest tensor of as many elements that all of ``turned`` comes from."""
        frontier, is_turned = {turned}, False
        for _ in range(NODES):
            value = max(frontier, key=self._place)
            node = value.producer()
            if node is None or node.op_type not in TURNING or not standard(node):
                return None
            frontier.discard(value)
            data = [each for each in node.inputs if each in self._data]
            frontier.update(each for each in data if each is not None)
            is_turned |= node.op_type == "Mul" and len(data) == 1
            if len(frontier) == 1 and is_turned:
                (source,) = frontier
                if self._placement(source, heads, size) is not None:
                    return source
        return None

    def _place(self, value: ir.Value) -> int:
        node = value.producer()
        return -1 if node is None else self._order[node]

    def _tables(
        self, turn: Callable[[Array, int], Array], heads: int, size: int, *, interleaved: bool
    ) -> tuple[Array, Array]:
        """Cosines and sines of each position: what ones in the first of each pair become."""
        first, second = _pairs(size, interleaved=interleaved)
        chunk = min(CHUNK, self._feeds.new_limit() or CHUNK)
        parts = []
        for start in range(0, self._positions, chunk):
            ones = np.zeros((1, heads, min(chunk, self._positions - start), size))
            ones[..., first] = 1
            parts.append(turn(ones, start)[0, 0])
        table = np.concatenate(parts)
        return np.ascontiguousarray(table[:, first]), np.ascontiguousarray(table[:, second])

    def _holds(
        self, turn: Callable[[Array, int], Array], rotation: Rotation, heads: int, size: int
    ) -> bool:
        """Whether a rotation holds for any values, at several places, for all rows and heads."""
        rng = np.random.default_rng(1)
        first, second = _pairs(size, interleaved=rotation.interleaved)
        new = min(self._sizes.new, self._positions)
        for start in {0, 1, self._positions // 2, self._positions - new}:
            if not 0 <= start <= self._positions - new:
                continue
            array = rng.standard_normal((self._sizes.batch, heads, new, size))
            cos, sin = (
                table[start : start + new].astype(np.float64)
                for table in (rotation.cos, rotation.sin)
            )
            wanted = np.empty_like(array)
            wanted[..., first] = array[..., first] * cos - array[..., second] * sin
            wanted[..., second] = array[..., second] * cos + array[..., first] * sin
            if not np.allclose(turn(array, start), wanted, rtol=1e-4, atol=1e-5):
                return False
        return True


def _pairs(size: int, *, interleaved: bool) -> tuple[slice, slice]:
    """The first and the second of each pair that is turned."""
    half = size // 2
    if interleaved:
        return slice(0, None, 2), slice(1, None, 2)
    return slice(half), slice(half, None)
