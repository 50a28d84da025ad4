"""A strongly typed float16 graph from a float32 one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = ["CastFloat16Pass", "takes_float16"]

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

#: Nodes that read a tensor of any float type as it is: casting it first would be work for nothing.
AS_IS = frozenset(("Cast", "Shape", "Size"))

#: Attributes that fix the dtype of what a node makes.
DTYPE_ATTRIBUTES = frozenset(("dtype", "output_datatype", "output_dtype"))


class CastFloat16Pass(ir.passes.InPlacePass):
    """Compute in float16 all that is not named in ``keep``.

    Weights of float16 nodes become float16; one cast is inserted for each tensor that crosses
    between the two types. Inputs and outputs of the graph keep their dtypes. Nodes whose operator
    has no float16 form, and nodes inside the subgraphs of If, Loop and Scan, stay float32.

    Args:
        keep: names of nodes that stay float32.

    Raises (when called):
        ExportError: a tensor has no dtype, or a node no name: run the passes of
            :func:`mmedge_export.targets.tensorrt.float16.prepare` first.
    """

    def __init__(self, keep: Container[str]) -> None:
        self._keep = keep

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        half = {node for node in graph if node.name not in self._keep and takes_float16(node)}
        outside = _floats_from_outside(graph)
        copies: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        for node in list(graph):
            if node.op_type not in AS_IS:
                for index, value in enumerate(node.inputs):
                    if value is None or value.dtype not in (FLOAT, HALF) or value in outside:
                        continue
                    float32_only = _formal_type(node, index, output=False) == "tensor(float)"
                    dtype = HALF if node in half and not float32_only else FLOAT
                    node.replace_input_with(index, _as(graph, value, dtype, copies))
            if node in half:
                _retype_outputs(node)
        for value, uses in outside.items():
            for user, index in uses:
                user.replace_input_with(index, _as(graph, value, FLOAT, copies))
        for index, value in enumerate(graph.outputs):
            if value.dtype == HALF:
                graph.outputs[index] = _output_as_float(graph, value)
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del graph.initializers[name]
        graph.sort()
        return ir.passes.PassResult(model, modified=bool(half))


def takes_float16(node: ir.Node) -> bool:
    """Whether the operator's definition allows float16 wherever this node has float32.

    Inputs and outputs that an operator defines as float32 alone, such as the scales of Resize, do
    not count. False for a node without float32 tensors, and for one that needs no type at all.
    """
    if node.op_type in ("Shape", "Size"):
        return False
    if node.op_type == "Cast":
        to = node.attributes.get("to")
        return to is not None and to.as_int() == FLOAT
    if any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
           for attr in node.attributes.values() if isinstance(attr, ir.Attr)):  # fmt: skip
        return False
    if DTYPE_ATTRIBUTES & node.attributes.keys() or node.op_type == "CastLike":
        return False
    schema = _schema(node)
    if schema is None:
        return False
    dtypes_of = {
        constraint.type_param_str: constraint.allowed_type_strs
        for constraint in schema.type_constraints
    }
    has_float32 = False
    for values, output in ((node.inputs, False), (node.outputs, True)):
        for index, value in enumerate(values):
            if value is None or not value.name:
                continue
            if value.dtype is None:
                raise ExportError(
                    f"node {node.name!r} ({node.op_type}): tensor {value.name!r} has no dtype; "
                    "run shape inference on the graph first"
                )
            if value.dtype != FLOAT:
                continue
            formal = _formal_type(node, index, output=output)
            if formal == "tensor(float)":
                continue
            if "tensor(float16)" not in dtypes_of.get(formal, (formal,)):
                return False
            has_float32 = True
    return has_float32


def _schema(node: ir.Node) -> onnx.defs.OpSchema | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = node.version
    if version is None and node.graph is not None:
        version = node.graph.opset_imports.get(domain)
    try:
        return onnx.defs.get_schema(node.op_type, version or onnx.defs.onnx_opset_version(), domain)
    except onnx.defs.SchemaError:
        return None


def _formal_type(node: ir.Node, index: int, *, output: bool) -> str:
    """Type that the operator's definition gives an input or output: a variable or a type."""
    schema = _schema(node)
    if schema is None:
        return "tensor(float)"  # not ours to change
    formals = schema.outputs if output else schema.inputs
    return str(formals[min(index, len(formals) - 1)].type_str)  # the last one may be variadic


def _floats_from_outside(graph: ir.Graph) -> dict[ir.Value, list[tuple[ir.Node, int]]]:
    """Float32 values that nodes of subgraphs take from the main graph, with those uses."""
    outside_uses: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    for value in values:
        if value.dtype != FLOAT:
            continue
        uses = [(use.node, use.idx) for use in value.uses() if use.node.graph is not graph]
        if uses:
            outside_uses[value] = uses
    return outside_uses


def _retype_outputs(node: ir.Node) -> None:
    """Mark what a float16 node yields; change the attributes that fix its dtype."""
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(HALF))
    if node.op_type == "ConstantOfShape" and "value" in node.attributes:
        filler = node.attributes["value"].as_tensor().numpy().astype(np.float16)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(filler))
    for index, value in enumerate(node.outputs):
        if value.dtype == FLOAT and _formal_type(node, index, output=True) != "tensor(float)":
            value.dtype = HALF


def _as(
    graph: ir.Graph,
    value: ir.Value,
    dtype: ir.DataType,
    copies: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    """``value`` as ``dtype``: itself, a converted weight, or a cast, made once."""
    if value.dtype == dtype:
        return value
    replacement = copies.get((value, dtype))
    if replacement is not None:
        return replacement
    name = f"{value.name}_{'float16' if dtype == HALF else 'float32'}"
    if value.const_value is not None and value.is_initializer():
        array = value.const_value.numpy()
        tensor = ir.tensor(array.astype(np.float16 if dtype == HALF else np.float32), name=name)
        replacement = ir.Value(
            name=name, type=ir.TensorType(dtype), shape=value.shape, const_value=tensor
        )
        graph.register_initializer(replacement)
    else:
        replacement = _cast(graph, value, name, dtype)
    copies[value, dtype] = replacement
    return replacement


def _cast(graph: ir.Graph, value: ir.Value, name: str, to: ir.DataType) -> ir.Value:
    result = ir.Value(name=name, type=ir.TensorType(to), shape=value.shape)
    node = ir.node("Cast", [value], {"to": int(to)}, outputs=[result], name=f"cast_{name}")
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, node)
    else:
        graph.insert_before(graph[0], node)
    return result


def _output_as_float(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A float32 output under the name that ``value`` had."""
    name = str(value.name)
    value.name = f"{name}_float16"
    return _cast(graph, value, name, FLOAT)
