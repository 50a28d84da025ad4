"""Attention over keys and values that grow, as it stands in a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.onnx_graph.read_node import axis_of, constant_of, standard

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from mmedge.loop_spec import StateSpec
    from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor

__all__ = ["GrowingAttention", "NotInPlaceError", "match_attention", "walk_back"]

#: Operators that place elements anew, and change none.
PLACING = frozenset({"Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten"})

#: Those that may stand between keys or values and the product that takes them.
SPREADING = PLACING | {"Expand", "Mul", "Div"}

#: Those that may stand between two products and a softmax: what they come to is found by running
#: them.
SCORING = PLACING | {"Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Clip", "Cast"}


class NotInPlaceError(Exception):
    """Why a graph's states stay as they are."""


@dataclass(frozen=True, slots=True)
class GrowingAttention:
    """One layer's attention: values of the graph, in the order of their computation.

    Attributes:
        key, value: the states.
        new_key, new_value: what a run adds to them.
        keys, values: past and new, concatenated.
        query: what the queries come from.
        left, right: factors of the first product.
        scores: the first product.
        masked: what the softmax takes.
        shares: what it gives.
        weights, over: factors of the second product.
        product: the second product.
        result: what the layer goes on with.
    """

    key: StateSpec
    value: StateSpec
    new_key: ir.Value
    new_value: ir.Value
    keys: ir.Value
    values: ir.Value
    query: ir.Value
    left: ir.Value
    right: ir.Value
    scores: ir.Value
    masked: ir.Value
    shares: ir.Value
    weights: ir.Value
    over: ir.Value
    product: ir.Value
    result: ir.Value


def match_attention(
    model: ir.Model,
    states: list[StateSpec],
    shapes: Mapping[str, MeasuredTensor],
    sizes: tuple[int, int],
) -> list[GrowingAttention]:
    """The attention of each pair of states.

    Args:
        model: the stage's graph.
        states: that grow.
        shapes: of all values in one run.
        sizes: rows and new tokens of that run.

    Raises:
        NotInPlaceError: a state takes part in something else.
    """
    by_output = {state.output: state for state in states}
    concats = {
        str(value.name): _concat(value, by_output[str(value.name)])
        for value in model.graph.outputs
        if str(value.name) in by_output
    }
    paths = {name: _path(*concat, by_output[name]) for name, concat in concats.items()}
    keys = {node: name for name, (node, value) in paths.items() if _leads_to_softmax(node)}
    seconds = {node: name for name, (node, value) in paths.items() if node not in keys}
    layers = []
    for first, name in keys.items():
        masked, softmax = _softmax(first.outputs[0], name)
        shares = softmax.outputs[0]
        weights, second = _follow(shares, SCORING)
        if second is None or second.op_type != "MatMul" or second not in seconds:
            raise NotInPlaceError(f"what state {name!r} is weighed by meets no state of values")
        other = seconds[second]
        query = walk_back(first.inputs[0], shapes, sizes, PLACING | {"Mul", "Div"})
        result = _forward(second.outputs[0], shapes, sizes)
        layers.append(
            GrowingAttention(
                key=by_output[name],
                value=by_output[other],
                new_key=concats[name][1],
                new_value=concats[other][1],
                keys=concats[name][0],
                values=concats[other][0],
                query=query,
                left=_input(first, 0),
                right=_input(first, 1),
                scores=first.outputs[0],
                masked=masked,
                shares=shares,
                weights=weights,
                over=_input(second, 1),
                product=second.outputs[0],
                result=result,
            )
        )
    if len(layers) * 2 != len(states):
        raise NotInPlaceError(
            f"{len(layers)} layers of attention for {len(states)} states that grow: expected a "
            "key and a value for each"
        )
    return layers


def _scalar(value: ir.Value | None) -> float | None:
    """A constant of one element; None for any other value."""
    if value is None or value.is_graph_input():
        return None
    tensor, node = value.const_value, value.producer()
    if tensor is None and node is not None and node.op_type == "Constant" and standard(node):
        tensor = constant_of(node)
    if tensor is None or tensor.size != 1:
        return None
    return float(np.ravel(tensor.numpy())[0])


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise NotInPlaceError(f"{node.op_type} lacks input {index}")
    return value


