"""Operators of a stage in ONNX Runtime, from the events that its profiler writes.

ONNX Runtime's graph is not the exported one any more: it has fused some nodes and added others.
Which module a node belongs to is found through the tensors: a fused node still makes a tensor that
has its old name.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.backends import SessionOptions
from mmedge.backends.module_scopes import FUSED, FUSING, NETWORK, ScopedNode, read_nodes
from mmedge.backends.onnxruntime.session import OPTIMISED, open_stage
from mmedge.backends.profile import BETWEEN, Span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.backends.profile import ProfileRequest

__all__ = ["UNSEEN", "profile_stage"]

#: What the profile does not see.
UNSEEN = f"ONNX Runtime counts whole microseconds of each operator, rounded down. {BETWEEN}"

#: What ONNX Runtime hangs on a tensor's name to name a node that makes it in a blocked layout.
BLOCKED = "_nchwc"

#: Nodes that a fused one is looked for behind its result: Conv, Add, Relu and a Q/DQ pair.
FUSED_DEPTH = 5


def profile_stage(request: ProfileRequest) -> list[list[Span]]:
    """The nodes of each profiled run, in a session of its own."""
    bundle, variant, stage = request.bundle, request.variant, request.stage
    options = SessionOptions(threads=request.threads)
    with tempfile.TemporaryDirectory(prefix="mmedge-profile-") as name:
        folder = Path(name)
        session = open_stage(bundle, stage, variant, options=options, profile=folder)
        bundle.release()
        try:
            for _ in range(request.untimed + request.calls):
                session.run(request.feeds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        finally:
            session.close()
        optimized_graph = memoryview((folder / OPTIMISED).read_bytes())
        modules = _modules(bundle.read(variant.files[stage.name]), optimized_graph)
    # A graph that did not come from torch tells no modules at all.
    other = FUSED if set(modules.values()) - {NETWORK} else NETWORK
    return [_spans(run, modules, other) for run in _by_run(events)[request.untimed :]]


def _by_run(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Events of nodes by run, each run's in the order they began."""
    runs = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    by_run: list[list[dict[str, Any]]] = [[] for _ in runs]
    at = -1
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL)]
    # A node that holds a subgraph begins with the subgraph's first: the longer one goes first.
    for event in sorted(nodes, key=lambda e: (e["ts"], -e["dur"])):
        while at + 1 < len(runs) and runs[at + 1] <= event["ts"]:
            at += 1
        # Times count from the run's start.
        by_run[at].append({**event, "ts": event["ts"] - runs[at]})
    return by_run


#: What ONNX Runtime hangs on the node's name where the event is the kernel's own time.
_KERNEL = "_kernel_time"


def _spans(events: list[dict[str, Any]], modules: Mapping[str, str], other: str) -> list[Span]:
    """Nodes with the time they took themselves: a node's subgraph (If, Loop) counts on its own.

    ``other`` is the module of nodes that are not among ``modules``.
    """
    durations = [float(event["dur"]) for event in events]
    around: list[int] = []
    for index, event in enumerate(events):
        while around and _end(events[around[-1]]) < _end(event):
            around.pop()
        if around and events[around[-1]]["args"].get("op_name") in {"If", "Loop", "Scan"}:
            durations[around[-1]] -= event["dur"]
        around.append(index)
    spans = []
    for event, us in zip(events, durations, strict=True):
        name = event["name"].removesuffix(_KERNEL)
        op = event["args"].get("op_name", name)
        spans.append(Span(name, op, modules.get(name, other), float(event["ts"]), max(us, 0.0)))
    return spans


def _end(event: Mapping[str, Any]) -> int:
    return int(event["ts"] + event["dur"])


def _modules(exported_graph: memoryview, optimized_graph: memoryview) -> dict[str, str]:
    """Module of each node of the rewritten graph, by the node's name.

    It is that of the exported node which makes the same tensor: for a fused node, that of the node
    behind it with the operator that gives the fused one its name. A node that makes no tensor of
    the exported graph, or one of no module, counts for the module that uses its result.
    """
    nodes: dict[str, ScopedNode] = {}
    makers: dict[str, ScopedNode] = {}
    for node in read_nodes(exported_graph):
        nodes[node.name] = node
        makers.update(dict.fromkeys(node.outputs, node))
    modules: dict[str, str] = {}
    used_by: dict[str, str] = {}
    for node in reversed(list(read_nodes(optimized_graph))):
        module = None
        # In a blocked layout a node makes another tensor; its name still holds that of the old one.
        for value in (*node.outputs, node.name.removesuffix(BLOCKED)):
            maker = makers.get(value) or nodes.get(value)
            module = module or (_origin(maker, node.op, makers) if maker else None)
        for value in node.outputs:
            module = module or used_by.get(value)
        if module is not None:
            modules[node.name] = module
            used_by.update(dict.fromkeys(node.inputs, module))
    return dict.fromkeys(nodes, NETWORK) | modules


def _origin(maker: ScopedNode, op: str, makers: Mapping[str, ScopedNode]) -> str | None:
    """Module of the nearest node behind ``maker`` whose operator ends the fused one's name."""
    level = [maker]
    for _ in range(FUSED_DEPTH):
        for node in level:
            if node.op in FUSING and op.endswith(node.op) and node.module is not None:
                return node.module
        level = [makers[value] for node in level for value in node.inputs if value in makers]
    return maker.module
