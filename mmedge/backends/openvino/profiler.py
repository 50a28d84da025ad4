"""Operators of a stage in OpenVINO: what its performance counters say of each node that ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.backends.module_scopes import FUSED, NETWORK, ScopedNode, read_nodes, working
from mmedge.backends.openvino.compiled import core
from mmedge.backends.openvino.session import compile_settings, fix_shapes, read_onnx
from mmedge.backends.profile import BETWEEN, Span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.backends.profile import ProfileRequest

__all__ = ["UNSEEN", "profile_stage"]

#: What the profile does not see.
UNSEEN = (
    "OpenVINO counts whole microseconds of each operator, and not when one began: in a trace "
    f"they follow each other without gaps. {BETWEEN}"
)

#: Where the graph that runs says which nodes of the one that was read are in one of its own.
ORIGINAL = "originalLayersNames"


def profile_stage(request: ProfileRequest) -> list[list[Span]]:
    """The nodes of each profiled run; see :class:`mmedge.backends.registry.Profiler`."""
    bundle, stage = request.bundle, request.stage
    file = request.variant.files[stage.name]
    alone = bundle.manifest.has_cores(stage)
    settings = compile_settings(stage, alone=alone, threads=request.threads)
    model = read_onnx(bundle.file(file))
    bundle.release()
    values = [
        next(request.feeds[name] for name in port.get_names() if name in request.feeds)
        for port in model.inputs
    ]
    static_model = fix_shapes(model, tuple(value.shape for value in values))
    compiled = core().compile_model(static_model, "CPU", {**settings, "PERF_COUNT": True})
    modules = _modules(compiled, bundle.read(file))
    other = FUSED if set(modules.values()) - {NETWORK} else NETWORK
    inference = compiled.create_infer_request()
    runs = []
    for number in range(request.untimed + request.calls):
        inference.infer(dict(enumerate(values)))
        if number >= request.untimed:
            runs.append(_spans(inference.get_profiling_info(), modules, other))
    return runs


def _spans(counters: Any, modules: Mapping[str, str], other: str) -> list[Span]:  # noqa: ANN401
    """What ran, in order; nodes that OpenVINO left out or fused did not."""
    spans, at = [], 0.0
    for counter in counters:
        if not str(counter.status).endswith("EXECUTED"):
            continue
        us = counter.real_time.total_seconds() * 1e6
        name = counter.node_name
        spans.append(Span(name, counter.node_type, modules.get(name, other), at, us))
        at += us
    return spans


def _modules(compiled: Any, exported_graph: memoryview) -> dict[str, str]:  # noqa: ANN401
    """Module of each node that runs, by its name: that of the nodes it was made of."""
    nodes: dict[str, ScopedNode] = {}
    for node in read_nodes(exported_graph):
        nodes.update((name, node) for name in (node.name, *node.outputs) if name)
    modules = {}
    for running in compiled.get_runtime_model().get_ordered_ops():
        info = running.get_rt_info()
        names = str(info[ORIGINAL].astype(str)).split(",") if ORIGINAL in info else []
        # What OpenVINO adds to a node it names after it, as in "linear/DequantizationMultiply".
        parts = [part for name in names for part in (name, name.split("/")[0])]
        worker = working([nodes[part] for part in parts if part in nodes])
        if worker is not None and worker.module is not None:
            modules[running.get_friendly_name()] = worker.module
    return modules
