"""An ONNX file as the toolchain works on it: sorted, with names that a bundle takes.

Files come from many writers. ONNX Runtime runs what is unsorted, what states sizes that are not so,
and what lists its weights among its inputs, and so these are mended here and nowhere else. What a
user may notice of it is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from mmedge.schema.names import TENSOR_NAME
from mmedge_export.onnx_graph.graph import EXTERNAL_BYTES
from mmedge_export.open_questions import line
from mmedge_export.sources.onnx_copy import remarks_of
from mmedge_export.sources.onnx_dimensions import name_dimensions
from mmedge_export.sources.onnx_rules import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["Normalized", "normalize", "read_model"]

#: Opset for what passes add to a file that imports no standard operators.
STANDARD_OPSET = 20

#: Domain of mmedge's own functions, which stay functions.
OWN_DOMAIN = "mmedge"


@dataclass(frozen=True)
class Normalized:
    """What was done to a file.

    Attributes:
        inputs: name of each input that a caller gives -> its name in the file, in the file's order.
        outputs: the same of outputs.
        output_shapes: shape of each output as the file states it, which need not be so.
        remarks: what a user may notice, in words.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    output_shapes: tuple[ir.Shape | None, ...]
    remarks: tuple[str, ...]


def read_model(path: Path) -> tuple[ir.Model, list[str]]:
    """A file's graph with what onnx-ir does not read, or reads as another thing, mended before.

    Sparse weights and constants are written out. Each output is what a node yields, and each
    another value: one that is an input or a weight itself, or is listed twice, gets an Identity,
    since else what the file says of it would be taken for what it says of the input.

    Returns:
        The graph, and the file's names of its outputs.

    Raises:
        ExportError: an input or output is no tensor.
    """
    proto = onnx.load(path, load_external_data=False)
    graph = proto.graph
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            kind_of = value.type.WhichOneof("value")
            if kind_of not in (None, "tensor_type"):
                what = str(kind_of).removesuffix("_type").replace("_", " ")
                raise refusal(
                    f"{path}: {kind} {value.name!r} is a {what}, expected a tensor", "container"
                )
    _make_dense(graph)
    outer_names = {value.name for value in (*graph.input, *graph.initializer)}
    for value in [v for v in graph.value_info if v.name in outer_names]:
        graph.value_info.remove(value)
    outputs = [value.name for value in graph.output]
    names = outer_names | {name for node in graph.node for name in (*node.input, *node.output)}
    for index, value in enumerate(graph.output):
        if value.name in outer_names or value.name in outputs[:index]:
            free_name = f"{value.name}_output"
            while free_name in names:
                free_name += "_"
            names.add(free_name)
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [free_name]))
            value.name = free_name
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, str(path.parent))
    return model, outputs


def _make_dense(graph: onnx.GraphProto) -> None:
    """Write out sparse weights and constants, in subgraphs too."""
    graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                _make_dense(subgraph)
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                value = _dense(attribute.sparse_tensor)
                attribute.CopyFrom(onnx.helper.make_attribute("value", value))


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return onnx.numpy_helper.from_array(dense, sparse.values.name)


def normalize(model: ir.Model, outputs: list[str]) -> Normalized:
    """Change ``model`` into one that computes the same and keeps these rules.

    - Nodes are sorted, in subgraphs too, and the file's functions are written out where called.
    - Weights are no inputs. Those that the file lets a caller override are fixed.
    - Small external tensors, and those of attributes, are in memory.
    - Inputs and outputs have names that a manifest takes, each another one.
    - Dimensions of inputs have a size, or a name of a manifest's form; two that had other texts in
      the file have other names.
    - Shapes of what nodes yield are gone, since a file may state what is not so
      (:func:`infer_outputs`).

    Args:
        model: of :func:`read_model`.
        outputs: the file's names of its outputs.

    Raises:
        ValueError: the graph has a cycle, or functions that call themselves.
    """
    remarks = [line(text) for text in remarks_of(model)]
    alias = model.opset_imports.pop("ai.onnx", STANDARD_OPSET)
    model.opset_imports.setdefault("", alias)
    if any(function.domain != OWN_DOMAIN for function in model.functions.values()):
        InlinePass(criteria=lambda function: function.domain != OWN_DOMAIN)(model)
    _load_small(model)
    _take_weights_from_inputs(model, remarks)
    model.graph.sort()
    inputs = [str(value.name) for value in model.graph.inputs]
    _name_interface(model.graph, inputs, outputs, remarks)
    output_shapes = [value.shape for value in model.graph.outputs]
    name_dimensions(model.graph)
    for node in _nodes(model.graph):
        for value in node.outputs:
            value.shape = None
    return Normalized(
        {str(value.name): name for value, name in zip(model.graph.inputs, inputs, strict=True)},
        {str(value.name): name for value, name in zip(model.graph.outputs, outputs, strict=True)},
        tuple(output_shapes),
        tuple(remarks),
    )


