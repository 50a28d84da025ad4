"""Transposes between two reshapes, without the reshapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.infer_sizes import infer_sizes
from mmedge_export.onnx_graph.read_node import permutation, standard
from mmedge_export.onnx_graph.rewrite import producer, remove_unused, replace_node
from mmedge_export.onnx_graph.size import ONE, product

if TYPE_CHECKING:
    from mmedge_export.onnx_graph.infer_sizes import Shape

__all__ = ["LiftTransposesPass"]


class LiftTransposesPass(ir.passes.InPlacePass):
    """Write Reshape, Transpose, Reshape as the one Transpose that they are.

    Exporters swap the last two axes of attention's keys like this: the first reshape puts
    neighboring axes together, and the second one takes the same ones apart. A runtime can take a
    Transpose alone into the product that reads it. Nodes of subgraphs stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place; the nodes in front stay where something else reads them."""
        sizes = infer_sizes(model.graph)
        modified = False
        for node in list(model.graph):
            if node.op_type != "Reshape" or not standard(node):
                continue
            middle = producer(node.inputs[0], "Transpose")
            first = None if middle is None else producer(middle.inputs[0], "Reshape")
            if middle is None or first is None:
                continue
            source, result = first.inputs[0], sizes.shape(node.outputs[0])
            merged = sizes.shape(first.outputs[0])
            axes = _permutation(sizes.shape(source), merged, result, middle)
            if axes is None or result is None:
                continue
            sizes.shapes[replace_node(node, "Transpose", [source], {"perm": axes})] = result
            remove_unused([middle, first])
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _permutation(
    source: Shape | None, merged: Shape | None, result: Shape | None, middle: ir.Node
) -> list[int] | None:
    """How the axes of ``source`` lie in ``result``; None where the three nodes do more.

    Args:
        source: the shape in front of the first reshape.
        merged: the shape behind it.
        result: the shape behind the second one.
        middle: the Transpose between them.
    """
    if source is None or merged is None or result is None or len(source) != len(result):
        return None
    groups = _groups(source, merged)
    if groups is None:
        return None
    axes = [axis for at in permutation(middle, len(merged)) for axis in groups[at]]
    return axes if tuple(source[axis] for axis in axes) == result else None


def _groups(source: Shape, merged: Shape) -> list[list[int]] | None:
    """The neighboring axes of ``source`` that each axis of ``merged`` is made of."""
    groups: list[list[int]] = []
    axis = 0
    for size in merged:
        group: list[int] = []
        while axis < len(source) and (
            product(source[at] for at in group) != size or (not group and source[axis] == ONE)
        ):
            group.append(axis)
            axis += 1
        if product(source[at] for at in group) != size:
            return None
        groups.append(group)
    rest = range(axis, len(source))
    if any(source[at] != ONE for at in rest) or not groups:
        return None
    groups[-1] += rest
    return groups
