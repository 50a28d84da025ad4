"""Rotary positions in fewer operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.infer_sizes import infer_sizes
from mmedge_export.onnx_graph.read_node import axis_of, slice_bounds, standard
from mmedge_export.onnx_graph.rewrite import (
    free_name,
    only_user,
    producer,
    register,
    remove_unused,
    replace_node,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmedge_export.onnx_graph.infer_sizes import SymbolicSizes

__all__ = ["RotateHalvesPass"]

#: Version of the operators from which Split takes its sizes as a tensor.
OLDEST = 13


@dataclass(frozen=True)
class _Rotation:
    """The halves ``a, b`` of ``source``, rotated: ``a cos - b sin`` and ``b cos + a sin``.

    ``whole`` says that cosines and sines are there for both halves already.
    """

    node: ir.Node
    source: ir.Value
    cosine: ir.Value
    sine: ir.Value
    whole: bool


class RotateHalvesPass(ir.passes.InPlacePass):
    """Write rotary positions as ``x cos + swap(x) sin``, ``swap`` exchanging the halves of ``x``.

    Two forms are known: each half by itself, and with a negated half. The cosines and sines of a
    whole head are made once for all rotations that take them, the sines of the first half with
    their sign; so only what occurs more than once is rewritten. Every number is computed as
    before. Nodes of subgraphs stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        if graph.opset_imports.get("", 0) < OLDEST:
            return ir.passes.PassResult(model, modified=False)
        sizes = infer_sizes(graph)
        groups: dict[tuple[ir.Value, ir.Value, bool], list[_Rotation]] = {}
        for node in graph:
            for rotation in (*_by_halves(node, sizes), *_by_negation(node, sizes)):
                key = (rotation.cosine, rotation.sine, rotation.whole)
                groups.setdefault(key, []).append(rotation)
        modified = False
        for rotations in groups.values():
            if len(rotations) > 1:
                _rewrite(graph, rotations, sizes)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _half(value: ir.Value | None, sizes: SymbolicSizes) -> tuple[ir.Value, int] | None:
    """Of which tensor a value is the first (0) or the second (1) half, along the last axis."""
    node = None if value is None else value.producer()
    source = None if node is None or not node.inputs else node.inputs[0]
    shape = sizes.shape(source)
    width = shape[-1].number if shape else None
    if node is None or source is None or shape is None or not width or width % 2:
        return None
    if node.op_type == "Split" and standard(node) and len(node.outputs) == 2:
        halves = [sizes.shape(output) for output in node.outputs]
        if axis_of(node, 0, len(shape)) != len(shape) - 1:
            return None
        if any(half is None or half[-1].number != width // 2 for half in halves):
            return None
        return source, node.outputs.index(value)
    bounds = slice_bounds(node, len(shape)) if producer(value, "Slice") is not None else None
    if bounds is None or set(bounds) != {len(shape) - 1}:
        return None
    window = bounds[len(shape) - 1].indices(width)
    places = [(0, width // 2, 1), (width // 2, width, 1)]
    return (source, places.index(window)) if window in places else None


def _inner(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes ``value`` for one reader alone."""
    node = producer(value, op_type)
    return node if node is not None and only_user(node.outputs[0]) is not None else None


def _factors(
    value: ir.Value | None, sizes: SymbolicSizes
) -> Iterator[tuple[tuple[ir.Value, int], ir.Value]]:
    """Ways to read a product as a half of something and its factor."""
    node = _inner(value, "Mul")
    for at in (0, 1) if node is not None else ():
        half, factor = _half(node.inputs[at], sizes), node.inputs[1 - at]  # type: ignore[union-attr]
        if half is not None and factor is not None:
            yield half, factor


def _by_halves(node: ir.Node, sizes: SymbolicSizes) -> Iterator[_Rotation]:
    """``Concat(a cos - b sin, b cos + a sin)``."""
    shape = sizes.shape(node.outputs[0]) if node.op_type == "Concat" and standard(node) else None
    if shape is None or len(node.inputs) != 2 or axis_of(node, 0, len(shape)) != len(shape) - 1:
        return
    difference, total = _inner(node.inputs[0], "Sub"), _inner(node.inputs[1], "Add")
    if difference is None or total is None:
        return
    for (source, first), cosine in _factors(difference.inputs[0], sizes):
        for (other, second), sine in _factors(difference.inputs[1], sizes):
            if (other, first, second) != (source, 0, 1):
                continue
            wanted = {((source, 1), cosine), ((source, 0), sine)}
            ways = ((left, right) for left in _factors(total.inputs[0], sizes)
                    for right in _factors(total.inputs[1], sizes))  # fmt: skip
            fits = _fits(cosine, source, 2, sizes) and _fits(sine, source, 2, sizes)
            if fits and any({left, right} == wanted for left, right in ways):
                yield _Rotation(node, source, cosine, sine, whole=False)
                return


def _by_negation(node: ir.Node, sizes: SymbolicSizes) -> Iterator[_Rotation]:
    """``x cos + Concat(-b, a) sin``."""
    if node.op_type != "Add" or not standard(node):
        return
    for at in (0, 1):
        straight, turned = _inner(node.inputs[at], "Mul"), _inner(node.inputs[1 - at], "Mul")
        if straight is None or turned is None:
            return
        for place in (0, 1):
            swap, sine = _inner(turned.inputs[place], "Concat"), turned.inputs[1 - place]
            if swap is None or sine is None or len(swap.inputs) != 2:
                continue
            negation = _inner(swap.inputs[0], "Neg")
            low, high = _half(swap.inputs[1], sizes), None
            if negation is not None:
                high = _half(negation.inputs[0], sizes)
            if low is None or high is None or (low[1], high) != (0, (low[0], 1)):
                continue
            shape = sizes.shape(low[0])
            if shape is None or axis_of(swap, 0, len(shape)) != len(shape) - 1:
                continue
            for side in (0, 1):
                cosine = straight.inputs[1 - side]
                if straight.inputs[side] is low[0] and cosine is not None:
                    if _fits(sine, low[0], 1, sizes):
                        yield _Rotation(node, low[0], cosine, sine, whole=True)
                    return


def _fits(factor: ir.Value, source: ir.Value, parts: int, sizes: SymbolicSizes) -> bool:
    """Whether a factor has a number for each of the last axis's, or of one of its ``parts``."""
    shape, whole = sizes.shape(factor), sizes.shape(source)
    if not shape or not whole or len(shape) > len(whole):
        return False
    width, own = whole[-1].number, shape[-1].number
    return width is not None and own is not None and own * parts == width


def _rewrite(graph: ir.Graph, rotations: list[_Rotation], sizes: SymbolicSizes) -> None:
    """Write rotations that share cosines and sines."""
    first = rotations[0]
    width = sizes.shapes[first.source][-1].number or 0

    def add(
        before: ir.Node, op_type: str, inputs: list[ir.Value], name: str, **attributes: int
    ) -> ir.Value:
        output = ir.Value(name=free_name(graph, name), type=first.source.type)
        node = ir.node(op_type, inputs, attributes, outputs=[output], name=output.name)
        node.metadata_props.update(before.metadata_props)
        graph.insert_before(before, node)
        return output

    cosine, sine = first.cosine, first.sine
    order = {node: at for at, node in enumerate(graph)}
    head = min((rotation.node for rotation in rotations), key=order.__getitem__)
    if first.whole:
        signs = np.repeat([-1.0, 1.0], width // 2)
        dtype = first.source.dtype or ir.DataType.FLOAT
        factor = register(graph, f"{sine.name}_signs", signs.astype(dtype.numpy()))
        sine = add(head, "Mul", [sine, factor], f"{sine.name}_signed")
    else:
        negative = add(head, "Neg", [sine], f"{sine.name}_negative")
        sine = add(head, "Concat", [negative, sine], f"{sine.name}_signed", axis=-1)
        cosine = add(head, "Concat", [cosine, cosine], f"{cosine.name}_whole", axis=-1)
    halves = register(graph, "halves", np.array([width // 2] * 2, np.int64))
    for rotation in rotations:
        node, source = rotation.node, rotation.source
        stem = str(node.outputs[0].name)
        parts = [ir.Value(name=free_name(graph, f"{stem}_half{n}")) for n in (0, 1)]
        for part in parts:
            part.type = source.type
        split = ir.node("Split", [source, halves], {"axis": -1}, outputs=parts)
        split.name = free_name(graph, f"{stem}_split")
        split.metadata_props.update(node.metadata_props)
        graph.insert_before(node, split)
        swap = add(node, "Concat", [parts[1], parts[0]], f"{stem}_swapped", axis=-1)
        straight = add(node, "Mul", [source, cosine], f"{stem}_straight")
        turned = add(node, "Mul", [swap, sine], f"{stem}_turned")
        inner = _behind(node)
        replace_node(node, "Add", [straight, turned])
        remove_unused(inner)


def _behind(node: ir.Node) -> list[ir.Node]:
    """The nodes of an old rotation, the last ones first."""
    nodes: list[ir.Node] = []
    waiting = [node]
    for _ in range(4):
        before = [value.producer() for each in waiting for value in each.inputs if value]
        waiting = [each for each in before if each is not None]
        nodes += waiting
    return list(dict.fromkeys(nodes))
