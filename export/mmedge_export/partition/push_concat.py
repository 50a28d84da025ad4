"""Work on a concatenation of modalities becomes work on each of them, and the Concat comes later.

Fusion networks often concatenate the tokens of all sensors first and then project them: norm, keys
and values of every layer of a cross-attention. None of that mixes modalities, but in the graph it
hangs on all of them. This pass moves such a Concat down through the work that treats each row
(index along its axis) alike, so that a cut between encoders and fusion leaves that work with the
encoders, where it runs only when its sensor has something new.

Decisions:

- *Values are kept as parts* in topological order, and a Concat is made only for what something that
  is not row-wise takes whole; :mod:`mmedge_export.partition.rowwise` has the rules. Attention
  scores, a softmax or a reduction along the axis, and convolutions over it, mix rows. A MatMul
  needs a weight that depends on no input. What does not move leaves the graph as it was.
- *No work is added*: each row is computed once, as before; weights are shared (a constant with as
  many rows as a concatenation of fixed size is cut up instead).
- *Something must be gained*: at least one part is one modality's own, and another is not that
  modality's. Parts of no modality (learned tokens) stay parts; neighbours of one modality are one.
- *Shapes* of the parts are computed from sizes of the part itself where these suffice, so that the
  encoder of one modality does not need the sizes of another.
- Graphs below opset 13 stay as they are; nodes with subgraphs, and of functions, are not row-wise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.infer_shapes import InferShapesPass
from mmedge_export.onnx_graph.infer_sizes import infer_sizes
from mmedge_export.onnx_graph.read_node import shape_window, standard
from mmedge_export.onnx_graph.size import Size
from mmedge_export.partition.graph_builder import GraphBuilder
from mmedge_export.partition.owners import find_owners
from mmedge_export.partition.parts import ConcatParts
from mmedge_export.partition.rowwise import plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Moved", "push_concat"]

#: Axes of Squeeze, Unsqueeze, Split and ReduceSum are inputs, and Softmax has one axis, from here.
OLDEST = 13


@dataclass(frozen=True)
class Moved:
    """Work that became one modality's own.

    Attributes:
        modality: whose.
        nodes: that compute it now.
        what: how many of each operator, and after which Concat they were.
    """

    modality: str
    nodes: tuple[ir.Node, ...]
    what: str


def push_concat(model: ir.Model, groups: Mapping[str, Sequence[str]]) -> tuple[Moved, ...]:
    """Move each Concat of several modalities down, in place.

    Args:
        model: in topological order. Values need dtypes; shapes that the file does not state are
            inferred.
        groups: modality -> names of its inputs. Inputs of no modality count as all modalities'.

    Returns:
        what moved, for each Concat and modality, in the order of the graph.
    """
    graph = model.graph
    if not len(graph) or graph.opset_imports.get("", 0) < OLDEST:
        return ()
    if any(value.shape is None for node in graph for value in node.outputs):
        InferShapesPass()(model)
    builder = GraphBuilder(graph, infer_sizes(graph), find_owners(graph, groups))
    nodes = list(graph)
    live_values = {v for node in nodes for v in node.outputs if v.uses() or v.is_graph_output()}
    live_values |= {value for value in graph.initializers.values() if value.uses()}
    pushed_nodes: set[ir.Node] = set()
    moves: list[tuple[ir.Node, frozenset[str], ir.Node]] = []
    for node in nodes:
        builder.point = node
        node_moves = (
            _push(node, builder) if any(value in builder.parts for value in node.inputs) else []
        )
        if node_moves:
            pushed_nodes.add(node)
            moves += node_moves
        elif node.op_type == "Concat" and standard(node):
            parts = builder.parts_of(node, merge=True)
            if parts is not None and parts.worth():
                builder.parts[node.outputs[0]] = parts
    if moves:
        _gather(nodes, pushed_nodes, live_values, builder)
    for name, value in list(graph.initializers.items()):
        ours = value in live_values or value not in builder.initializers_before
        if ours and not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[name]
    return _report(moves)


def _gather(
    nodes: Sequence[ir.Node],
    pushed_nodes: set[ir.Node],
    live_values: set[ir.Value],
    builder: GraphBuilder,
) -> None:
    """Take out what was pushed; make a Concat where something still takes the whole."""
    for node in reversed(nodes):
        builder.point = node
        is_whole = node.op_type == "Concat" and node.outputs[0] in builder.parts
        if node in pushed_nodes or is_whole:
            # A Concat of what is itself in parts now takes those parts.
            stays = node not in pushed_nodes and not any(
                v and v.producer() in pushed_nodes for v in node.inputs
            )
            for value in node.outputs:
                _settle(value, builder, stays=stays)
        if not _live(node) and any(value in live_values for value in node.outputs):
            builder.graph.remove(node, safe=True)
    for node in reversed(builder.new_nodes):
        if not _live(node):
            builder.graph.remove(node, safe=True)


def _push(node: ir.Node, builder: GraphBuilder) -> list[tuple[ir.Node, frozenset[str], ir.Node]]:
    """Compute ``node`` part by part; of each new node the Concat it came after and its owners."""
    if not _live(node):
        return []
    how = plan(node, builder)
    if how is None or not how.parts.worth():
        return []
    outputs = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    count = node.outputs.index(outputs[-1]) + 1
    values: list[list[tuple[ir.Value, ...]]] = [[] for _ in range(count)]
    moves = []
    for at, owner in enumerate(how.parts.owners):
        inputs = [
            builder.join(operand.values[at], operand.axis)
            if isinstance(operand, ConcatParts)
            else operand
            for operand in how.inputs
        ]
        if (
            how.targets is not None
            and inputs[0] is not None
            and isinstance(how.inputs[0], ConcatParts)
        ):
            shape_value = node.inputs[1]
            if shape_value is not None:
                inputs[1] = builder.target(inputs[0], how.inputs[0].axis, how.targets, shape_value)
        output_specs = []
        for value in node.outputs[:count]:
            shape = builder.shape(value)
            if shape is not None:
                shape = (*shape[: how.axis], how.parts.sizes[at], *shape[how.axis + 1 :])
            output_specs.append((f"{value.name}_part{at}", value.dtype, shape))
        new = builder.add(
            node.op_type,
            inputs,
            output_specs,
            list(node.attributes.values()),
            f"{node.name or node.outputs[0].name}_part{at}",
            like=node,
        )
        moves.append((how.parts.origin, owner, new))
        for value, parts in zip(new.outputs, values, strict=True):
            builder.owners.set(value, owner)
            parts.append((value,))
    for value, parts in zip(node.outputs, values, strict=False):
        builder.parts[value] = ConcatParts(
            how.parts.origin, how.axis, tuple(parts), how.parts.sizes, how.parts.owners
        )
    return moves


def _live(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def _settle(value: ir.Value, builder: GraphBuilder, *, stays: bool) -> None:
    """Give what still takes ``value`` whole a Concat of its parts, or only their sizes.

    Args:
        value: kept as parts.
        builder: its point is the producer of ``value``.
        stays: ``value`` is a Concat of its parts as it is: only its sizes are replaced.
    """
    builder.forget()
    users = [use.node for use in value.uses()]
    parts = builder.parts.get(value)
    if parts is None or not (users or value.is_graph_output()):
        return
    if not value.is_graph_output() and all(
        user.op_type == "Shape" and standard(user) and user.graph is builder.graph for user in users
    ):
        for user in users:
            _sizes(user, parts, builder)
    elif not stays:
        leaves = tuple(leaf for part in parts.values for leaf in part)
        concat_value = builder.join(leaves, parts.axis)
        concat_value.shape, concat_value.type = value.shape, value.type
        builder.stand_in(value, concat_value)


def _sizes(shape: ir.Node, parts: ConcatParts, builder: GraphBuilder) -> None:
    """Replace a Shape of a whole by arithmetic on the sizes of its parts."""
    leaves = [leaf for part in parts.values for leaf in part]
    rank = len(builder.sizes.shapes[leaves[0]])
    pieces = []
    for axis in range(rank)[shape_window(shape)]:
        length = builder.axis_length(leaves[0], axis)
        for leaf in leaves[1:] if axis == parts.axis else ():
            one = [(f"{leaf.name}_sum", ir.DataType.INT64, (Size.of(1),))]
            length = builder.add("Add", [length, builder.axis_length(leaf, axis)], one).outputs[0]
        pieces.append(length)
    output_specs = [(f"{shape.outputs[0].name}_parts", ir.DataType.INT64, (Size.of(len(pieces)),))]
    concat = builder.add("Concat", pieces, output_specs, [ir.AttrInt64("axis", 0)])
    builder.stand_in(shape.outputs[0], concat.outputs[0])
    builder.graph.remove(shape, safe=True)


def _report(moves: Sequence[tuple[ir.Node, frozenset[str], ir.Node]]) -> tuple[Moved, ...]:
    groups: dict[tuple[ir.Node, str], list[ir.Node]] = {}
    for origin, owner, node in moves:
        if len(owner) == 1 and node.graph is not None:
            (modality,) = owner
            groups.setdefault((origin, modality), []).append(node)
    return tuple(
        Moved(modality, tuple(nodes), f"{_counts(nodes)} after concat {origin.outputs[0].name!r}")
        for (origin, modality), nodes in groups.items()
    )


def _counts(nodes: Sequence[ir.Node]) -> str:
    counts = Counter(node.op_type for node in nodes).most_common()
    return ", ".join(f"{count} {kind}" for kind, count in counts)
