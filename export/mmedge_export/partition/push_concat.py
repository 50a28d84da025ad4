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
- *A batch of inputs* is a Concat too. A Reshape may merge its axis with others; then the parts take
  turns along it (``ConcatParts.rounds``). What only merges axes, and leads to no work, stays whole.
- *What takes a part out* (Split, Slice, Gather at borders of parts) reads that part, and what
  follows is again one modality's own (:mod:`mmedge_export.partition.take_apart`).
- *Shapes* of the parts are computed from sizes of the part itself where these suffice, so that the
  encoder of one modality does not need the sizes of another.
- Graphs below opset 13 stay as they are; nodes with subgraphs, and of functions, are not row-wise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.infer_shapes import InferShapesPass
from mmedge_export.onnx_graph.infer_sizes import infer_sizes
from mmedge_export.onnx_graph.read_node import shape_window, standard
from mmedge_export.onnx_graph.size import ONE, Size
from mmedge_export.partition.graph_builder import GraphBuilder
from mmedge_export.partition.owners import find_owners
from mmedge_export.partition.parts import ConcatParts, RepeatedRows
from mmedge_export.partition.rowwise import plan
from mmedge_export.partition.shared_batch import SharedBatches
from mmedge_export.partition.take_apart import take_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmedge_export.partition.parts import RowwisePlan
    from mmedge_export.partition.shared_batch import BatchRemark

__all__ = ["Moved", "push_concat"]

#: Axes of Squeeze, Unsqueeze, Split and ReduceSum are inputs, and Softmax has one axis, from here.
OLDEST = 13

#: Ops that compute nothing.
MOVING = frozenset(
    [
        *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    ]
)


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


#: Of new work that is one modality's own the Concat that it came after, its owners, and the node.
_Move = tuple[ir.Node, frozenset[str], ir.Node]


