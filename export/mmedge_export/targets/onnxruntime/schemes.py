"""Ways to write a graph with some of its nodes in integers.

A node that multiplies by constant weights (MatMul, Conv; Gemm is written as MatMul and Add first)
or looks rows up in them can take one of these forms, which ONNX Runtime or OpenVINO has fast
kernels for on CPUs:

- ``static``: activations as uint8 by ranges from calibration, weights int8 by output channel. ONNX
  Runtime fuses the pairs of QuantizeLinear and DequantizeLinear around it.
- ``entering``: as ``static``, but only what enters a node is rounded and what leaves it is not.
  OpenVINO fuses that as well; its results are more exact.
- ``dynamic``: activations as uint8 by the range of each call, weights int8 by output channel.
- ``dynamic_tensor``: the same with one scale for all weights of the node. ONNX Runtime is faster
  with it where there is one row of activations (1.2 times, 1.32 on AMD EPYC), and less exact.
- ``rows8``: of a table that rows are looked up in (Gather), int8 by row. It is smaller and neither
  faster nor slower.
- ``block8``, ``block4``: weights in 8 or 4 bits by blocks along the summed axis, activations
  quantised by blocks inside the kernel (``blocks.py``).

The mechanical part of the others is ``onnxruntime.quantization``'s.

It is long, since each scheme writes the same nodes in another way.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from mmedge_export.onnx_graph.read_node import standard
from mmedge_export.passes.fold_transpose import FoldTransposePass
from mmedge_export.passes.raise_opset import raise_opset
from mmedge_export.passes.strip_metadata import SCOPES
from mmedge_export.targets.graph_edits import (
    add_constant,
    array_of,
    name_nodes,
    save_graph,
    split_gemm,
    untype,
)
from mmedge_export.targets.onnxruntime import ALL_SCHEMES
from mmedge_export.targets.onnxruntime.blocks import BLOCK, write_blocks
from mmedge_export.targets.quantizable import QuantizableNode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx

    from mmedge.spec import Array
    from mmedge_export.targets.quantizable import QuantizationScheme, Scheme

__all__ = [
    "DYNAMIC",
    "EXACT_FIRST",
    "RANGED",
    "SCALES_BY_AXIS",
    "WEIGHTS_ALONE",
    "find_sites",
    "prepare",
    "write_form",
]  # fmt: skip

#: Forms that round activations by ranges from calibration.
RANGED: tuple[QuantizationScheme, ...] = ("static", "entering")

#: Forms that round activations by the range of each call.
DYNAMIC: tuple[QuantizationScheme, ...] = ("dynamic", "dynamic_tensor")

#: Forms that round activations, if at all, by blocks of their own: they need no ranges.
WEIGHTS_ALONE: frozenset[QuantizationScheme] = frozenset(("block8", "block4", "rows8"))

#: Forms in the order of how exactly they round: by blocks, by the range of a call, by a fixed one.
EXACT_FIRST: tuple[QuantizationScheme, ...] = (
    "block8",
    "dynamic",
    "dynamic_tensor",
    "entering",
    "static",
)

_OPERATORS = frozenset(operator for scheme in ALL_SCHEMES for operator in scheme.operators)

#: Which input of a node its weights are, where it is not the second.
_WEIGHT = {"Gather": 0}

#: The first opset whose DequantizeLinear has a scale for each channel. Older graphs are converted.
SCALES_BY_AXIS = 13

#: Fewest numbers of a table that is worth two more nodes.
LEAST_TABLE = 16_384


def prepare(source: Path, target: Path, *, inline: bool = False) -> ir.Model:
    """Write the graph that forms are made from: the same function, in fewer kinds of nodes.

    Operators are of opset 13 at least, where they can be converted. Transposed constants become
    constants, Gemm becomes MatMul and Add, every node has a name of its own, and what a runtime
    does not need (shapes of inner tensors, documentation) is left out. With ``inline`` functions
    are written out as well.

    Returns:
        What was written to ``target``.
    """
    model = raise_opset(ir.load(source), SCALES_BY_AXIS)
    if inline:
        common.InlinePass()(model)
    FoldTransposePass()(model)
    split_gemm(model.graph)
    name_nodes(model.graph)
    _separate_weights(model.graph)
    save_graph(model, target)
    return ir.load(target)


def find_sites(
    model: ir.Model, schemes: Sequence[Scheme] = ALL_SCHEMES
) -> tuple[QuantizableNode, ...]:
    """The nodes of a prepared graph whose weights can be quantised, in the graph's order.

    Args:
        model: from :func:`prepare`.
        schemes: that a backend has kernels for.
    """
    sites = []
    scales_by_axis = model.opset_imports.get("", 0) >= SCALES_BY_AXIS
    for node in model.graph:
        if not standard(node) or node.op_type not in _OPERATORS:
            continue
        activation, weight, *_ = node.inputs
        if _WEIGHT.get(node.op_type) == 0:
            activation, weight = weight, activation
        tensor = None if weight is None else weight.const_value
        if activation is None or weight is None or tensor is None or weight.is_graph_input():
            continue
        if tensor.dtype != ir.DataType.FLOAT or activation.const_value is not None:
            continue
        if node.op_type in ("MatMul", "Gather") and len(tensor.shape) != 2:
            continue
        if node.op_type == "Gather" and not _is_table(node, tensor.numpy()):
            continue
        forms = tuple(
            scheme.name
            for scheme in schemes
            if node.op_type in scheme.operators and (scheme.name not in RANGED or scales_by_axis)
        )
        tensors = (str(activation.name), str(node.outputs[0].name))
        sites.append(
            QuantizableNode(
                str(node.name),
                node.op_type,
                tensors[0],
                str(weight.name),
                tensors[1],
                tensor.size,
                forms,
                tensors if set(forms).intersection(RANGED) else (),
            )
        )
    return tuple(sites)


def _is_table(node: ir.Node, values: Array) -> bool:
    """Whether rows are looked up in it that are worth rounding, and can be."""
    large = values.size >= LEAST_TABLE and node.attributes.get_int("axis", 0) == 0
    return large and bool(np.isfinite(values).all())


def write_form(
    source: Path,
    target: Path,
    plan: Mapping[str, QuantizationScheme],
    ranges: Mapping[str, tuple[float, float]],
    *,
    reduce_range: Collection[str] = (),
) -> None:
    """Write the prepared graph of ``source`` with its nodes in the forms of ``plan``.

    Args:
        source: from :func:`prepare`.
        target: where to; tensors of some size go to ``<target>.data``.
        plan: form by name of the node; others stay float.
        ranges: smallest and largest value of each tensor that goes into or comes out of a node
            in the static form.
        reduce_range: nodes whose weights take 7 bits, so that pairs of products with uint8 stay
            within 16 bits (:mod:`mmedge_export.quantize.saturate`).
    """

    def chosen(form: QuantizationScheme) -> list[str]:
        return [name for name, value in plan.items() if value == form]

    ranges = dict(ranges)
    source_model = ir.external_data.load_to_model(ir.load(source))
    source_names = {str(value.name) for value in source_model.graph.initializers.values()}
    for node in source_model.graph:
        source_names.update((str(node.name), *(str(value.name) for value in node.outputs)))
    ranged = chosen("static") + chosen("entering")
    model = ir.to_proto(_separate_activations(source_model, ranged, ranges))
    with _quiet():
        if ranged:
            joined = _joined(model, chosen("entering"))
            model = _static(model, ranged, ranges, reduce_range, joined)
            if chosen("entering"):
                model = ir.to_proto(
                    _leave_exactly(ir.from_proto(model), chosen("entering"), ranged)
                )
            if dynamic := [name for form in DYNAMIC for name in chosen(form)]:
                # What the one quantises by a fixed range the other must not take for its own.
                model = ir.to_proto(_separate_activations(ir.from_proto(model), dynamic))
        for form, few in itertools.product(DYNAMIC, (False, True)):
            names = [name for name in chosen(form) if (name in reduce_range) is few]
            if names:
                model = _dynamic(model, names, per_channel=form == "dynamic", few=few)
    result = ir.from_proto(model)
    for form in BLOCK:
        write_blocks(result, chosen(form), form)
    _rows(result.graph, chosen("rows8"))
    # A quantiser that runs twice may use what the first run put further down.
    result.graph.sort()
    # Equal constants stay apart: OpenVINO 2026.4 does not fuse through one that nodes share.
    _shorten(result.graph, source_names)
    save_graph(result, target)


def _static(
    model: onnx.ModelProto,
    nodes: list[str],
    ranges: Mapping[str, tuple[float, float]],
    reduce_range: Collection[str],
    signed: Collection[str],
) -> onnx.ModelProto:
    from onnxruntime.quantization import QDQQuantizer, QuantType, TensorData, TensorsData
    from onnxruntime.quantization.calibrate import CalibrationMethod
    from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

    model = save_and_reload_model_with_shape_infer(model)
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    weights = {
        node.input[1]
        for node in model.graph.node
        if node.name in nodes and node.name in reduce_range
    }
    overrides: dict[str, list[dict[str, object]]] = {
        name: [{"quant_type": QuantType.QInt8, "axis": axis, "reduce_range": True}]
        for name, axis in _axes(model, weights).items()
    }
    overrides |= {name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in signed}
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "MatMul"],
        extra_options={"TensorQuantOverrides": overrides} if overrides else {},
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _joined(model: onnx.ModelProto, nodes: Collection[str]) -> set[str]:
    """Activations of ``nodes`` that are several tensors joined.

    OpenVINO 2026.4 rounds each of the joined tensors by itself and then fails on zero points that
    differ: these activations get signed integers, with none.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    activations = set()
    for node in model.graph.node:
        if node.name in nodes:
            before = made_by.get(node.input[0])
            while before is not None and before.op_type in ("Identity", "Reshape", "Transpose"):
                before = made_by.get(before.input[0])
            if before is not None and before.op_type == "Concat":
                activations.add(node.input[0])
    return activations


