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

It is long, since int8 and fp8 differ in scales alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from mmedge.errors import ExportError
from mmedge_export.passes.fold_transpose import FoldTransposePass
from mmedge_export.passes.unpack_projection import unpack_projection
from mmedge_export.passes.widen_uint8 import WidenUint8Pass

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "LARGEST",
    "Precision",
    "QdqStage",
    "activations",
    "prepare",
    "write_qdq",
]

Precision = Literal["int8", "fp8"]

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
class QdqStage:
    """One stage as a Q/DQ graph.

    ``quantized`` names the nodes whose products are in 8 bits, ``kept`` the other nodes that have
    products inside, each with why. ``error`` is the largest ``max |got - golden| / max |golden|``
    of the stage's outputs on the golden samples, by emulation; None where it was not measured.
    """

    file: Path
    quantized: tuple[str, ...]
    kept: Mapping[str, str]
    error: float | None = None


@dataclass(frozen=True, slots=True)
class _Factor:
    """An input of a node: weights with output channels on ``axis``, or an activation (None)."""

    index: int
    value: ir.Value
    axis: int | None

    @property
    def name(self) -> str:
        return str(self.value.name)


def activations(
    model: ir.Model, *, precision: Precision, keep: Collection[str] = ()
) -> tuple[str, ...]:
    """Activations whose ranges :func:`write_qdq` looks up, in the order of the graph.

    Args:
        model: from :func:`prepare`, whose names they are: a graph with functions has no name for a
            tensor inside one.
        precision: as there.
        keep: as there.
    """
    names: dict[str, None] = {}
    for node in model.graph:
        factors = "" if node.name in keep else _factors(node, precision)
        if not isinstance(factors, str):
            names.update((factor.name, None) for factor in factors if factor.axis is None)
    return tuple(names)


def write_qdq(
    source: Path,
    target: Path,
    ranges: Mapping[str, tuple[float, float]],
    *,
    precision: Precision,
    keep: Collection[str] = (),
) -> QdqStage:
    """Write a float32 graph with its products in 8 bits, strongly typed.

    A product of two activations, as in attention, is quantised where both have ranges. Inputs and
    outputs keep their dtypes. Functions are inlined, and uint8 inputs cast before they are moved,
    as TensorRT needs it.

    Args:
        source: an ONNX graph of opset 13 (fp8: 18) or later, its external data beside it.
        target: where to write; large tensors go to ``<target>.data`` beside it.
        ranges: lowest and highest value of activations, by name. The scale is the larger
            magnitude over :data:`LARGEST`; values beyond saturate.
        precision: ``int8`` or ``fp8``.
        keep: names of nodes that stay float32; a mapping says why each does.

    Raises:
        ExportError: a node in ``keep`` is not in the graph, a range is not finite or ends before
            it starts, the opset is too old, or the graph is quantised already.
    """
    if target.resolve() == source.resolve():
        raise ExportError(f"{source}: is read while {target} is written; name another target")
    model = prepare(source)
    graph = model.graph
    _check(model, source, precision, ranges, keep)
    writer = _Writer(graph, precision)
    quantized: list[str] = []
    kept: dict[str, str] = {}
    for node in list(graph.all_nodes()):
        if node.op_type not in PRODUCTS | OTHERS or node.domain not in ("", "ai.onnx"):
            continue
        name = str(node.name)
        if name in keep:
            kept[name] = keep[name] if isinstance(keep, Mapping) else "it is to stay float32"
        elif node.graph is not graph:
            kept[name] = "it is inside a subgraph"
        else:
            scales = _scales(node, precision, ranges)
            if isinstance(scales, str):
                kept[name] = scales
                continue
            quantized.append(name)
            for product in unpack_projection(graph, node):
                _quantize(product, writer, precision, scales)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
    ir.save(model, target, external_data=f"{target.name}.data")
    _check_types(target)
    return QdqStage(target, tuple(quantized), kept)


def prepare(source: Path) -> ir.Model:
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
    return passes(ir.load(source)).model


def _check(
    model: ir.Model,
    source: Path,
    precision: Precision,
    ranges: Mapping[str, tuple[float, float]],
    keep: Collection[str],
) -> None:
    """Refuse what cannot be written; declare the opset and IR version of what can."""
    nodes = {node.name: node.op_type for node in model.graph.all_nodes()}
    for name, op in nodes.items():
        if op in ("QuantizeLinear", "DequantizeLinear"):
            raise ExportError(
                f"{source}: node {name!r} is a {op}: the graph is quantised already; take the "
                "float32 graph"
            )
    unknown = sorted(set(keep) - nodes.keys())
    if unknown:
        raise ExportError(f"{source}: nodes to keep that are not in the graph: {unknown}")
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


def _factors(node: ir.Node, precision: Precision) -> tuple[_Factor, ...] | str:
    """What a node multiplies, or why that cannot be quantised."""
    if node.op_type not in PRODUCTS or node.domain not in ("", "ai.onnx"):
        return f"{node.op_type} is not quantised"
    if node.op_type == "Conv" and precision == "fp8":
        return "TensorRT documents fp8 for matrix products only"
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
    node: ir.Node, precision: Precision, ranges: Mapping[str, tuple[float, float]]
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
    node: ir.Node, writer: _Writer, precision: Precision, scales: Mapping[int, np.float32]
) -> None:
    """Put the factors of a node for which there are ``scales`` into 8 bits."""
    for factor in _factors(node, precision):
        assert isinstance(factor, _Factor)  # noqa: S101 - _scales has looked
        if factor.axis is None:
            made = writer.activation(factor.value, scales[factor.index])
        else:
            made = writer.weights(factor.value, factor.axis, node)
        node.replace_input_with(factor.index, made)


class _Writer:
    """Inserts Q/DQ nodes into a graph, once for each tensor, whatever reads it."""

    def __init__(self, graph: ir.Graph, precision: Precision) -> None:
        self._graph = graph
        self._precision = precision
        self._made: dict[tuple[ir.Value, int | None], ir.Value] = {}
        self._zero: ir.Value | None = None

    def activation(self, value: ir.Value, scale: np.float32) -> ir.Value:
        """``value`` after quantisation and back."""
        if (value, None) in self._made:
            return self._made[value, None]
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
        self._made[value, None] = wide
        return wide

    def weights(self, value: ir.Value, axis: int, reader: ir.Node) -> ir.Value:
        """Stored weights after dequantisation, with one scale for each index of ``axis``."""
        if (value, axis) in self._made:
            return self._made[value, axis]
        stored, scale = _quantize_weights(_array(value), axis, self._precision)
        name = f"{value.name}_{self._precision}_{axis}"
        scales = self._constant(f"{name}_scale", scale)
        wide = _value(f"{name}_float32", ir.DataType.FLOAT, value)
        up = _node("DequantizeLinear", [self._constant(name, stored), scales], wide, axis=axis)
        self._graph.insert_before(reader, up)
        self._made[value, axis] = wide
        return wide

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
    array: NDArray[np.float32], axis: int, precision: Precision
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
