"""Which nodes of a graph float16 cannot serve: found from measured ranges and stated rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.measure_ranges import Magnitudes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["LARGEST", "SMALLEST", "keep_float32"]

#: Magnitudes above this stay float32: float16 ends at 65,504, and other inputs may be larger than
#: the samples.
LARGEST = 1e4

#: The smallest normal float16, 2**-14: below it digits are lost.
SMALLEST = 2.0**-14

#: Ops that add up many terms, or magnify what rounding did to their input.
FRAGILE = frozenset(
    [
        *(
            "Softmax",
            "LogSoftmax",
            "Exp",
            "Log",
            "Pow",
            "CumSum",
            "CumProd",
            "STFT",
            "DFT",
            "Range",
        ),
        *("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"),
        *("Range", "MeanVarianceNormalization", "LpNormalization", "GlobalAveragePool"),
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceProd", "ReduceL1", "ReduceL2"),
        *("ReduceLogSum", "ReduceLogSumExp", "GlobalLpPool", "QuantizeLinear", "DequantizeLinear"),
    ]
)

#: A recurrent state carries each step's rounding into all later ones.
RECURRENT = frozenset(("GRU", "LSTM", "RNN"))

#: A logarithm turns relative error into absolute error, these turn it back: behind one of them the
#: logarithm asks nothing of what comes before.
UNDO_LOG = frozenset(("Softmax", "Exp", "Sigmoid", "Softplus"))

#: Ops that decide: a value on the other side of a threshold gives another answer, not a near one.
DECIDE = frozenset(
    [
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "ArgMax", "ArgMin", "TopK"),
        *("NonZero", "Sign", "Floor", "Ceil", "Round", "IsInf", "IsNaN", "Mod"),
    ]
)

#: Ops with learned weighted sums: what a decision depends on is traced back no further than these.
WEIGHTED = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Attention"))

#: op -> index of an input that must not lose digits, because the op divides by it or raises it.
DIVISORS: Mapping[str, int] = {"Div": 1, "Reciprocal": 0, "Sqrt": 0, "Pow": 0, "Log": 0}

#: Ops that move values and compute nothing.
MOVE = frozenset(
    [
        *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split"),
        *("Concat", "Expand", "Gather", "Tile", "Pad"),
    ]
)


def keep_float32(model: ir.Model, ranges: Mapping[str, Magnitudes]) -> dict[str, str]:
    """Nodes that must stay float32, each with the first rule that says so.

    The rules, in order: an op in :data:`FRAGILE`, or in :data:`RECURRENT` with what makes
    its inputs; a tensor measured above :data:`LARGEST`; a tensor
    that lies wholly below :data:`SMALLEST`; a divisor, or what a root or a logarithm is taken of,
    with values below it; all that a logarithm is computed from, up to an op in :data:`UNDO_LOG`;
    all that a decision (:data:`DECIDE`) is computed from, up to an op in :data:`WEIGHTED`; and what
    only moves values between two such nodes.

    Args:
        model: nodes have unique names. Unchanged.
        ranges: from :func:`mmedge_export.onnx_graph.measure_ranges.measure_ranges`.

    Returns:
        node name -> reason, in the graph's order.
    """
    graph = model.graph
    why: dict[ir.Node, str] = {}

    def keep(node: ir.Node | None, reason: str) -> None:
        if node is not None and node.graph is graph:
            why.setdefault(node, reason)

    for node in graph:
        if node.op_type in FRAGILE:
            keep(node, f"{node.op_type} adds up or magnifies rounding")
        elif node.op_type in RECURRENT:
            keep(node, f"the state of {node.op_type} carries rounding on")
            # TensorRT-RTX 1.7 fails to build a recurrence between whose input and the cast to
            # float32 values are only moved: so what computes them is kept as well.
            for source in _upstream(node, lambda n: n.op_type not in MOVE, last=True):
                keep(source, f"makes what enters the recurrence {node.name}")
    for node in graph:
        for value in _floats([*node.inputs, *node.outputs]):
            magnitudes = ranges.get(str(value.name), Magnitudes())
            if magnitudes.largest > LARGEST:
                keep(node, f"{value.name} reaches {magnitudes.largest:.3g}, above {LARGEST:g}")
            elif 0.0 < magnitudes.largest < SMALLEST:
                keep(
                    node,
                    f"{value.name} stays below {SMALLEST:.2g} (at most {magnitudes.largest:.3g})",
                )
    for node in graph:
        index = DIVISORS.get(node.op_type)
        for value in () if index is None else _floats([node.inputs[index]]):
            magnitudes = ranges.get(str(value.name), Magnitudes())
            if 0.0 < magnitudes.smallest < SMALLEST:
                reason = f"{value.name} under {node.op_type} falls to {magnitudes.smallest:.3g}"
                keep(node, reason)
                keep(value.producer(), reason)
    for node in graph:
        if node.op_type == "Log":
            for source in _upstream(node, lambda n: n.op_type in UNDO_LOG):
                keep(source, f"feeds the logarithm {node.name}")
        elif node.op_type in DECIDE or _casts_to_integer(node):
            for source in _upstream(node, lambda n: n.op_type in WEIGHTED):
                keep(source, f"feeds the decision {node.name} ({node.op_type})")
            if node.op_type in DECIDE:
                keep(node, f"{node.op_type} decides")
    _keep_moves_between(graph, why)
    return {str(node.name): why[node] for node in graph if node in why}


def _floats(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    return [v for v in values if v is not None and v.dtype == ir.DataType.FLOAT]


def _casts_to_integer(node: ir.Node) -> bool:
    if node.op_type != "Cast" or not _floats(node.inputs):
        return False
    return not ir.DataType(node.attributes["to"].as_int()).is_floating_point()


def _upstream(
    node: ir.Node, stop: Callable[[ir.Node], bool], *, last: bool = False
) -> list[ir.Node]:
    """Nodes that ``node`` is computed from through float32 tensors, up to where ``stop`` holds.

    Those where it holds are left out unless ``last``.
    """
    nodes: dict[ir.Node, None] = {}
    waiting = [node]
    while waiting:
        for value in _floats(waiting.pop().inputs):
            producer = value.producer()
            if producer is None or producer in nodes:
                continue
            if not stop(producer):
                nodes[producer] = None
                waiting.append(producer)
            elif last:
                nodes[producer] = None
    return list(nodes)


def _keep_moves_between(graph: ir.Graph, why: dict[ir.Node, str]) -> None:
    """Keep nodes that only move weights, inputs or values of kept nodes to kept nodes.

    They would cost two casts and the digits that the second one cannot bring back.
    """
    progress = True
    while progress:
        progress = False
        for node in graph:
            if node.op_type not in MOVE or node in why:
                continue
            sources = [
                value.producer() for value in _floats(node.inputs) if not value.is_initializer()
            ]
            users = [user for value in _floats(node.outputs) for user in value.consumers()]
            if (
                users
                and all(source is None or source in why for source in sources)
                and all(user in why for user in users)
            ):
                why[node] = "moves values between nodes that are kept"
                progress = True
