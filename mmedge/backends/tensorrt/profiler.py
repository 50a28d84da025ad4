"""Layers of a stage's engine: what TensorRT's profiler says of each.

A layer is made of one or more nodes of the graph that the engine was built from, and its name holds
their names, as in ``conv + relu`` or ``PWN(gelu)``; of a range, ``{ForeignNode[first...last]}``,
those of its ends. Names that the library's compiler gives to layers of its own
(``__myl_MulAdd_myl0_4``) tell operators alone. Nodes are looked for in the stage's graph as it was
exported: what the build added to it or wrote out (bodies of functions, Q/DQ pairs) is not found.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from mmedge.backends import SessionOptions
from mmedge.backends.module_scopes import FUSED, NETWORK, ScopedNode, read_nodes, working
from mmedge.backends.profile import Span
from mmedge.backends.tensorrt.session import open_stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmedge.backends.profile import ProfileRequest

__all__ = ["UNSEEN", "profile_stage", "spans"]

#: What the profile does not see.
UNSEEN = (
    "TensorRT tells the milliseconds of each layer of an engine, and not when one began: in a "
    "trace they follow each other without gaps. A layer is placed by the nodes in its name, "
    "and counts for no module where that tells none: attention over segments, nodes that the "
    "build added, ranges of nodes from several modules. Between the layers' sum and the "
    "stage's time lie copies from and to the host, launches, and the call from Python; "
    "profiling itself lengthens a run."
)

#: What separates nodes' names in a layer's: blanks, plus signs, commas, brackets, and the dots of a
#: range.
_BETWEEN = re.compile(r"[\s+,()\[\]{}]+|\.{3}")
#: A layer that changes how a tensor lies in memory, for the node that its name ends in.
_REFORMATS = re.compile(r"^Reformatting CopyNode\b")
#: Where nothing tells the operator.
UNKNOWN = "layer"
#: A layer of the library's compiler, and the operators in it.
_COMPILED = re.compile(r"__my[a-z]+_(\w+?)_my[a-z]+\d")


def profile_stage(request: ProfileRequest) -> list[list[Span]]:
    """The layers of each profiled run, in an engine of its own.

    ``threads`` of the request is not used: an engine runs on a GPU.

    Raises:
        BackendError: the engine cannot be loaded, profiled or run.
    """
    bundle, stage = request.bundle, request.stage
    nodes = list(read_nodes(bundle.read(stage.graph)))
    session = open_stage(bundle, stage, request.variant, options=SessionOptions())
    bundle.release()
    runs = []
    try:
        layers = session.record_layers()
        for number in range(request.untimed + request.calls):
            layers.clear()
            session.run(request.feeds)
            if number >= request.untimed:
                runs.append(spans(layers, nodes))
    finally:
        session.close()
    return runs


def spans(layers: Iterable[tuple[str, float]], nodes: Iterable[ScopedNode]) -> list[Span]:
    """Layers by the operator and the module of what they were made of, in microseconds.

    Args:
        layers: name and milliseconds of each, in order.
        nodes: of the graph.
    """
    by_name: dict[str, ScopedNode] = {}
    for node in nodes:
        by_name.update((name, node) for name in (node.name, *node.outputs) if name)
    other = FUSED if any(node.module is not None for node in by_name.values()) else NETWORK
    layer_spans, at = [], 0.0
    for name, ms in layers:
        op, module = _locate(
            name, [by_name[part] for part in _BETWEEN.split(name) if part in by_name]
        )
        layer_spans.append(Span(name, op, module or other, at, ms * 1e3))
        at += ms * 1e3
    return layer_spans


def _locate(name: str, made_of: list[ScopedNode]) -> tuple[str, str | None]:
    """Operator and module of a layer; no module where its name tells none."""
    worker = working(made_of) or next(iter(made_of), None)
    module = worker.module if worker is not None else None
    if "..." in name:
        # All that lies between the ends may be in it; of one end alone nothing is known.
        return "ForeignNode", _common_module([n.module for n in made_of]) if len(
            made_of
        ) > 1 else None
    if _REFORMATS.match(name):
        return "Reformat", module
    match = _COMPILED.search(name)
    if worker is None:
        return (match[1] if match else UNKNOWN), None
    return worker.op, module


def _common_module(modules: list[str | None]) -> str | None:
    """The innermost module around all of ``modules``; None where there is none."""
    paths = [module.split(".") for module in modules if module is not None]
    if len(paths) < len(modules) or not paths:
        return None
    common = [
        parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, zip(*paths, strict=False))
    ]
    return ".".join(common) or None
