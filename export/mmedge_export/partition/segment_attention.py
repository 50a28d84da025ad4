"""Attention over keys and values that are concatenations becomes one node that takes the segments.

A kernel for that node (:mod:`mmedge_export.partition.attention_function` defines it) needs neither
concatenated keys and values nor a mask over all of them, and a lost sensor is a segment of length
0. Run :func:`mmedge_export.partition.push_concat.push_concat` first: it brings the Concats to where
the attention takes them.

Decisions:

- *What is found*: ``MatMul(Softmax(MatMul(q, k^T) [+ mask]), v)`` with scalar factors anywhere in
  it, keys transposed in any way, and optionally ``Where(IsNaN(weights), 0, weights)``, which
  torch's exporter writes for boolean masks; the same with scores masked by ``Where(mask, scores,
  -inf)``; and ONNX's ``Attention`` with four axes, as many heads for keys as for queries, no cache
  and no causal mask.
- *What stays*: attention whose weights or scores something else takes too, keys and values that are
  not cut alike into 2 to 8 segments, masks of which it is not known that they are as long as the
  keys, sums of several masks, and graphs below opset 15. Nodes in subgraphs are not looked at.
- *Layout* is fixed, ``[B, H, L, D]``; transposes stay outside and one that only undoes another
  goes. Attention with three axes gets a head axis of 1.
- *Scale*: all scalar factors become one attribute.
- *Masks*: an additive one that is a Concat is passed in its parts, any other is cut by a Split. A
  boolean one becomes 0 and minus infinity, segment by segment. A ``Where`` over scores counts only
  with a value of -1e30 or less: adding that to a score gives exactly the value again.
- *Rows with nothing to attend to* stay what they were: see the kinds of function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.infer_sizes import infer_sizes
from mmedge_export.onnx_graph.read_node import axis_of, standard
from mmedge_export.onnx_graph.size import ONE, Size
from mmedge_export.partition.attention_function import DOMAIN, MOST, OLDEST, attention_function
from mmedge_export.partition.graph_builder import GraphBuilder
from mmedge_export.partition.owners import find_owners
from mmedge_export.partition.view import View, scalar, scaling, swap_last

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["segment_attention"]

#: A masked score: any score is lost in the rounding of a sum with it.
LOST = -1e30


@dataclass(frozen=True)
class AttentionPattern:
    """An attention over segments.

    Attributes:
        q: queries, perhaps with a factor.
        k: keys of each segment, perhaps with a factor, which is the same for all.
        v: values of each segment.
        lengths: of the segments.
        scale: a further factor of the scores.
        mask: of all keys, if there is one.
        true_hides: whether true elements of a mask hide keys, or false ones; None: it is additive.
        fill: what stands for the score of a hidden key.
        guarded: whether a row with nothing to attend to is 0.
    """

    q: View
    k: tuple[View, ...]
    v: tuple[View, ...]
    lengths: tuple[Size, ...]
    scale: float
    mask: ir.Value | None = None
    true_hides: bool | None = None
    fill: float = -math.inf
    guarded: bool = False


def segment_attention(model: ir.Model) -> int:
    """Replace attention over concatenations, in place.

    Args:
        model: in topological order, with dtypes.

    Returns:
        how many were replaced.
    """
    graph = model.graph
    opset = graph.opset_imports.get("", 0)
    if not len(graph) or opset < OLDEST:
        return 0
    builder = GraphBuilder(graph, infer_sizes(graph), find_owners(graph, {}))
    count = 0
    for node in list(graph):
        if node.graph is not graph or not standard(node):
            continue
        match = _match_attention if node.op_type == "Attention" else _match_decomposed
        pattern = match(node, builder)
        if pattern is None:
            continue
        builder.point = node
        segments = _bias(pattern, builder)
        if segments is None:
            continue
        kind = "" if not segments else "Guarded" if pattern.guarded else "Biased"
        function = attention_function(len(pattern.k), kind, opset)
        model.functions.setdefault(function.identifier(), function)
        _replace(node, pattern, segments, function.name, builder)
        count += 1
    if count:
        graph.opset_imports[DOMAIN] = 1
        model.ir_version = max(model.ir_version, 8)  # the first with functions
    return count


def _match_decomposed(node: ir.Node, builder: GraphBuilder) -> AttentionPattern | None:
    """The attention whose last MatMul is ``node``."""
    if node.op_type != "MatMul":
        return None
    weights, v = node.inputs
    softmax, is_guarded = _softmax(weights, builder)
    shape = None if softmax is None else builder.shape(softmax.outputs[0])
    if softmax is None or shape is None or v is None or len(shape) not in (3, 4):
        return None
    rank = len(shape)
    if axis_of(softmax, -1, rank) != rank - 1 or len(builder.shape(v) or ()) != rank:
        return None
    for scores, mask, true_hides, fill in _masks(softmax.inputs[0], builder):
        product, scale = _product(scores, builder)
        if product is None:
            continue
        q, columns = product.inputs
        if q is None or columns is None:
            continue
        if any(len(builder.shape(value) or ()) != rank for value in (q, columns)):
            continue
        k = View(columns, swap_last(rank)).parts(rank - 2, builder, factors=True)
        views = _split_keys(q, k, View(v, tuple(range(rank))), builder)
        if views is not None:
            return AttentionPattern(*views, scale, mask, true_hides, fill, is_guarded)
    return None


def _match_attention(node: ir.Node, builder: GraphBuilder) -> AttentionPattern | None:
    """An ``Attention`` of ONNX itself."""
    q, k, v, mask, *others = (*node.inputs, None)[: max(4, len(node.inputs))]
    attributes = node.attributes
    shapes = [builder.shape(value) for value in (q, k, v)]
    if q is None or k is None or v is None or any(other is not None for other in others):
        return None
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return None
    heads = {shape[1] for shape in shapes if shape is not None}
    width = shapes[0][3].number if shapes[0] is not None else None
    scale = attributes.get_float("scale", 1.0 / math.sqrt(width) if width else math.nan)
    plain = (
        attributes.get_int("is_causal", 0) == 0
        and attributes.get_float("softcap", 0.0) == 0.0
        and attributes.get_int("softmax_precision", int(ir.DataType.FLOAT)) == ir.DataType.FLOAT
        and not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    )
    if not plain or len(heads) > 1 or math.isnan(scale):
        return None
    identity = tuple(range(4))
    keys = View(k, identity).parts(2, builder, factors=True)
    views = _split_keys(q, keys, View(v, identity), builder)
    if views is None:
        return None
    boolean = mask is not None and mask.dtype == ir.DataType.BOOL
    return AttentionPattern(
        *views, scale, mask, False if boolean else None, guarded=mask is not None
    )


def _softmax(weights: ir.Value | None, builder: GraphBuilder) -> tuple[ir.Node | None, bool]:
    """The Softmax that makes ``weights`` for one use alone, and whether NaN are set to 0."""
    node = _only(weights)
    if node is None or node.op_type != "Where":
        return (node, False) if node is not None and node.op_type == "Softmax" else (None, False)
    test, probabilities = _only(node.inputs[0]), node.inputs[2]
    softmax = None if probabilities is None else probabilities.producer()
    if softmax is None or probabilities is None or softmax.op_type != "Softmax" or test is None:
        return None, False
    guard = test.op_type == "IsNaN" and test.inputs[0] is probabilities
    used_here_only = len(probabilities.uses()) == 2 and not probabilities.is_graph_output()
    zero = scalar(node.inputs[1], builder) == 0
    return (softmax, True) if guard and used_here_only and zero else (None, False)


def _only(value: ir.Value | None) -> ir.Node | None:
    """The standard node that makes ``value`` where one use takes it and nothing else."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    node = value.producer()
    return node if node is not None and standard(node) else None


