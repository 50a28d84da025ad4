"""The stages of a bundle: the network cut by modality, or whole where that serves better."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge.bundle.operators import NEEDS_ELEMENTS
from mmedge.errors import ExportError
from mmedge.execution.plan import StagePlan
from mmedge.spec import Cut, Plan, Stage, TensorSpec, Tolerance
from mmedge.tolerance import difference
from mmedge_export.capture.run_cache import RunCache
from mmedge_export.capture.run_size import LARGE
from mmedge_export.onnx_graph.graph import Graph, save
from mmedge_export.onnx_graph.memory_graph import MemoryGraph
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.partition.constant_work import constant_work
from mmedge_export.partition.flops import measure_shapes, model_flops
from mmedge_export.partition.simplify import may_be_empty
from mmedge_export.partition.split import LEAST_FLOPS, Part, Split, split

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Array, Dimension
    from mmedge_export.model import Model

__all__ = [
    "CUT_ATOL",
    "CUT_RTOL",
    "ExportedStages",
    "count_flops",
    "make_stages",
    "remark_of_failure",
    "whole_stage",
]

log = logging.getLogger(__name__)

#: How far an output of the cut network may lie from the uncut graph's: the same float32 work in
#: another order.
CUT_RTOL, CUT_ATOL = 1e-5, 1e-6

#: Bytes of results that are held of a stage, in which an encoder is given again what it had.
_CACHED_BYTES = 64 << 20


@dataclass(frozen=True)
class ExportedStages:
    """What a bundle gets: stages, their files, limits of their dimensions, and how to run them.

    ``run`` gives the network's outputs; ``boundary_tensors`` those that pass between stages, for
    given inputs. Without ``plans`` the stages are one. ``counted_at`` has the sizes at which
    operations were counted, where these are not the example's. ``not_checked`` has a line on each
    comparison that ``run`` does not make.
    """

    stages: tuple[Stage, ...]
    files: Mapping[str, Path]
    dimensions: Mapping[str, Dimension]
    cut: Cut
    run: Callable[[Mapping[str, Array]], dict[str, Array]]
    boundary_tensors: Callable[[Mapping[str, Array]], dict[str, Array]]
    plans: tuple[Plan, ...] = ()
    counted_at: Mapping[str, int] = field(default_factory=dict)
    not_checked: tuple[str, ...] = ()

    def flops(self) -> dict[str | None, int]:
        """Operations of one run of the network by modality; under None those of no single one."""
        names = self.plans[0].stages if self.plans else [stage.name for stage in self.stages]
        counts: dict[str | None, int] = {}
        for stage in self.stages:
            if stage.name in names:
                counts[stage.modality] = counts.get(stage.modality, 0) + (stage.flops or 0)
        return counts


def whole_stage(
    graph: Graph,
    model: Model,
    outputs: Mapping[str, Array],
    folder: Path,
    remarks: Sequence[str] = (),
    flops: int = 0,
    *,
    name: str = "model",
) -> ExportedStages:
    """The network as one stage.

    Args:
        graph: of the network.
        model: names inputs and outputs.
        outputs: of the example.
        folder: for the files.
        remarks: why it is not cut.
        flops: of one run on the example.
        name: of the stage.
    """
    _declare(graph, outputs)
    files = save({name: graph.model}, folder)
    runner = Runner(folder / f"onnx/{name}.onnx", list(model.outputs))
    inputs, results, dimensions = graph.specs(model, outputs, runner.shapes)
    stage = Stage(name, f"onnx/{name}.onnx", inputs, results, flops=flops)
    return ExportedStages(
        (stage,), files, dimensions, Cut((), tuple(remarks)), runner, lambda _: {}
    )


def _declare(graph: Graph, outputs: Mapping[str, Array]) -> None:
    """Give outputs a type and a rank where the graph states none."""
    for value in graph.model.graph.outputs:
        if value.shape is None:
            value.shape = ir.Shape([None] * outputs[str(value.name)].ndim)
        if value.type is None:
            dtype = ir.DataType.from_numpy(outputs[str(value.name)].dtype)
            value.type = ir.TensorType(dtype)


def make_stages(
    graph: Graph,
    model: Model,
    example: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
    *,
    whole: bool,
    least_flops: int = LEAST_FLOPS,
    states: Mapping[str, str] | None = None,
) -> ExportedStages:
    """Cut the network by modality where there is something to cut.

    A pass or a cut that fails is left out: first what only rearranges the graph, then the cut
    itself. A remark names the exception, which is also logged with its traceback.

    Args:
        graph: of the network.
        model: says which inputs form a modality.
        example: inputs.
        outputs: the network's, for the example.
        folder: for the files.
        whole: keep the uncut network as a plan beside the cut one. Its graph shares their weights.
        least_flops: of an encoder (:func:`mmedge_export.partition.split.split`).
        states: the output that the network's next run takes, by the input that takes it.
    """
    remarks: list[str] = []
    for rearranged in (True, False):
        try:
            parts = split(
                graph.model,
                model.modalities(),
                example,
                least_flops=least_flops,
                rearrange=rearranged,
                states=states,
                may_be_empty=may_be_empty(graph.model, model),
            )
            parts = replace(parts, cut=replace(parts.cut, remarks=(*remarks, *parts.cut.remarks)))
            return _cut_stages(parts, graph, model, example, outputs, folder, keep_whole=whole)
        except Exception as error:  # noqa: BLE001 - a cut is never worth an export
            what = "rearranging the graph" if rearranged else "the cut by modality"
            remarks.append(remark_of_failure(what, error))
            shutil.rmtree(folder, ignore_errors=True)
    flops, uncounted = count_flops(graph.model, example)
    return whole_stage(graph, model, outputs, folder / "whole", (*remarks, *uncounted), flops)


def count_flops(
    model: ir.Model, example: Mapping[str, Array], constants: Sequence[str] = ()
) -> tuple[int, tuple[str, ...]]:
    """Operations of one run on ``example``; where they cannot be counted, 0 and a remark.

    Args:
        model: the graph.
        example: inputs.
        constants: those that stay the same from step to step; a remark tells of work on them alone.
    """
    try:
        shapes = measure_shapes(model, example)
        remark = constant_work(model, shapes, constants) if constants else None
        return model_flops(model, shapes), () if remark is None else (remark,)
    except Exception as error:  # noqa: BLE001 - a figure is never worth an export
        return 0, (remark_of_failure("counting operations", error),)


def remark_of_failure(what: str, error: Exception) -> str:
    """A remark on a step that failed. The log has the traceback."""
    log.info("%s is left out", what, exc_info=error)
    message = " ".join(str(error).split())[:300]
    return f"{what} is left out: {type(error).__name__}: {message} (report this)"


def _cut_stages(
    network_parts: Split,
    graph: Graph,
    model: Model,
    example: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
    *,
    keep_whole: bool,
) -> ExportedStages:
    """The stages of a cut; see :func:`make_stages`."""
    flops = sum(part.flops for part in network_parts.parts)
    if len(network_parts.parts) == 1:
        return whole_stage(
            graph, model, outputs, folder / "whole", network_parts.cut.remarks, flops
        )
    _declare(graph, outputs)
    # The parts' graph, with every boundary tensor as an output.
    names = [str(value.name) for value in network_parts.whole.graph.outputs]
    reference = Runner(MemoryGraph.of(network_parts.whole), names)
    inputs, tensors, dimensions = Graph(network_parts.whole).specs(
        model, reference(example), reference.shapes
    )
    specs = {spec.name: spec for spec in (*inputs, *tensors)}
    stages = tuple(_make_stage(part, specs) for part in network_parts.parts)
    for stage, part in zip(stages, network_parts.parts, strict=True):
        if fault := _empty_fault(stage, part.model, dimensions):
            remarks = (f"not cut: {fault}", *network_parts.cut.remarks)
            return whole_stage(graph, model, outputs, folder / "whole", remarks, flops)
    parts = {part.name: part.model for part in network_parts.parts}
    whole_name = _unused_name("model", parts)
    saved = folder / "cut"
    # Saved together, a weight that several graphs have is written once.
    files = save({**parts, whole_name: graph.model} if keep_whole else parts, saved)
    if not keep_whole:
        save({whole_name: graph.model}, folder / "whole")
    cut_plan = Plan("cut", tuple(parts))
    # One modality is varied while the encoders of the others are given what they had.
    runs = {stage.name: RunCache(Runner(saved / stage.graph), _CACHED_BYTES) for stage in stages}
    plan = StagePlan(stages, runs, model.outputs)
    place = saved if keep_whole else folder / "whole"
    exact = Runner(place / f"onnx/{whole_name}.onnx", list(model.outputs))
    plans: tuple[Plan, ...] = (cut_plan,)
    if keep_whole:
        network_outputs = tuple(specs[name] for name in model.outputs)
        stages += (
            Stage(whole_name, f"onnx/{whole_name}.onnx", inputs, network_outputs, flops=flops),
        )
        plans += (Plan("whole", (whole_name,)),)

    is_large = flops > LARGE
    compared_sizes: set[tuple[tuple[int, ...], ...]] = set()

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        cut_results = plan.run(values)
        sizes = tuple(values[name].shape for name in model.inputs)
        if is_large and sizes in compared_sizes:
            return cut_results
        compared_sizes.add(sizes)
        exact_results = exact(values)
        for name, value in exact_results.items():
            compared = difference(cut_results[name], value, Tolerance(CUT_RTOL, CUT_ATOL))
            if not compared.passes:
                raise ExportError(
                    f"the cut network is not the whole one: output {name!r} {compared}; export "
                    "with --no-split, and report this"
                )
        return cut_results

    run(example)  # a cut that is wrong here is left out

    def boundary_tensors(values: Mapping[str, Array]) -> dict[str, Array]:
        results = reference(values)
        return {name: results[name] for name in names if name not in model.outputs}

    omission = (
        "the uncut network beside the cut one, for other values at sizes where it was compared: a "
        f"run takes {flops:,} operations"
    )
    return ExportedStages(
        stages,
        files,
        dimensions,
        network_parts.cut,
        run,
        boundary_tensors,
        plans,
        not_checked=(omission,) if is_large else (),
    )


def _unused_name(name: str, names: Container[str]) -> str:
    """``name``, or one like it that is none of ``names``."""
    while name in names:
        name += "_"
    return name


def _empty_fault(stage: Stage, part: ir.Model, dimensions: Mapping[str, Dimension]) -> str | None:
    """Why a bundle must not have this stage: nobody knows that what it takes has elements."""
    sizes = (size for spec in stage.inputs for size in spec.shape if isinstance(size, str))
    size = next((size for size in sizes if dimensions[size].min == 0), None)
    if size is None:
        return None
    graphs = (part.graph, *(function.graph for function in part.functions.values()))
    for graph in graphs:
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if (node.domain, node.op_type) in NEEDS_ELEMENTS:
                return (
                    f"what stage {stage.name!r} would take may have nothing along {size!r}, and "
                    f"{node.op_type} ends the process there"
                )
    return None


def _make_stage(part: Part, specs: Mapping[str, TensorSpec]) -> Stage:
    return Stage(
        part.name,
        f"onnx/{part.name}.onnx",
        tuple(specs[name] for name in part.inputs),
        tuple(specs[name] for name in part.outputs),
        part.modality,
        flops=part.flops,
    )
