"""Floating-point operations of a graph's nodes, as :mod:`.op_flops` counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor, measure_shapes
from mmedge_export.partition.op_flops import is_segmented_attention, op_flops

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["MeasuredTensor", "measure_shapes", "model_flops", "node_flops"]

#: Values of at most this many elements are given to shape inference: they may be sizes.
_SIZES = 64


def model_flops(model: ir.Model, shapes: Mapping[str, MeasuredTensor]) -> int:
    """Sum of :func:`node_flops` over the main graph."""
    return sum(node_flops(node, shapes, model.functions) for node in model.graph)


def node_flops(
    node: ir.Node,
    shapes: Mapping[str, MeasuredTensor],
    functions: Mapping[ir.OperatorIdentifier, ir.Function] | None = None,
) -> int:
    """Operations of one run of a node.

    A call of one of ``functions`` counts what its body holds, and so do control flow nodes: of If
    the cheaper branch, of Scan every step, of Loop every step where it yields something for each
    and else one. Inside, sizes are what ONNX shape inference finds and a node whose sizes it does
    not find counts none: such figures are lower bounds. Inline functions for exact ones.

    Args:
        node: its tensors have entries in ``shapes``.
        shapes: see :func:`measure_shapes`.
        functions: those of the node's model.

    Raises:
        ExportError: a tensor that the count needs has no entry.
    """
    functions = functions or {}
    if node.op_identifier() in functions and not is_segmented_attention(node):
        return _call(node, functions[node.op_identifier()], shapes, functions)
    if node.domain in ("", "ai.onnx") and node.op_type in _CONTROL:
        return _CONTROL[node.op_type](node, shapes, functions)
    return op_flops(node, shapes)


def _call(
    node: ir.Node,
    function: ir.Function,
    shapes: Mapping[str, MeasuredTensor],
    functions: Mapping[ir.OperatorIdentifier, ir.Function],
) -> int:
    proto = ir.to_proto(function)
    bindings = {name: ir.to_proto(attribute) for name, attribute in node.attributes.items()}
    bindings = {attribute.name: attribute for attribute in proto.attribute_proto} | bindings
    _bind(proto.node, bindings)
    names = [value.name for value in function.inputs]
    inputs = _BodyInputs(shapes).bind(names, node.inputs)
    return _body(proto.node, inputs, proto.opset_import, functions)


def _if(
    node: ir.Node,
    shapes: Mapping[str, MeasuredTensor],
    functions: Mapping[ir.OperatorIdentifier, ir.Function],
) -> int:
    branches = (node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    return min(_subgraph(node, branch, _BodyInputs(shapes), functions) for branch in branches)


def _loop(
    node: ir.Node,
    shapes: Mapping[str, MeasuredTensor],
    functions: Mapping[ir.OperatorIdentifier, ir.Function],
) -> int:
    body = node.attributes["body"].as_graph()
    step, proceed, *state = [str(value.name) for value in body.inputs]
    inputs = _BodyInputs(shapes).bind(state, node.inputs[2:])
    inputs.sizes[step] = MeasuredTensor((), ir.DataType.INT64)
    inputs.sizes[proceed] = MeasuredTensor((), ir.DataType.BOOL)
    names = [str(value.name) for value in node.outputs[len(state) :]]
    steps = next((shapes[name].shape[0] for name in names if name in shapes), 1)
    return steps * _subgraph(node, body, inputs, functions)


def _scan(
    node: ir.Node,
    shapes: Mapping[str, MeasuredTensor],
    functions: Mapping[ir.OperatorIdentifier, ir.Function],
) -> int:
    body = node.attributes["body"].as_graph()
    count = node.attributes.get_int("num_scan_inputs", 1)
    names = [str(value.name) for value in body.inputs]
    inputs = _BodyInputs(shapes).bind(names[:-count], node.inputs[:-count])
    axes = node.attributes.get_ints("scan_input_axes", [0] * count)
    steps = 1
    for name, value, axis in zip(names[-count:], node.inputs[-count:], axes, strict=True):
        operand = shapes.get("" if value is None else str(value.name))
        if operand is not None:
            shape = list(operand.shape)
            steps = shape.pop(axis)
            inputs.sizes[name] = MeasuredTensor(tuple(shape), operand.dtype)
    return steps * _subgraph(node, body, inputs, functions)


_CONTROL = {"If": _if, "Loop": _loop, "Scan": _scan}


class _BodyInputs:
    """What is known inside a body: sizes of the values that enter it, and small constants."""

    def __init__(self, outer_sizes: Mapping[str, MeasuredTensor]) -> None:
        self._outer = outer_sizes
        self.sizes: dict[str, MeasuredTensor] = {}
        self.constants: dict[str, onnx.TensorProto] = {}

    def bind(self, names: Sequence[str | None], values: Sequence[ir.Value | None]) -> _BodyInputs:
        """Let ``values`` from outside be called ``names`` inside."""
        for name, value in zip(names, values, strict=False):
            if value is None or not name or not value.name or value.name not in self._outer:
                continue
            self.sizes[name] = self._outer[value.name]
            self.hold(name, value)
        return self

    def hold(self, name: str, value: ir.Value) -> None:
        """Give a value its content where it is a small constant, its size where it is a large."""
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            return
        self.sizes[name] = MeasuredTensor(tuple(tensor.shape.numpy()), tensor.dtype)
        if tensor.size <= _SIZES:
            self.constants[name] = onnx.numpy_helper.from_array(tensor.numpy(), name)


def _subgraph(
    node: ir.Node,
    graph: ir.Graph,
    inputs: _BodyInputs,
    functions: Mapping[ir.OperatorIdentifier, ir.Function],
) -> int:
    """What a body sees of the graph around it enters by its own name."""
    inner_names = {value.name for value in graph.inputs} | set(graph.initializers)
    for each in ir.traversal.RecursiveGraphIterator(graph):
        captures = [
            v for v in each.inputs if v is not None and v.name and v.name not in inner_names
        ]
        inputs.bind([v.name for v in captures], captures)
        inner_names.update(v.name for v in each.outputs)
    for name, value in graph.initializers.items():
        inputs.hold(name, value)
    opsets = {} if node.graph is None else dict(node.graph.opset_imports)
    opsets = opsets or {"": onnx.defs.onnx_opset_version()}
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    nodes = [ir.to_proto(each) for each in graph]
    return _body(nodes, inputs, imports, functions)


def _body(
    nodes: Iterable[onnx.NodeProto],
    inputs: _BodyInputs,
    opsets: Iterable[onnx.OperatorSetIdProto],
    functions: Mapping[ir.OperatorIdentifier, ir.Function],
) -> int:
    """Operations of ``nodes``, under the operator versions ``opsets``."""
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            list(nodes),
            "body",
            [
                onnx.helper.make_tensor_value_info(name, int(tensor.dtype), tensor.shape)
                for name, tensor in inputs.sizes.items()
                if name not in inputs.constants
            ],
            [],
            list(inputs.constants.values()),
        ),
        opset_imports=list(opsets),
        functions=[ir.to_proto(function) for function in functions.values()],
    )
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [value for node in model.graph for value in node.outputs]
    shapes = {
        str(value.name): MeasuredTensor(tuple(value.shape.numpy()), value.dtype)
        for value in values
        if value.shape is not None and value.shape.is_static() and value.dtype is not None
    }
    total = 0
    for node in model.graph:
        try:
            total += node_flops(node, shapes, model.functions)
        except ExportError:  # a size that inference does not find
            continue
    return total


def _bind(nodes: Iterable[onnx.NodeProto], bindings: Mapping[str, onnx.AttributeProto]) -> None:
    """Put a call's attributes in the place of the references to them."""
    for node in nodes:
        for index in reversed(range(len(node.attribute))):
            attribute = node.attribute[index]
            if attribute.ref_attr_name in bindings:
                name = attribute.name
                attribute.CopyFrom(bindings[attribute.ref_attr_name])
                attribute.name = name
            elif attribute.ref_attr_name:
                del node.attribute[index]
            elif attribute.HasField("g"):
                _bind(attribute.g.node, bindings)
