"""Small edits that passes of a graph share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.read_node import standard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "FreeNames",
    "constant",
    "free_name",
    "only_user",
    "producer",
    "register",
    "remove_unused",
    "replace_node",
]


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer that no caller can override; None for anything else."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, in the graph that makes it; None where there are others."""
    uses = list(value.uses())
    node = value.producer()
    if len(uses) != 1 or value.is_graph_output() or node is None:
        return None
    return uses[0].node if uses[0].node.graph is node.graph else None


def free_name(graph: ir.Graph, name: str) -> str:
    """``name``, or one like it that no node and no value of the graph has."""
    return FreeNames(graph).take(name)


class FreeNames:
    """Names that no node and no value of a graph has.

    Args:
        graph: whose names are read once: what is added to it later takes its names here.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._names = {str(value.name) for value in graph.inputs} | set(graph.initializers)
        for node in graph.all_nodes():
            self._names.add(str(node.name))
            self._names.update(str(value.name) for value in node.outputs)

    def take(self, stem: str) -> str:
        """``stem``, or with a number where it is taken; nobody else gets it."""
        name, number = stem, 0
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def reserve(self, name: str) -> bool:
        """Take a name as it is; whether it was free."""
        is_free = name not in self._names
        self._names.add(name)
        return is_free


def register(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new constant of a graph, called ``name`` or like it."""
    name = free_name(graph, name)
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    dtype, shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
    value = ir.Value(name=name, type=dtype, shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


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
