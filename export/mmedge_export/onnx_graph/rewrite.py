"""Small edits that passes of a graph share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.read_node import standard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["producer", "remove_unused", "replace_node"]


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes ``value`` where it is ONNX's ``op_type``; None elsewhere."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and standard(node) else None


def replace_node(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, int | Sequence[int]] | None = None,
) -> ir.Value:
    """Put another node with one output in the place of ``node``, under its names.

    Returns:
        what stands for the output now.
    """
    old = node.outputs[0]
    new = ir.Value(name=old.name, type=old.type, shape=old.shape)
    new_node = ir.node(op_type, inputs, attributes, outputs=[new], name=node.name)
    new_node.metadata_props.update(node.metadata_props)
    if node.graph is not None:
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], [new_node], [old], [new])
    return new


def remove_unused(nodes: Iterable[ir.Node]) -> None:
    """Remove those of ``nodes``, last ones first, whose outputs nothing takes."""
    for node in nodes:
        live = any(value.uses() or value.is_graph_output() for value in node.outputs)
        if not live and node.graph is not None:
            node.graph.remove(node, safe=True)
