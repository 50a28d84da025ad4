"""The stages of a bundle: the network cut by modality, or whole where that serves better."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge.backends.onnxruntime.session import session_options
from mmedge.errors import ExportError
from mmedge.execution.plan import StagePlan
from mmedge.spec import Cut, Stage, TensorSpec, Tolerance
from mmedge.tolerance import difference
from mmedge_export.onnx_graph.graph import Graph, Runner, save
from mmedge_export.partition.flops import measure_shapes, model_flops
from mmedge_export.partition.split import LEAST_FLOPS, Part, Split, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Array, Dimension
    from mmedge_export.model import Model

__all__ = [
    "CUT_ATOL",
    "CUT_RTOL",
    "SLOWER",
    "Stages",
    "count_flops",
    "make_stages",
    "whole_stage",
]

log = logging.getLogger(__name__)

#: How far an output of the cut network may lie from the uncut graph's: the same float32 work in
#: another order.
CUT_RTOL, CUT_ATOL = 1e-5, 1e-6

#: A cut network whose single calls take longer than this share of the uncut one's is not cut,
#: unless asked for.
SLOWER = 1.03

#: Blocks of calls of each in :func:`slowdown`, calls of a block, untimed ones before them.
_BLOCKS, _CALLS, _UNTIMED = 12, 8, 4

#: Nanoseconds that :func:`slowdown` may take before it makes do with fewer blocks.
_BUDGET_NS = 20_000_000_000


@dataclass(frozen=True)
class Stages:
    """What a bundle gets: stages, their files, limits of their dimensions, and how to run them.

    ``run`` gives the network's outputs; ``crossing`` the tensors that pass between stages, for
    given inputs.
    """

    stages: tuple[Stage, ...]
    files: Mapping[str, Path]
    dimensions: Mapping[str, Dimension]
    cut: Cut
    run: Callable[[Mapping[str, Array]], dict[str, Array]]
    crossing: Callable[[Mapping[str, Array]], dict[str, Array]]


def whole_stage(
    graph: Graph,
    model: Model,
    outputs: Mapping[str, Array],
    folder: Path,
    remarks: Sequence[str] = (),
    flops: int = 0,
) -> Stages:
    """The network as one stage, ``model``.

    Args:
        graph: of the network.
        model: names inputs and outputs.
        outputs: of the example.
        folder: for the files.
        remarks: why it is not cut.
        flops: of one run on the example.
    """
    for value in graph.model.graph.outputs:
        if value.shape is None:
            value.shape = ir.Shape([None] * outputs[str(value.name)].ndim)
        if value.type is None:
            dtype = ir.DataType.from_numpy(outputs[str(value.name)].dtype)
            value.type = ir.TensorType(dtype)
    files = save({"model": graph.model}, folder)
    run = Runner(folder / "onnx/model.onnx", list(model.outputs))
    inputs, results, dimensions = graph.specs(model, outputs, run.shapes)
    stage = Stage("model", "onnx/model.onnx", inputs, results, flops=flops)
    return Stages((stage,), files, dimensions, Cut((), tuple(remarks)), run, lambda _: {})


def make_stages(
    graph: Graph,
    model: Model,
    example: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
    *,
    cut: bool | None,
    least_flops: int = LEAST_FLOPS,
) -> Stages:
    """Cut the network by modality where that can be done and pays.

    A pass or a cut that fails is left out: first what only rearranges the graph, then the cut
    itself. A remark names the exception, which is also logged with its traceback.

    Args:
        graph: of the network.
        model: says which inputs form a modality.
        example: inputs.
        outputs: the network's, for the example.
        folder: for the files.
        cut: None decides by time: the network stays whole where single calls of the cut one are
            more than :data:`SLOWER` times as slow; True cuts wherever there is something to cut.
            False is :func:`whole_stage`'s work.
        least_flops: of an encoder (:func:`mmedge_export.partition.split.split`).
    """
    remarks: list[str] = []
    for rearranged in (True, False):
        try:
            made = split(
                graph.model,
                model.modalities(),
                example,
                least_flops=least_flops,
                rearrange=rearranged,
            )
            made = replace(made, cut=replace(made.cut, remarks=(*remarks, *made.cut.remarks)))
            return _cut_stages(made, graph, model, example, outputs, folder, cut=cut)
        except Exception as error:  # noqa: BLE001 - a cut is never worth an export
            what = "rearranging the graph" if rearranged else "the cut by modality"
            remarks.append(_left_out(what, error))
            shutil.rmtree(folder, ignore_errors=True)
    flops, uncounted = count_flops(graph.model, example)
    return whole_stage(graph, model, outputs, folder / "whole", (*remarks, *uncounted), flops)


def count_flops(model: ir.Model, example: Mapping[str, Array]) -> tuple[int, tuple[str, ...]]:
    """Operations of one run on ``example``; where they cannot be counted, 0 and a remark."""
    try:
        return model_flops(model, measure_shapes(model, example)), ()
    except Exception as error:  # noqa: BLE001 - a figure is never worth an export
        return 0, (_left_out("counting operations", error),)


def _left_out(what: str, error: Exception) -> str:
    """A remark on a step that failed. The log has the traceback."""
    log.info("%s is left out", what, exc_info=error)
    said = " ".join(str(error).split())[:300]
    return f"{what} is left out: {type(error).__name__}: {said} (report this)"


def _cut_stages(
    made: Split,
    graph: Graph,
    model: Model,
    example: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
    *,
    cut: bool | None,
) -> Stages:
    """The stages of a cut; see :func:`make_stages`."""
    whole = whole_stage(
        graph, model, outputs, folder / "whole", made.cut.remarks, sum(p.flops for p in made.parts)
    )
    if len(made.parts) == 1:
        return whole
    # Before the parts are saved: the graph is theirs, with every tensor that crosses as an output.
    uncut = folder / "uncut"
    save({"uncut": made.whole}, uncut)
    names = [str(value.name) for value in made.whole.graph.outputs]
    reference = Runner(uncut / "onnx/uncut.onnx", names)
    inputs, tensors, dimensions = Graph(made.whole).specs(
        model, reference(example), reference.shapes
    )
    specs = {spec.name: spec for spec in (*inputs, *tensors)}
    files = save({part.name: part.model for part in made.parts}, folder / "cut")
    stages = tuple(_stage(part, specs) for part in made.parts)
    plan = _plan(stages, folder / "cut", model.outputs)
    if cut is None:
        ratio, surely = slowdown(
            _plan(stages, folder / "cut", model.outputs, served=True).run,
            _plan(whole.stages, folder / "whole", model.outputs, served=True).run,
            example,
        )
        if surely > SLOWER:
            remark = (
                f"not cut: single calls of the cut network took {ratio:.2f} times as long as of "
                f"the whole one when it was exported (limit {SLOWER:g}); --split cuts all the same"
            )
            return whole_stage(
                graph,
                model,
                outputs,
                folder / "kept",
                (*made.cut.remarks, remark),
                whole.stages[0].flops,
            )
    crossing = [name for name in names if name not in model.outputs]

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        got, expected = plan.run(values), whole.run(values)
        for name, value in expected.items():
            found = difference(got[name], value, Tolerance(CUT_RTOL, CUT_ATOL))
            if not found.passes:
                raise ExportError(
                    f"the cut network is not the whole one: output {name!r} {found}; export with "
                    "--no-split, and report this"
                )
        return got

    run(example)  # a cut that is wrong here is left out

    def between(values: Mapping[str, Array]) -> dict[str, Array]:
        found = reference(values)
        return {name: found[name] for name in crossing}

    return Stages(stages, files, dimensions, made.cut, run, between)


def _stage(part: Part, specs: Mapping[str, TensorSpec]) -> Stage:
    return Stage(
        part.name,
        f"onnx/{part.name}.onnx",
        tuple(specs[name] for name in part.inputs),
        tuple(specs[name] for name in part.outputs),
        part.modality,
        flops=part.flops,
    )


def _plan(
    stages: Sequence[Stage], folder: Path, outputs: Iterable[str], *, served: bool = False
) -> StagePlan:
    """Stages in ONNX Runtime; ``served``: with the runtime's own settings."""
    alone = len(stages) == 1
    runs = {
        stage.name: Runner(
            folder / stage.graph, options=session_options(stage, alone=alone) if served else None
        )
        for stage in stages
    }
    return StagePlan(stages, runs, outputs)


def slowdown(
    ours: Callable[[Mapping[str, Array]], object],
    theirs: Callable[[Mapping[str, Array]], object],
    example: Mapping[str, Array],
) -> tuple[float, float]:
    """How many times as long ``ours`` takes: the median over interleaved blocks, and a low bound.

    The bound is the 2.5th percentile of bootstrapped medians: the truth lies above it in 39 of 40
    measurements like this one.
    """
    ratios: list[float] = []
    begun = perf_counter_ns()
    for _ in range(_BLOCKS):
        times = []
        for call in (ours, theirs):
            for _ in range(_UNTIMED):
                call(example)
            block = []
            for _ in range(_CALLS):
                start = perf_counter_ns()
                call(example)
                block.append(perf_counter_ns() - start)
            times.append(float(np.median(block)))
        ratios.append(times[0] / times[1])
        if perf_counter_ns() - begun > _BUDGET_NS:
            break
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (1000, len(ratios))), axis=1)
    return float(np.median(ratios)), float(np.percentile(medians, 2.5))
