"""Products of one tensor with several matrices, as one product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.infer_sizes import infer_sizes
from mmedge_export.onnx_graph.read_node import standard
from mmedge_export.onnx_graph.rewrite import constant, free_name, only_user, register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge_export.onnx_graph.infer_sizes import SymbolicSizes

__all__ = ["MOST_ROWS", "MergeProjectionsPass"]

#: Rows up to which a product costs about what reading its matrix costs. One product took 0.81 to
#: 0.90 of the time of two (ONNX Runtime, float32, a core, 576 rows and 1,536 columns).
MOST_ROWS = 16

#: Version of the operators from which Split takes its sizes as a tensor.
OLDEST = 13


@dataclass(frozen=True)
class Projection:
    """A product with a constant matrix, and the row that is added to it alone, if there is one."""

    node: ir.Node
    matrix: ir.Value
    columns: np.ndarray
    add: ir.Node | None = None
    bias: ir.Value | None = None
    term: np.ndarray | None = None

    @property
    def output(self) -> ir.Value:
        """What it computes."""
        return (self.add or self.node).outputs[0]


class MergeProjectionsPass(ir.passes.InPlacePass):
    """Multiply a tensor of few rows with the columns of several matrices at once, and split that.

    Queries, keys and values of an attention are such products, and the two halves of a gated
    linear unit. A matrix that something else reads stays by itself: no weight is stored twice.
    Every column is computed as before. Nodes of subgraphs stay as they are.

    Args:
        sizes: of dimensions by their names in the graph, for which rows are counted.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self._sizes = sizes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph, modified = model.graph, False
        if graph.opset_imports.get("", 0) < OLDEST:
            return ir.passes.PassResult(model, modified=False)
        shapes = infer_sizes(graph)
        groups: dict[ir.Value, list[Projection]] = {}
        for node in graph:
            projection = _projection(node)
            if projection is not None and (value := node.inputs[0]) is not None:
                groups.setdefault(value, []).append(projection)
        for value, projections in groups.items():
            if len(projections) > 1 and self._has_few_rows(value, shapes):
                _merge(graph, value, projections)
                modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _has_few_rows(self, value: ir.Value, shapes: SymbolicSizes) -> bool:
        shape = shapes.shape(value)
        if shape is None or len(shape) < 2:
            return False
        rows = 1
        for size in shape[:-1]:
            number = size.at(self._sizes)
            if number is None:
                return False
            rows *= number
        return rows <= MOST_ROWS


def _projection(node: ir.Node) -> Projection | None:
    """A product with a matrix that nothing else reads; None for any other node."""
    if node.op_type != "MatMul" or not standard(node) or node.outputs[0].is_graph_output():
        return None
    matrix = node.inputs[1]
    tensor = constant(matrix)
    if matrix is None or tensor is None or len(tensor.shape) != 2:
        return None
    if len(matrix.uses()) != 1 or matrix.is_graph_output():
        return None
    columns = tensor.numpy()
    add = only_user(node.outputs[0])
    if add is None or add.op_type != "Add" or not standard(add) or add.outputs[0].is_graph_output():
        return Projection(node, matrix, columns)
    bias = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    term = constant(bias)
    if term is None or tuple(term.shape.numpy()) != columns.shape[1:]:
        return Projection(node, matrix, columns)
    return Projection(node, matrix, columns, add, bias, term.numpy())


def _merge(graph: ir.Graph, value: ir.Value, projections: Sequence[Projection]) -> None:
    """Put one product and a Split in the place of several products, with what they add."""
    first = projections[0].node
    stem = f"{first.outputs[0].name}_merged"

    def add(op_type: str, left: ir.Value, right: ir.Value, name: str) -> ir.Value:
        output = ir.Value(name=free_name(graph, name), type=first.outputs[0].type)
        node = ir.node(op_type, [left, right], outputs=[output], name=output.name)
        node.metadata_props.update(first.metadata_props)
        graph.insert_before(first, node)
        return output

    columns = [each.columns for each in projections]
    matrix = register(graph, f"{stem}_weight", np.concatenate(columns, axis=1))
    product = add("MatMul", value, matrix, stem)
    if any(each.term is not None for each in projections):
        terms = [
            np.zeros(each.columns.shape[1], each.columns.dtype) if each.term is None else each.term
            for each in projections
        ]
        bias = register(graph, f"{stem}_bias", np.concatenate(terms))
        product = add("Add", product, bias, f"{stem}_sum")
    widths = register(graph, f"{stem}_widths", np.array([c.shape[1] for c in columns], np.int64))
    old = [each.output for each in projections]
    parts = [ir.Value(name=output.name, type=output.type, shape=output.shape) for output in old]
    split = ir.node(
        "Split", [product, widths], {"axis": -1}, outputs=parts, name=free_name(graph, stem)
    )
    split.metadata_props.update(first.metadata_props)
    graph.insert_before(first, split)
    ir.convenience.replace_all_uses_with(old, parts)
    graph.remove([each.add for each in projections if each.add is not None], safe=True)
    graph.remove([each.node for each in projections], safe=True)
    for each in projections:
        for constant_value in (each.matrix, each.bias):
            if constant_value is None or constant_value.uses() or constant_value.is_graph_output():
                continue
            graph.initializers.pop(str(constant_value.name), None)
