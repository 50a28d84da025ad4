"""One graph in which each quantised node can be turned on and off, to find those that do harm.

It rounds as the quantised graph does but multiplies in float32, so it is no faster; but any set of
nodes is tried by a call, with no graph to write and load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.targets.graph_edits import add_constant, array_of, save_graph
from mmedge_export.targets.onnxruntime.blocks import BLOCK, round_blocks
from mmedge_export.targets.onnxruntime.schemes import DYNAMIC, RANGED
from mmedge_export.targets.quantizable import SWITCH

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge.spec import Array
    from mmedge_export.targets.quantizable import QuantizableNode, QuantizationScheme

__all__ = ["rounded_weights", "write_switched"]


def write_switched(
    source: Path,
    target: Path,
    sites: Sequence[QuantizableNode],
    plan: Mapping[str, QuantizationScheme],
    ranges: Mapping[str, tuple[float, float]],
    reduce_range: Collection[str],
) -> None:
    """Write the prepared graph of ``source`` with a boolean input for each of ``sites``.

    Args:
        source: from :func:`mmedge_export.targets.onnxruntime.schemes.prepare`.
        target: where to.
        sites: the nodes that get a switch, in the order of
            :func:`mmedge_export.targets.quantizable.switches`.
        plan: the form of each.
        ranges: as :func:`mmedge_export.targets.onnxruntime.schemes.write_form` takes them.
        reduce_range: the same.
    """
    model = ir.load(source)
    graph = model.graph
    nodes = {str(node.name): node for node in graph}
    for number, site in enumerate(sites):
        form = plan[site.node]
        node = nodes[site.node]
        switch = ir.val(f"{SWITCH}{number}", ir.DataType.BOOL, [])
        graph.inputs.append(switch)
        activation, weight = node.inputs[0], graph.initializers[site.weight]
        place = next(i for i, value in enumerate(node.inputs) if value is weight)
        floats = array_of(weight)
        bits = 7 if site.node in reduce_range else 8
        rounded = rounded_weights(floats, form, site.op, bits)
        other = add_constant(graph, f"{weight.name}_rounded", rounded)
        node.replace_input_with(place, _add(graph, "Where", [switch, other, weight]))
        if form in (*RANGED, *DYNAMIC):
            span = None if form in DYNAMIC else ranges[site.activation]
            rough = _round(graph, activation, span)
            node.replace_input_with(0, _add(graph, "Where", [switch, rough, activation]))
        if form == "static":
            _switch_output(graph, node.outputs[0], switch, ranges[site.output])
    graph.sort()
    save_graph(model, target)


def rounded_weights(
    weights: Array, form: QuantizationScheme, op: str, bits: int = 8
) -> NDArray[np.float32]:
    """Weights as the form stores them, as floats.

    Args:
        weights: ``[k, columns]`` or more axes of a MatMul, ``[channels, ...]`` of a Conv, ``[rows,
            ...]`` of a Gather.
        form: not ``float``.
        op: ``MatMul``, ``Conv`` or ``Gather``.
        bits: of the forms with a scale for each output channel, or one.
    """
    if form in BLOCK:
        return round_blocks(weights, form).floats(len(weights))
    most = 2 ** (bits - 1) - 1
    axes = tuple(range(1, weights.ndim)) if op != "MatMul" else tuple(range(weights.ndim - 1))
    if form == "dynamic_tensor":
        axes = tuple(range(weights.ndim))
    scale = np.abs(weights).max(axis=axes, keepdims=True) / most
    scale = np.where(scale > 0, scale, 1)
    rounded: NDArray[np.float32] = (np.rint(weights / scale) * scale).astype(np.float32)
    return rounded


def _round(graph: ir.Graph, value: ir.Value | None, span: tuple[float, float] | None) -> ir.Value:
    """``value`` to uint8 and back, by a fixed range or by its own."""
    if span is None:
        return _add(graph, "DequantizeLinear", _add_all(graph, "DynamicQuantizeLinear", [value], 3))
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    step = (high - low) / 255 or 1.0
    scale = add_constant(graph, f"{SWITCH}scale", np.array(step, np.float32))
    zero = add_constant(graph, f"{SWITCH}zero", np.array(round(-low / step), np.uint8))
    integers = _add(graph, "QuantizeLinear", [value, scale, zero])
    return _add(graph, "DequantizeLinear", [integers, scale, zero])


def _switch_output(
    graph: ir.Graph, output: ir.Value, switch: ir.Value, span: tuple[float, float]
) -> None:
    """Round ``output`` where ``switch`` is on, for all that use it."""
    uses = list(output.uses())
    choice = _add(graph, "Where", [switch, _round(graph, output, span), output])
    for user, index in uses:
        user.replace_input_with(index, choice)
    for index, value in enumerate(graph.outputs):
        if value is output:
            choice.name, output.name = output.name, f"{output.name}_exact"
            choice.type, choice.shape = output.type, output.shape
            graph.outputs[index] = choice


def _add(graph: ir.Graph, op: str, inputs: Sequence[ir.Value | None]) -> ir.Value:
    return _add_all(graph, op, inputs, 1)[0]


def _add_all(
    graph: ir.Graph, op: str, inputs: Sequence[ir.Value | None], count: int
) -> Sequence[ir.Value]:
    """A node at the end of the graph, which is sorted when all are made."""
    node = ir.node(op, inputs, num_outputs=count, name=f"switched_{len(graph)}")
    for value in node.outputs:
        value.name = f"{node.name}_{value.index()}"
    graph.append(node)
    return node.outputs