def push_concat(
    model: ir.Model,
    groups: Mapping[str, Sequence[str]],
    tell: Callable[[BatchRemark], None] = lambda _: None,
) -> tuple[Moved, ...]:
    """Move each Concat of several modalities down, in place.

    Args:
        model: in topological order. Values need dtypes; shapes that the file does not state are
            inferred.
        groups: modality -> names of its inputs. Inputs of no modality count as all modalities'.
        tell: called with a remark on each batch that inputs of several modalities were joined to.

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
    pushed: dict[ir.Node, list[_Move]] = {}
    taken: list[_Move] = []
    regrouped: set[ir.Value] = set()
    batches = SharedBatches(builder)
    for node in nodes:
        builder.point = node
        if taken:
            builder.owners.follow(node)  # what was taken apart before it is one modality's own
        if any(value in builder.parts for value in node.inputs):
            if moves := _push(node, builder, regrouped):
                pushed[node] = moves
                batches.note_pushed(node)
                continue
            if moves := _take_apart(node, builder):
                taken += moves
                continue
        if node.op_type == "Concat" and standard(node):
            parts = builder.parts_of(node, merge=True)
            if parts is not None and parts.worth():
                builder.parts[node.outputs[0]] = parts
                continue
        batches.note_refused(node)
    _pull_back(pushed, regrouped, builder)
    if pushed or taken:
        _gather(nodes, set(pushed), live_values, builder)
    for name, value in list(graph.initializers.items()):
        ours = value in live_values or value not in builder.initializers_before
        if ours and not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[name]
    for remark in batches.remarks():
        tell(remark)
    return _report([move for node in nodes for move in pushed.get(node, ())], taken)


def _pull_back(
    pushed: dict[ir.Node, list[_Move]], regrouped: set[ir.Value], builder: GraphBuilder
) -> None:
    """Leave whole what only merges the axis of the parts with others, where no work follows."""
    left: list[ir.Node] = []
    for node in reversed(list(pushed)):
        if regrouped.isdisjoint(node.outputs):
            continue
        parts = [builder.parts[value] for value in node.outputs if value in builder.parts]
        leaves = {leaf for one in parts for values in one.values for leaf in values}
        if any(leaf.uses() or leaf.is_graph_output() for leaf in leaves):
            continue
        for value, one in list(builder.parts.items()):
            if any(not leaves.isdisjoint(values) for values in one.values):
                del builder.parts[value]  # the outputs of the node, and a Concat of them
        new_nodes = [new for _, _, new in pushed.pop(node)]
        builder.discard(new_nodes, {new for moves in pushed.values() for _, _, new in moves})
        left.append(node)
    for node in reversed(left):
        # Its parts are there for other work.
        if any(value in builder.parts for value in node.inputs):
            how = plan(node, builder)
            if how is not None and not how.regroups:
                builder.point = node
                builder.forget()
                pushed[node] = _push(node, builder, set())


def _take_apart(node: ir.Node, builder: GraphBuilder) -> list[_Move]:
    """Let what reads parts through ``node`` read them themselves; of each its Concat and owners."""
    value = node.inputs[0] if node.inputs else None
    parts = None if value is None else builder.parts.get(value)
    if parts is None:
        return []
    return [(parts.origin, builder.owners.of(part), node) for part in take_apart(node, builder)]


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
        if node.graph is builder.graph and not _live(node):
            builder.graph.remove(node, safe=True)


def _push(node: ir.Node, builder: GraphBuilder, regrouped: set[ir.Value]) -> list[_Move]:
    """Compute ``node`` part by part.

    Args:
        node: what may be row-wise.
        builder: its point is ``node``.
        regrouped: values before which nothing was computed since the axis of the parts was merged
            with others.
    """
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
        inputs = _inputs(node, how, at, builder)
        output_specs = []
        for value in node.outputs[:count]:
            shape = builder.shape(value)
            if shape is not None:
                shape = (*shape[: how.axis], how.parts.length(at), *shape[how.axis + 1 :])
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
    for value, part_values in zip(node.outputs, values, strict=False):
        builder.parts[value] = replace(how.parts, axis=how.axis, values=tuple(part_values))
    # Where parts no longer take turns, the whole is easier to make than before.
    eases = how.parts.rounds == ONE and any(
        value is not None and value in builder.parts and builder.parts[value].rounds != ONE
        for value in node.inputs
    )
    moves_only = node.op_type in MOVING and not regrouped.isdisjoint(node.inputs)
    if (how.regroups or moves_only) and not eases:
        regrouped.update(node.outputs)
    return moves


def _inputs(
    node: ir.Node, how: RowwisePlan, at: int, builder: GraphBuilder
) -> list[ir.Value | None]:
    """What ``node`` takes for one part."""
    inputs: list[ir.Value | None] = []
    repeated: dict[int, RepeatedRows] = {}
    rows: tuple[ir.Value, int] | None = None
    for operand in how.inputs:
        if isinstance(operand, ConcatParts):
            value = builder.join(operand.values[at], operand.axis)
            rows = rows or (value, operand.axis)
            inputs.append(value)
        elif isinstance(operand, RepeatedRows):
            repeated[len(inputs)] = operand
            inputs.append(None)
        else:
            inputs.append(operand)
    for place, operand in repeated.items():
        inputs[place] = None if rows is None else builder.repeat(operand, *rows)
    shape_value = node.inputs[how.target_at] if how.targets is not None else None
    if how.targets is not None and rows is not None and shape_value is not None:
        inputs[how.target_at] = builder.target(
            *rows, how.targets[at], shape_value, infers=how.target_at == 1
        )
    return inputs


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
        concat_value = builder.whole(parts)
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


def _report(moves: Sequence[_Move], taken: Sequence[_Move]) -> tuple[Moved, ...]:
    groups: dict[tuple[ir.Node, str], list[ir.Node]] = {}
    moved_nodes = {node for _, _, node in moves if node.graph is not None}
    for origin, owner, node in (*moves, *taken):
        if len(owner) == 1 and (node in moved_nodes or (origin, owner, node) in taken):
            (modality,) = owner
            groups.setdefault((origin, modality), []).append(node)
    return tuple(
        Moved(
            modality,
            tuple(node for node in nodes if node in moved_nodes),
            f"{_counts(nodes)} after concat {origin.outputs[0].name!r}",
        )
        for (origin, modality), nodes in groups.items()
    )


def _counts(nodes: Sequence[ir.Node]) -> str:
    counts = Counter(node.op_type for node in nodes).most_common()
    return ", ".join(f"{count} {kind}" for kind, count in counts)
