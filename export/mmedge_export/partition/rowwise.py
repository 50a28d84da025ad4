"""Work that treats the rows of a concatenation alike: what each part of it needs.

A rule takes a node one of whose inputs is kept as parts
(:class:`mmedge_export.partition.parts.ConcatParts`) and says how to compute the node for each part
by itself, or None where rows are mixed, or where that is not known for sure. No rule adds work:
what is computed is cut along the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.infer_sizes import BROADCAST, SAMPLES
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
from mmedge_export.onnx_graph.size import ONE
from mmedge_export.partition.parts import RowwisePlan
from mmedge_export.partition.rowwise_operands import BATCHED, plan_operands, with_owners
from mmedge_export.partition.rowwise_shapes import RULES

if TYPE_CHECKING:
    import onnx_ir as ir

    from mmedge_export.partition.graph_builder import GraphBuilder

__all__ = ["plan"]

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


def plan(node: ir.Node, builder: GraphBuilder) -> RowwisePlan | None:
    """How to compute ``node`` part by part; None where it is not row-wise, or not known to be."""
    if not standard(node):
        return None
    if node.op_type in BROADCAST or node.op_type == "Concat":
        return plan_operands(node, builder)
    positions = [at for at, value in enumerate(node.inputs) if value in builder.parts]
    spare = () if node.op_type == "Split" else node.outputs[1:]
    if any(output.uses() or output.is_graph_output() for output in spare):
        return None  # such as the mean of a LayerNormalization
    if node.op_type in BATCHED and len(positions) > 1:
        return plan_operands(node, builder)
    value = node.inputs[positions[0]]
    shape = builder.shape(value)
    if value is None or shape is None or len(positions) > 1:
        return None
    parts = builder.parts[value]
    others = [other for at, other in enumerate(node.inputs) if at != positions[0]]
    if (rule := RULES.get(node.op_type)) is not None:
        return rule(node, parts, builder) if positions[0] == 0 else None
    axis = _axis(node, positions[0], parts.axis, len(shape), builder)
    if axis is None:
        return plan_operands(node, builder) if node.op_type == "MatMul" else None
    inputs = [parts if at == positions[0] else other for at, other in enumerate(node.inputs)]
    return RowwisePlan(with_owners(parts, others, builder), axis, tuple(inputs))


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
    if kind == "CumSum":
        along = integers(node.inputs[1])
        return axis if along is not None and along[0] % rank != axis else None
    if kind == "Trilu":
        return axis if axis < rank - 2 and others_fixed else None
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
    if kind == "Split":
        return axis if axis_of(node, 0, rank) != axis else None
    if kind == "Slice":
        bounds = slice_bounds(node, rank)
        return axis if bounds is not None and axis not in bounds else None
    return None
