"""One product whose output is split, as a product for each part."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.rewrite import constant, only_user, register

__all__ = ["unpack_projection"]


def unpack_projection(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """Take a MatMul apart whose output, perhaps with a bias added, only goes into a Split.

    Such is the packed projection of attention's queries, keys and values. The parts take their
    columns of the weights and of the bias; what they compute is the same.

    Args:
        graph: rewritten in place; its values have shapes.
        node: of ``graph``.

    Returns:
        The products that stand for ``node`` now: itself alone where it is no such product, its
        weights are not a constant matrix, or a size is not known.
    """
    weights = node.inputs[1] if node.op_type == "MatMul" else None
    columns = _constant(weights, rank=2)
    if weights is None or columns is None:
        return [node]
    add, split, bias = None, only_user(node.outputs[0]), None
    if split is not None and split.op_type == "Add":
        add = split
        bias = next((v for v in add.inputs if v is not None and v is not node.outputs[0]), None)
        if _constant(bias, rank=1) is None:
            return [node]
        split = only_user(add.outputs[0])
    if split is None or not _is_split_of_last_axis(split):
        return [node]
    sizes = [value.shape[-1] if value.shape else None for value in split.outputs]
    ends = [0, *np.cumsum([size for size in sizes if isinstance(size, int)]).tolist()]
    bias_array = _constant(bias, rank=1)
    sizes_fit = len(ends) == len(sizes) + 1 and ends[-1] == columns.shape[1]
    if not sizes_fit or (bias_array is not None and bias_array.shape[0] != columns.shape[1]):
        return [node]
    products = []
    for index, ((start, end), old) in enumerate(zip(pairwise(ends), split.outputs, strict=True)):
        part = f"{node.name}_part{index}"
        factor = register(graph, f"{weights.name}_{part}", columns[:, start:end])
        product = ir.node("MatMul", [node.inputs[0], factor], name=part)
        _type(product.outputs[0], old, f"{part}_product")
        products.append(product)
        new = [product]
        if bias_array is not None:
            term = register(graph, f"{part}_bias", bias_array[start:end])
            new.append(ir.node("Add", [product.outputs[0], term], name=f"{part}_add"))
            _type(new[-1].outputs[0], old, f"{part}_sum")
        graph.insert_before(split, new)
        ir.convenience.replace_all_uses_with(old, new[-1].outputs[0])
    graph.remove([n for n in (node, add, split) if n is not None], safe=True)
    return products


def _constant(value: ir.Value | None, *, rank: int) -> np.ndarray | None:
    tensor = constant(value)
    return None if tensor is None or len(tensor.shape) != rank else tensor.numpy()


def _is_split_of_last_axis(node: ir.Node) -> bool:
    value = node.inputs[0]
    if node.op_type != "Split" or node.domain != "" or value is None or value.shape is None:
        return False
    attribute = node.attributes.get("axis")
    axis = attribute.as_int() if attribute is not None else 0
    last = axis in (-1, len(value.shape) - 1)
    return last and not any(output.is_graph_output() for output in node.outputs)


def _type(value: ir.Value, like: ir.Value, name: str) -> None:
    value.name, value.type, value.shape = name, like.type, like.shape
