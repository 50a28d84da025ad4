"""Edits of a graph that every way of quantising it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from mmedge.errors import ExportError
from mmedge_export.onnx_graph.read_node import standard

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge.spec import Array

__all__ = ["add_constant", "array_of", "name_nodes", "save_graph", "split_gemm", "untype"]


def untype(graph: ir.Graph) -> None:
    """Take out types and shapes that stand beside constants, which have them of themselves.

    Reading a graph from a file puts them there.
    """
    for value in graph.initializers.values():
        if not value.is_graph_input():
            value.shape = value.type = None


def split_gemm(graph: ir.Graph) -> None:
    """Write each Gemm with constant weights as MatMul and Add."""
    for node in list(graph):
        if node.op_type != "Gemm" or not standard(node):
            continue
        attributes = node.attributes
        scales = [attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
        weight = node.inputs[1]
        tensor = None if weight is None else weight.const_value
        if weight is None or tensor is None:
            continue
        if scales != [1.0, 1.0] or attributes.get_int("transA", 0) != 0:
            continue
        if attributes.get_int("transB", 0) != 0:
            weight = add_constant(graph, f"{weight.name}_transposed", tensor.numpy().T)
        output = node.outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        product = ir.node("MatMul", [node.inputs[0], weight], name=node.name)
        product.metadata_props.update(node.metadata_props)
        new_nodes = [product]
        product.outputs[0].name = f"{output.name}_product" if bias else output.name
        product.outputs[0].type, product.outputs[0].shape = output.type, output.shape
        if bias is not None:
            new_nodes.append(ir.node("Add", [product.outputs[0], bias], name=f"{node.name}_bias"))
            new_nodes[-1].outputs[0].name = output.name
            new_nodes[-1].outputs[0].type = output.type
            new_nodes[-1].outputs[0].shape = output.shape
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], new_nodes, [output], [new_nodes[-1].outputs[0]]
        )


def array_of(value: ir.Value) -> Array:
    """What an initializer holds.

    Raises:
        ExportError: it holds nothing.
    """
    if value.const_value is None:
        raise ExportError(f"initializer {value.name!r} holds no tensor; export the network again")
    return value.const_value.numpy()


def add_constant(graph: ir.Graph, name: str, value: Array) -> ir.Value:
    """A new initializer, under ``name`` or one like it."""
    names = {value.name for node in graph for value in node.outputs}
    names |= {value.name for value in graph.inputs} | set(graph.initializers)
    while name in names:
        name += "_"
    tensor = ir.tensor(np.ascontiguousarray(value), name=name)
    constant = ir.Value(
        name=name,
        shape=ir.Shape(value.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(constant)
    return constant


def name_nodes(graph: ir.Graph) -> None:
    """Give every node a name that no other has."""
    inner = (node for node in ir.traversal.RecursiveGraphIterator(graph) if node.graph is not graph)
    names = {str(node.name) for node in inner}
    for number, node in enumerate(graph):
        name = node.name or f"{node.op_type}_{number}"
        while name in names:
            name += "_"
        node.name = name
        names.add(name)


def save_graph(model: ir.Model, target: Path) -> None:
    """Write a graph, without what no node uses; large tensors go to ``<target>.data``."""
    common.RemoveUnusedNodesPass()(model)
    # Renamed in the end, so that a graph that is there is whole.
    part = target.with_name(f".{target.name}")
    ir.save(model, part, external_data=f"{target.name}.data", size_threshold_bytes=1024)
    part.replace(target)
