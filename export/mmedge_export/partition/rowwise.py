"""Work that treats the rows of a concatenation alike: what each part of it needs.

A rule takes a node one of whose inputs is kept as parts
(:class:`mmedge_export.partition.parts.ConcatParts`) and says how to compute the node for each part
by itself, or None where rows are mixed, or where that is not known for sure. No rule adds work:
what is computed is cut along the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.infer_sizes import BROADCAST
from mmedge_export.onnx_graph.read_node import (
    axis_of,
    given_axes,
    integers,
    new_axes,
    permutation,
    reduced_axes,
    slice_bounds,
    standard,
)
from mmedge_export.onnx_graph.size import ONE, Size, product
from mmedge_export.partition.parts import ConcatParts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx_ir as ir

    from mmedge_export.onnx_graph.infer_sizes import Shape
    from mmedge_export.partition.graph_builder import GraphBuilder

__all__ = ["RowwisePlan", "plan"]

#: Ops of one tensor, element by element. Any further inputs are scalars.
UNARY = frozenset(
    [
        *("Abs", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp"),
        *("Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu"),
        *("Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink"),
        *("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh"),
        *("ThresholdedRelu",),
    ]
)

#: Ops that work along one axis, with its default.
ALONG = {"Hardmax": -1, "LogSoftmax": -1, "LpNormalization": -1, "Softmax": -1}

#: Ops that treat each sample of a batch alike: rows are their axis 0.
SAMPLES = frozenset(
    ["AveragePool", "BatchNormalization", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"]
)


@dataclass(frozen=True)
class RowwisePlan:
    """How to compute a node part by part.

    Attributes:
        parts: what the parts have in common with those of the inputs: origin, sizes, owners.
        axis: of the outputs, along which they are parts.
        inputs: for each input what all parts share, or what it is cut into, or None if left out.
        targets: where the second input is a shape, sizes for that of each part; None is -1.
    """

    parts: ConcatParts
    axis: int
    inputs: tuple[ir.Value | ConcatParts | None, ...]
    targets: tuple[Size | None, ...] | None = None


def plan(node: ir.Node, builder: GraphBuilder) -> RowwisePlan | None:
    """How to compute ``node`` part by part; None where it is not row-wise, or not known to be."""
    if not standard(node):
        return None
    if node.op_type in BROADCAST or node.op_type == "Concat":
        return _elementwise(node, builder)
    positions = [at for at, value in enumerate(node.inputs) if value in builder.parts]
    value = node.inputs[positions[0]]
    shape = builder.shape(value)
    if value is None or shape is None or len(positions) > 1:
        return None
    parts = builder.parts[value]
    others = [other for at, other in enumerate(node.inputs) if at != positions[0]]
    if node.op_type in ("Reshape", "Expand"):
        reshape = _reshape if node.op_type == "Reshape" else _expand
        return reshape(node, parts, builder) if positions[0] == 0 else None
    spare = () if node.op_type == "Split" else node.outputs[1:]
    if any(output.uses() or output.is_graph_output() for output in spare):
        return None  # such as the mean of a LayerNormalization
    axis = _axis(node, positions[0], parts.axis, len(shape), builder)
    if axis is None:
        return None
    inputs = [parts if at == positions[0] else other for at, other in enumerate(node.inputs)]
    return RowwisePlan(_with_owners(parts, others, builder), axis, tuple(inputs))


def _with_owners(
    parts: ConcatParts, whole_values: Iterable[ir.Value | None], builder: GraphBuilder
) -> ConcatParts:
    """The parts of what is made of ``parts`` and of values that all of them share."""
    behind = frozenset[str]().union(*(builder.owners.of(value) for value in whole_values))
    return replace(parts, owners=tuple(owner | behind for owner in parts.owners))


def _axis(node: ir.Node, at: int, axis: int, rank: int, builder: GraphBuilder) -> int | None:
    """Where the rows of input ``at`` are in the output; None where they are mixed."""
    kind = node.op_type
    others = [value for i, value in enumerate(node.inputs) if i != at and value is not None]
    others_fixed = all(builder.owners.fixed(value) for value in others)
    ranks = [None if (shape := builder.shape(value)) is None else len(shape) for value in others]
    if None in ranks:
        return None
    widest = max((r for r in ranks if r is not None), default=0)
    if kind in ("MatMul", "Gather"):
        rule = _matmul if kind == "MatMul" else _gather
        return rule(node, at, axis, rank, widest) if others_fixed else None
    if at != 0:
        return None
    if kind in UNARY:
        return axis if widest == 0 else None
    if kind in ALONG:
        return axis if axis_of(node, -1, rank) != axis else None
    if kind in ("LayerNormalization", "RMSNormalization"):
        return axis if axis < axis_of(node, -1, rank) and widest < rank - axis else None
    if kind == "Gemm":
        rows = axis == 0 and node.attributes.get_int("transA", 0) == 0
        return 0 if rows and others_fixed and _flat(others[1:], builder) else None
    if kind in SAMPLES:
        return (
            0
            if axis == 0 and others_fixed and node.attributes.get_int("training_mode", 0) == 0
            else None
        )
    return _move_axis(node, axis, rank) if others_fixed else None


def _flat(values: list[ir.Value], builder: GraphBuilder) -> bool:
    """Whether none of them has rows of its own."""
    shapes = [builder.shape(value) for value in values]
    return all(shape is not None and (len(shape) < 2 or shape[0] == ONE) for shape in shapes)


def _matmul(node: ir.Node, at: int, axis: int, rank: int, other: int) -> int | None:  # noqa: ARG001
    if at == 0:  # rows times a weight
        return axis if axis < rank - 1 and other <= 2 else None
    # a weight times columns
    return axis if axis != rank - 2 and other == 2 and rank >= 2 else None


def _gather(node: ir.Node, at: int, axis: int, rank: int, other: int) -> int | None:
    if at == 1:  # rows of indices into a table
        table = axis_of(node, 0, other)
        return table + axis
    gather_axis = axis_of(node, 0, rank)
    if gather_axis == axis:
        return None
    return axis + other - 1 if gather_axis < axis else axis


def _move_axis(node: ir.Node, axis: int, rank: int) -> int | None:
    """Of ops that work on other axes than the rows, or only move them."""
    kind = node.op_type
    if kind.startswith("Reduce") or kind in ("ArgMax", "ArgMin"):
        axes = reduced_axes(node, rank)
        if axes is None or axis in axes:
            return None
        keepdims = node.attributes.get_int("keepdims", 1)
        return axis if keepdims else axis - sum(removed_axes < axis for removed_axes in axes)
    if kind == "Transpose":
        return permutation(node, rank).index(axis)
    if kind == "Unsqueeze":
        inserted_axes = new_axes(node, rank)
        if inserted_axes is None:
            return None
        return [at for at in range(rank + len(inserted_axes)) if at not in inserted_axes][axis]
    if kind == "Squeeze":
        axes = given_axes(node)
        removed_axes = None if axes is None else {at % rank for at in axes}
        return (
            None
            if removed_axes is None or axis in removed_axes
            else axis - sum(at < axis for at in removed_axes)
        )
    if kind == "Flatten":
        flatten_axis = axis_of(node, 1, rank)
        return {(0, 1): 0, (rank - 1, rank - 1): 1}.get((axis, flatten_axis))
    if kind == "Split":
        return axis if axis_of(node, 0, rank) != axis else None
    if kind == "Slice":
        bounds = slice_bounds(node, rank)
        return axis if bounds is not None and axis not in bounds else None
    return None


def _reshape(node: ir.Node, parts: ConcatParts, builder: GraphBuilder) -> RowwisePlan | None:
    """The axis stays one where as much lies before it, and as much after it, as did before."""
    input_shape, output_shape = builder.shape(node.inputs[0]), builder.shape(node.outputs[0])
    target = node.inputs[1]
    if input_shape is None or output_shape is None or target is None or target in builder.parts:
        return None
    stay = [
        at
        for at, size in enumerate(output_shape)
        if size == input_shape[parts.axis]
        and product(output_shape[:at]) == product(input_shape[: parts.axis])
        and product(output_shape[at + 1 :]) == product(input_shape[parts.axis + 1 :])
    ]
    if not stay or any(size.number == 0 for size in output_shape):
        return None
    numbers = integers(target)
    if numbers is not None and numbers[stay[0]] == -1:
        return RowwisePlan(parts, stay[0], (parts, target))
    target_sizes = tuple(None if at == stay[0] else size for at, size in enumerate(output_shape))
    if not builder.reachable(parts, target_sizes, target):
        return None
    return RowwisePlan(parts, stay[0], (parts, target), target_sizes)


def _expand(node: ir.Node, parts: ConcatParts, builder: GraphBuilder) -> RowwisePlan | None:
    input_shape, output_shape, target = (
        builder.shape(node.inputs[0]),
        builder.shape(node.outputs[0]),
        node.inputs[1],
    )
    target_sizes = builder.sizes.content(target)
    if input_shape is None or output_shape is None or target is None or target_sizes is None:
        return None
    end = len(input_shape) - parts.axis  # the axis counted from the end
    axis = len(output_shape) - end
    if len(target_sizes) >= end and target_sizes[-end] not in (ONE, input_shape[parts.axis]):
        return None
    if len(target_sizes) >= end:
        target_sizes = tuple(
            ONE if at == len(target_sizes) - end else s for at, s in enumerate(target_sizes)
        )
    if not builder.reachable(parts, target_sizes, target):
        return None
    return RowwisePlan(parts, axis, (parts, target), target_sizes)


def _elementwise(node: ir.Node, builder: GraphBuilder) -> RowwisePlan | None:
    """Of operands that broadcast, and of a Concat along another axis, which do not."""
    output_shape = builder.shape(node.outputs[0])
    shapes = [builder.shape(value) for value in node.inputs]
    if output_shape is None or None in shapes:
        return None
    part_operands = [(v, builder.parts[v], s) for v, s in zip(node.inputs, shapes, strict=True)
             if v is not None and s is not None and v in builder.parts]  # fmt: skip
    ends = {len(shape) - parts.axis for _, parts, shape in part_operands}
    end = ends.pop()
    axis = len(output_shape) - end
    if ends or (node.op_type == "Concat" and axis_of(node, 0, len(output_shape)) == axis):
        return None
    width = output_shape[axis]
    full = any(shape == output_shape for _, _, shape in part_operands)
    operands: list[ir.Value | ConcatParts] = []
    for value, shape in zip(node.inputs, shapes, strict=True):
        if value is None or shape is None:
            return None
        operand = _operand(node, value, shape, end, width, builder, full=full)
        if operand is None:
            return None
        operands.append(operand)
    return _align(operands, node.inputs, axis, end, builder)


def _operand(
    node: ir.Node,
    value: ir.Value,
    shape: Shape,
    end: int,
    width: Size,
    builder: GraphBuilder,
    *,
    full: bool,
) -> ir.Value | ConcatParts | None:
    """What one input of an elementwise node is to each part; a constant is cut up later."""
    broadcast = node.op_type != "Concat"
    if value not in builder.parts and broadcast and (len(shape) < end or shape[-end] == ONE):
        return value
    if len(shape) < end or shape[-end] != width:
        return None
    if value in builder.parts:
        return builder.parts[value]
    maker = value.producer()
    if builder.constant(value) is not None:
        return value
    if maker is None or not standard(maker):
        return None
    if maker.op_type == "Concat" and axis_of(maker, 0, len(shape)) == len(shape) - end:
        return builder.parts_of(maker)
    source = builder.shape(maker.inputs[0]) if maker.inputs else None
    if maker.op_type == "Expand" and broadcast and full and source is not None:
        # Broadcasting does what the Expand did, since another operand has the full shape.
        return maker.inputs[0] if len(source) < end or source[-end] == ONE else None
    return None


def _align(
    operands: list[ir.Value | ConcatParts],
    inputs: Sequence[ir.Value | None],
    axis: int,
    end: int,
    builder: GraphBuilder,
) -> RowwisePlan | None:
    """The operands cut where all of them can be."""
    part_operands = [operand for operand in operands if isinstance(operand, ConcatParts)]
    input_parts = [operand for value, operand in zip(inputs, operands, strict=True)
             if isinstance(operand, ConcatParts) and value in builder.parts]  # fmt: skip
    ends = [e for e in input_parts[0].ends if all(e in parts.ends for parts in part_operands)]
    if len(ends) < 2 or any(parts.ends[-1] != ends[-1] for parts in part_operands):
        return None
    merged_operands = [o.merge(ends) if isinstance(o, ConcatParts) else o for o in operands]
    sizes = input_parts[0].merge(ends).sizes
    results: list[ir.Value | ConcatParts | None] = []
    for operand in merged_operands:
        shape = None if isinstance(operand, ConcatParts) else builder.shape(operand)
        if (
            isinstance(operand, ConcatParts)
            or shape is None
            or len(shape) < end
            or shape[-end] == ONE
        ):
            results.append(operand)
            continue
        pieces = builder.split_constant(operand, len(shape) - end, sizes)
        if pieces is None:
            return None
        no_owners = tuple(frozenset[str]() for _ in pieces)
        results.append(
            ConcatParts(
                input_parts[0].origin,
                len(shape) - end,
                tuple((p,) for p in pieces),
                sizes,
                no_owners,
            )
        )
    behind = [o.owners for o in results if isinstance(o, ConcatParts)]
    owners = tuple(frozenset[str]().union(*part) for part in zip(*behind, strict=True))
    whole_values = [o for o in results if not isinstance(o, ConcatParts)]
    parts = replace(input_parts[0].merge(ends), owners=owners)
    return RowwisePlan(_with_owners(parts, whole_values, builder), axis, tuple(results))