def _masks(
    scores: ir.Value | None, builder: GraphBuilder
) -> Iterator[tuple[ir.Value | None, ir.Value | None, bool | None, float]]:
    """Ways to read masked scores: scores, mask, what its true elements mask, and with what."""
    node = _only(scores)
    if node is not None and node.op_type == "Add":
        left, right = node.inputs
        yield left, right, None, -math.inf
        yield right, left, None, -math.inf
    elif node is not None and node.op_type == "Where":
        for at, other, true_hides in ((1, 2, False), (2, 1, True)):
            fill = scalar(node.inputs[other], builder)
            if fill is not None and fill <= LOST:
                yield node.inputs[at], node.inputs[0], true_hides, fill
    else:
        yield scores, None, None, -math.inf


def _product(scores: ir.Value | None, builder: GraphBuilder) -> tuple[ir.Node | None, float]:
    """The MatMul behind scalar factors, and these."""
    node, scale = _only(scores), 1.0
    while node is not None and (factor := scaling(node, builder)) is not None:
        node, scale = _only(factor[0]), scale * factor[1]
    return (node, scale) if node is not None and node.op_type == "MatMul" else (None, scale)


def _split_keys(
    q: ir.Value, k: tuple[View, ...] | None, v: View, builder: GraphBuilder
) -> tuple[View, tuple[View, ...], tuple[View, ...], tuple[Size, ...]] | None:
    """Query, keys and values in segments that match, and their lengths."""
    values = v.parts(len(v.perm) - 2, builder, factors=False)
    if k is None or values is None or len(k) != len(values) or not 2 <= len(k) <= MOST:
        return None
    lengths = []
    for key, value in zip(k, values, strict=True):
        length = _length(key, builder)
        if length is None or length != _length(value, builder):
            return None
        lengths.append(length)
    if len({view.scale for view in k}) > 1:
        return None
    *_, query = takewhile(lambda view: view.plain, View(q, v.perm).inward(builder, factors=True))
    return query, k, values, tuple(lengths)