def _concat(output: ir.Value, state: StateSpec) -> tuple[ir.Value, ir.Value]:
    """What a state becomes, and what is added to it."""
    value, node = output, output.producer()
    while node is not None and node.op_type == "Identity":
        value = _input(node, 0)
        node = value.producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        raise NotInPlaceError(f"output {state.output!r} is no concatenation of past and new")
    past = _input(node, 0)
    while (producer := past.producer()) is not None and producer.op_type == "Identity":
        past = _input(producer, 0)
    if past.name != state.input or axis_of(node, 0, 4) != 2:
        raise NotInPlaceError(f"output {state.output!r} does not append to state {state.input!r}")
    for user, _ in past.uses():
        if user is not node and user.op_type not in ("Shape", "Identity"):
            raise NotInPlaceError(f"state {state.input!r} goes into {user.op_type} by itself too")
    return value, _input(node, 1)


def _path(keys: ir.Value, _new: ir.Value, state: StateSpec) -> tuple[ir.Node, ir.Value]:
    """The product that takes a state with what is new, and its factor."""
    value, node = _follow(keys, SPREADING)
    if node is None or node.op_type != "MatMul" or node.inputs[1] is not value:
        what = "nothing alone" if node is None else node.op_type
        raise NotInPlaceError(f"state {state.output!r} is taken by {what}, not by a product")
    return node, value


def _follow(value: ir.Value, through: frozenset[str]) -> tuple[ir.Value, ir.Node | None]:
    """The way of a value through operators, to the first other one; None where it forks."""
    while True:
        node, index = _user(value)
        if node is None or node.op_type not in through or not standard(node):
            return value, node
        if node.op_type in PLACING and index != 0:
            return value, node
        if through is SPREADING and node.op_type in ("Mul", "Div") and _factor(node, value) is None:
            return value, node
        value = node.outputs[0]
        if value.is_graph_output():
            return value, None


def _user(value: ir.Value) -> tuple[ir.Node | None, int]:
    """The one node that takes what a value holds, and as which input; None for none or several.

    Of a test for NaN and the choice that follows it, it is the choice.
    """
    uses = {
        node: index
        for node, index in value.uses()
        if node.op_type != "Shape"
        and not (node.op_type == "Identity" and node.outputs[0].is_graph_output())
    }
    if len(uses) == 2:
        test = next((node for node in uses if node.op_type == "IsNaN"), None)
        choice = next((node for node in uses if node.op_type == "Where"), None)
        if test is not None and choice is not None and choice.inputs[0] is test.outputs[0]:
            return choice, uses[choice]
    return next(iter(uses.items())) if len(uses) == 1 else (None, 0)


def _factor(node: ir.Node, value: ir.Value) -> float | None:
    """The constant that a Mul or Div applies to ``value``; None where it is none."""
    left, right = node.inputs
    if left is value:
        return _scalar(right)
    return _scalar(left) if node.op_type == "Mul" else None


def _leads_to_softmax(product: ir.Node) -> bool:
    _, node = _follow(product.outputs[0], SCORING)
    return node is not None and node.op_type == "Softmax"


def _softmax(scores: ir.Value, name: str) -> tuple[ir.Value, ir.Node]:
    value, node = _follow(scores, SCORING)
    if node is None or node.op_type != "Softmax":
        raise NotInPlaceError(f"scores of state {name!r} do not reach a softmax")
    return value, node


def walk_back(
    value: ir.Value | None,
    shapes: Mapping[str, MeasuredTensor],
    sizes: tuple[int, int],
    through: frozenset[str],
) -> ir.Value:
    """What a tensor with heads is made of by placing elements: [batch, new, all heads], if so."""
    if value is None:
        raise NotInPlaceError("a product lacks a factor")
    first, best = value, value
    while True:
        shape = shapes[str(value.name)].shape
        if len(shape) == 3 and shape[:2] == sizes:
            best = value
        elif best is first and len(shape) == 4:
            best = first = value
        node = value.producer()
        if node is None or node.op_type not in through or not standard(node):
            return best
        index = 0
        if node.op_type == "Mul" and _scalar(node.inputs[0]) is not None:
            index = 1
        elif node.op_type in ("Mul", "Div") and _scalar(node.inputs[1]) is None:
            return best
        value = _input(node, index)
        if str(value.name) not in shapes or value.is_initializer():
            return best


def _forward(
    value: ir.Value, shapes: Mapping[str, MeasuredTensor], sizes: tuple[int, int]
) -> ir.Value:
    """What the second product becomes by placing elements: [batch, new, all heads], if so."""
    last = value
    while True:
        shape = shapes[str(value.name)].shape
        if len(shape) == 3 and shape[:2] == sizes:
            return value
        if len(shape) == 4:
            last = value
        node, index = _user(value)
        if node is None or node.op_type not in PLACING | {"Where"} or not standard(node):
            return last
        if node.op_type in PLACING and index != 0:
            return last
        value = node.outputs[0]
