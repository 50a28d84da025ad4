"""The graph that a pass works on: what is known of its values, and nodes made for their parts.

It is long, since every pass of the cut makes its nodes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.read_node import axis_of, constant_of
from mmedge_export.onnx_graph.rewrite import FreeNames
from mmedge_export.onnx_graph.size import ONE, Size, product, total
from mmedge_export.partition.parts import ConcatParts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmedge_export.onnx_graph.infer_sizes import Shape, SymbolicSizes
    from mmedge_export.partition.owners import Owners
    from mmedge_export.partition.parts import Owner, RepeatedRows

__all__ = ["GraphBuilder"]

INT64 = ir.DataType.INT64


class GraphBuilder:
    """The graph under work: known parts, and new nodes, which go before ``point``."""

    def __init__(self, graph: ir.Graph, sizes: SymbolicSizes, owners: Owners) -> None:
        self.graph, self.sizes, self.owners = graph, sizes, owners
        self.parts: dict[ir.Value, ConcatParts] = {}
        self.new_nodes: list[ir.Node] = []
        self.point: ir.Node = graph[0]
        self.initializers_before = set(graph.initializers.values())
        self.free_name = FreeNames(graph).take
        self._joined: dict[tuple[tuple[ir.Value, ...], int], ir.Value] = {}
        self._cuts: dict[tuple[ir.Value, int, tuple[int, ...]], tuple[ir.Value, ...]] = {}
        self._scalars: dict[tuple[float, ir.DataType], ir.Value] = {}
        self._integers: dict[tuple[int, ...], ir.Value] = {}
        self._lengths: dict[tuple[Owner, Size], ir.Value] = {}
        self._targets: dict[tuple[Owner, tuple[ir.Value | Size | None, ...]], ir.Value] = {}

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Symbolic shape, of new values too."""
        return self.sizes.shape(value)

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[str, ir.DataType | None, Shape | None]],
        attributes: Sequence[ir.Attr] = (),
        name: str = "",
        like: ir.Node | None = None,
        domain: str = "",
    ) -> ir.Node:
        """A new node.

        Args:
            op_type: in ``domain``.
            inputs: may hold None.
            outputs: of each the wished name, dtype and shape.
            attributes: may be those of another node.
            name: the wished one; that of the first output by default.
            like: node whose metadata (such as its scope) the new one gets too.
            domain: ONNX's own by default.
        """
        values = []
        for stem, dtype, shape in outputs:
            value = ir.Value(
                name=self.free_name(stem),
                type=None if dtype is None else ir.TensorType(dtype),
                shape=None if shape is None else ir.Shape([_dimension(size) for size in shape]),
            )
            if shape is not None:
                self.sizes.shapes[value] = shape
            values.append(value)
        node = ir.Node(
            domain,
            op_type,
            inputs,
            attributes,
            outputs=values,
            name=self.free_name(name or str(values[0].name)),
            metadata_props=dict(like.metadata_props) if like else None,
        )
        behind = frozenset[str]().union(*(self.owners.of(value) for value in inputs))
        for value in values:
            self.owners.set(value, frozenset() if op_type == "Shape" else behind)
        self.graph.insert_before(self.point, node)
        self.new_nodes.append(node)
        return node

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """A constant int64 tensor with one axis."""
        key = tuple(numbers)
        if key not in self._integers:
            name = self.free_name("sizes_" + "_".join(str(n).replace("-", "m") for n in key))
            self._integers[key] = self._constant(name, np.array(key, np.int64))
        return self._integers[key]

    def scalar(self, number: float, dtype: ir.DataType) -> ir.Value:
        """A constant floating-point tensor without axes."""
        key = (number, dtype)
        if key not in self._scalars:
            name = self.free_name(f"scalar_{number}".replace("-", "m").replace(".", "_"))
            self._scalars[key] = self._constant(name, np.array(number, dtype.numpy()))
        return self._scalars[key]

    def stand_in(self, old: ir.Value, new: ir.Value) -> None:
        """Let ``new`` be taken wherever ``old`` is, under its name."""
        name, old.name = old.name, self.free_name(f"{old.name}_whole")
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = name

    def remove_unused(self, nodes: Sequence[ir.Node]) -> None:
        """Remove those of ``nodes`` that nothing takes, and then what only they took."""
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            live = any(value.uses() or value.is_graph_output() for value in node.outputs)
            if live or node.graph is not self.graph:
                continue
            operands = [value for value in node.inputs if value is not None]
            self.graph.remove(node, safe=True)
            for value in operands:
                if (producer := value.producer()) is not None:
                    waiting.append(producer)
                elif value.is_initializer() and not (
                    value.uses() or value.is_graph_output() or value.is_graph_input()
                ):
                    self.graph.initializers.pop(str(value.name), None)

    def discard(self, nodes: Sequence[ir.Node], but: set[ir.Node]) -> None:
        """Remove those of ``nodes`` that nothing takes, and new nodes for them, ``but`` some."""
        new_nodes, waiting = set(self.new_nodes) - but, list(nodes)
        while waiting:
            node = waiting.pop()
            live = any(value.uses() or value.is_graph_output() for value in node.outputs)
            if live or node.graph is not self.graph or node not in new_nodes:
                continue
            producers = [value.producer() for value in node.inputs if value is not None]
            self.graph.remove(node, safe=True)
            waiting += [producer for producer in producers if producer is not None]

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        self.sizes.shapes[value] = tuple(Size.of(size) for size in array.shape)
        return value

    def constant(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The tensor of a constant; None for what is computed, even from constants alone."""
        if not self.owners.fixed(value):
            return None
        node = value.producer()
        if value.const_value is None and node is not None and node.op_type == "Constant":
            return constant_of(node)
        return value.const_value

    def parts_of(self, concat: ir.Node, *, merge: bool = False) -> ConcatParts | None:
        """What a Concat is made of; None where a size is unknown.

        Args:
            concat: its inputs that are kept as parts along the same axis give all of these.
            merge: make neighbours of one and the same modality one part.
        """
        shape = self.shape(concat.outputs[0])
        if shape is None:
            return None
        axis = axis_of(concat, 0, len(shape))
        parts: list[tuple[tuple[ir.Value, ...], Size, Owner]] = []
        for value in concat.inputs:
            inner_parts, here = self.parts.get(value) if value else None, self.shape(value)
            if value is None or here is None:
                return None
            if inner_parts is not None and (inner_parts.axis, inner_parts.rounds) == (axis, ONE):
                parts += zip(inner_parts.values, inner_parts.sizes, inner_parts.owners, strict=True)
            else:
                parts.append(((value,), here[axis], self.owners.of(value)))
        if any(size.number == 0 for _, size, _ in parts):
            return None
        groups = parts[:1]
        for values, size, owner in parts[1:]:
            previous = groups[-1]
            if merge and owner == previous[2] and len(owner) == 1:
                groups[-1] = previous[0] + values, previous[1] + size, owner
            else:
                groups.append((values, size, owner))
        values_, sizes, owners = zip(*groups, strict=True)
        return ConcatParts(concat, axis, values_, sizes, owners)

    def join(self, values: tuple[ir.Value, ...], axis: int) -> ir.Value:
        """The values as one."""
        if len(values) == 1:
            return values[0]
        if (values, axis) not in self._joined:
            shapes = [self.shape(value) for value in values]
            shape = shapes[0]
            if shape is not None and None not in shapes:
                along = total(s[axis] for s in shapes if s is not None)
                shape = (*shape[:axis], along, *shape[axis + 1 :])
            name = f"{values[0].name}_joined"
            node = self.add(
                "Concat", values, [(name, values[0].dtype, shape)], [ir.AttrInt64("axis", axis)]
            )
            self._joined[values, axis] = node.outputs[0]
        return self._joined[values, axis]

    def whole(self, parts: ConcatParts) -> ir.Value:
        """What ``parts`` are parts of."""
        leaves = tuple(leaf for part in parts.values for leaf in part)
        if parts.rounds == ONE:
            return self.join(leaves, parts.axis)
        # Each round is a row of its own for the Concat.
        axis, rows = parts.axis, []
        for leaf, size in zip(leaves, parts.sizes, strict=True):
            shape = self.sizes.shapes[leaf]
            rows.append(
                self._reshape(leaf, (*shape[:axis], parts.rounds, size, *shape[axis + 1 :]))
            )
        joined = self.join(tuple(rows), axis + 1)
        shape = self.sizes.shapes[joined]
        return self._reshape(
            joined, (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
        )

    def joinable(self, parts: ConcatParts) -> bool:
        """Whether :meth:`whole` makes it: a Reshape finds one size, no two."""
        numbers = all(size.number is not None for size in parts.sizes)
        return parts.rounds == ONE or parts.rounds.number is not None or numbers

    def _reshape(self, value: ir.Value, shape: Shape) -> ir.Value:
        """``value`` in another shape; at most one size is neither a number nor that of an axis."""
        pieces: list[int | ir.Value] = []
        before = self.sizes.shapes[value]
        for size in shape:
            if size.number is not None:
                pieces.append(size.number)
            else:
                pieces.append(self.axis_length(value, before.index(size)) if size in before else -1)
        output = (f"{value.name}_rounds", value.dtype, shape)
        return self.add("Reshape", [value, self._vector(pieces, value)], [output]).outputs[0]

    def repeat(self, repeated: RepeatedRows, part: ir.Value, axis: int) -> ir.Value:
        """What a part gets of :class:`RepeatedRows`: as many rows as it has along ``axis``."""
        node, shape_value = repeated.node, repeated.node.inputs[repeated.shape]
        assert shape_value is not None  # noqa: S101 - an Expand and a ConstantOfShape have one
        shape = self.sizes.shapes[node.outputs[0]]
        content = self.sizes.content(shape_value) or ()
        skipped = len(shape) - len(content)
        pieces: list[int | ir.Value] = []
        for at, size in enumerate(content, skipped):
            if at == repeated.axis:
                pieces.append(self.axis_length(part, axis))
            elif size.number is not None:
                pieces.append(size.number)
            else:
                pieces.append(self._one("Gather", [shape_value, self.integers([at - skipped])]))
        inputs = list(node.inputs)
        inputs[repeated.shape] = self._vector(pieces, part)
        size = self.sizes.shapes[part][axis]
        whole = node.outputs[0]
        output_shape = (*shape[: repeated.axis], size, *shape[repeated.axis + 1 :])
        output = (f"{whole.name}_part", whole.dtype, output_shape)
        attributes = list(node.attributes.values())
        return self.add(node.op_type, inputs, [output], attributes, like=node).outputs[0]

    def _vector(self, pieces: Sequence[int | ir.Value], like: ir.Value) -> ir.Value:
        """Numbers and computed sizes as one tensor of int64."""
        numbers = [piece for piece in pieces if isinstance(piece, int)]
        if len(numbers) == len(pieces):
            return self.integers(numbers)
        values = [self.integers([p]) if isinstance(p, int) else p for p in pieces]
        rank = [(f"{like.name}_target", INT64, (Size.of(len(pieces)),))]
        return self.add("Concat", values, rank, [ir.AttrInt64("axis", 0)]).outputs[0]

    def split_constant(
        self, value: ir.Value, axis: int, sizes: tuple[Size, ...]
    ) -> tuple[ir.Value, ...] | None:
        """A constant cut up along an axis; None where it is no constant, or a size no number."""
        tensor = self.constant(value)
        lengths = tuple(size.number for size in sizes if size.number is not None)
        if tensor is None or len(lengths) < len(sizes):
            return None
        key = (value, axis, lengths)
        if key not in self._cuts:
            array = tensor.numpy()
            if array.shape[axis] != sum(lengths):
                return None
            pieces = np.split(array, np.cumsum(lengths)[:-1], axis)
            self._cuts[key] = tuple(
                self._constant(self.free_name(f"{value.name}_part{i}"), np.ascontiguousarray(piece))
                for i, piece in enumerate(pieces)
            )
        return self._cuts[key]

    def reach(
        self, part: ir.Value, size: Size, without: int
    ) -> tuple[tuple[int, ...], Size] | None:
        """Axes of ``part`` besides ``without`` whose sizes make ``size``.

        Returns:
            the axes, and the product of their sizes: a multiple or a divisor of ``size``.
        """
        shape = self.sizes.shapes[part]
        for first in range(len(shape)):
            for end in range(first + 1, len(shape) + 1):
                axes = tuple(range(first, end))
                extent = product(shape[axis] for axis in axes)
                if without in axes or extent.number is not None:
                    continue
                for ratio in (size.over(extent), extent.over(size)):
                    if ratio is not None and ratio.number is not None:
                        return axes, extent
        return None

    def length(self, part: ir.Value, size: Size, without: int) -> ir.Value | None:
        """``size`` as int64 ``[1]``, from the sizes of ``part`` alone; None where that fails."""
        if size.number is not None:
            return self.integers([size.number])
        key = (self.owners.of(part), size)
        if key in self._lengths:
            return self._lengths[key]
        span = self.reach(part, size, without)
        if span is None:
            return None
        axes, extent = span
        length = self.axis_length(part, axes[0])
        for axis in axes[1:]:
            length = self._one("Mul", [length, self.axis_length(part, axis)])
        for op_type, ratio in (("Mul", size.over(extent)), ("Div", extent.over(size))):
            if size != extent and ratio is not None and ratio.number is not None:
                length = self._one(op_type, [length, self.integers([ratio.number])])
        self._lengths[key] = length
        return length

    def axis_length(self, value: ir.Value, axis: int) -> ir.Value:
        """Size of one axis as int64 ``[1]``."""
        shape = self.sizes.shapes[value]
        if (number := shape[axis].number) is not None:
            return self.integers([number])
        key = (self.owners.of(value), shape[axis])
        if key not in self._lengths:
            rank = [(f"{value.name}_shape", INT64, (Size.of(len(shape)),))]
            shape_value = self.add("Shape", [value], rank).outputs[0]
            self._lengths[key] = self._one("Gather", [shape_value, self.integers([axis])])
        return self._lengths[key]

    def _one(self, op_type: str, inputs: list[ir.Value]) -> ir.Value:
        output = (f"{inputs[0].name}_{op_type.lower()}", INT64, (ONE,))
        return self.add(op_type, inputs, [output]).outputs[0]

    def forget(self) -> None:
        """Share no node made so far: ``point`` has moved up."""
        for cache in (self._joined, self._lengths, self._targets):
            cache.clear()

    def reachable(
        self, parts: ConcatParts, target_sizes: Sequence[Size | None], shape_value: ir.Value
    ) -> bool:
        """Whether :meth:`target` makes it."""
        content = self.sizes.content(shape_value)
        if content is None or len(content) != len(target_sizes):
            return False
        first = parts.values[0][0]
        return all(
            size is None
            or size.number is not None
            or content[at].number != -1
            or self.reach(first, size, parts.axis) is not None
            for at, size in enumerate(target_sizes)
        )

    def target(
        self,
        part: ir.Value,
        axis: int,
        target_sizes: Sequence[Size | None],
        shape_value: ir.Value,
        *,
        infers: bool = True,
    ) -> ir.Value:
        """The shape that a part is to get.

        It is computed from sizes of the part itself where they suffice, so that what is one
        modality's own does not depend on the sizes of others.

        Args:
            part: has this shape before.
            axis: along which it is a part.
            target_sizes: sizes; None is what is left.
            shape_value: the shape for the whole.
            infers: what takes the shape computes what is left where it is -1; otherwise it is the
                size of the part along ``axis``.
        """
        key = (self.owners.of(part), tuple(target_sizes) if infers else (part, *target_sizes))
        if key in self._targets:
            return self._targets[key]
        pieces: list[int | ir.Value] = []
        for at, size in enumerate(target_sizes):
            if size is None:
                pieces.append(-1 if infers else self.axis_length(part, axis))
                continue
            if size.number is not None:
                pieces.append(size.number)
                continue
            length = self.length(part, size, axis)
            pieces.append(length or self._one("Gather", [shape_value, self.integers([at])]))
        if all(isinstance(piece, int) for piece in pieces):
            return self._vector(pieces, part)
        self._targets[key] = self._vector(pieces, part)
        return self._targets[key]


def _dimension(size: Size) -> int | str | None:
    if size.number is not None:
        return size.number
    names = {name for monomial, _ in size.terms for name in monomial}
    # A name that was made up here says nothing to anybody else.
    return None if any(":" in name for name in names) else str(size)