def _load_small(model: ir.Model) -> None:
    """Read external tensors that are to lie in the graph itself into memory."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes < EXTERNAL_BYTES:
                value.const_value = _in_memory(tensor)
    for node in _nodes(model.graph):
        for name, attribute in list(node.attributes.items()):
            if attribute.is_ref():
                continue
            if isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, _in_memory(attribute.value))
            elif attribute.type == ir.AttributeType.TENSORS:
                tensors = [
                    _in_memory(t) if isinstance(t, ir.ExternalTensor) else t
                    for t in attribute.as_tensors()
                ]
                node.attributes[name] = ir.AttrTensors(name, tensors)


def _in_memory(tensor: ir.ExternalTensor) -> ir.Tensor[Any]:
    array = tensor.numpy().copy()
    tensor.release()
    return ir.Tensor(array, name=tensor.name, dtype=tensor.dtype)


def _take_weights_from_inputs(model: ir.Model, remarks: list[str]) -> None:
    """Graphs of IR version 3 list weights as inputs too; later ones mean a default by it."""
    weight_inputs = [value for value in model.graph.inputs if value.is_initializer()]
    if not weight_inputs:
        return
    for value in weight_inputs:
        model.graph.inputs.remove(value)
    if model.ir_version > 3:
        names = ", ".join(repr(str(value.name)) for value in weight_inputs)
        remarks.append(
            f"{names}: inputs with a default in the file are fixed at it and are no inputs of the "
            "bundle"
        )
    model.ir_version = max(model.ir_version or 0, 4)


def _name_interface(
    graph: ir.Graph, inputs: list[str], outputs: list[str], remarks: list[str]
) -> None:
    """Give inputs and outputs names that a manifest takes; no two of the graph are alike."""
    faces = [*graph.inputs, *graph.outputs]
    file_names = [*inputs, *outputs]
    keep = {n for n in file_names if TENSOR_NAME.fullmatch(n)}
    interface_names: set[str] = set()
    names = []
    for name in file_names:
        plain = re.sub(r"[^A-Za-z0-9_./:-]", "_", name)[:180] or "tensor"
        if TENSOR_NAME.fullmatch(name) and name not in interface_names:
            plain = name
        elif name in interface_names or plain in interface_names or plain in keep:
            count = 1
            while f"{plain}_{count}" in interface_names | keep:
                count += 1
            plain = f"{plain}_{count}"
        interface_names.add(plain)
        names.append(plain)
    # Inner values make way first: one may have a name that a face gets.
    others = [v for v in _values(graph) if v not in faces]
    graph_names = interface_names | {str(v.name) for v in others}
    for value in others:
        if value.name in interface_names:
            count = 1
            while f"{value.name}_{count}" in graph_names:
                count += 1
            value.name = f"{value.name}_{count}"
            graph_names.add(value.name)
    for index, value in enumerate(faces):
        value.name = f"\0{index}"
    for value, name, old in zip(faces, names, file_names, strict=True):
        value.name = name
        if name != old:
            kind = "input" if value.is_graph_input() else "output"
            remarks.append(f"{kind} {old!r} of the file is called {name!r} in the bundle")


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every node, those of subgraphs too."""
    yield from ir.traversal.RecursiveGraphIterator(graph)


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    """Every value, those of subgraphs too."""
    graphs = {graph, *graph.subgraphs()}
    values = [v for g in graphs for v in (*g.inputs, *g.initializers.values())]
    values += [v for node in _nodes(graph) for v in node.outputs]
    return [v for v in values if v.name]
