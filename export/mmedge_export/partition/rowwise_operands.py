"""Row-wise work on several operands: what each of them is to each part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.read_node import axis_of, standard
from mmedge_export.onnx_graph.size import ONE
from mmedge_export.partition.parts import ConcatParts, RepeatedRows, RowwisePlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx_ir as ir

    from mmedge_export.onnx_graph.infer_sizes import Shape
    from mmedge_export.onnx_graph.size import Size
    from mmedge_export.partition.graph_builder import GraphBuilder

__all__ = ["BATCHED", "plan_operands", "with_owners"]

#: Ops that do the same for each sample of a batch of several operands.
BATCHED = frozenset(["Attention", "MatMul"])


def with_owners(
    parts: ConcatParts, whole_values: Iterable[ir.Value | None], builder: GraphBuilder
) -> ConcatParts:
    """The parts of what is made of ``parts`` and of values that all of them share."""
    behind = frozenset[str]().union(*(builder.owners.of(value) for value in whole_values))
    return replace(parts, owners=tuple(owner | behind for owner in parts.owners))


def plan_operands(node: ir.Node, builder: GraphBuilder) -> RowwisePlan | None:
    """Of operands that broadcast: elementwise, or along the batch of an Attention or MatMul.

    A Concat along another axis has the same rule, but does not broadcast.
    """
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
    if node.op_type == "MatMul" and (end < 3 or min(len(s) for s in shapes if s is not None) < 2):
        return None
    if node.op_type == "Attention" and (axis != 0 or any(p.axis for _, p, _ in part_operands)):
        return None
    if len({parts.rounds for _, parts, _ in part_operands}) > 1:
        return None
    full = any(shape == output_shape for _, _, shape in part_operands)
    operands: list[ir.Value | ConcatParts | RepeatedRows] = []
    for value, shape in zip(node.inputs, shapes, strict=True):
        if value is None or shape is None:
            return None
        operand = _operand(node, value, shape, end, output_shape[axis], builder, full=full)
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
) -> ir.Value | ConcatParts | RepeatedRows | None:
    """What one input is to each part; a constant is cut up later."""
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
    if maker.op_type not in ("Expand", "ConstantOfShape"):
        return None
    source = builder.shape(maker.inputs[0]) if maker.op_type == "Expand" else ()
    if source is None or (len(source) >= end and source[-end] != ONE):
        return None
    if broadcast and full and maker.op_type == "Expand" and node.op_type not in BATCHED:
        # Broadcasting does what the Expand did, since another operand has the full shape.
        return maker.inputs[0]
    shape_at = len(maker.inputs) - 1
    if builder.sizes.content(maker.inputs[shape_at]) is None:
        return None
    return RepeatedRows(maker, len(shape) - end, shape_at)


def _align(
    operands: Sequence[ir.Value | ConcatParts | RepeatedRows],
    inputs: Sequence[ir.Value | None],
    axis: int,
    end: int,
    builder: GraphBuilder,
) -> RowwisePlan | None:
    """The operands cut where all of them can be."""
    part_operands = [operand for operand in operands if isinstance(operand, ConcatParts)]
    input_parts = [operand for value, operand in zip(inputs, operands, strict=True)
             if isinstance(operand, ConcatParts) and value in builder.parts]  # fmt: skip
    first = input_parts[0]
    ends = [e for e in first.ends if all(e in parts.ends for parts in part_operands)]
    if len(ends) < 2 or any(parts.ends[-1] != ends[-1] for parts in part_operands):
        return None
    if first.rounds != ONE and any(
        parts.rounds != first.rounds or len(parts.ends) > len(ends) for parts in part_operands
    ):
        return None  # parts that take turns are no neighbours that could be one
    merged_operands = [o.merge(ends) if isinstance(o, ConcatParts) else o for o in operands]
    sizes = first.merge(ends).sizes
    results: list[ir.Value | ConcatParts | RepeatedRows | None] = []
    for operand in merged_operands:
        if isinstance(operand, ConcatParts | RepeatedRows):
            results.append(operand)
            continue
        shape = builder.shape(operand)
        if shape is None or len(shape) < end or shape[-end] == ONE:
            results.append(operand)
            continue
        if first.rounds != ONE:
            return None
        pieces = builder.split_constant(operand, len(shape) - end, sizes)
        if pieces is None:
            return None
        no_owners = tuple(frozenset[str]() for _ in pieces)
        values = tuple((piece,) for piece in pieces)
        results.append(ConcatParts(first.origin, len(shape) - end, values, sizes, no_owners))
    behind = [o.owners for o in results if isinstance(o, ConcatParts)]
    owners = tuple(frozenset[str]().union(*part) for part in zip(*behind, strict=True))
    whole_values = [
        o.node.inputs[0] if isinstance(o, RepeatedRows) else o
        for o in results
        if not isinstance(o, ConcatParts)
    ]
    parts = replace(first.merge(ends), owners=owners)
    return RowwisePlan(with_owners(parts, whole_values, builder), axis, tuple(results))