def _leave_exactly(model: ir.Model, nodes: Collection[str], ranged: Collection[str]) -> ir.Model:
    """Let others take what ``nodes`` yield before it is rounded.

    ``ranged`` are all nodes that multiply by integers.
    """
    for node in list(model.graph):
        if node.name not in nodes:
            continue
        output = node.outputs[0]
        rounds = [u.node for u in output.uses() if u.node.op_type == "QuantizeLinear"]
        for dequantize in [u.node for q in rounds for u in q.outputs[0].uses()]:
            rough = dequantize.outputs[0]
            for user, index in list(rough.uses()):
                # A node that multiplies by integers takes it rounded all the same.
                if not (user.name in ranged and index == 0):
                    user.replace_input_with(index, output)
            for index, value in enumerate(model.graph.outputs):
                if value is rough:
                    rough.name, output.name = output.name, rough.name
                    output.type, output.shape = rough.type, rough.shape
                    model.graph.outputs[index] = output
    return model


def _axes(model: onnx.ModelProto, weights: Collection[str]) -> dict[str, int]:
    """Axis of the output channels of each weight: the first of a Conv's, the last of a MatMul's."""
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    return {
        node.input[1]: 0 if node.op_type == "Conv" else ranks[node.input[1]] - 1
        for node in model.graph.node
        if node.op_type in _OPERATORS and node.input[1] in weights
    }


