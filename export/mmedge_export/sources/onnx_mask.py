"""A decoder file that asks for an attention mask: it gets ones, made in the graph.

Files of other tools take a mask of [batch, past + new], for rows that were padded. A loop has no
padded rows, so everything that came before and is new counts. The file is copied with that mask in
place of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge_export.sources.onnx_copy import CopyCall, save_copy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

__all__ = ["MASK", "fill_mask", "fill_zeros"]

#: The usual name of that input.
MASK = "attention_mask"


def fill_mask(path: Path, token: str, states: Collection[str]) -> Path:
    """The file itself, or a copy without the input for a mask.

    Args:
        path: of a decoder.
        token: its input for tokens, [batch, new].
        states: its inputs for what came before.

    Raises:
        ExportError: no state tells how much came before.
    """
    model = ir.load(path)
    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    mask = inputs.get(MASK)
    if mask is None or token not in inputs or (mask.shape is not None and len(mask.shape) != 2):
        return path
    past, axis = _past(path, [inputs[name] for name in states if name in inputs])
    ones = _ones(graph, inputs[token], past, axis, mask.dtype or ir.DataType.INT64)
    mask.replace_all_uses_with(ones)
    graph.inputs.remove(mask)
    graph.sort()
    said = f"input {MASK!r} is ones for all that came before and what is new"
    call = CopyCall(__name__, "fill_mask", (path,), (token, list(states)))
    return save_copy(model, path, [said], call)


def fill_zeros(path: Path, name: str, like: str) -> Path:
    """A copy whose input ``name`` is zeros of the shape of another input.

    Args:
        path: of a file that has both.
        name: of the input that goes.
        like: of the other.
    """
    model = ir.load(path)
    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    value = inputs[name]
    shape = ir.node("Shape", [inputs[like]], name="mmedge_shape")
    zero = ir.tensor(np.zeros(1, (value.dtype or ir.DataType.INT64).numpy()))
    zeros = ir.node("ConstantOfShape", shape.outputs, {"value": zero}, name="mmedge_zeros")
    shape.outputs[0].name, zeros.outputs[0].name = "mmedge_shape", "mmedge_zeros"
    value.replace_all_uses_with(zeros.outputs[0])
    graph.inputs.remove(value)
    first = graph[0]
    graph.insert_before(first, shape)
    graph.insert_before(first, zeros)
    call = CopyCall(__name__, "fill_zeros", (path,), (name, like))
    return save_copy(model, path, [f"input {name!r} is zeros"], call)


def _past(path: Path, states: Iterable[ir.Value]) -> tuple[ir.Value, int]:
    """A state, and its axis of what came before: the dynamic one that is not the batch."""
    for value in states:
        sizes = list(value.shape or ())
        dynamic = [axis for axis, size in enumerate(sizes) if axis and not isinstance(size, int)]
        if len(dynamic) == 1:
            return value, dynamic[0]
    raise ExportError(
        f"{path}: input {MASK!r} covers what came before, but no state has one dynamic axis beside "
        "the batch that tells how much; name the states with --state INPUT=OUTPUT"
    )


def _ones(
    graph: ir.Graph, token: ir.Value, past: ir.Value, axis: int, dtype: ir.DataType
) -> ir.Value:
    """Ones [batch, past + new], made at the beginning of the graph."""
    nodes: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        node = ir.node(op, inputs, attributes=attributes, name=f"mmedge_mask_{len(nodes)}")  # type: ignore[arg-type]
        node.outputs[0].name = f"mmedge_mask_{len(nodes)}"
        nodes.append(node)
        return node.outputs[0]

    def size(value: ir.Value, at: int) -> ir.Value:
        index = add("Constant", [], value=ir.tensor(np.array([at], np.int64)))
        return add("Gather", [add("Shape", [value]), index], axis=0)

    total = add("Add", [size(past, axis), size(token, 1)])
    shape = add("Concat", [size(token, 0), total], axis=0)
    one = np.ones(1, dtype.numpy())
    ones = add("ConstantOfShape", [shape], value=ir.tensor(one))
    ones.dtype = dtype
    for node in reversed(nodes):
        graph.insert_before(graph[0], node)
    return ones