def _length(view: View, builder: GraphBuilder) -> Size | None:
    shape = builder.shape(view.value)
    return None if shape is None else shape[view.perm[-2]]


def _bias(pattern: AttentionPattern, builder: GraphBuilder) -> tuple[ir.Value, ...] | None:
    """The mask of each segment, additive and with four axes; None where it cannot be cut."""
    mask, rank = pattern.mask, len(pattern.q.perm)
    if mask is None:
        return ()
    shape = builder.shape(mask)
    ends = tuple(accumulate(pattern.lengths))
    if shape is None or not 1 <= len(shape) <= rank or shape[-1] != ends[-1]:
        return None
    pieces = _pieces(pattern, mask, len(shape) - 1, ends, builder)
    like = pattern.q.value.dtype
    if pattern.true_hides is not None:
        if like is None:
            return None
        zero, fill = builder.scalar(0.0, like), builder.scalar(pattern.fill, like)
        branches = (fill, zero) if pattern.true_hides else (zero, fill)
        biases = []
        for piece in pieces:
            output = (f"{piece.name}_bias", like, builder.shape(piece))
            biases.append(builder.add("Where", [piece, *branches], [output]).outputs[0])
        pieces = tuple(biases)
    missing = [1] if (rank, len(shape)) == (3, 3) else list(range(4 - len(shape)))
    return tuple(_unsqueeze(piece, missing, builder) for piece in pieces)


def _pieces(
    pattern: AttentionPattern,
    mask: ir.Value,
    axis: int,
    ends: tuple[Size, ...],
    builder: GraphBuilder,
) -> tuple[ir.Value, ...]:
    """The mask cut where the keys are."""
    node = mask.producer()
    if node is not None and node.op_type == "Concat" and standard(node):
        parts = builder.parts_of(node)
        if parts is not None and parts.axis == axis and set(ends) <= set(parts.ends):
            return tuple(builder.join(values, axis) for values in parts.merge(ends).values)
    lengths = [builder.axis_length(view.value, view.perm[-2]) for view in pattern.k]
    numbers = [size.number for size in pattern.lengths if size.number is not None]
    if len(numbers) == len(lengths):
        split_sizes = builder.integers(numbers)
    else:
        count = [(f"{mask.name}_lengths", ir.DataType.INT64, (Size.of(len(lengths)),))]
        split_sizes = builder.add("Concat", lengths, count, [ir.AttrInt64("axis", 0)]).outputs[0]
    shape = builder.sizes.shapes[mask]
    output_specs = [
        (f"{mask.name}_segment{at}", mask.dtype, (*shape[:-1], size))
        for at, size in enumerate(pattern.lengths)
    ]
    axis_attribute = ir.AttrInt64("axis", axis)
    split = builder.add("Split", [mask, split_sizes], output_specs, [axis_attribute])
    return tuple(split.outputs)


def _unsqueeze(value: ir.Value, axes: list[int], builder: GraphBuilder) -> ir.Value:
    shape = builder.shape(value)
    if not axes or shape is None:
        return value
    rest = iter(shape)
    wider = tuple(ONE if at in axes else next(rest) for at in range(len(shape) + len(axes)))
    output = (f"{value.name}_{len(wider)}d", value.dtype, wider)
    return builder.add("Unsqueeze", [value, builder.integers(axes)], [output]).outputs[0]


def _heads_first(view: View, builder: GraphBuilder) -> ir.Value:
    """The value of a view with four axes: a view of three has one head."""
    value, shape = view.value, builder.shape(view.value)
    if not view.plain and shape is not None:
        output = (f"{value.name}_rows", value.dtype, tuple(shape[at] for at in view.perm))
        perm = ir.AttrInt64s("perm", view.perm)
        value = builder.add("Transpose", [value], [output], [perm]).outputs[0]
    return _unsqueeze(value, [1] if len(view.perm) == 3 else [], builder)


def _replace(
    node: ir.Node,
    pattern: AttentionPattern,
    bias: tuple[ir.Value, ...],
    name: str,
    builder: GraphBuilder,
) -> None:
    """Put the function's node where ``node`` is, and take away what only that one needed."""
    old = node.outputs[0]
    shape = builder.shape(old)
    flat = len(pattern.q.perm) == 3
    inputs = [_heads_first(view, builder) for view in (pattern.q, *pattern.k, *pattern.v)]
    scale = pattern.scale * pattern.q.scale * pattern.k[0].scale
    wide_shape = (shape[0], ONE, *shape[1:]) if flat and shape is not None else shape
    new = builder.add(
        name,
        [*inputs, *bias],
        [(f"{old.name}_segmented", old.dtype, wide_shape)],
        [ir.AttrFloat32("scale", scale)],
        like=node,
        domain=DOMAIN,
    ).outputs[0]
    if flat:
        output = (f"{old.name}_flat", old.dtype, shape)
        new = builder.add("Squeeze", [new, builder.integers([1])], [output]).outputs[0]
    builder.stand_in(old, new)
    builder.remove_unused([node])
