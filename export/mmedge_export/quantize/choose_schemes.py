"""Which form of each node, and of a whole stage, is fastest on this device.

Every kind of node (operator, sizes) is timed by itself in every form; that gives a few candidates
for the stage, which are timed as a whole, since neighbours share conversions.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mmedge.bench.stats.block_timer import compare_times
from mmedge.errors import ExportError
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.quantize.stage_runs import StageRun, time_runs
from mmedge_export.quantize.stage_work import quantised
from mmedge_export.targets.onnxruntime.schemes import DYNAMIC, EXACT_FIRST, RANGED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmedge.execution.plan import Run
    from mmedge_export.quantize.stage_work import Plan, StageWork
    from mmedge_export.targets.quantizable import QuantizableNode, QuantizationScheme

__all__ = ["NO_FASTER", "TIE", "candidates", "choose_plan", "time_sites"]

#: Times that lie nearer than this share are called equal: the smaller graph is taken.
TIE = 0.03

#: A node's forms that are nearly as fast as its fastest by itself: the most exact of them is taken.
NEAR = 0.05

#: What begins the words on a stage that stays float32 for its speed.
NO_FASTER = "not measurably faster"

#: Rounds by which the plan that was fastest is held against float32 once more.
CONFIRM = 15


def time_sites(
    work: StageWork,
    runs: Sequence[StageRun],
    forms: Sequence[QuantizationScheme],
    *,
    alone: bool,
    threads: int | None,
) -> dict[str, dict[QuantizationScheme, float]]:
    """How many times as fast as in float32 each node is in each of ``forms`` it can take.

    Args:
        work: the stage.
        runs: of a call, with every site's activation.
        forms: to try.
        alone: whether the stage has the cores to itself.
        threads: most threads; None: the default.
    """
    model = onnx.load(work.prepared)
    nodes = {node.name: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    speeds_by_kind: dict[object, dict[QuantizationScheme, float]] = {}
    speeds = {}
    for site in work.sites:
        if site.op == "Gather":  # looking rows up takes next to no time
            speeds[site.node] = {form: 1.0 for form in forms if form in site.forms}
            continue
        activations = [(run.feeds[site.activation].shape, run.count) for run in runs]
        node = nodes[site.node]
        attributes = tuple(sorted(a.SerializeToString() for a in node.attribute))
        key = (site.op, *activations, tuple(constants[site.weight].dims), attributes)
        if key not in speeds_by_kind:
            number = len(speeds_by_kind)
            speeds_by_kind[key] = _time_site(
                work,
                site,
                node,
                constants,
                activations,
                number,
                forms,
                alone=alone,
                threads=threads,
            )
        speeds[site.node] = speeds_by_kind[key]
    return speeds


def _time_site(
    work: StageWork,
    site: QuantizableNode,
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    activations: Sequence[tuple[tuple[int, ...], int]],
    number: int,
    forms: Sequence[QuantizationScheme],
    *,
    alone: bool,
    threads: int | None,
) -> dict[QuantizationScheme, float]:
    activations = [(shape, count) for shape, count in activations if np.prod(shape)]
    if not activations:
        return {}  # such as features of no detections
    # Random weights and inputs of the same sizes: how long it takes does not depend on them.
    rng = np.random.default_rng(number)
    constant_inputs = [name for name in node.input[1:] if name in constants]
    weights = {
        name: rng.standard_normal(tuple(constants[name].dims)).astype(np.float32)
        for name in constant_inputs
    }
    inputs_of_runs = [
        StageRun({"x": rng.standard_normal(shape).astype(np.float32)}, count)
        for shape, count in activations
    ]
    inputs = [name if name in weights else "" for name in node.input[1:]]
    while inputs and not inputs[-1]:
        inputs.pop()
    inner = helper.make_node(node.op_type, ["x", *inputs], ["y"], name="site")
    inner.attribute.extend(node.attribute)
    graph = helper.make_graph(
        [inner],
        "site",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, _shape(activations))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = helper.make_opsetid("", _opset(work.prepared))
    path = work.folder / f"{work.stage.name}.site{number}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    x = inputs_of_runs[0].feeds
    values = {**x, **Runner(path)(x)}
    ranges = {name: (float(array.min()), float(array.max())) for name, array in values.items()}
    open_graph = partial(work.target.open_graph, stage=work.stage, alone=alone, threads=threads)
    ways: dict[str, Run] = {"float": open_graph(path)}
    for form in forms:
        if form in site.forms:
            other = work.folder / f"{work.stage.name}.site{number}.{form}.onnx"
            work.target.write(path, other, {"site": form}, ranges)
            with contextlib.suppress(ExportError):  # a form that the backend cannot run
                way = open_graph(other)
                way(x)
                ways[form] = way
    times = time_runs(ways, runs=inputs_of_runs, rounds=5)
    return {form: times[form].times_faster(times["float"])[0] for form in forms if form in times}


def _shape(activations: Sequence[tuple[tuple[int, ...], int]]) -> list[int | None]:
    """Sizes of what enters a node; None for one that is not the same in all runs."""
    sizes = zip(*(shape for shape, _ in activations), strict=True)
    return [size[0] if len(set(size)) == 1 else None for size in sizes]


def _opset(path: Path) -> int:
    imports = onnx.load(path, load_external_data=False).opset_import
    return next(int(entry.version) for entry in imports if entry.domain in ("", "ai.onnx"))


def candidates(work: StageWork, forms: Sequence[QuantizationScheme]) -> dict[str, Plan]:
    """Plans of the stage that may be the fastest, by a word for each, without equal ones."""

    def best(site: QuantizableNode) -> QuantizationScheme:
        speeds = work.speed[site.node]
        if not speeds:
            return "float"
        fastest = max(speeds.values())
        # None that is slower than float32 stands in for one that is faster.
        least = max(fastest * (1 - NEAR), min(fastest, 1.0))
        return min((form for form in speeds if speeds[form] >= least), key=_coarseness)

    def faster(site: QuantizableNode) -> QuantizationScheme:
        form = best(site)
        return form if work.speed[site.node].get(form, 0.0) > 1.0 else other(site)

    def other(site: QuantizableNode) -> QuantizationScheme:
        return "rows8" if "rows8" in forms and "rows8" in site.forms else "float"

    plans: dict[str, Plan] = {
        "every node in its fastest form": {site.node: best(site) for site in work.sites},
        "nodes that are faster by themselves": {site.node: faster(site) for site in work.sites},
    }
    for ranged in (form for form in forms if form in RANGED):
        plans[f"all {ranged}"] = {
            site.node: ranged if ranged in site.forms else other(site) for site in work.sites
        }
        plans[f"convolutions {ranged}, others in their fastest form"] = {
            site.node: ranged if site.op == "Conv" and ranged in site.forms else best(site)
            for site in work.sites
        }
        plans["convolutions alone"] = {
            site.node: ranged if site.op == "Conv" and ranged in site.forms else other(site)
            for site in work.sites
        }
    # By itself a node is timed with nothing before it: what is equal there may not be in the stage.
    for form in (form for form in forms if form in DYNAMIC):
        plans[f"all {form} that can be, others in their fastest form"] = {
            site.node: form if form in site.forms else best(site) for site in work.sites
        }
    distinct: dict[str, Plan] = {}
    for name, plan in plans.items():
        if quantised(plan) and plan not in distinct.values():
            distinct[name] = plan
    return distinct


def _coarseness(form: QuantizationScheme) -> int:
    return EXACT_FIRST.index(form) if form in EXACT_FIRST else len(EXACT_FIRST)


def more_exact(name: str, near: Sequence[str], plans: Mapping[str, Plan]) -> str:
    """Of plans that are nearly as fast as ``name``, the one with the most exact dynamic forms.

    Else equal plans alone count: the others weigh size or time against exactness, and what a finer
    scale of the same weights costs is 5 % at most, where the gate may put most nodes back without.
    """

    def others(plan: Plan) -> Plan:
        return {node: "dynamic" if form in DYNAMIC else form for node, form in plan.items()}

    alike = [other for other in near if others(plans[other]) == others(plans[name])]
    return min(alike or [name], key=lambda other: sum(map(_coarseness, plans[other].values())))


def choose_plan(
    work: StageWork,
    plans: Mapping[str, Plan],
    runs: Sequence[StageRun],
    *,
    alone: bool,
    goal: str,
    threads: int | None,
) -> tuple[Plan, str]:
    """The plan to go on with, and why.

    Args:
        work: the stage.
        plans: from :func:`candidates`.
        runs: of a call.
        alone: whether it has the cores to itself.
        goal: ``speed`` takes the fastest plan that is measurably faster than float32, or none;
            ``size`` the smallest graph.
        threads: most threads; None: the default.
    """
    floats: Plan = {site.node: "float" for site in work.sites}
    if not plans:
        return floats, "no node that could take another form"
    graphs = {name: work.graph(plan) for name, plan in plans.items()}
    ways: dict[str, Run] = {}
    refused = ""
    for name, path in {"float": work.prepared, **graphs}.items():
        try:
            way = work.target.open_graph(path, work.stage, alone=alone, threads=threads)
            way(runs[0].feeds)
        except ExportError as error:
            if name == "float":
                raise
            refused = f"{work.backend} refuses {name}: {error}"
        else:
            ways[name] = way
    if len(ways) == 1:
        return floats, refused
    sizes = {name: graph_bytes(path) for name, path in graphs.items() if name in ways}
    if goal == "size":
        name = min(sizes, key=lambda name: sizes[name])
        if sizes[name] >= graph_bytes(work.prepared):
            return floats, "no form makes it smaller"
        return plans[name], f"smallest: {name}"
    _, ratios = compare_times(ways, "float", measure=partial(time_runs, runs=runs))
    faster = {name: ratio for name, ratio in ratios.items() if ratio[1] > 1.0}
    if faster:
        best = max(ratio[0] for ratio in faster.values())
        equal = [name for name, ratio in faster.items() if ratio[0] >= best * (1 - TIE)]
        near = [name for name, ratio in faster.items() if ratio[0] >= best * (1 - NEAR)]
        name = more_exact(min(equal, key=lambda name: sizes[name]), near, plans)
        # The winner of several, and of as many rounds as it took, is timed once more.
        two = {"float": ways["float"], name: ways[name]}
        again = time_runs(two, runs=runs, rounds=CONFIRM, seed=CONFIRM)
        middle, low, high = again[name].times_faster(again["float"])
        if low > 1.0:
            return plans[name], f"{middle:.2f} [{low:.2f}, {high:.2f}] times as fast: {name}"
    else:
        middle, low, high = max(ratios.values())
    return floats, f"{NO_FASTER}: {middle:.2f} [{low:.2f}, {high:.2f}] times"


def graph_bytes(path: Path) -> int:
    """Of a graph and its weights."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)