def _dynamic(
    model: onnx.ModelProto, nodes: list[str], *, per_channel: bool, few: bool
) -> onnx.ModelProto:
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import (
        QuantizationMode,
        QuantType,
        save_and_reload_model_with_shape_infer,
    )

    quantizer = ONNXQuantizer(
        save_and_reload_model_with_shape_infer(model),
        per_channel=per_channel,
        reduce_range=few,
        mode=QuantizationMode.IntegerOps,
        static=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _separate_activations(
    model: ir.Model, nodes: Collection[str], ranges: dict[str, tuple[float, float]] | None = None
) -> ir.Model:
    """Give ``nodes`` an Identity of their own on activations that others take as well.

    ONNX Runtime's quantiser rounds a tensor for all that take it, not for the node alone that it
    was asked for. ONNX Runtime takes the Identity out again. ``ranges`` get those of the new
    tensors.
    """
    graph = model.graph
    users: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if node.name in nodes and node.inputs[0] is not None:
            users.setdefault(node.inputs[0], []).append(node)
    for value, takers in users.items():
        others = {use.node for use in value.uses()} - set(takers)
        if not others and not value.is_graph_output():
            continue
        copy = ir.node("Identity", [value], name=f"{value.name}_for_{takers[0].name}")
        output = copy.outputs[0]
        output.name, output.type, output.shape = copy.name, value.type, value.shape
        graph.insert_before(takers[0], copy)
        for node in takers:
            node.replace_input_with(0, output)
        if ranges is not None and value.name in ranges:
            ranges[str(output.name)] = ranges[str(value.name)]
    graph.sort()
    return model


def _separate_weights(graph: ir.Graph) -> None:
    """Give every node its own name for weights that several share: each may take another form.

    Equal tensors are written once in the end.
    """
    for value in list(graph.initializers.values()):
        uses = [
            use
            for use in value.uses()
            if use.node.op_type in _OPERATORS and use.idx == _WEIGHT.get(use.node.op_type, 1)
        ]
        if len(value.uses()) < 2 or value.const_value is None or value.is_graph_input():
            continue
        for use in uses:
            copy = add_constant(graph, f"{value.name}_of_{use.node.name}", array_of(value))
            use.node.replace_input_with(use.idx, copy)


def _rows(graph: ir.Graph, nodes: Collection[str]) -> None:
    """Write tables as int8 with a scale for each row: ``Gather(q) * Gather(scale)``."""
    names = {str(node.name) for node in graph} | {
        str(value.name) for node in graph for value in node.outputs
    }
    for node in list(graph):
        if node.name not in nodes or node.inputs[0] is None:
            continue
        table, indices, output = node.inputs[0], node.inputs[1], node.outputs[0]
        floats = array_of(table)
        scale = np.abs(floats).max(axis=1, keepdims=True).astype(np.float32) / np.float32(127)
        scale[scale == 0] = 1
        integers = np.rint(floats / scale).astype(np.int8)
        node.replace_input_with(0, add_constant(graph, f"{table.name}_integers", integers))
        scales = add_constant(graph, f"{table.name}_scales", scale)
        new_nodes = [
            ir.node("Cast", [output], attributes={"to": ir.DataType.FLOAT}),
            ir.node("Gather", [scales, indices], attributes={"axis": 0}),
        ]
        new_nodes.append(ir.node("Mul", [new_nodes[0].outputs[0], new_nodes[1].outputs[0]]))
        for new in new_nodes:
            new.name = _free_name(f"{node.name}_rows", names)
            new.outputs[0].name = _free_name(f"{output.name}_rows", names)
        result = new_nodes[-1].outputs[0]
        for user, index in list(output.uses()):
            if user is not new_nodes[0]:
                user.replace_input_with(index, result)
        for index, value in enumerate(graph.outputs):
            if value is output:
                result.name, output.name = output.name, _free_name(f"{output.name}_integers", names)
                result.type, result.shape = output.type, output.shape
                graph.outputs[index] = result
        output.type = ir.TensorType(ir.DataType.INT8)
        graph.insert_after(node, new_nodes)


def _free_name(name: str, names: set[str]) -> str:
    """``name``, or one like it that is not among ``names``; it is from now on."""
    while name in names:
        name += "_"
    names.add(name)
    return name


def _shorten(graph: ir.Graph, source_names: Collection[str]) -> None:
    """Take out what is long and serves nobody: of a small network it is as large as the weights.

    Shapes of inner tensors, types of constants beside the constants' own, all metadata but the
    scopes of modules, and names of what came with quantisation; ``own`` are the names of nodes and
    tensors that were there before.
    """
    boundary = {*graph.inputs, *graph.outputs}
    names = {*source_names, *(str(value.name) for value in boundary)}
    for inner in ir.traversal.RecursiveGraphIterator(graph):
        names.update((str(inner.name), *(str(value.name) for value in inner.outputs)))
        if isinstance(inner.graph, ir.Graph):
            names.update(str(value.name) for value in inner.graph.inputs)
            names.update(inner.graph.initializers)
    fresh = (name for number in itertools.count() if (name := f"q.{number}") not in names)
    new_values = [value for value in graph.initializers.values() if value.name not in source_names]
    for node in graph:
        scope = node.metadata_props.get(SCOPES)
        node.metadata_props.clear()
        if scope is not None:
            node.metadata_props[SCOPES] = scope
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.name not in source_names:
            node.name = next(fresh)
        for value in node.outputs:
            if value not in boundary:
                value.shape = value.type = None
                if value.name and value.name not in source_names:
                    new_values.append(value)
    for value in new_values:
        if value not in boundary:
            value.name = next(fresh)
    untype(graph)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what ``onnxruntime.quantization`` says to the root logger and to stdout."""
    # Also while it is imported, which sets the root logger's level itself.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
