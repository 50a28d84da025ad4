"""Q/DQ graphs as TensorRT and TensorRT-RTX take them: int8 and fp8 (E4M3).

Every factor of a product passes QuantizeLinear and DequantizeLinear, weights DequantizeLinear
alone, since they are stored quantised; the library makes one product in 8 bits of all that. Scales
are symmetric: of the whole tensor for activations, of each output channel for weights. Biases and
everything between products stay float32.

The nodes are inserted here and not by ONNX Runtime's quantiser, which writes int8 for its own
kernels (quantised biases, zero points, every operator that it knows), writes fp8 for few operators,
and does not tell which nodes it left and why.

What TensorRT-RTX 1.7 does with such a graph is in the program that an engine holds as text: MatMul,
Gemm and Conv read int8 or fp8 on both sides, also the two products of attention. ConvTranspose
turns both sides back to float32 first, so it is left alone. So does a product that is split behind
into queries, keys and values: it is written as one product for each, which TensorRT-RTX puts
together again and computes in 8 bits. Convolutions in fp8 are left alone too:
the library compiles them, yet documents fp8 for matrix products only, and picks its kernels on the
device.

The same code writes the graph in which every product can be turned on and off, so that both round
alike.

It is long, since int8 and fp8, and the graphs with switches and without, share their rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from mmedge.errors import ExportError
from mmedge_export.passes.fold_transpose import FoldTransposePass
from mmedge_export.passes.unpack_projection import unpack_projection
from mmedge_export.passes.widen_uint8 import WidenUint8Pass
from mmedge_export.targets.graph_edits import save_graph
from mmedge_export.targets.quantizable import SWITCH, QuantizableNode
from mmedge_export.targets.tensorrt import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge_export.targets.quantizable import QuantizationScheme

__all__ = [
    "LARGEST",
    "SCHEME_PRECISIONS",
    "find_nodes",
    "prepare",
    "write_qdq",
    "write_switched",
]

#: Scheme of a node -> the precision that has it.
SCHEME_PRECISIONS = {
    scheme.name: precision for precision, schemes in SCHEMES.items() for scheme in schemes
}

#: Largest quantised magnitude: int8 without -128, so that weights are symmetric; for fp8 the
#: largest finite value of float8e4m3fn (ONNX, "Float stored in 8 bits").
LARGEST = {"int8": 127.0, "fp8": 448.0}

DTYPES = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}

#: The oldest opset taken. Int8 with a scale for each channel came with 13. Float8e4m3fn came with
#: 19, but a graph of 18 may be called one of 19 as it is: that only adds types, and attributes
#: whose defaults do what 18 did.
OLDEST = {"int8": 13, "fp8": 18}

#: The first opset and IR version with float8 types.
FLOAT8_OPSET, FLOAT8_IR = 19, 9

#: Scales that float32 holds with all its bits.
SMALLEST, GREATEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

PRODUCTS = frozenset(("Conv", "Gemm", "MatMul"))

#: Operators with products inside that stay as they are.
OTHERS = frozenset(("Attention", "ConvTranspose", "Einsum", "GRU", "LSTM", "RNN"))


@dataclass(frozen=True, slots=True)
class _Factor:
    """An input of a node: weights with output channels on ``axis``, or an activation (None)."""

    index: int
    value: ir.Value
    axis: int | None

    @property
    def name(self) -> str:
        return str(self.value.name)


def find_nodes(
    model: ir.Model, precision: str, ranges: Mapping[str, tuple[float, float]] | None = None
) -> tuple[tuple[QuantizableNode, ...], dict[str, str]]:
    """The products of a graph that can be in 8 bits, and why the others cannot.

    Args:
        model: from :func:`prepare`: a graph with functions has no name for a tensor inside one.
        precision: ``int8`` or ``fp8``.
        ranges: lowest and highest value of activations, by name; None: not known yet, and none is
            missed.
    """
    (scheme,) = SCHEMES[precision]
    nodes: list[QuantizableNode] = []
    excluded: dict[str, str] = {}
    for node in model.graph.all_nodes():
        if node.op_type not in PRODUCTS | OTHERS or node.domain not in ("", "ai.onnx"):
            continue
        name = str(node.name)
        if node.graph is not model.graph:
            excluded[name] = "it is inside a subgraph"
            continue
        factors = _factors(node, precision)
        if isinstance(factors, str):
            excluded[name] = factors
            continue
        if ranges is not None:
            scales = _scales(node, precision, ranges)
            if isinstance(scales, str):
                excluded[name] = scales
                continue
        activations = tuple(factor.name for factor in factors if factor.axis is None)
        constants = [factor for factor in factors if factor.axis is not None]
        nodes.append(
            QuantizableNode(
                name,
                node.op_type,
                activations[0],
                constants[0].name if constants else "",
                str(node.outputs[0].name),
                sum(_array(factor.value).size for factor in constants),
                (scheme.name,),
                activations,
            )
        )
    return tuple(nodes), excluded


def write_qdq(
    source: Path,
    path: Path,
    names: Collection[str],
    ranges: Mapping[str, tuple[float, float]],
    *,
    precision: str,
) -> None:
    """Write a float32 graph with some products in 8 bits, strongly typed.

    Inputs and outputs keep their dtypes. Functions are inlined, and uint8 inputs cast before they
    are moved, as TensorRT needs it.

    Args:
        source: an ONNX graph of opset 13 (fp8: 18) or later, its external data beside it.
        path: where to write; large tensors go to ``<path>.data`` beside it.
        names: of the nodes, from :func:`find_nodes`.
        ranges: lowest and highest value of activations, by name. The scale is the larger
            magnitude over :data:`LARGEST`; values beyond saturate.
        precision: ``int8`` or ``fp8``.

    Raises:
        ExportError: a node cannot be in 8 bits, a range is not finite or ends before it starts, the
            opset is too old, or the graph is quantised already.
    """
    if path.resolve() == source.resolve():
        raise ExportError(f"{source}: is read while {path} is written; name another file")
    model = prepare_model(ir.load(source))
    _check(model, source, precision, ranges)
    _write_products(model, source, names, ranges, precision)
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
    ir.save(model, path, external_data=f"{path.name}.data")
    _check_types(path)


def write_switched(
    source: Path,
    path: Path,
    nodes: Sequence[QuantizableNode],
    plan: Mapping[str, QuantizationScheme],
    ranges: Mapping[str, tuple[float, float]],
    reduce_range: Collection[str] = (),
) -> None:
    """The same with a boolean input for each product that turns it on.

    Args:
        source: as for :func:`write_qdq`, like the others.
        path: where to write.
        nodes: the products, in the order of
            :func:`mmedge_export.targets.quantizable.switches`.
        plan: the scheme of each; they are of one precision.
        ranges: of activations.
        reduce_range: of no use here.
    """
    del reduce_range
    model = prepare_model(ir.load(source))
    precision = SCHEME_PRECISIONS[plan[nodes[0].node]]
    _check(model, source, precision, ranges)
    switches = {
        node.node: ir.val(f"{SWITCH}{number}", ir.DataType.BOOL, [])
        for number, node in enumerate(nodes)
    }
    _write_products(model, source, switches, ranges, precision, switches)
    model.graph.inputs.extend(switches.values())
    model.graph.sort()
    save_graph(model, path)


def _write_products(
    model: ir.Model,
    source: Path,
    names: Collection[str],
    ranges: Mapping[str, tuple[float, float]],
    precision: str,
    switches: Mapping[str, ir.Value] | None = None,
) -> None:
    """Put products into 8 bits, in place: at all times, or where their switch is on."""
    graph = model.graph
    writer = _QdqWriter(graph, precision)
    products = {str(node.name): node for node in graph}
    for name in names:
        if name not in products:
            raise ExportError(f"{source}: there is no node {name!r} outside of subgraphs")
        scales = _scales(products[name], precision, ranges)
        if isinstance(scales, str):
            raise ExportError(f"{source}: node {name!r} cannot be in {precision}: {scales}")
        for product in unpack_projection(graph, products[name]):
            _quantize(product, writer, precision, scales, (switches or {}).get(name))


def prepare(source: Path, path: Path) -> ir.Model:
    """Write the graph as TensorRT can take it to ``path``; returns what was written."""
    ir.save(prepare_model(ir.load(source)), path, external_data=f"{path.name}.data")
    return ir.load(path)


def prepare_model(model: ir.Model) -> ir.Model:
    """A graph without functions and Constant nodes, named and typed, that TensorRT can take.

    Uint8 inputs are cast before they are moved. Preparing what is prepared changes nothing.
    """
    passes = ir.passes.Sequential(
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.NameFixPass(),
        common.ShapeInferencePass(strict_mode=False, data_prop=False),
        FoldTransposePass(),
        WidenUint8Pass(),
    )
    return passes(model).model


def _check(
    model: ir.Model,
    source: Path,
    precision: str,
    ranges: Mapping[str, tuple[float, float]],
) -> None:
    """Refuse what cannot be written; declare the opset and IR version of what can."""
    nodes = {node.name: node.op_type for node in model.graph.all_nodes()}
    for name, op in nodes.items():
        if op in ("QuantizeLinear", "DequantizeLinear"):
            raise ExportError(
                f"{source}: node {name!r} is a {op}: the graph is quantised already; take the "
                "float32 graph"
            )
    for name, (low, high) in ranges.items():
        if not -np.inf < low <= high < np.inf:
            raise ExportError(
                f"{source}: range of {name!r} is {low} to {high}; expected two finite numbers in "
                "order"
            )
    opset = model.opset_imports[""]
    if opset < OLDEST[precision]:
        raise ExportError(
            f"{source}: {precision} needs opset {OLDEST[precision]} or later, the graph has "
            f"{opset}; export it again with a later one"
        )
    if precision == "fp8":
        model.opset_imports[""] = max(opset, FLOAT8_OPSET)
        model.ir_version = max(model.ir_version, FLOAT8_IR)


def _check_types(file: Path) -> None:
    """Types must fit each other: TensorRT adds no casts to a strongly typed graph."""
    try:
        onnx.checker.check_model(file, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{file.name}: the Q/DQ graph is not valid: {error}") from error


def _factors(node: ir.Node, precision: str) -> tuple[_Factor, ...] | str:
    """What a node multiplies, or why that cannot be quantised."""
    if node.op_type not in PRODUCTS or node.domain not in ("", "ai.onnx"):
        return f"{node.op_type} is not quantised"
    if not any(node.op_type in scheme.operators for scheme in SCHEMES[precision]):
        return f"TensorRT documents {precision} for matrix products only"
    factors = []
    for index, value in enumerate(node.inputs[:2]):
        if value is None or value.dtype != ir.DataType.FLOAT:
            return f"input {index} is not float32"
        axis = None
        if value.is_initializer() and not value.is_graph_input() and value.const_value is not None:
            rank = len(value.const_value.shape)
            if rank < 2:
                return f"input {index} is a constant vector"
            axis = _output_axis(node, index, rank)
        factors.append(_Factor(index, value, axis))
    if all(factor.axis is not None for factor in factors):
        return "both factors are constant"
    if node.op_type == "Conv" and factors[1].axis is None:
        return "its weights are not constant"
    return tuple(factors)


def _output_axis(node: ir.Node, index: int, rank: int) -> int:
    """The axis of constant input ``index`` that an axis of the output comes from."""
    if node.op_type == "Conv":
        return 0
    attribute = node.attributes.get("transB" if index else "transA")
    turned = attribute is not None and bool(attribute.as_int())
    return rank - 1 if bool(index) != turned else rank - 2


def _scales(
    node: ir.Node, precision: str, ranges: Mapping[str, tuple[float, float]]
) -> dict[int, np.float32] | str:
    """Scales of a node's activations by input, or why it cannot be quantised."""
    factors = _factors(node, precision)
    if isinstance(factors, str):
        return factors
    scales = {}
    for factor in factors:
        if factor.axis is not None:
            if not np.isfinite(_array(factor.value)).all():
                return f"weights {factor.name!r} are not finite"
            continue
        if factor.name not in ranges:
            return f"no range of {factor.name!r}"
        low, high = ranges[factor.name]
        scale = max(abs(low), abs(high)) / LARGEST[precision]
        if not SMALLEST <= scale <= GREATEST:
            return f"range of {factor.name!r} is {low:g} to {high:g}: there is no scale for it"
        scales[factor.index] = np.float32(scale)
    return scales


