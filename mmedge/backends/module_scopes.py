"""The modules of the original network that the nodes of a graph come from, read without onnx.

torch's exporter writes the names of the modules around a node into its metadata, and mmedge's own
passes keep them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge.bundle.protobuf import fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "FUSED",
    "FUSING",
    "NETWORK",
    "SCOPES",
    "ScopedNode",
    "innermost",
    "read_nodes",
    "working",
]

#: Key of the node metadata in which torch's exporter writes the names of the modules around a node,
#: outermost first, as a Python list whose last element is the operator.
SCOPES = "pkg.torch.onnx.name_scopes"

#: Module of nodes that lie in none of the network's modules, as far as its graph tells.
NETWORK = "(network)"
#: Module of nodes that the backend made and of which nothing tells where they come from.
FUSED = "(fused)"

#: Operators that backends fuse with their neighbours; of what is fused they give the name or its
#: end, as in FusedConv and BiasGelu.
FUSING = frozenset({"Conv", "ConvTranspose", "Gelu", "Gemm", "LayerNormalization", "MatMul"})


@dataclass(frozen=True, slots=True)
class ScopedNode:
    """A node of a graph; ``module`` is None where its metadata tells none."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str | None


def read_nodes(model: memoryview) -> Iterator[ScopedNode]:
    """All nodes of a serialised ModelProto, those of subgraphs too (fields from onnx.proto)."""
    for number, part in fields(model):
        if number == 7:  # ModelProto.graph
            yield from _graph_nodes(part)


def _graph_nodes(graph: memoryview) -> Iterator[ScopedNode]:
    for number, part in fields(graph):
        if number != 1:  # GraphProto.node
            continue
        texts: dict[int, list[str]] = defaultdict(list)
        subgraphs: list[memoryview] = []
        module = None
        for key, value in fields(part):
            if key in {1, 2, 3, 4}:  # NodeProto.input, output, name, op_type
                texts[key].append(str(value, "utf-8", "replace"))
            elif key == 5:  # NodeProto.attribute; AttributeProto.g, graphs
                subgraphs += [inner for kind, inner in fields(value) if kind in {6, 11}]
            elif key == 9:  # NodeProto.metadata_props; StringStringEntryProto.key, value
                entry = {kind: str(text, "utf-8", "replace") for kind, text in fields(value)}
                if entry.get(1) == SCOPES:
                    module = innermost(entry.get(2, ""))
        name, op = "".join(texts[3]), "".join(texts[4])
        weight = texts[1][1] if len(texts[1]) > 1 else ""
        # A batch norm that export folded into the convolution before it left its own name there.
        if op in {"Conv", "ConvTranspose"} and module and weight.endswith(".weight"):
            module = weight.removesuffix(".weight")
        yield ScopedNode(name, op, tuple(texts[1]), tuple(texts[2]), module)
        for subgraph in subgraphs:
            yield from _graph_nodes(subgraph)


def innermost(scopes: str) -> str | None:
    """The innermost module of a list of scopes as text; None where it is no such list."""
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(names, list) or len(names) < 2:
        return None
    return str(names[-2]) or NETWORK


def working(made_of: Sequence[ScopedNode]) -> ScopedNode | None:
    """The node that gives a fused one its work, else the first of a module; None of none."""
    telling = [node for node in made_of if node.module is not None]
    return next((node for node in (*(n for n in telling if n.op in FUSING), *telling)), None)
