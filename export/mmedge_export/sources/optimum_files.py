"""Files of an Optimum folder as two networks: what is computed once for a call, and a step.

Optimum writes an encoder, a decoder for the first tokens, which also gives keys and values of what
the encoder gave, and a decoder for each further token, which takes them. So what is computed once
is the encoder and that part of the first decoder; the other decoder is the step, and begins with
nothing.

torch's older exporter reads the batch for that part from the decoder's hidden states, which would
take the whole first decoder along. So these sizes are read from what the encoder gives instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mmedge.errors import ExportError
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.sources.onnx_copy import CopyCall, save_copy
from mmedge_export.sources.onnx_rename import rename

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mmedge.spec import Array

__all__ = ["TOKEN", "constants_file", "step_file"]

#: What the step's input for tokens is called; a text that the encoder takes is ``input_ids``.
TOKEN = "decoder_input_ids"  # noqa: S105 - the name of an input

#: Names of the same tensor in a decoder, and in an encoder as input or output.
_SAME = {"encoder_attention_mask": "attention_mask", "encoder_hidden_states": "last_hidden_state"}


def step_file(decoder: Path) -> Path:
    """``decoder_with_past_model.onnx`` with the names that the encoder has for the same tensors."""
    inputs = {str(value.name) for value in ir.load(decoder).graph.inputs}
    names = {"input_ids": TOKEN, **_SAME}
    (path,) = rename([decoder], {old: new for old, new in names.items() if old in inputs})
    return path


def constants_file(encoder: Path, decoder: Path, taken: Iterable[str]) -> Path:
    """The encoder, with the part of the first decoder that depends on nothing else.

    Args:
        encoder: ``encoder_model.onnx``.
        decoder: ``decoder_model.onnx``.
        taken: inputs of the step; those that these files give become the outputs.

    Raises:
        ExportError: the files do not fit each other.
    """
    first, second = ir.load(encoder), ir.load(decoder)
    if first.opset_imports != second.opset_imports:
        raise ExportError(
            f"{encoder} has opsets {first.opset_imports}, {decoder} {second.opset_imports}; export "
            "both in one go"
        )
    graph, other = first.graph, second.graph
    _read_sizes_from_encoder(second, decoder)
    faces = {str(value.name): value for value in (*graph.inputs, *graph.outputs)}
    for value in list(other.inputs):
        same = faces.get(_SAME.get(str(value.name), ""))
        if same is not None:
            value.replace_all_uses_with(same)
    outputs = {str(value.name): value for value in graph.outputs}
    for value in other.outputs:
        outputs[str(value.name).replace("present.", "past_key_values.")] = value
    outputs = {
        name: value
        for name, value in outputs.items()
        if name in set(taken) and ".decoder." not in name
    }
    other.outputs.clear()
    _take_over(graph, other)
    for name, value in outputs.items():
        value.name = name
    graph.outputs[:] = list(outputs.values())
    first.functions.update(second.functions)
    first.ir_version = max(first.ir_version or 0, second.ir_version or 0)
    RemoveUnusedNodesPass()(first)
    strangers = {str(value.name) for value in other.inputs if value.uses()}
    if not outputs or strangers:
        what = f"also needs {', '.join(sorted(strangers))}" if strangers else "gives none"
        raise ExportError(
            f"{decoder}: keys and values of what the encoder gives: it {what}; export the folder "
            "with optimum-cli export onnx, a task that ends in -with-past and --no-post-process"
        )
    said = f"the encoder is joined with the keys and values that {decoder.name} makes of it"
    call = CopyCall(
        __name__,
        "constants_file",
        (encoder, decoder),
        (list(outputs),),
    )
    return save_copy(first, encoder, [said], call)


def _read_sizes_from_encoder(model: ir.Model, path: Path) -> None:
    """Sizes of values that follow from tokens become sizes of what the encoder gave, or numbers.

    Which size it is, two runs tell: in each the batch, the length of what the encoder gave and one
    token are three numbers.
    """
    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    tokens, source = inputs.get("input_ids"), inputs.get("encoder_hidden_states")
    if tokens is None or source is None or source.shape is None:
        return
    shapes = [node for node in _followers(tokens) if node.op_type == "Shape"]
    names = [str(node.outputs[0].name) for node in shapes]
    if not names:
        return
    run = Runner(path, names)
    width = int(str(source.shape[-1]))
    sizes = ((2, 7), (3, 11))
    results = []
    for batch, length in sizes:
        feeds: dict[str, Array] = {
            "input_ids": np.zeros((batch, 1), np.int64),
            "encoder_hidden_states": np.zeros((batch, length, width), np.float32),
            "encoder_attention_mask": np.ones((batch, length), np.int64),
        }
        results.append(run({name: feeds[name] for name in inputs if name in feeds}))
    whole = ir.node("Shape", [source], name="mmedge_encoder_shape")
    parts = {
        key: ir.node("Slice", [whole.outputs[0], *_numbers([axis], [axis + 1])])
        for axis, key in enumerate(zip(*sizes, strict=True))
    }
    nodes = [whole, *parts.values()]
    for node, name in zip(shapes, names, strict=True):
        pairs = list(zip(*(result[name].tolist() for result in results), strict=True))
        if any(key not in parts and key[0] != key[1] for key in pairs):
            continue
        values = [parts[key].outputs[0] if key in parts else _numbers([key[0]])[0] for key in pairs]
        size = ir.node("Concat", values, attributes={"axis": 0})
        nodes.append(size)
        node.outputs[0].replace_all_uses_with(size.outputs[0])
    first = graph[0]
    producers = [value.producer() for node in nodes for value in node.inputs if value is not None]
    for made in dict.fromkeys([*producers, *nodes]):
        if made is not None:
            graph.insert_before(first, made)
    graph.sort()


def _numbers(*arrays: list[int]) -> list[ir.Value]:
    """A constant for each list."""
    return [
        ir.node("Constant", [], attributes={"value": ir.tensor(np.array(a, np.int64))}).outputs[0]
        for a in arrays
    ]


def _followers(value: ir.Value) -> list[ir.Node]:
    """Nodes of the outermost graph that something follows from."""
    followers: dict[ir.Node, None] = {}
    queue = [value]
    while queue:
        for use in queue.pop().uses():
            if use.node not in followers:
                followers[use.node] = None
                queue += use.node.outputs
    return list(followers)


def _take_over(graph: ir.Graph, other: ir.Graph) -> None:
    """Move nodes and weights of ``other`` into ``graph``, under names of their own."""
    for value in (*other.inputs, *other.initializers.values()):
        value.name = f"decoder/{value.name}"
    for node in other.all_nodes():
        node.name = f"decoder/{node.name}"
        for value in node.outputs:
            if value.name:
                value.name = f"decoder/{value.name}"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                inner = attribute.as_graph()
                for value in (*inner.inputs, *inner.initializers.values()):
                    value.name = f"decoder/{value.name}"
    weights = list(other.initializers.values())
    other.initializers.clear()
    nodes = list(other)
    other.remove(nodes)
    graph.extend(nodes)
    for value in weights:
        graph.register_initializer(value)