def _quantize(
    node: ir.Node,
    writer: _QdqWriter,
    precision: str,
    scales: Mapping[int, np.float32],
    switch: ir.Value | None,
) -> None:
    """Put the factors of a node for which there are ``scales`` into 8 bits, if ``switch`` is on."""
    for factor in _factors(node, precision):
        assert isinstance(factor, _Factor)  # noqa: S101 - _scales has looked
        if factor.axis is None:
            rounded = writer.activation(factor.value, scales[factor.index])
        else:
            rounded = writer.weights(factor.value, factor.axis, node)
        if switch is not None:
            rounded = writer.choose(switch, rounded, factor, node)
        node.replace_input_with(factor.index, rounded)


class _QdqWriter:
    """Inserts Q/DQ nodes into a graph, once for each tensor, whatever reads it."""

    def __init__(self, graph: ir.Graph, precision: str) -> None:
        self._graph = graph
        self._precision = precision
        self._rounded: dict[tuple[ir.Value, int | None], ir.Value] = {}
        self._zero: ir.Value | None = None

    def activation(self, value: ir.Value, scale: np.float32) -> ir.Value:
        """``value`` after quantisation and back."""
        if (value, None) in self._rounded:
            return self._rounded[value, None]
        if self._zero is None:  # also what tells QuantizeLinear the dtype, before opset 21
            zero = np.zeros((), DTYPES[self._precision].numpy())
            self._zero = self._constant(f"{self._precision}_zero_point", zero)
        scales = self._constant(f"{value.name}_{self._precision}_scale", np.asarray(scale))
        narrow = _value(f"{value.name}_{self._precision}", DTYPES[self._precision], value)
        wide = _value(f"{narrow.name}_float32", ir.DataType.FLOAT, value)
        down = _node("QuantizeLinear", [value, scales, self._zero], narrow)
        up = _node("DequantizeLinear", [narrow, scales, self._zero], wide)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [down, up])
        else:
            self._graph.insert_after(producer, [down, up])
        self._rounded[value, None] = wide
        return wide

    def weights(self, value: ir.Value, axis: int, reader: ir.Node) -> ir.Value:
        """Stored weights after dequantisation, with one scale for each index of ``axis``."""
        if (value, axis) in self._rounded:
            return self._rounded[value, axis]
        integers, scale = _quantize_weights(_array(value), axis, self._precision)
        name = f"{value.name}_{self._precision}_{axis}"
        scales = self._constant(f"{name}_scale", scale)
        wide = _value(f"{name}_float32", ir.DataType.FLOAT, value)
        up = _node("DequantizeLinear", [self._constant(name, integers), scales], wide, axis=axis)
        self._graph.insert_before(reader, up)
        self._rounded[value, axis] = wide
        return wide

    def choose(
        self, switch: ir.Value, rounded: ir.Value, factor: _Factor, reader: ir.Node
    ) -> ir.Value:
        """``rounded`` where ``switch`` is on, else the factor as it is."""
        name = f"{rounded.name}_switched_{reader.name}_{factor.index}"
        choice = _value(name, ir.DataType.FLOAT, factor.value)
        self._graph.insert_before(reader, _node("Where", [switch, rounded, factor.value], choice))
        return choice

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        dtype, shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
        value = ir.Value(name=name, type=dtype, shape=shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _array(value: ir.Value) -> NDArray[Any]:
    """Values of a constant."""
    assert value.const_value is not None  # noqa: S101 - what _factors has found
    return value.const_value.numpy()


def _value(name: str, dtype: ir.DataType, like: ir.Value) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=like.shape)


def _node(op: str, inputs: list[ir.Value], output: ir.Value, **axis: int) -> ir.Node:
    return ir.node(op, inputs, axis, outputs=[output], name=f"{op}_{output.name}")


def _quantize_weights(
    array: NDArray[np.float32], axis: int, precision: str
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Weights in 8 bits, and a scale for each index of ``axis``.

    The scale is the largest magnitude there over :data:`LARGEST`, and 1 where that is 0.
    """
    largest = LARGEST[precision]
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = (np.abs(array).max(axis=others) / largest).astype(np.float32)
    scale[scale < SMALLEST] = 1.0
    scaled = np.clip(array / np.expand_dims(scale, others), -largest, largest)
    if precision == "int8":
        scaled = np.rint(scaled)
    return scaled.astype(DTYPES[precision].numpy()), scale
